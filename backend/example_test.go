package backend_test

import (
	"fmt"
	"log"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backend"
)

// This example opens the processor and runs a GoMLX graph on it.
func ExampleOpen() {
	device, _, err := backend.Open("cpu", 1)
	if err != nil {
		log.Fatal(err)
	}
	y, err := CallOnce(device, func(x *Node) *Node { return MulScalar(x, 10) }, []float32{1, 2, 3})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(backend.NameOf(device), y.Value())
	// Output: cpu [10 20 30]
}
