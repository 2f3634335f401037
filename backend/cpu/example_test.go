package cpu_test

import (
	"fmt"
	"log"

	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph"

	_ "github.com/sptune/spt/backend/cpu" // registers the backend as "cpu"
)

// This example runs a GoMLX graph on the backend, which it selects by name.
func Example() {
	device, err := compute.NewWithConfig("cpu")
	if err != nil {
		log.Fatal(err)
	}
	defer device.Finalize()
	y, err := CallOnce(device, func(x *Node) *Node { return MulScalar(x, 10) }, []float32{1, 2, 3})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(y.Value())
	// Output: [10 20 30]
}
