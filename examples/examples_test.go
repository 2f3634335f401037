// Package examples_test runs the example programs as a user does: as commands.
package examples_test

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestExamples builds each program and runs it on a folder of images with the embedded backbone.
func TestExamples(t *testing.T) {
	bin, work := t.TempDir(), t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin, "./...").CombinedOutput(); err != nil {
		t.Fatalf("building the examples: %v\n%s", err, out)
	}
	images := filepath.Join(work, "images")
	if err := writeImages(images); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(images, "red", "0.png")
	for _, c := range []struct {
		command string // run in work; the first word is the program
		want    string // a regular expression for its output
	}{
		{"tunefolder demo images run", `(?s)epoch 10 of 10: loss .*tuned \d+ parameters, test accuracy [\d.]+ %\n`},
		{"tunefolder demo images run", `^tuned \d+ parameters, `}, // the run is finished already
		{"predict run " + image, `^` + regexp.QuoteMeta(image) + `: red, [\d.]+ %\n$`},
		{"custommodule tune --model demo --data images --method spt-scale --rank 1 --epochs 1 --out scale", `method +spt-scale, .*rank 1`},
		{"customobjective tune --model demo --data images --objective smoothed --epochs 1 --out smoothed", `objective +smoothed`},
		{"custombackbone new patchmlp.safetensors", ``},
		{"custombackbone inspect patchmlp.safetensors", `loading +10 tensors loaded`},
		{"custombackbone tune --model patchmlp.safetensors --data images --budget 20% --epochs 1 --out patchmlp", `test accuracy`},
	} {
		words := strings.Fields(c.command)
		cmd := exec.Command(filepath.Join(bin, words[0]), words[1:]...)
		cmd.Dir = work
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", c.command, err, out)
		} else if !regexp.MustCompile(c.want).Match(out) {
			t.Errorf("%s printed this, which does not match %s:\n%s", c.command, c.want, out)
		}
	}
}

// writeImages writes a folder with 40 images for each of two classes.
func writeImages(folder string) error {
	for class, c := range map[string]color.NRGBA{"blue": {B: 200, A: 255}, "red": {R: 200, A: 255}} {
		if err := os.MkdirAll(filepath.Join(folder, class), 0o700); err != nil {
			return err
		}
		for i := range 40 {
			m := image.NewNRGBA(image.Rect(0, 0, 32, 32))
			for j := range 32 * 32 {
				c.G = uint8((j*7 + i*13) % 64)
				m.SetNRGBA(j%32, j/32, c)
			}
			f, err := os.Create(filepath.Join(folder, class, fmt.Sprintf("%d.png", i)))
			if err != nil {
				return err
			}
			if err := png.Encode(f, m); err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}
