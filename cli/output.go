package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/sptune/spt"
	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/train"
)

// notes returns the stream on which a command describes its inputs before it starts. This is
// standard output, or standard error with --json. With --quiet, the text is discarded.
func (a *app) notes() io.Writer {
	switch {
	case a.quiet:
		return io.Discard
	case a.json:
		return textWriter{a.stderr}
	}
	return textWriter{a.stdout}
}

// writeJSON writes one document to standard output.
func (a *app) writeJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the result as JSON: %w", err)
	}
	return a.output(visibleJSON(string(data)) + "\n")
}

// writeLine writes one document to standard output, as one line of JSON.
func (a *app) writeLine(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing the result as JSON: %w", err)
	}
	return a.output(visibleJSON(string(data)) + "\n")
}

// write writes a text to standard output.
func (a *app) write(text string) error { return a.output(visibleText(text)) }

// output writes a text to standard output as it is.
func (a *app) output(text string) error {
	if _, err := io.WriteString(a.stdout, text); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// facts is a list of lines, each with a name and a value. String aligns the values.
type facts [][2]string

func (f *facts) add(name, format string, args ...any) {
	*f = append(*f, [2]string{name, fmt.Sprintf(format, args...)})
}

func (f facts) String() string {
	return table(func(w io.Writer) {
		for _, line := range f {
			fmt.Fprintf(w, "%s\t%s\n", line[0], strings.ReplaceAll(line[1], "\n", "\n\t"))
		}
	})
}

// table returns the text that fill writes, with its tab-separated columns aligned.
func table(fill func(io.Writer)) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fill(w)
	_ = w.Flush() // a strings.Builder does not fail
	var trimmed strings.Builder
	for line := range strings.Lines(b.String()) {
		trimmed.WriteString(strings.TrimRight(line, " \n") + "\n") // the last column may be empty
	}
	return trimmed.String()
}

// describeConfig returns a backbone in words, such as "ViT 12×192, 3 heads, patch 16, 224 px, 5.5M
// parameters".
func describeConfig(c backbone.Config) string {
	return fmt.Sprintf("%v, %s parameters", c, short(c.Size()))
}

func describeReport(r *checkpoint.Report) string {
	if r == nil {
		return "part of this program"
	}
	text := wording.Plural(len(r.Matched), "tensor") + " loaded"
	if r.WeightsKey != "" {
		text += " from " + printable(r.WeightsKey)
	}
	if len(r.Unused) > 0 {
		text += fmt.Sprintf(", %d not needed: %s", len(r.Unused), names(r.Unused))
	}
	return text
}

func describePreprocessing(p backbone.Preprocessing) string {
	return fmt.Sprintf("mean %s, std %s (%s)", channels(p.Mean), channels(p.Std), p.Source)
}

func channels(v [3]float32) string { return fmt.Sprintf("%g,%g,%g", v[0], v[1], v[2]) }

func describeData(d *dataset.Dataset) string {
	return fmt.Sprintf("%s (layout %s), %d classes; images: %d train, %d val, %d test; splits: %s", printable(d.Name), d.Layout, len(d.Classes), len(d.Train), len(d.Val), len(d.Test), d.Split)
}

// addObjective adds a line with the objective, unless it is the default.
func (f *facts) addObjective(name string) {
	if name != objective.SingleLabel.Name() {
		f.add("objective", "%s", printable(name))
	}
}

// addAugmentation adds a line with the augmentation, unless it is only a crop and a flip.
func (f *facts) addAugmentation(o run.ImageOptions) {
	if o.Augment != (dataset.Augment{}) {
		f.add("augmentation", "%s", comma(o.Augmentation()))
	}
}

// addImbalance adds a line if the numbers of training images of the classes are very different. It
// advises what to do, unless the options already make up for it.
func (f *facts) addImbalance(d *dataset.Dataset, o train.Options) {
	note := d.Imbalance()
	if note == "" {
		return
	}
	if !o.BalancedSampling && o.ClassWeightValues == nil {
		if _, several := d.Train[0].Target.(dataset.Labels); several {
			note += "; --class-weights auto makes the rare labels count, and the mean average precision counts all labels alike"
		} else {
			note += "; --class-weights auto or --balanced-sampling makes the small classes count, and --select balanced chooses by the mean recall of the classes"
		}
	}
	f.add("note", "%s", printable(note))
}

