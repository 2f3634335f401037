// Package published reads the selections that the authors of the SPT paper published, and the
// selections that their code saves, and converts them to plans. A selection is a .pth file (a
// pickle of PyTorch) that lists the parameters to tune.
//
// [Import] reads a selection. [LoadPlan] reads a file that holds either a selection or a plan of
// package plan. [Compare] compares two such files.
package published

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/internal/regularfile"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
)

// modules lists the structured modules in the authors' selections, in the order in which Import
// tries them.
var modules = []string{"lora", "adapter"}

// Import reads a selection that the authors of the paper published or that their code saved, and
// returns it as a plan. It also returns the scored tensors of the selection's backbone, without
// scores.
//
// The file records neither the module nor the rank. If module is empty, Import tries LoRA, then
// Adapter. If rank is 0, it takes 8, as in all selections of the authors. Import counts the
// parameters of the plan and returns an error if the counts differ from those in the file.
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

// LoadPlan reads a plan file or a published selection. It detects the format by the content of the
// file, not by its name. It reads a selection as [Import] does with an empty module and a rank of
// 0. The returned tensors are nil for a plan file, because a plan file does not record their
// shapes.
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

// isPickle reports whether a file begins like a pickle, or like a zip file. torch.save writes a
// pickle inside a zip file.
func isPickle(path string) (bool, error) {
	if stat, err := os.Stat(path); err == nil && stat.IsDir() {
		return false, fmt.Errorf("%s is a folder; to use the plan of a run, give %s", path, filepath.Join(path, "plan.json"))
	}
	f, _, err := regularfile.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	start := make([]byte, 2)
	n, err := io.ReadFull(f, start)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	return n > 0 && start[0] == 0x80 || string(start[:n]) == "PK", nil
}

// Compare compares the plans in the files a and b. Each file is a plan file or a published
// selection, as for [LoadPlan]. tensors are the scored tensors of the backbone. If they are nil,
// Compare takes the tensors of the published selection, if one of the files is a selection.
// Otherwise it compares the plans by name. Compare returns an error if the plans are for different
// backbones.
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
			return nil, fmt.Errorf("comparing plans: %s: %w", path, err)
		}
		plans[i], counts[i] = p, count
		if tensors == nil {
			tensors, of = own, path
		} else if own != nil {
			if err := sameTensors(tensors, own); err != nil {
				return nil, fmt.Errorf("comparing plans: %s and %s are for different backbones: %w; give plans for the same backbone", of, path, err)
			}
		}
	}
	c, err := plan.Compare(plans[0], plans[1], tensors, counts[0], counts[1])
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", a, b, err)
	}
	return c, nil
}

// sameTensors returns an error that names the first tensor in which two backbones differ.
func sameTensors(a, b []sensitivity.Tensor) error {
	for i := range min(len(a), len(b)) {
		if a[i].Name != b[i].Name || !slices.Equal(a[i].Shape, b[i].Shape) {
			return fmt.Errorf("tensor %q has shape %v in the first, where the second has %q of shape %v", a[i].Name, a[i].Shape, b[i].Name, b[i].Shape)
		}
	}
	if len(a) != len(b) {
		return fmt.Errorf("the first has %d scored tensors, the second has %d", len(a), len(b))
	}
	return nil
}
