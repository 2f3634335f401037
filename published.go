package spt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
)

// publishedRank is that of the modules in the selections that the paper's
// authors published.
const publishedRank = 8

// ImportPlan reads a selection that the paper's authors published, or one that
// their code has saved, as a plan; with it come the tensors, without scores, of
// the backbone that it is for. Its params, unstructured_params and
// structured_params are counted anew and must be the file's. The file names
// neither module nor rank: module "" tries LoRA, then Adapter, rank 0 is the
// authors' 8. See [plan.Published]. Errors are *[run.InputError], or *[run.OptionError]
// for a module that is not registered.
func ImportPlan(path, module string, rank int) (*plan.Plan, []plan.Scored, error) {
	names := []string{method.LoRA.Module(), method.Adapter.Module()}
	if module != "" {
		names = []string{module}
	}
	var modules []plan.Module
	for _, name := range names {
		m, err := peft.Lookup(name)
		if err != nil {
			return nil, nil, &run.OptionError{Err: err}
		}
		modules = append(modules, plan.Module{Name: m.Name, Params: m.Count})
	}
	s, err := plan.LoadPublished(path)
	if err != nil {
		return nil, nil, &run.InputError{Err: err}
	}
	if rank == 0 {
		rank = publishedRank
	}
	p, err := s.Plan(rank, modules...)
	if err != nil {
		return nil, nil, &run.InputError{Err: err}
	}
	return p, s.Tensors, nil
}

// LoadPlan reads a plan file or, as [ImportPlan] with its defaults, a published
// selection: what it is, is told from what is in it. The tensors are nil for a
// plan file, which does not hold their shapes. Errors are *[run.InputError].
func LoadPlan(path string) (*plan.Plan, []plan.Scored, error) {
	if stat, err := os.Stat(path); err == nil && stat.IsDir() {
		return nil, nil, &run.InputError{Err: fmt.Errorf("loading plan: %s is a folder; a run's plan is in %s", path, filepath.Join(path, run.PlanFile))}
	}
	kind, err := checkpoint.Sniff(path)
	if err != nil {
		return nil, nil, &run.InputError{Err: fmt.Errorf("loading plan: %w", err)}
	}
	if kind == checkpoint.Pickle || kind == checkpoint.Zip {
		return ImportPlan(path, "", 0)
	}
	p, err := plan.LoadFile(path)
	if err != nil {
		return nil, nil, &run.InputError{Err: err}
	}
	return p, nil, nil
}

// ComparePlans says how two plans differ, each a file for [LoadPlan]. tensors
// are those of their backbone (see [Tensors]), or nil for what the files say: if
// neither is a published selection, plans are compared by name. Plans of
// different backbones are an *[run.InputError].
func ComparePlans(a, b string, tensors []plan.Scored) (*plan.Comparison, error) {
	var plans [2]*plan.Plan
	var counts [2]func(in, out, rank int) int
	of := "the backbone"
	for i, path := range []string{a, b} {
		p, own, err := LoadPlan(path)
		if err != nil {
			return nil, err
		}
		count, err := peft.CountOf(p.Module)
		if err != nil {
			return nil, &run.InputError{Err: fmt.Errorf("comparing %s: %w", path, err)}
		}
		plans[i], counts[i] = p, count
		if tensors == nil {
			tensors, of = own, path
		} else if own != nil {
			if err := sameTensors(tensors, own); err != nil {
				return nil, &run.InputError{Err: fmt.Errorf("comparing plans of different backbones: %s and %s: %w", of, path, err)}
			}
		}
	}
	c, err := plan.Compare(plans[0], plans[1], tensors, counts[0], counts[1])
	if err != nil {
		return nil, &run.InputError{Err: fmt.Errorf("%s and %s: %w", a, b, err)}
	}
	return c, nil
}

// sameTensors reports the first tensor in which two backbones differ.
func sameTensors(a, b []plan.Scored) error {
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

// head returns the first bytes of a file.
func head(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	start := make([]byte, 64)
	n, err := io.ReadFull(f, start)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return start[:n], nil
}