// taskFacts returns the lines about the backbone and the data set that a command prints before it
// starts.
func taskFacts(m *backbone.Model, report *checkpoint.Report, d *dataset.Dataset) facts {
	var f facts
	f.add("backbone", "%s: %s", modelName(m), describeConfig(m.Config))
	if m.HeadsAssumed {
		f.add("heads", "%d, a guess from the width %d: the checkpoint does not state the number; --num-heads N sets it", m.Config.NumHeads, m.Config.NumFeatures())
	}
	// A backbone that was loaded for a delta has no report.
	if report != nil || m.Path == embedded.Name {
		f.add("checkpoint", "%s", describeReport(report))
	}
	f.add("pixels", "%s", describePreprocessing(m.Preprocessing))
	f.addReportNotes(report)
	if d != nil {
		f.add("data", "%s", describeData(d))
		for i, s := range d.Skipped {
			if i == 10 {
				f.add("", "and %d more", len(d.Skipped)-i)
				break
			}
			f.add("skipped", "%s (%s)", printable(s.Path), s.Where)
		}
		f.addSkipped(d.Ignored, d.Stray)
		f.addNotes(d.Notes)
	}
	return f
}

// addReportNotes adds a line for each note about the files beside a checkpoint.
func (f *facts) addReportNotes(r *checkpoint.Report) {
	if r != nil {
		f.addNotes(r.Notes)
	}
}

// addNotes adds a line for each note.
func (f *facts) addNotes(notes []string) {
	for _, note := range notes {
		f.add("note", "%s", printable(note))
	}
}

// addSkipped adds lines about the files of a data set with class folders that are not used. ignored
// counts the files that are not images, by extension. stray is the number of images outside the
// class folders.
func (f *facts) addSkipped(ignored map[string]int, stray int) {
	if text := describeIgnored(ignored); text != "" {
		f.add("skipped", "%s", text)
	}
	if stray > 0 {
		f.add("skipped", "%s outside the class folders", wording.Plural(stray, "image"))
	}
}

// describeIgnored returns the numbers of files that are not images in words. ignored counts them by
// extension. The text is empty if there are none.
func describeIgnored(ignored map[string]int) string {
	text, total := countNamed(ignored, "no extension")
	if total == 0 {
		return ""
	}
	return fmt.Sprintf("%s without an image extension: %s", wording.Plural(total, "file"), text)
}

// countNamed returns the ten most frequent names of counts as text, such as ".txt 3, .xml 1", and
// the sum of all counts. unnamed stands for the name "".
func countNamed(counts map[string]int, unnamed string) (text string, total int) {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
	var parts []string
	for i, name := range names {
		total += counts[name]
		if i < 10 {
			parts = append(parts, fmt.Sprintf("%s %d", printable(cmp.Or(name, unnamed)), counts[name]))
		}
	}
	if more := len(names) - 10; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more kinds", more))
	}
	return strings.Join(parts, ", "), total
}

func modelName(m *backbone.Model) string {
	switch {
	case m.Path == embedded.Name:
		return "embedded demo backbone"
	case m.Origin != "":
		return m.Origin
	}
	return printable(filepath.Base(m.Path))
}

// modelArgument returns the value of --model that opens m again.
func modelArgument(m *backbone.Model) string {
	if m.Origin != "" {
		return m.Origin
	}
	return m.Path
}

// list returns the number of names and the first five.
func list(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d: %s", len(all), names(all))
}

// names returns the first five names and the number of the others.
func names(names []string) string {
	quoted := make([]string, 0, 5)
	for _, n := range names[:min(5, len(names))] {
		quoted = append(quoted, printable(n))
	}
	text := strings.Join(quoted, ", ")
	if more := len(names) - 5; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// printable quotes a text that would write control characters to a terminal.
func printable(s string) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// short returns a number of parameters in the notation of budgets, such as 5.5M.
func short(n int) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1fk", float64(n)/1e3)
	}
	return fmt.Sprint(n)
}

// share returns n as a percentage of the number of parameters of the backbone.
func share(n int, c backbone.Config) string { return wording.Percent(float64(n) / float64(c.Size())) }

// fileSize returns the total size of files in bytes. A file that does not exist counts as 0 bytes.
func fileSize(paths ...string) (n int64) {
	for _, p := range paths {
		if stat, err := os.Stat(p); err == nil {
			n += stat.Size()
		}
	}
	return n
}

