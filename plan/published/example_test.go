package published_test

import (
	"fmt"
	"log"

	"github.com/sptune/spt/plan/published"
)

// This example reads a selection of rank 2 as a plan. Import finds the module from the parameter
// counts in the file.
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
