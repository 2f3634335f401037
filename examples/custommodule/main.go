// Command custommodule shows how to add a structured module to spt. The module is scale, which
// multiplies each output of a linear layer by 1 + c, where c is one tuned number per output. After
// its registration, all commands of spt can use it:
//
//	go run ./examples/custommodule tune --model demo --data DIR --method spt-scale --rank 1
package main

import (
	"log"
	"os"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/sptune/spt/cli"
	"github.com/sptune/spt/peft"
)

// scale is the structured module. Count returns its number of parameters for one matrix. Graph
// builds its output from the output y of the linear layer.
var scale = peft.Module{
	Name:  "scale",
	Count: func(_, out, _ int) int { return out },
	Graph: func(s *peft.Site, _, y *Node) *Node {
		c := s.Param("scale", peft.Zero, s.Out)
		return Mul(y, OnePlus(ExpandLeftToRank(c, y.Rank()))) // [..., out]
	},
}

func main() {
	if err := peft.Register(scale); err != nil {
		log.Fatal(err)
	}
	os.Exit(cli.Main(os.Args[1:]))
}
