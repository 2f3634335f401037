package sweep_test

import (
	"log"
	"os"

	"github.com/sptune/spt/sweep"
)

// Compare two methods on one data set with two seeds.
func ExampleNewTable() {
	row := func(method string, seed uint64, accuracy float64) sweep.Row {
		return sweep.Row{Task: "birds", Model: "vit", Method: method, Choice: sweep.ChoiceFixed, Seed: seed, Test: accuracy, Tuned: 1000}
	}
	table, err := sweep.NewTable([]sweep.Row{
		row("lora", 0, 0.81), row("lora", 1, 0.83),
		row("spt-lora", 0, 0.84), row("spt-lora", 1, 0.85),
	}, sweep.TableOptions{Baseline: "lora"})
	if err != nil {
		log.Fatal(err)
	}
	if err := table.Write(os.Stdout, "markdown"); err != nil {
		log.Fatal(err)
	}
	// Output:
	// Test accuracy after the last epoch, in percent: mean ± standard deviation over seeds.
	//
	// | method | settings | tuned | runs | birds | seconds |
	// |---|---|---|---|---|---|
	// | lora | fixed | 1,000 | 2 | 82.0 ± 1.4 | 0 |
	// | spt-lora | fixed | 1,000 | 2 | 84.5 ± 0.7 | 0 |
	//
	// Difference to lora in points: mean ± standard error over pairs of runs on the same task with the same seed. The column “± over seeds” has the standard error over the means of the seeds.
	//
	// | method | budget | pairs | difference | ± over seeds | better, equal, worse | tasks better | seeds better |
	// |---|---|---|---|---|---|---|---|
	// | spt-lora | – | 2 | +2.50 ± 0.50 | – | 2, 0, 0 | 1 of 1 | 2 of 2 |
}
