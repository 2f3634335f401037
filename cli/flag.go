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
	"github.com/sptune/spt/tracking"
	"github.com/sptune/spt/train"
)

// flagRow is one row of the table of flags, which flagTable returns. Parsing, help, completion and
// the checks of flags read the table.
type flagRow struct {
	// name is the name of the flag without the dashes.
	name string
	// short is the one-letter form of the flag. Empty means none.
	short string
	// on lists the commands that take the flag, separated by spaces. "*" means all commands.
	on string
	// group is the heading under which the help lists the flag.
	group group
	// common reports whether --help shows the flag. --help --all shows every flag.
	common bool
	// kind is the word for the value in the help. It is empty for a flag without a value.
	kind string
	// help describes the value in one phrase, with its unit.
	help string

	// field returns a pointer to the field that the flag sets, or a pflag.Value.
	field func(*options) any
	// def is the default, of any type that prints as the text of the flag. Nil means the zero value
	// of the field.
	def any
	// auto describes in words the value that the program uses without the flag. Empty means def.
	auto string
	// bounds is the range of a number.
	bounds bounds
	// none reports whether the value 0 means "none", which the library writes as -1.
	none bool
	// values returns the known values, for the help and the shell. Nil means that none are known.
	values func() []string
	// closed reports whether values that are not known are refused.
	closed bool

	// file says how the command uses the file that the value names.
	file fileUse
	// extension is the extension of an output file. Its value may also have no extension. Empty
	// means any extension.
	extension string
	// needs lists flags without which this flag has no effect. "a|b" requires one of the two.
	needs []string
	// excludes lists flags with which this flag has no effect.
	excludes []string
	// local reports whether the flag concerns this machine only. Its value may differ from the
	// value in a stored run.
	local bool
	// anyRun is a value that contradicts no stored run. Empty means that there is no such value.
	anyRun string
	// option is the name of the option in the library, for method.Row.Takes and run.OptionError.
	// Empty means name.
	option string
}

// group is a heading under which the help lists flags.
type group string

// The groups, in the order of the help.
const (
	modelGroup    group = "Model"
	dataGroup     group = "Data"
	imagesGroup   group = "Images"
	methodGroup   group = "Method"
	scoringGroup  group = "Scoring and planning"
	trainingGroup group = "Training"
	trackingGroup group = "Tracking"
	deviceGroup   group = "Device"
	measureGroup  group = "Measurement"
	jobsGroup     group = "Jobs"
	outputGroup   group = "Output"
	generalGroup  group = "General"
)

var groups = []group{modelGroup, dataGroup, imagesGroup, methodGroup, scoringGroup, trainingGroup, trackingGroup, deviceGroup, measureGroup, jobsGroup, outputGroup, generalGroup}

// fileUse says how a command uses the file or folder that the value of a flag names.
type fileUse int

const (
	noFile       fileUse = iota // the value names no file
	inputFile                   // the command reads the file, or the files of the folder
	imageFolder                 // the command reads the images of the folder or of the list
	outputFile                  // the command writes the file
	outputPrefix                // the command writes files whose names begin with the value
	outputFolder                // the command makes the folder
)

// options holds the values of the flags of one command. Each flag sets one field.
type options struct {
	app *app
	// config holds the model, the data set, the device and the options of tune, score and plan.
	config run.Config
	// single holds the options of the command train.
	single run.TrainOptions

	// method, rank, sizes and recipe point into config.Tune, or into single for the command train.
	// For the command pretrain, recipe points into pretrain.
	method *method.Method
	rank   *int
	sizes  *method.Options
	recipe *train.Options

	bench    bench.Options
	suite    bench.SuiteOptions
	scaling  bench.ScalingOptions
	demo     demo.Options
	pretrain demo.PretrainOptions
	sweep    sweepOptions
	tracking tracking.Options

	out, resume, delta, scores, plan, published, structured string
	configFile                                              string
	split, probe, only                                      string
	budgets                                                 []plan.Budget
	topK, classes                                           int
	rejectBelow                                             float64
	bound, alpha                                            float64
	explain, compare, perClass, resumeState                 bool
	runSuite, runScaling                                    bool
	// predictions, against and logits belong to eval, noReport to all commands that leave a report.
	predictions, against string
	logits, noReport     bool
	// live is the address at which the page of the run is served.
	live               string
	verify, calibrated bool
	html               string // the page of data verify
	// formats, half and probabilities belong to export.
	formats             namesValue
	half, probabilities bool
	// push, from, public and dryRun belong to the upload of export.
	push, from     string
	public, dryRun bool
}

// newOptions returns the options of a command, with the defaults that are not defaults of flags.
func (a *app) newOptions() *options {
	o := &options{app: a, pretrain: demo.PretrainRecipe()}
	t := &o.config.Tune
	o.method, o.rank, o.sizes, o.recipe = &t.Method, &t.Rank, &t.Options, &t.Train
	*o.recipe = train.VTAB()
	return o
}

// ofTrain directs the method and training flags to o.single, which holds the options of the command
// train. It returns o.
func (o *options) ofTrain() *options {
	o.config.Tune = run.TuneOptions{}
	s := &o.single
	o.method, o.rank, o.sizes, o.recipe = &s.Method, &s.Rank, &s.Options, &s.Train
	*o.recipe = train.VTAB()
	return o
}

// flagsOf returns the rows of the table for a command, sorted by group.
func flagsOf(command string) []flagRow {
	rows := slices.DeleteFunc(flagTable(), func(f flagRow) bool {
		return f.on != "*" && !slices.Contains(strings.Fields(f.on), command)
	})
	slices.SortStableFunc(rows, func(a, b flagRow) int {
		return slices.Index(groups, a.group) - slices.Index(groups, b.group)
	})
	return rows
}

// addFlags adds the flags of a command. The flags set the fields of o.
func addFlags(cmd *cobra.Command, o *options) {
	fs := cmd.Flags()
	fs.SortFlags = false
	for _, f := range flagsOf(tableName(cmd)) {
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

// value returns a pflag.Value that sets the field of o that belongs to the flag.
func (f flagRow) value(o *options) pflag.Value {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError) // makes values of the types that pflag has
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

// complete returns the known values of a flag that begin with typed, for completion in the shell.
// For a flag of kind FILE, DIR or DATA, the shell also completes names of files and folders. If a
// flag of kind DIR has no such value, the shell completes names of folders only.
func (f flagRow) complete(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []string
	done := ""
	if f.values != nil {
		if i := strings.LastIndexByte(typed, ','); i >= 0 {
			switch f.field((&app{}).newOptions()).(type) {
			case *methodsValue, *namesValue:
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
	case f.kind == "DIR" || f.kind == "FILE" || f.kind == "DATA":
		return found, cobra.ShellCompDirectiveDefault
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// under returns the annotation of a command below another command, such as data.
func under(parent string) map[string]string { return map[string]string{parentKey: parent} }

// parentKey is the key of the annotation that under makes. A command has no parent yet when its
// flags are added.
const parentKey = "parent"

// tableName returns the name of a command in the table of flags, such as tune or data-verify.
func tableName(c *cobra.Command) string {
	if parent := c.Annotations[parentKey]; parent != "" {
		return parent + "-" + c.Name()
	}
	return c.Name()
}
