package cli

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sptune/spt/run"
)

var update = flag.Bool("update", false, "rewrite testdata/flags/fields.txt")

// commands returns all commands: the root, its commands and the commands of 'spt data'.
func commands() []*cobra.Command {
	root := (&app{}).root()
	all := append([]*cobra.Command{root}, root.Commands()...)
	for _, c := range root.Commands() {
		all = append(all, c.Commands()...)
	}
	return all
}

func find(root *cobra.Command, name string) *cobra.Command {
	cmd, _, err := root.Find([]string{name})
	if err != nil {
		panic(err)
	}
	return cmd
}

// TestFlagTable checks that every row is complete for the help, the checks and the completion, and
// that it names only commands and flags that exist.
func TestFlagTable(t *testing.T) {
	names := map[string]bool{}
	for _, c := range commands() {
		names[tableName(c)] = true
	}
	rows := flagTable()
	seen, groupOf := map[string]bool{}, map[string]group{}
	for _, f := range rows {
		fail := func(format string, args ...any) {
			t.Errorf("--%s of %s: %s", f.name, f.on, fmt.Sprintf(format, args...))
		}
		for _, command := range strings.Fields(f.on) {
			if seen[command+" "+f.name] || seen["* "+f.name] {
				fail("%s has the flag twice", command)
			}
			seen[command+" "+f.name] = true
			if command != "*" && !names[command] {
				fail("there is no command %s", command)
			}
		}
		if !slices.Contains(groups, f.group) {
			fail("the group is %q", f.group)
		}
		if len(f.help) < 10 || strings.ToLower(f.help[:1]) != f.help[:1] || strings.HasSuffix(f.help, ".") {
			fail("the help is %q; expected a phrase", f.help)
		}
		if f.field == nil {
			fail("it sets no field")
		}
		for _, list := range append(slices.Clone(f.needs), f.excludes...) {
			for other := range strings.SplitSeq(list, "|") {
				if !slices.ContainsFunc(rows, func(g flagRow) bool { return g.name == other }) {
					fail("there is no flag --%s", other)
				}
			}
		}
		_, isBool := f.value((&app{}).newOptions()).(interface{ IsBoolFlag() bool })
		if isBool != (f.kind == "") {
			fail("the word for its value is %q", f.kind)
		}
		if f.closed && f.values == nil {
			fail("no value is allowed")
		}
		// A command such as 'spt models' prints the longer lists.
		if f.closed && f.values != nil && len(f.values()) <= 12 {
			for _, v := range f.values() {
				if !strings.Contains(f.help, v) {
					fail("the help does not name the value %s", v)
				}
			}
		}
		if f.values != nil && f.closed && f.def != nil && !slices.Contains(f.values(), textOf(f.def)) {
			fail("the default %v is not a known value", f.def)
		}
		if kind := f.file; (f.kind == "FILE") != (kind == inputFile || kind == outputFile) && !slices.Contains([]string{"python", "delta", "against", "from", "from-delta"}, f.name) {
			fail("a %s is used as a file of kind %d", f.kind, kind)
		}
	}
	// A flag means the same on all commands, so it is in the same group. The exceptions are
	// --epochs of the suite, --steps of bench, --seed of score and --alpha of merge, which is α of
	// another paper.
	for _, f := range rows {
		if g, ok := groupOf[f.name]; ok && g != f.group && f.name != "epochs" && f.name != "steps" && f.name != "seed" && f.name != "alpha" {
			t.Errorf("--%s is in the groups %s and %s", f.name, g, f.group)
		}
		groupOf[f.name] = f.group
	}
}

// samples are values for flags. For each flag, at least one of them is valid and not the default.
var samples = []string{"7", "0.7", "true", "false", "0.25,0.25,0.25", "3MiB", "7s", "a", "biases=3", "method=a"}