// runDocument is the JSON document of tune and train.
type runDocument struct {
	Run        string             `json:"run"` // the folder of the run and of its delta
	Config     run.Config         `json:"config"`
	Backbone   backbone.Config    `json:"backbone"`
	Parameters int                `json:"backbone_parameters"` // without the head
	Report     *checkpoint.Report `json:"checkpoint_report,omitempty"`
	DeltaBytes int64              `json:"delta_bytes,omitempty"` // absent if the run made no delta
	Skipped    []skippedImage     `json:"skipped,omitempty"`
	DataNotes  []string           `json:"data_notes,omitempty"` // see dataset.Dataset.Notes
	Page       string             `json:"report,omitempty"`     // path of the HTML page
	// Times holds the seconds of each stage, in the names of package progress and opening.
	Times  map[progress.Stage]float64 `json:"stage_seconds"`
	Result *run.Result                `json:"result"`
}

type skippedImage struct {
	Split string `json:"split"`
	Path  string `json:"path"`
	Where string `json:"where"`
	Error string `json:"error"`
}

func skipped(d *dataset.Dataset) (out []skippedImage) {
	for _, s := range d.Skipped {
		out = append(out, skippedImage{s.Split, jsonfile.Text(s.Path), s.Where, s.Err.Error()})
	}
	return out
}

// writeRun prints the result of tune or train. page is the path of the report; it may be empty.
func (a *app) writeRun(task *spt.Task, c run.Config, dir, page string, r *run.Result) error {
	if a.json {
		return a.writeJSON(runDocument{dir, c, task.Model().Config, task.Model().Config.Size(), task.CheckpointReport(), delta.Size(dir), skipped(task.Data()), task.Data().Notes, page, a.times.seconds(), r})
	}
	m := task.Model()
	text := "\n"
	for i, s := range task.Data().Skipped {
		if i == 10 {
			text += fmt.Sprintf("skipped: and %d more\n", len(task.Data().Skipped)-i)
			break
		}
		text += fmt.Sprintf("skipped: %s (%s): %v\n", printable(s.Path), s.Where, s.Err)
	}
	if len(r.Candidates) > 0 {
		text += table(func(w io.Writer) {
			rates := slices.ContainsFunc(r.Candidates, func(c run.Candidate) bool { return c.LR != r.LR })
			column := func(text string) string { // of the learning rates, if there are several
				if rates {
					return text + "\t"
				}
				return ""
			}
			by := c.Tune.Train.Select
			// selected returns the column of the metric that chose, if no other column has it.
			selected := func(text string) string {
				if by == objective.ByBalanced || by == objective.ByMacroF1 {
					return text + "\t"
				}
				return ""
			}
			fmt.Fprintln(w, "budget\ttuned parameters\tof backbone\t"+column("learning rate")+"validation "+objective.ScoreName(r.Objective)+"\tvalidation loss\t"+selected("validation "+string(by)))
			for _, c := range r.Candidates {
				mark := ""
				if len(r.Candidates) > 1 && c.Budget == r.Budget && c.LR == r.LR {
					mark = "chosen"
				}
				fmt.Fprintf(w, "%s\t%d\t%s\t%s%s\t%.4f\t%s%s\n", budgetName(c.Budget.String()), c.Counts.Tuned(), share(c.Counts.Tuned(), m.Config), column(textOf(c.LR)), wording.Percent(c.ValAccuracy), c.ValLoss, selected(wording.Percent(c.Selected(by))), mark)
			}
		}) + "\n"
	}
	var f facts
	f.add("tuned", "%d parameters, %s of the backbone, and a head of %d parameters", r.Counts.Tuned(), share(r.Counts.Tuned(), m.Config), r.Counts.Head)
	f.add("trained on", "%s, in %s", trainingImages(r.TrainedOn), wording.Seconds(r.Seconds))
	f.add("time", "%s", &a.times)
	if share := r.WaitShare(); share >= muchWaiting {
		f.add("note", "the steps waited for images %s of the time; to wait less, keep the decoded images (--cache), or store the images smaller or on a faster disk", wording.Percent(share))
	}
	if r.Val != nil {
		f.add("validation "+objective.ScoreName(r.Objective), "%s", wording.Percent(*r.Val))
	}
	if r.Test != nil {
		f.add("test "+objective.ScoreName(r.Objective), "%s of %s, tested once", wording.Percent(r.Test.Accuracy), wording.Plural(r.Test.Images, "image"))
		if m := r.Metrics; m != nil {
			f.add("95% interval", "%s to %s", wording.Percent(m.Interval.Low), wording.Percent(m.Interval.High))
		}
		if m := r.LabelMetrics; m != nil {
			thresholds := "the thresholds of the validation images"
			if r.Thresholds == nil {
				thresholds = fmt.Sprintf("the threshold %g", evaluate.DefaultThreshold)
			}
			f.add("macro F1", "%s, with %s", wording.Percent(m.Macro.F1), thresholds)
		}
	}
	if left := len(task.Data().Test); r.Test != nil && r.Test.Images < left {
		f.add("note", "the time was over after %d of %s, which were in random order", r.Test.Images, wording.Plural(left, "test image"))
	}
	if i := slices.IndexFunc(r.Candidates, func(c run.Candidate) bool { return c.Budget == r.Budget && c.LR == r.LR && c.Alpha > 0 }); i >= 0 && !r.KeptProbe() {
		f.add("weights", "%g of the way from the linear probe to the end of the training, which lowers the validation loss", r.Candidates[i].Alpha)
	}
	f.addProbe(r)
	if r.Test != nil && r.Test.Images < fewTests && r.Metrics != nil {
		f.add("note", "%s tell little, so the interval is wide; --folds 5 tests on every image, and a larger --test-fraction on more of them", wording.Plural(r.Test.Images, "test image"))
	}
	if r.TestMax != nil {
		f.add("test-max (paper protocol)", "%s: the highest of all epochs, for comparison only", wording.Percent(*r.TestMax))
	}
	if page != "" {
		f = append(f, reportFact(page)...)
	}
	if c.Tune.ValidationOnly {
		return a.write(text + f.String())
	}
	f.add("delta", "%s, %s", dir, wording.Bytes(delta.Size(dir)))
	f.add("next", "%s\n%s", shell.Command("spt", "predict", "--delta", dir)+" IMAGE…", shell.Command("spt", "eval", "--delta", dir, "--per-class"))
	if row, err := method.Lookup(r.Method); err == nil && row.Merges() {
		f.add("", "%s", shell.Command("spt", "merge", "--delta", dir, "--out", "merged.safetensors"))
	}
	return a.write(text + f.String())
}

