package progress_test

import (
	"fmt"

	"github.com/sptune/spt/progress"
)

// Print the progress of a function. Here the example itself reports the events; in a program,
// functions such as Task.Tune of package spt do.
func ExampleFunc() {
	var report progress.Func = func(e progress.Event) {
		switch e.Stage {
		case progress.Note:
			fmt.Println("note:", e.Item)
		case progress.Images:
			fmt.Printf("checked %d of %d images\n", e.Done, e.Total)
		}
	}
	report.Report(progress.Event{Stage: progress.Note, Item: "the Hub cannot be reached, so the cache is used"})
	report.Report(progress.Event{Stage: progress.Images, Done: 32, Total: 64})
	progress.Func(nil).Report(progress.Event{Stage: progress.Images, Done: 64, Total: 64})
	// Output:
	// note: the Hub cannot be reached, so the cache is used
	// checked 32 of 64 images
}