// TestFlagsSetFields checks that every flag sets the field that testdata/flags/fields.txt lists,
// and no other.
func TestFlagsSetFields(t *testing.T) {
	var got strings.Builder
	for _, c := range commands() {
		for _, f := range flagsOf(tableName(c)) {
			if f.on == "*" && c.Name() != "spt" {
				continue
			}
			o := commandOptions(tableName(c))
			v := f.value(o)
			if f.def != nil {
				if err := v.Set(textOf(f.def)); err != nil {
					t.Fatalf("%s --%s: %v", c.Name(), f.name, err)
				}
			}
			before, text := leaves(reflect.ValueOf(o).Elem()), v.String()
			texts := samples
			if f.values != nil {
				texts = append(f.values(), samples...)
			}
			for _, sample := range texts {
				if v.Set(sample) == nil && v.String() != text {
					break
				}
			}
			if v.String() == text {
				t.Fatalf("%s --%s: no sample sets it", c.Name(), f.name)
			}
			var changed []string
			for path, value := range leaves(reflect.ValueOf(o).Elem()) {
				if before[path] != value {
					changed = append(changed, path)
				}
			}
			slices.Sort(changed)
			fmt.Fprintf(&got, "%s --%s %s\n", c.Name(), f.name, strings.Join(changed, " "))
		}
	}
	file := filepath.Join("testdata", "flags", "fields.txt")
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(want), "\n")
	for i, line := range strings.Split(got.String(), "\n") {
		if i >= len(lines) || line != lines[i] {
			t.Fatalf("line %d is %q, want %q; if that is right, run the test with -update", i+1, line, lines[min(i, len(lines)-1)])
		}
	}
}

// commandOptions returns the options of a command, as the command prepares them for its flags.
func commandOptions(name string) *options {
	o := (&app{}).newOptions()
	switch name {
	case "train":
		o.ofTrain()
	case "pretrain":
		o.recipe = &o.pretrain.Train
	}
	return o
}

// leaves returns the fields of a struct and of the structs inside it as text, by their paths. It
// follows only the pointer to the app: all other pointers point into the struct itself.
func leaves(v reflect.Value) map[string]string {
	out := map[string]string{}
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		if v.Kind() == reflect.Pointer && v.Type() == reflect.TypeFor[*app]() {
			v = v.Elem()
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."))
			}
		case reflect.Pointer, reflect.Interface, reflect.Func:
		default:
			out[path] = fmt.Sprint(v)
		}
	}
	walk(v, "")
	return out
}

// TestFlagRanges checks that a flag refuses numbers outside its bounds.
func TestFlagRanges(t *testing.T) {
	tried := 0
	for _, f := range flagTable() {
		o := (&app{}).newOptions()
		v := f.value(o)
		if v.Type() != "number" {
			continue
		}
		tried++
		for _, text := range []string{"-1", "NaN", "Inf", "1e999", "many", ""} {
			if v.Set(text) == nil {
				t.Errorf("--%s of %s takes %q", f.name, f.on, text)
			}
		}
		zero := f.bounds.min == 0 && !f.bounds.above
		if err := v.Set("0"); (err == nil) != zero {
			t.Errorf("--%s of %s: 0 gives %v", f.name, f.on, err)
		}
		if err := v.Set("1"); (err == nil) != (f.bounds.below != 1) {
			t.Errorf("--%s of %s: 1 gives %v", f.name, f.on, err)
		}
	}
	if tried < 30 {
		t.Errorf("%d flags take numbers", tried)
	}
}

