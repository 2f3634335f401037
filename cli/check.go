package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/run"
)

// This file checks flags by what the table says of them. The checks run before a command does
// anything.

// refuse returns an error of wrong usage.
func refuse(format string, args ...any) error {
	return &run.OptionError{Err: fmt.Errorf(format, args...)}
}

// checkFlags refuses flags without an effect, inputs that are special files, on which reading would
// wait without end, and outputs that would replace an input or cannot be written.
func checkFlags(cmd *cobra.Command, args []string) error {
	rows, fs := flagsOf(cmd.Name()), cmd.Flags()
	inputs := slices.Clone(args)
	for _, f := range rows {
		if !fs.Changed(f.name) {
			continue
		}
		if err := f.checkEffect(fs); err != nil {
			return err
		}
		if f.file == inputFile {
			path := fs.Lookup(f.name).Value.String()
			inputs = append(inputs, path)
			if stat, err := os.Stat(path); err == nil && !stat.IsDir() && !stat.Mode().IsRegular() {
				return &run.InputError{Err: fmt.Errorf("--%s %s is not a regular file (mode %v); copy it to a regular file", f.name, path, stat.Mode())}
			}
		}
	}
	outputs := map[string]string{} // from the path to the flag
	for _, f := range rows {
		text := ""
		if given := fs.Lookup(f.name); given != nil {
			text = given.Value.String()
		}
		if f.file < outputFile || text == "" || f.checkEffect(fs) != nil {
			continue
		}
		path := filepath.Clean(text)
		if other, ok := outputs[path]; ok {
			return refuse("--%s %s and --%s %s are the same file; give another name", other, path, f.name, path)
		}
		outputs[path] = f.name
		if err := keepInputs(f.name, path, inputs...); err != nil {
			return err
		}
		if err := keepData(rows, fs, f.name, path); err != nil {
			return err
		}
		if err := f.checkWritable(path); err != nil {
			return err
		}
	}
	return nil
}

// checkEffect refuses a flag that has no effect beside, or without, other flags.
func (f flagRow) checkEffect(fs *pflag.FlagSet) error {
	for _, other := range f.excludes {
		if fs.Changed(other) {
			return refuse("--%s has no effect together with --%s; leave one of them out", f.name, other)
		}
	}
	for _, need := range f.needs {
		others := strings.Split(need, "|")
		if !slices.ContainsFunc(others, fs.Changed) {
			return refuse("--%s has no effect without --%s; leave it out, or give --%s too", f.name, others[0], others[0])
		}
	}
	return nil
}

// checkMethod refuses flags whose options the method does not read.
func checkMethod(cmd *cobra.Command, m method.Row) error {
	for _, f := range flagsOf(cmd.Name()) {
		if option := cmp.Or(f.option, f.name); cmd.Flags().Changed(f.name) && !m.Takes(option) {
			var others []string
			for _, row := range method.Catalogue() {
				if row.Takes(option) {
					for _, other := range row.Methods() {
						others = append(others, string(other))
					}
				}
			}
			return refuse("method %s takes no --%s; leave it out, or choose a method that does: %s", m.Method, f.name, comma(others))
		}
	}
	return nil
}

// checkWritable refuses an output file that is a folder, or whose folder does not exist: an error
// after the work would lose its result.
func (f flagRow) checkWritable(path string) error {
	if f.file == outputFolder {
		return nil
	}
	if stat, err := os.Stat(path); f.file == outputFile && err == nil && stat.IsDir() {
		return refuse("--%s %s is a folder; give the name of a file", f.name, path)
	}
	if stat, err := os.Stat(filepath.Dir(path)); err != nil || !stat.IsDir() {
		return refuse("--%s %s: there is no folder %s; make it, or give another name", f.name, path, filepath.Dir(path))
	}
	return nil
}

// checkpointFiles returns the files of a checkpoint that is a folder or has several files. It
// returns none if the checkpoint cannot be opened: loading it will tell why.
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

// keepInputs refuses the output of a flag if it is one of the inputs under any name, a file of a
// checkpoint among them, or a file of the run of a delta among them.
func keepInputs(flag, out string, inputs ...string) error {
	written, err := os.Stat(out)
	if err != nil {
		return nil // a new file; writing reports any other problem
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
				return refuse("--%s %s would replace an input, %s; give another name", flag, out, path)
			}
		}
	}
	return nil
}

