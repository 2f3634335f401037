// Package published reads the selections that the paper's authors published, and those that their
// code saves, as plans.
//
// [Import] reads a selection. [LoadPlan] reads a selection or a plan file, whichever a file holds,
// and [Compare] compares two such files.
package published

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
)

// modules are the structured modules of the selections of the authors, in the order in which Import
// tries them.
var modules = []string{"lora", "adapter"}

// Import reads a selection that the paper's authors published, or one that their code has saved, as
// a plan. It also returns the scored tensors, without scores, of the backbone of the selection. The
// file records neither the module nor the rank. An empty module tries LoRA, then Adapter. A rank of
// 0 is 8, as in all of the authors' selections. Import counts the parameters again: its counts must
// be those that the file records.
func Import(path, module string, rank int) (*plan.Plan, []sensitivity.Tensor, error) {
	names := modules
	if module != "" {
		names = []string{module}
	}
	var tried []peft.Module
	for _, name := range names {
		m, err := peft.Lookup(name)
		if err != nil {
			return nil, nil, err
		}
		tried = append(tried, m)
	}
	s, err := load(path)
	if err != nil {
		return nil, nil, err
	}
	if rank == 0 {
		rank = plan.DefaultRank
	}
	p, err := s.plan(rank, tried...)
	if err != nil {
		return nil, nil, err
	}
	return p, s.tensors, nil
}

// LoadPlan reads a plan file or, as [Import] with its defaults, a published selection. The content
// of the file decides which, not its name. The tensors are nil for a plan file, which does not hold
// their shapes.
func LoadPlan(path string) (*plan.Plan, []sensitivity.Tensor, error) {
	selection, err := isPickle(path)
	if err != nil {
		return nil, nil, fmt.Errorf("loading plan: %w", err)
	}
	if selection {
		return Import(path, "", 0)
	}
	p, err := plan.LoadFile(path)
	return p, nil, err
}

// isPickle reports whether a file begins as a pickle or as a zip file, in which torch.save puts
// one.
func isPickle(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if stat, err := f.Stat(); err == nil && stat.IsDir() {
		return false, fmt.Errorf("%s is a folder; the plan of a run is %s", path, filepath.Join(path, "plan.json"))
	}
	start := make([]byte, 2)
	n, err := io.ReadFull(f, start)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	return n > 0 && start[0] == 0x80 || string(start[:n]) == "PK", nil
}

// Compare reports how the plan in file b differs from the plan in file a. Each is a file for
// [LoadPlan]. tensors are the scored tensors of their backbone, or nil: then the tensors of a
// published selection serve, and two plan files are compared by name. Plans of different backbones
// are an error.
func Compare(a, b string, tensors []sensitivity.Tensor) (*plan.Comparison, error) {
	var plans [2]*plan.Plan
	var counts [2]plan.Count
	of := "the backbone"
	for i, path := range []string{a, b} {
		p, own, err := LoadPlan(path)
		if err != nil {
			return nil, err
		}
		count, err := peft.CountOf(p.Module)
		if err != nil {
			return nil, fmt.Errorf("comparing %s: %w", path, err)
		}
		plans[i], counts[i] = p, count
		if tensors == nil {
			tensors, of = own, path
		} else if own != nil {
			if err := sameTensors(tensors, own); err != nil {
				return nil, fmt.Errorf("comparing plans of different backbones: %s and %s: %w", of, path, err)
			}
		}
	}
	c, err := plan.Compare(plans[0], plans[1], tensors, counts[0], counts[1])
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", a, b, err)
	}
	return c, nil
}

// sameTensors reports the first tensor in which two backbones differ.
func sameTensors(a, b []sensitivity.Tensor) error {
	for i := range min(len(a), len(b)) {
		if a[i].Name != b[i].Name || !slices.Equal(a[i].Shape, b[i].Shape) {
			return fmt.Errorf("%q %v in the one is %q %v in the other", a[i].Name, a[i].Shape, b[i].Name, b[i].Shape)
		}
	}
	if len(a) != len(b) {
		return fmt.Errorf("the one has %d scored tensors, the other %d", len(a), len(b))
	}
	return nil
}
