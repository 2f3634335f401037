package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/internal/demo"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// flagRow is one row of the table of flags, which flagTable returns. Parsing, help, completion and
// the checks of flags read the table.
type flagRow struct {
	name  string // without the dashes
	short string // one letter; empty: none
	on    string // the names of the commands that take the flag, divided by spaces; "*": all
	group group
	// common flags are shown by --help, the others by --help --all only.
	common bool
	kind   string // the word for the value in the help; empty for a flag without a value
	help   string // one line: a noun and, where the value has one, its unit

	field func(*options) any // returns a pointer to the field that the flag sets, or a pflag.Value
	// the default, in any type that prints as the flag's text; nil: the field's zero value
	def    any
	auto   string          // what the program takes without the flag, in words; empty: def
	bounds bounds          // of numbers
	none   bool            // zero means none, which the library writes as -1
	values func() []string // the values that are known; nil: they are not known
	closed bool            // other values than the known ones are refused

	file fileUse
	// needs lists flags without which the flag has no effect. "a|b" is met by either of the two.
	needs []string
	// excludes lists flags beside which the flag has no effect.
	excludes []string
	// local flags concern this machine, not the run: they may differ from those of a recorded run.
	local bool
	// anyRun is a value that contradicts no recorded run; empty: there is none.
	anyRun string
	// option is the name of the option in the library: method.Row.Takes and run.OptionError have
	// it. Empty: name.
	option string
}

// group is a heading of the help.
type group string

// The groups, in the order of the help.
const (
	modelGroup    group = "Model"
	dataGroup     group = "Data"
	imagesGroup   group = "Images"
	methodGroup   group = "Method"
	scoringGroup  group = "Scoring and planning"
	trainingGroup group = "Training"
	deviceGroup   group = "Device"
	measureGroup  group = "Measurement"
	outputGroup   group = "Output"
	generalGroup  group = "General"
)

var groups = []group{modelGroup, dataGroup, imagesGroup, methodGroup, scoringGroup, trainingGroup, deviceGroup, measureGroup, outputGroup, generalGroup}

// fileUse says what a flag's value is in the file system.
type fileUse int

const (
	noFile       fileUse = iota
	inputFile            // a file, or a folder that stands for its files, that is read
	imageFolder          // a folder, or a list, of images that are read
	outputFile           // a file that is written
	outputPrefix         // the beginning of the names of files that are written
	outputFolder         // a folder that is made
)

// options holds the values of the flags of one command. Each flag sets one field.
type options struct {
	app    *app
	config run.Config
	single run.TrainOptions // of train

	// These point into config.Tune or, for train, into single; recipe points into pretrain for the
	// command of that name.
	method *method.Method
	rank   *int
	sizes  *method.Options
	recipe *train.Options

	bench    bench.Options
	suite    bench.SuiteOptions
	demo     demo.Options
	pretrain demo.PretrainOptions

	out, resume, delta, scores, plan, published, structured string
	split, probe, only                                      string
	budget                                                  plan.Budget
	topK, classes                                           int
	bound                                                   float64
	explain, compare, perClass, runSuite, resumeState       bool
}

// newOptions returns the options of a command with the defaults that no flag sets.
func (a *app) newOptions() *options {
	o := &options{app: a, pretrain: demo.PretrainRecipe()}
	t := &o.config.Tune
	o.method, o.rank, o.sizes, o.recipe = &t.Method, &t.Rank, &t.Options, &t.Train
	*o.recipe = train.VTAB()
	return o
}

// ofTrain makes the flags of methods and training set the options of the command train.
func (o *options) ofTrain() *options {
	o.config.Tune = run.TuneOptions{}
	s := &o.single
	o.method, o.rank, o.sizes, o.recipe = &s.Method, &s.Rank, &s.Options, &s.Train
	*o.recipe = train.VTAB()
	return o
}

// flagsOf returns the rows of the table for a command, by groups.
func flagsOf(command string) []flagRow {
	rows := slices.DeleteFunc(flagTable(), func(f flagRow) bool {
		return f.on != "*" && !slices.Contains(strings.Fields(f.on), command)
	})
	slices.SortStableFunc(rows, func(a, b flagRow) int {
		return slices.Index(groups, a.group) - slices.Index(groups, b.group)
	})
	return rows
}

// addFlags adds the flags of a command. They set the fields of o.
func addFlags(cmd *cobra.Command, o *options) {
	fs := cmd.Flags()
	fs.SortFlags = false
	for _, f := range flagsOf(cmd.Name()) {
		if f.on != "*" {
			f.add(cmd, fs, o)
		}
	}
}

// add adds a flag to one of the flag sets of a command.
func (f flagRow) add(cmd *cobra.Command, fs *pflag.FlagSet, o *options) {
	v := f.value(o)
	if f.def != nil {
		if err := v.Set(textOf(f.def)); err != nil {
			panic("the default of --" + f.name + ": " + err.Error())
		}
	}
	added := fs.VarPF(v, f.name, f.short, f.help)
	if f.kind == "" {
		added.NoOptDefVal = "true"
	}
	if err := cmd.RegisterFlagCompletionFunc(f.name, f.complete); err != nil {
		panic(err)
	}
}

// value returns the field of o that the flag sets, as pflag takes it.
func (f flagRow) value(o *options) pflag.Value {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError) // for the types of values that pflag has
	switch to := f.field(o).(type) {
	case pflag.Value:
		return to
	case *int:
		return numberValue[int]{to, f.bounds, f.none}
	case *uint64:
		return numberValue[uint64]{to, f.bounds, f.none}
	case *float64:
		return numberValue[float64]{to, f.bounds, f.none}
	case *bool:
		fs.BoolVar(to, f.name, false, "")
	case *string:
		if f.closed {
			return choiceValue{to, f.values()}
		}
		fs.StringVar(to, f.name, "", "")
	case *time.Duration:
		fs.DurationVar(to, f.name, 0, "")
	default:
		panic("--" + f.name + " sets a field of an unknown type")
	}
	return fs.Lookup(f.name).Value
}

// complete returns the known values of a flag to the shell. Where there are none, the shell
// completes names of files or, for a folder, of folders.
func (f flagRow) complete(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []string
	done := ""
	if f.values != nil {
		if i := strings.LastIndexByte(typed, ','); i >= 0 {
			if _, list := f.field((&app{}).newOptions()).(*methodsValue); list {
				done, typed = typed[:i+1], typed[i+1:]
			}
		}
		for _, v := range f.values() {
			if strings.HasPrefix(v, typed) {
				found = append(found, done+v)
			}
		}
	}
	switch {
	case f.kind == "DIR" && len(found) == 0:
		return nil, cobra.ShellCompDirectiveFilterDirs
	case f.kind == "DIR" || f.kind == "FILE":
		return found, cobra.ShellCompDirectiveDefault
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
