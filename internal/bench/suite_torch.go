package bench

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
)

// torchStep is the Python program that measures PyTorch.
//
//go:embed peers/torch_step.py
var torchStep []byte

// noPython is the value of [SuiteOptions].Python that skips the PyTorch items.
const noPython = "none"

var errNoPython = errors.New("no Python with PyTorch was found")

// torch measures PyTorch on a backbone of the same size. The variant "lora" tunes LoRA modules. The
// variant "reference" tunes the selection of spt-lora with the arithmetic of the reference release.
func (s *suite) torch(ctx context.Context, c backbone.Config, variant string) error {
	if s.Python == noPython {
		return errNoPython
	}
	if c.Architecture() != "vit" {
		return fmt.Errorf("measuring PyTorch: %s is not a ViT; torch_step.py only implements ViTs", s.Name)
	}
	dir, err := os.MkdirTemp("", "spt-suite-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	script, planFile := filepath.Join(dir, "torch_step.py"), filepath.Join(dir, "plan.json")
	selection, err := Select(ctx, c, Method(method.SPTLoRA), DefaultBudget(c))
	if err != nil {
		return err
	}
	plan, err := json.Marshal(map[string]any{"rank": selection.Rank, "matrices": selection.Structured, "vectors": selection.Whole, "entries": selection.Entries})
	if err != nil {
		return err
	}
	for path, data := range map[string][]byte{script: torchStep, planFile: plan} {
		if err := os.WriteFile(path, data, 0o666); err != nil {
			return err
		}
	}
	device, dtype := "cpu", "f32" // the default precisions of spt on these devices
	if strings.HasPrefix(s.Device, "cuda") {
		device, dtype = "cuda", "bf16"
	}
	// PyTorch can hang if the machine has no C compiler.
	ctx, cancel := context.WithTimeout(ctx, s.Within-time.Since(s.start))
	defer cancel()
	python := cmp.Or(s.Python, "python3")
	cmd := exec.CommandContext(ctx, python, script, "--variant", variant, "--plan", planFile, "--model", s.Name, "--batch", strconv.Itoa(s.Batch), "--device", device, "--dtype", dtype)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		last := lines[len(lines)-1]
		if s.Python == "" && (errors.Is(err, exec.ErrNotFound) || strings.Contains(last, "No module named 'torch'")) {
			return errNoPython
		}
		return fmt.Errorf("measuring PyTorch: running %s: %w: %s", python, err, last)
	}
	if !json.Valid(out) {
		return fmt.Errorf("measuring PyTorch: %s printed %q, expected a JSON object", python, out)
	}
	s.PyTorch = append(s.PyTorch, json.RawMessage(bytes.TrimSpace(out)))
	return nil
}