// TestFlagsKeepNamesAndDefaults checks that every flag in testdata/flags/defaults.txt exists on the
// same command, with the same default. A line is COMMAND --FLAG "DEFAULT".
func TestFlagsKeepNamesAndDefaults(t *testing.T) {
	list, err := os.ReadFile(filepath.Join("testdata", "flags", "defaults.txt"))
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]string{}
	for _, c := range commands() {
		fs := c.LocalNonPersistentFlags()
		if !c.HasParent() {
			fs = c.PersistentFlags()
		}
		fs.VisitAll(func(f *pflag.Flag) {
			now[strings.TrimPrefix(c.CommandPath(), "spt ")+" --"+f.Name] = fmt.Sprintf("%q", f.DefValue)
		})
	}
	for line := range strings.Lines(string(list)) {
		i := strings.IndexByte(line, '"')
		name, def := strings.TrimSpace(line[:i]), strings.TrimSpace(line[i:])
		if got, ok := now[name]; !ok || got != def {
			t.Errorf("%s has the default %s, want %s", name, got, def)
		}
	}
}

// TestHelpOfFlags checks that the help of a command shows its common flags, and with --all every
// flag. No line is longer than 80 columns, except lines with commands.
func TestHelpOfFlags(t *testing.T) {
	for _, c := range commands() {
		for _, all := range []bool{false, true} {
			var out strings.Builder
			a := &app{showAll: all, stdout: &out}
			a.help(c, nil)
			for _, f := range flagsOf(tableName(c)) {
				if shown := strings.Contains(out.String(), f.head()); shown != (f.common || all) {
					t.Errorf("%s --help, all %v: --%s is shown: %v", c.Name(), all, f.name, shown)
				}
			}
			for line := range strings.Lines(out.String()) {
				if n := len([]rune(line)); n > 81 && !strings.HasPrefix(line, "  spt ") {
					t.Errorf("%s --help has a line of %d columns: %s", c.Name(), n-1, line)
				}
			}
		}
	}
}

// TestCompletion checks that the shell is offered the known values of a flag.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.MkdirAll(filepath.Join("runs", "clothing-lora"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("runs", "clothing-lora", "config.json"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ line, want string }{
		{"tune --method vpt", "vpt-shallow vpt-deep"},
		{"train --method spt", ""},
		{"plan --method spt-u", "spt-unstructured"},
		{"demo --method linear,vpt", "linear,vpt-shallow linear,vpt-deep"},
		{"tune --layout im", "imagefolder"},
		{"tune --criterion ma", "magnitude"},
		{"tune --device c", "cpu"},
		{"tune --task cub", "cub"},
		{"tune --structured lo", "lora"},
		{"tune --resume ", "runs/clothing-lora"},
		{"eval --delta ru", "runs/clothing-lora"},
		{"eval --split t", "test train"},
		{"bench --model t", "tiny"},
	} {
		command, rest, _ := strings.Cut(c.line, " ")
		name, typed, _ := strings.Cut(strings.TrimPrefix(rest, "--"), " ")
		i := slices.IndexFunc(flagsOf(command), func(f flagRow) bool { return f.name == name })
		found, _ := flagsOf(command)[i].complete(nil, nil, typed)
		if got := strings.Join(found, " "); got != c.want {
			t.Errorf("spt %s: %q, want %q", c.line, got, c.want)
		}
	}
}

// TestDescribeError checks that an error that names an option of the library names the flag
// instead.
func TestDescribeError(t *testing.T) {
	tune := find((&app{}).root(), "tune")
	for _, c := range []struct {
		err  error
		want string
	}{
		{&run.OptionError{Option: "rank", Err: errors.New("rank 300: expected 1 to 192")}, "--rank 300: expected 1 to 192"},
		{&run.OptionError{Option: "batch-size", Err: errors.New("batch size 0: expected at least 1")}, "--batch-size 0: expected at least 1"},
		{fmt.Errorf("lora: %w", &run.OptionError{Option: "rank", Err: errors.New("the rank is 300")}), "lora: the rank is 300 (--rank)"},
		{&run.OptionError{Err: &run.OptionError{Option: "run-folder", Err: errors.New("x is a file")}}, "x is a file (--out)"},
		{&run.OptionError{Option: "workers", Err: errors.New("no flag sets the workers")}, "no flag sets the workers"},
		{errors.New("rank 300"), "rank 300"},
	} {
		if got := describeError(tune, c.err, c.err.Error()); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
