package cli

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/run"
)

// What is the same in every verb is checked here, from the flags alone, before
// a verb does anything.

// checkFlags refuses numbers that no verb can use, special files, which would be
// waited for without end, and outputs that would replace an input.
func checkFlags(cmd *cobra.Command, args []string) error {
	if err := checkNumbers(cmd.Flags()); err != nil {
		return err
	}
	if fs := cmd.Flags(); fs.Changed("mean") != fs.Changed("std") {
		return &run.OptionError{Err: fmt.Errorf("--mean and --std go together; give both, or neither")}
	}
	inputs := slices.Clone(args)
	for _, name := range []string{"model", "weights", "delta", "scores", "plan", "import"} {
		f := cmd.Flags().Lookup(name)
		if f == nil || !f.Changed {
			continue
		}
		path := f.Value.String()
		inputs = append(inputs, path)
		if stat, err := os.Stat(path); err == nil && !stat.IsDir() && !stat.Mode().IsRegular() {
			return &run.InputError{Err: fmt.Errorf("--%s %s is no regular file (mode %v); copy it to one", name, path, stat.Mode())}
		}
	}
	outputs := map[string]string{} // the flag by the path
	for _, name := range []string{"out", "cpuprofile", "trace"} {
		f := cmd.Flags().Lookup(name)
		if f == nil || f.Value.String() == "" {
			continue
		}
		path := filepath.Clean(f.Value.String())
		if other, ok := outputs[path]; ok {
			return &run.OptionError{Err: fmt.Errorf("--%s %s and --%s %s are the same file; give another name", other, path, name, path)}
		}
		outputs[path] = name
		if err := keepInputs(name, path, inputs...); err != nil {
			return err
		}
		if err := keepData(cmd.Flags(), name, path); err != nil {
			return err
		}
		if err := writable(f, path); err != nil {
			return err
		}
	}
	return nil
}

// writable refuses an output file that is a folder, or has none to be in: what it takes
// to find out when all work is done would be lost.
func writable(f *pflag.Flag, path string) error {
	kind, _ := pflag.UnquoteUsage(f)
	if kind == "DIR" {
		return nil // a run's, which is made
	}
	if stat, err := os.Stat(path); kind == "FILE" && err == nil && stat.IsDir() {
		return &run.OptionError{Err: fmt.Errorf("--%s %s is a folder; give the name of a file", f.Name, path)}
	}
	if stat, err := os.Stat(filepath.Dir(path)); err != nil || !stat.IsDir() {
		return &run.OptionError{Err: fmt.Errorf("--%s %s: there is no folder %s; make it, or give another name", f.Name, path, filepath.Dir(path))}
	}
	return nil
}

// checkpointFiles are the files of a checkpoint that is a folder or has several.
// What cannot be opened has none: why not, loading it will say.
func checkpointFiles(path string) []string {
	stat, err := os.Stat(path)
	if err != nil || !stat.IsDir() && !stat.Mode().IsRegular() {
		return nil
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	return f.Files()
}

// keepInputs refuses the output of a flag if it is one of the inputs, by
// whatever name, or a file of a checkpoint, or of the run of a delta, among them.
func keepInputs(flag, out string, inputs ...string) error {
	written, err := os.Stat(out)
	if err != nil {
		return nil // a new file; what else is wrong with it, writing will say
	}
	for _, in := range inputs {
		folder := in
		if stat, err := os.Stat(in); err == nil && !stat.IsDir() {
			folder = filepath.Dir(in)
		}
		files := append(checkpointFiles(in), in)
		if _, err := os.Stat(filepath.Join(folder, delta.FileName)); err == nil {
			for _, name := range run.Files() {
				files = append(files, filepath.Join(folder, name))
			}
		}
		for _, path := range files {
			if stat, err := os.Stat(path); err == nil && os.SameFile(stat, written) {
				return &run.OptionError{Err: fmt.Errorf("--%s %s would replace an input, %s; give another name", flag, out, path)}
			}
		}
	}
	return nil
}

// keepData refuses the output of a flag if it is an image or a list in the
// folders of --data and --probe. Other files there, of spt or of a profile, may
// be replaced: the working folder may be that of the data.
func keepData(fs *pflag.FlagSet, flag, out string) error {
	image := dataset.IsImageName(out)
	list := slices.Contains([]string{".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet"}, filepath.Ext(out))
	if stat, err := os.Stat(out); err != nil || stat.IsDir() || !image && !list {
		return nil
	}
	for _, name := range []string{"data", "probe"} {
		f := fs.Lookup(name)
		if f == nil || f.Value.String() == "" {
			continue
		}
		folder := f.Value.String()
		if stat, err := os.Stat(folder); err == nil && !stat.IsDir() {
			folder = filepath.Dir(folder) // of a table, whose images are beside it
		}
		if inside(out, folder) {
			return &run.OptionError{Err: fmt.Errorf("--%s %s would replace a file of --%s %s; give another name", flag, out, name, f.Value)}
		}
	}
	return nil
}

// inside reports whether an existing file is in a folder or below.
func inside(file, folder string) bool {
	var real [2]string
	for i, p := range []string{file, folder} {
		abs, err := filepath.Abs(p)
		if err != nil {
			return false
		}
		if real[i], err = filepath.EvalSymlinks(abs); err != nil {
			return false
		}
	}
	rel, err := filepath.Rel(real[1], real[0])
	return err == nil && filepath.IsLocal(rel)
}

// mayBeZero are the numbers of which zero means something; of all others it
// would mean the default, which is had by leaving the flag out.
var mayBeZero = []string{"weight-decay", "warmup-epochs", "drop-path", "dropout", "module-drop-path"}

// checkNumbers refuses flags that were given a number out of range. What is
// an int counts something; seeds are unsigned and free.
func checkNumbers(fs *pflag.FlagSet) (err error) {
	fs.Visit(func(f *pflag.Flag) {
		var want string
		switch text := f.Value.String(); f.Value.Type() {
		case "int":
			if n, e := strconv.Atoi(text); e != nil || n < 1 {
				want = "at least 1"
			}
		case "float64":
			v, e := strconv.ParseFloat(text, 64)
			zero := slices.Contains(mayBeZero, f.Name)
			switch {
			case e != nil || math.IsNaN(v) || math.IsInf(v, 0):
				want = "a finite number"
			case zero && v < 0:
				want = "a number not below 0"
			case !zero && v <= 0:
				want = "a number above 0"
			}
		}
		if want != "" && err == nil {
			err = &run.OptionError{Err: fmt.Errorf("--%s %s: expected %s", f.Name, f.Value, want)}
		}
	})
	return err
}
