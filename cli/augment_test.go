package cli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestTakePreset checks that --augment sets the options that no flag has set, wherever it stands,
// and that it wins over the recipe of a task.
func TestTakePreset(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "false false [0 0] 0 0 0 0 none"},
		{"--augment light", "false true [0.5 1] 0 0 0 0 light"},
		{"--augment strong", "false true [0.5 1] 2 0.25 0.8 1 strong"},
		{"--mixup 0 --crop-scale 0.2,0.9 --augment strong --flip=false", "false false [0.2 0.9] 2 0.25 0 1 other options"},
		{"--augment strong --crop-scale 0 --rand-augment 3", "false true [0 0] 3 0.25 0.8 1 other options"},
		{"--task cub --augment light", "false true [0.5 1] 0 0 0 0 light"},
		{"--task cub --augment none", "false false [0 0] 0 0 0 0 none"},
		{"--task cub --mixup 0.2", "true true [0 0] 0 0 0.2 0 other options"},
		{"--task cub --crop-scale 0.3,1", "false true [0.3 1] 0 0 0 0 other options"},
		// refused later
		{"--augment light --resize crop --random-crop", "true true [0.5 1] 0 0 0 0 other options"},
	} {
		for _, command := range []string{"tune", "train"} {
			cmd := &cobra.Command{Use: command}
			options := (&app{}).newOptions()
			addFlags(cmd, options)
			if err := cmd.ParseFlags(strings.Fields(c.args)); err != nil {
				t.Fatal(err)
			}
			if err := takeTask(cmd, &options.config.Data); err != nil {
				t.Fatal(err)
			}
			o := options.config.Data.Images
			a := o.Augment
			got := fmt.Sprint(o.RandomCrop, " ", o.HorizontalFlip, " ", a.CropScale, " ", a.RandAugment, " ", a.Erasing, " ", a.Mixup, " ", a.CutMix, " ", (*presetValue)(&o))
			if got != c.want {
				t.Errorf("%s %s: %s, want %s", command, c.args, got, c.want)
			}
		}
	}
}

// TestNumbersValue checks the texts that flags with several numbers take.
func TestNumbersValue(t *testing.T) {
	var a, b float64
	v := numbersValue{&a, &b}
	for text, want := range map[string]string{"0.5,1": "0.5,1", " 0.25, 3": "0.25,3", "0": "0", "0,0": "0"} {
		if err := v.Set(text); err != nil || v.String() != want {
			t.Errorf("%q: error %v, value %s, want %s", text, err, v, want)
		}
	}
	a, b = 4, 5
	for _, text := range []string{"", "1", "1,2,3", "1,x", "-1,2", "NaN,1", "1,,2"} {
		if err := v.Set(text); err == nil || a != 4 || b != 5 {
			t.Errorf("%q: error %v, values %g and %g", text, err, a, b)
		}
	}
}
