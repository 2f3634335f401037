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

// This file checks flags against the table of flags. The checks run before a command does anything.

// refuse returns an error for wrong usage, which ends the program with exit code 2.
func refuse(format string, args ...any) error {
	return &run.OptionError{Err: fmt.Errorf(format, args...)}
}

// checkFlags returns an error for a flag without an effect, for an input that is a special file,
// and for an output that would replace an input or cannot be written. Reading a special file, such
// as a pipe, could block for ever.
func checkFlags(cmd *cobra.Command, args []string) error {
	rows, fs := flagsOf(tableName(cmd)), cmd.Flags()
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

// checkEffect returns an error if another flag excludes this flag, or if a flag that it needs is
// missing.
func (f flagRow) checkEffect(fs *pflag.FlagSet) error {
	for _, other := range f.excludes {
		if !fs.Changed(other) {
			continue
		}
		// A PEFT adapter does not state how its backbone is opened and how images are resized.
		if adapter := other == "delta" && delta.IsPEFT(fs.Lookup(other).Value.String()); !adapter {
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

// checkMethod returns an error for a flag whose option the method does not use.
func checkMethod(cmd *cobra.Command, m method.Row) error {
	for _, f := range flagsOf(tableName(cmd)) {
		if option := cmp.Or(f.option, f.name); cmd.Flags().Changed(f.name) && !m.Takes(option) {
			return refuse("method %s takes no --%s; leave it out, or choose a method that does: %s", m.Method, f.name, comma(texts(method.Takers(option))))
		}
	}
	return nil
}

// checkWritable returns an error if an output file is a folder, if its folder does not exist, or if
// its name has the extension of another format. Such an error after the work would lose the result.
// Output folders are not checked.
func (f flagRow) checkWritable(path string) error {
	if f.file == outputFolder {
		return nil
	}
	if stat, err := os.Stat(path); f.file == outputFile && err == nil && stat.IsDir() {
		return refuse("--%s %s is a folder; give the name of a file", f.name, path)
	}
	if ext := filepath.Ext(path); f.extension != "" && ext != "" && !strings.EqualFold(ext, f.extension) {
		return refuse("--%s %s: the command writes a %s file; give a name with this extension, or with none", f.name, path, f.extension)
	}
	if stat, err := os.Stat(filepath.Dir(path)); err != nil || !stat.IsDir() {
		return refuse("--%s %s: there is no folder %s; make it, or give another name", f.name, path, filepath.Dir(path))
	}
	return nil
}

// checkpointFiles returns the files of the checkpoint at path, which may be a folder or have
// several shards. It returns nil if the checkpoint cannot be opened; loading it reports the reason
// later.
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

// keepInputs returns an error if the output out of a flag is an input file, also under another
// name. The files of a checkpoint and the files of the run of a delta are inputs too.
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

// keepData returns an error if the output out of a flag would replace an image or a list in the
// folder of a data set that the command reads. It allows out to replace other files there, because
// the working folder may be the folder of the data set.
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
			folder = filepath.Dir(folder) // the images of a table lie in its folder
		}
		if inside(out, folder) {
			return refuse("--%s %s would replace a file of --%s %s; give another name", name, out, f.name, given)
		}
	}
	return nil
}

// inside reports whether an existing file is in a folder or in one of its sub-folders.
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

// given returns the values of the flags that the user has set, by the names of the flags.
func given(cmd *cobra.Command) map[string]string {
	values := map[string]string{}
	cmd.Flags().Visit(func(f *pflag.Flag) { values[f.Name] = f.Value.String() })
	return values
}

// setAgain sets flags again whose fields were overwritten. before holds the values of the flags
// that the user has set, from given. setAgain sets the flags for which include returns true.
func setAgain(cmd *cobra.Command, before map[string]string, include func(flagRow) bool) error {
	for _, f := range flagsOf(tableName(cmd)) {
		if text, ok := before[f.name]; ok && include(f) {
			if err := cmd.Flags().Set(f.name, text); err != nil {
				return &run.OptionError{Err: err}
			}
		}
	}
	return nil
}

// refuseContradictions returns an error for a flag that contradicts the run in dir. before holds
// the values of the flags that the user has set, from given. The fields of the flags hold the
// configuration of the run by now. advice tells the user an alternative to leaving the flag out.
func refuseContradictions(cmd *cobra.Command, before map[string]string, dir, advice string) error {
	for _, f := range flagsOf(tableName(cmd)) {
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

// flagError rewrites an error of pflag in the form of the other errors: it names the flag, the
// value and the expected values.
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
		// The text of option.Unknown names the value too. Keep only the hint after the value.
		if _, hint, ok := strings.Cut(cause.Error(), fmt.Sprintf("%q is unknown", bad.GetValue())); ok {
			return refuse("--%s %s is unknown%s", bad.GetFlag().Name, value, hint)
		}
		switch bad.GetFlag().Value.Type() { // the names that pflag gives its types
		case "bool":
			cause = errors.New("expected true or false")
		case "duration":
			cause = errors.New("expected a time, such as 90s or 8m")
		}
		return refuse("--%s %s: %w", bad.GetFlag().Name, value, cause)
	}
	return err
}

// describeError returns the first line of the text of an error for the user. text is the first line
// of err.Error(). If the error names an option that a flag of the command sets, the text names the
// flag. If the text begins with the option, the flag takes the place of the option; otherwise the
// flag is added at the end, in parentheses.
func describeError(cmd *cobra.Command, err error, text string) string {
	name := ""
	for option := (*run.OptionError)(nil); errors.As(err, &option); err = option.Err {
		name = cmp.Or(option.Option, name)
	}
	for _, f := range flagsOf(tableName(cmd)) {
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
