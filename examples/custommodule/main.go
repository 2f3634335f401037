// Command custommodule is spt with one more structured module: scale, which multiplies the output
// of a linear layer by 1 + c, with one trained number c for each output. Every command knows it:
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
