package inspect_test

import (
	"context"
	"fmt"
	"log"

	"github.com/sptune/spt/inspect"
)

// Describe a file that turns out to be a checkpoint.
func ExampleOpen() {
	in, err := inspect.Open(context.Background(), "../internal/embedded/vit_demo.safetensors", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("it is a", in.Kind)
	c := in.Checkpoint
	fmt.Println(c.Format, "with", len(c.Tensors), "tensors of", c.Values, "values")
	fmt.Println("its backbone is a", c.Backbone)
	fmt.Println("it has a head:", c.Head)
	// Output:
	// it is a checkpoint
	// safetensors with 80 tensors of 1321080 values
	// its backbone is a ViT 6×128, 4 heads, patch 8, 64 px
	// it has a head: true
}
