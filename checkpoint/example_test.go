package checkpoint_test

import (
	"fmt"

	"github.com/sptune/spt/checkpoint"
)

// Open reads any of the known formats. Float32 reads the values of one tensor.
func ExampleOpen() {
	f, err := checkpoint.Open("testdata/readers/vit.pth")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	fmt.Println(f.Format())
	for _, t := range f.Tensors()[:3] {
		fmt.Println(t.Name, t.DType, t.Shape)
	}
	x, err := f.Float32(f.Tensors()[0].Name)
	fmt.Println(len(x.Data), err)
	// Output:
	// PyTorch zip, model
	// blocks.0.attn.proj.bias F32 [8]
	// blocks.0.attn.proj.weight F32 [8 8]
	// blocks.0.attn.qkv.bias F32 [24]
	// 8 <nil>
}