// keepData refuses the output of a flag if it is an image or a list in a folder of images that is
// read. Other files there may be replaced: the working folder may be that of the data.
func keepData(rows []flagRow, fs *pflag.FlagSet, name, out string) error {
	image := dataset.IsImageName(out)
	list := slices.Contains([]string{".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet"}, filepath.Ext(out))
	if stat, err := os.Stat(out); err != nil || stat.IsDir() || !image && !list {
		return nil
	}
	for _, f := range rows {
		if f.file != imageFolder || fs.Lookup(f.name).Value.String() == "" {
			continue
		}
		given := fs.Lookup(f.name).Value.String()
		folder := given
		if stat, err := os.Stat(folder); err == nil && !stat.IsDir() {
			folder = filepath.Dir(folder) // of a table, whose images lie beside it
		}
		if inside(out, folder) {
			return refuse("--%s %s would replace a file of --%s %s; give another name", name, out, f.name, given)
		}
	}
	return nil
}

// inside reports whether an existing file is in a folder or below it.
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

// given returns the flags that the user has set, with their values.
func given(cmd *cobra.Command) map[string]string {
	values := map[string]string{}
	cmd.Flags().Visit(func(f *pflag.Flag) { values[f.Name] = f.Value.String() })
	return values
}

// setAgain sets flags to the values in before, as given returned them, after their fields were
// overwritten. It sets the flags of the command for which which returns true.
func setAgain(cmd *cobra.Command, before map[string]string, which func(flagRow) bool) error {
	for _, f := range flagsOf(cmd.Name()) {
		if text, ok := before[f.name]; ok && which(f) {
			if err := cmd.Flags().Set(f.name, text); err != nil {
				return &run.OptionError{Err: err}
			}
		}
	}
	return nil
}

// refuseContradictions compares flags, as given returned them, with the same flags after the
// configuration of a run was read into their fields. advice says what else the user can do than
// leave such a flag out.
func refuseContradictions(cmd *cobra.Command, before map[string]string, dir, advice string) error {
	for _, f := range flagsOf(cmd.Name()) {
		value, ok := before[f.name]
		if !ok || f.anyRun != "" && value == f.anyRun {
			continue
		}
		if now := cmd.Flags().Lookup(f.name).Value.String(); now != value {
			return refuse("--%s %s contradicts the run in %s, which has %s; leave the flag out, %s", f.name, value, dir, cmp.Or(now, "none"), advice)
		}
	}
	return nil
}

// flagError makes an error of parsing flags name the flag as the other errors do.
func flagError(cmd *cobra.Command, err error) error {
	if unknown := (*pflag.NotExistError)(nil); errors.As(err, &unknown) {
		return unknownFlag(cmd, unknown)
	}
	if missing := (*pflag.ValueRequiredError)(nil); errors.As(err, &missing) {
		return fmt.Errorf("flag --%s needs a value", missing.GetFlag().Name)
	}
	if bad := (*pflag.InvalidValueError)(nil); errors.As(err, &bad) {
		value := bad.GetValue()
		if value == "" || strings.ContainsAny(value, " \t\n") {
			value = fmt.Sprintf("%q", value)
		}
		cause := bad.Unwrap()
		// option.Unknown names the value too.
		if _, hint, ok := strings.Cut(cause.Error(), fmt.Sprintf("%q is unknown", bad.GetValue())); ok {
			return refuse("--%s %s is unknown%s", bad.GetFlag().Name, value, hint)
		}
		switch bad.GetFlag().Value.Type() { // the types of pflag
		case "bool":
			cause = errors.New("expected true or false")
		case "duration":
			cause = errors.New("expected a time, such as 90s or 8m")
		}
		return refuse("--%s %s: %w", bad.GetFlag().Name, value, cause)
	}
	return err
}

// describeError returns the text of an error. If the error carries the name of an option that a
// flag of the command sets, the text names the flag: instead of the option if it begins with the
// option, else at the end.
func describeError(cmd *cobra.Command, err error) string {
	text, name := err.Error(), ""
	for option := (*run.OptionError)(nil); errors.As(err, &option); err = option.Err {
		name = cmp.Or(option.Option, name)
	}
	for _, f := range flagsOf(cmd.Name()) {
		if name == "" || name != cmp.Or(f.option, f.name) {
			continue
		}
		for _, option := range []string{name, strings.ReplaceAll(name, "-", " ")} {
			if rest, ok := strings.CutPrefix(text, option); ok && strings.HasPrefix(rest, " ") {
				return "--" + f.name + rest
			}
		}
		return text + " (--" + f.name + ")"
	}
	return text
}
