package run_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sptune/spt/run"
)

func TestLocate(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"vit_small", "timm/mine", "own"} {
		if err := os.MkdirAll(filepath.FromSlash(folder), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	const tiny = "hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
	for name, want := range map[string]string{
		"demo": "demo", "hf:a/b@main:c.npz": "hf:a/b@main:c.npz",
		"vit_tiny": tiny, "vit_tiny_patch16_224.augreg_in21k_ft_in1k": tiny,
		"vit_small": filepath.Join(wd, "vit_small"), "own": filepath.Join(wd, "own"), "timm/mine": filepath.Join(wd, "timm", "mine"),
		"./vit_tiny": filepath.Join(wd, "vit_tiny"), "vit_tiny.safetensors": filepath.Join(wd, "vit_tiny.safetensors"),
		"models/vit.pth": filepath.Join(wd, "models", "vit.pth"), "a/b/c": filepath.Join(wd, "a", "b", "c"),
		filepath.Join(wd, "vit_tiny"): filepath.Join(wd, "vit_tiny"),
	} {
		if got, err := run.Locate(name); got != want || err != nil {
			t.Errorf("Locate(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"": "path", "hf:a": "hf:a", "resnet50": "resnet50", "vit_tin": "did you mean vit_tiny?", "timm/vit_tin": "did you mean vit_tiny?", "timm/x": "hf:timm/x",
	} {
		if got, err := run.Locate(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Locate(%q) = %q, %v, want an error with %q", name, got, err, want)
		}
	}
}
