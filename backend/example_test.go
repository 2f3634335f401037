package backend_test

import (
	"context"
	"fmt"
	"log"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/backend"
)

// Open a device and run a graph on it.
func ExampleOpen() {
	device, _, err := backend.Open("cpu")
	if err != nil {
		log.Fatal(err)
	}
	program, err := backend.NewProgram(device, "scale", func(_ *Graph, in []*Node) []*Node {
		return []*Node{MulScalar(in[0], 10)}
	})
	if err != nil {
		log.Fatal(err)
	}
	defer program.Close()
	x, err := backend.Tensor(device, []float32{1, 2, 3}, 3)
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Free(x)
	out, err := program.Run(context.Background(), x)
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Free(out...)
	y, err := backend.Float32s(out[0])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(backend.NameOf(device), y)
	// Output: cpu [10 20 30]
}