// muchWaiting is the share of the time that waits for images from which the command says so.
const muchWaiting = 0.1

// fewTests is the number of test images below which the command says that the interval is wide.
const fewTests = 30

// addProbe adds a line about the linear probe of a run.
func (f *facts) addProbe(r *run.Result) {
	switch {
	case r.KeptProbe():
		f.add("note", "the linear probe is better on the validation images than the tuning: %s against %s; so the delta is the probe", wording.Percent(r.Probe.ValAccuracy), wording.Percent(slices.MaxFunc(r.Candidates, func(a, b run.Candidate) int { return cmp.Compare(a.ValAccuracy, b.ValAccuracy) }).ValAccuracy))
	case r.Probe == nil || r.Method == method.Linear:
	case r.ProbeTest != nil && r.LabelMetrics != nil:
		f.add("linear probe", "mAP %s at %d px; tuning adds %+.2f points", wording.Percent(r.ProbeTest.Accuracy), r.Model.ImageSize, 100*(r.Test.Accuracy-r.ProbeTest.Accuracy))
	case r.ProbeTest != nil:
		low, high := evaluate.Wilson(int(math.Round(r.ProbeTest.Accuracy*float64(r.ProbeTest.Images))), r.ProbeTest.Images, 0.95)
		f.add("linear probe", "%s at %d px, interval %s to %s; tuning adds %+.2f points", wording.Percent(r.ProbeTest.Accuracy), r.Model.ImageSize, wording.Percent(low), wording.Percent(high), 100*(r.Test.Accuracy-r.ProbeTest.Accuracy))
	default:
		f.add("linear probe", "validation %s %s at %d px", objective.ScoreName(r.Objective), wording.Percent(r.Probe.ValAccuracy), r.Model.ImageSize)
	}
}

// trainingImages describes the splits of run.Result.TrainedOn.
func trainingImages(trainedOn string) string {
	if trainedOn == "train+val" {
		return "the training and validation images"
	}
	return "the training images"
}

func budgetName(b string) string {
	if b == "" {
		return "-"
	}
	return b
}
