package published_test

import (
	"fmt"
	"log"

	"github.com/sptune/spt/internal/published"
)

// Import reads a selection as a plan. The parameter counts in the file tell the module.
func ExampleImport() {
	p, _, err := published.Import("../../internal/fixtures/testdata/published/adapter.pth", "", 2)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Module, "of rank", p.Rank, "on", len(p.Matrices), "matrices")
	fmt.Println(p.Cost.Total, "parameters,", p.Cost.Unstructured, "of them single entries")
	// Output:
	// adapter of rank 2 on 3 matrices
	// 410 parameters, 53 of them single entries
}
