package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"path/filepath"
	"strings"
	"time"

	"github.com/sptune/spt/evaluate"
	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/run"
)

// The types of this file are the values that page.html prints.

// view is a whole page.
type view struct {
	frame
	Subtitle  string
	Contents  []link
	Sweep     *sweepView
	Compared  *comparedView
	Runs      []runView
	Evaluated *runView
	Verified  *verifiedView
}

// link is a link to a section.
type link struct{ ID, Title string }

// runView is a run, or an evaluation without a run.
type runView struct {
	// Prefix is the prefix of the ids of the sections. It is empty if the page has one run.
	Prefix        string
	Heading       string
	Answer        *answerView
	Curves        *curvesView
	Confusion     *confusionView
	Classes       *classesView
	Together      *classesView // labels of the same image
	Beside        *classesView // average precisions beside those of another classifier
	Mistakes      *mistakesView
	Reliability   *chartsView
	Budget        *chartsView
	Data          *dataView
	Configuration *configurationView
}

type answerView struct {
	Value, What         string
	Sentences, Warnings []string
	Facts               []factView
}

type factView struct {
	Name, Value, Note string
	Epoch             bool // the number of finished epochs, which the live page is tested by
}

type curvesView struct {
	Note       string
	Charts     []template.HTML
	Candidates *tableView
}

type confusionView struct {
	Notes []string
	Chart template.HTML
	Pairs *tableView
}

type classesView struct {
	Note  string
	Table tableView
}

type mistakesView struct {
	Note   string
	Groups []groupView
}

type groupView struct {
	Title, Text string
	Images      []imageView
}

type imageView struct {
	Picture                                    Picture
	True, Predicted, Probability, Others, Path string
}

type chartsView struct {
	Sentences []string
	Charts    []template.HTML
}

type dataView struct {
	Sentences []string
	Charts    []template.HTML
	Lists     []listView
	Samples   []Sample
}

type listView struct {
	Title, Text string
	Items       []string
}

type configurationView struct {
	Command, JSON string
	Table         tableView
}

// tableView is a table.
type tableView struct {
	Caption  string
	Head     []cellView
	Rows     [][]cellView
	Sortable bool // by a click on a column's head
	Tall     bool // scrolls if it is longer than a screen
}

// cellView is a cell of a table.
type cellView struct {
	Text   string
	Whole  string  // the whole text, if Text is cut
	Number bool    // aligned to the right
	Sorted bool    // sorted by Value instead of Text
	Value  float64 // finite
}

// shownText is the largest number of characters of a text in a table.
const shownText = 80

func text(s string) cellView {
	c := cellView{Text: jsonfile.Text(s)}
	if r := []rune(c.Text); len(r) > shownText {
		c.Text, c.Whole = string(r[:shownText-1])+"…", c.Text
	}
	return c
}

func number(format string, v float64) cellView {
	return cellView{Text: fmt.Sprintf(format, v), Number: true, Sorted: true, Value: v}
}

func count(n int) cellView {
	return cellView{Text: wording.Thousands(n), Number: true, Sorted: true, Value: float64(n)}
}

func share(v float64) cellView {
	return cellView{Text: wording.Percent(v), Number: true, Sorted: true, Value: v}
}

// head returns the head of a table. A name that ends in "#" is the head of a column of numbers.
func head(names ...string) (cells []cellView) {
	for _, name := range names {
		name, number := strings.CutSuffix(name, "#")
		cells = append(cells, cellView{Text: name, Number: number})
	}
	return cells
}

// view turns the page into the values of the template.
func (p *Page) view(now time.Time) (*view, error) {
	v := &view{}
	if p.Sweep != nil {
		v.Sweep = p.sweepView()
		v.Contents = append(v.Contents, link{"sweep", "Sweep"})
	}
	runs := p.distinct()
	if len(runs) > 1 {
		v.Compared = compare(runs)
		v.Contents = append(v.Contents, link{"runs", "Side by side"})
	}
	var names []string
	described := map[string]bool{} // data sets
	for i, r := range runs {
		names = append(names, r.Name)
		if len(runs) > MaxDetailed {
			continue
		}
		if r.Probe == nil {
			r.Probe = probeAmong(runs, r)
		}
		d := single
		if len(runs) > 1 {
			d = several
		}
		one, err := r.view(d)
		if err != nil {
			return nil, err
		}
		// the same data set is described once
		if one.Data != nil && described[r.Config.Data.Samples] {
			one.Data = nil
		}
		described[r.Config.Data.Samples] = described[r.Config.Data.Samples] || one.Data != nil
		if len(runs) > 1 {
			one.Prefix = fmt.Sprintf("run-%d-", i+1)
			one.Heading = r.Name
			v.Contents = append(v.Contents, link{one.Prefix + "run", r.Name})
		} else {
			v.Contents = append(v.Contents, one.sections()...)
			v.Subtitle = r.subtitle()
		}
		v.Runs = append(v.Runs, *one)
	}
	if p.Evaluated != nil {
		v.Evaluated = p.Evaluated.view()
		v.Contents = append(v.Contents, v.Evaluated.sections()...)
	}
	if p.Verified != nil {
		v.Verified = p.Verified.view()
		v.Contents = append(v.Contents, link{"verified", "Data"}, link{"duplicates", "Equal images"}, link{"classes", "Classes"})
	}
	v.frame = p.frame(now)
	v.Title = jsonfile.Text(cmp.Or(p.Title, strings.Join(names, ", ")))
	return v, nil
}

// distinct returns the runs. If two have the same name, all have the paths of their folders as
// names.
func (p *Page) distinct() []*Run {
	seen := map[string]bool{}
	for _, r := range p.Runs {
		if seen[r.Name] {
			var renamed []*Run
			for _, r := range p.Runs {
				copied := *r
				copied.Name = cmp.Or(string(r.Folder), r.Name)
				renamed = append(renamed, &copied)
			}
			return renamed
		}
		seen[r.Name] = true
	}
	return p.Runs
}

// probeAmong returns the linear probe of the data and the backbone of r among runs, or nil.
func probeAmong(runs []*Run, r *Run) *Probe {
	for _, other := range runs {
		accuracy, tested := other.tested()
		if tested && other.Config.Method() == method.Linear && other.Config.Data.Samples == r.Config.Data.Samples && other.Config.Model.Fingerprint == r.Config.Model.Fingerprint {
			return &Probe{Name: other.Name, Accuracy: accuracy}
		}
	}
	return nil
}

// sections returns the links to the sections of the run.
func (r *runView) sections() (links []link) {
	add := func(has bool, id, title string) {
		if has {
			links = append(links, link{r.Prefix + id, title})
		}
	}
	add(r.Answer != nil, "answer", "Result")
	add(r.Curves != nil, "curves", "Training")
	add(r.Confusion != nil, "confusion", "Confusions")
	add(r.Classes != nil, "classes", "Classes")
	add(r.Together != nil, "together", "Labels together")
	add(r.Beside != nil, "beside", "Labels beside the other")
	add(r.Mistakes != nil, "mistakes", "Mistakes")
	add(r.Reliability != nil, "reliability", "Probabilities")
	add(r.Budget != nil, "budget", "Where the budget went")
	add(r.Data != nil, "data", "Data")
	add(r.Configuration != nil, "configuration", "Configuration")
	return links
}

// subtitle says in a line what the run is.
func (r *Run) subtitle() string {
	c := r.Config
	s := fmt.Sprintf("%s on %s, backbone %s", r.Config.Method(), filepath.Base(c.Data.Path), filepath.Base(c.Model.Path))
	switch {
	case r.Result == nil:
		return s + ", not finished"
	default:
		return s + ", finished " + r.Result.Finished.Format("2 January 2006, 15:04 MST")
	}
}

// view turns the run into the values of the template. d bounds its size.
func (r *Run) view(d detail) (*runView, error) {
	v := &runView{Answer: r.answer(), Curves: r.training(), Budget: r.budget()}
	if r.Evaluation != nil {
		r.Evaluation.addTo(v, d)
	}
	if r.Data != nil {
		v.Data = r.Data.view()
	}
	var err error
	v.Configuration, err = r.configuration()
	return v, err
}

// splitName returns the name of a split in a sentence.
func splitName(split string) string {
	return map[string]string{"val": "validation", "train": "training"}[split]
}

// addTo adds the sections about an evaluation.
func (e *Evaluation) addTo(v *runView, d detail) {
	if e.Labels != nil {
		v.Classes, v.Together, v.Reliability = e.labelTable(d.rows), e.together(), e.reliability()
		return
	}
	m := e.Metrics
	chart, shown := confusion(e, d.classes)
	c := &confusionView{Chart: chart}
	if shown < len(e.Classes) {
		c.Notes = append(c.Notes, fmt.Sprintf("The matrix shows the %d of %s classes with the most errors.", shown, wording.Thousands(len(e.Classes))))
	}
	pairs := m.Confused(10)
	if len(pairs) > 0 {
		c.Notes = append(c.Notes, "A cell counts the images of a row's class that were predicted as a column's class. Its shade is their share of the images of the class. Classes that are often confused stand side by side.")
		t := &tableView{Head: head("true class", "predicted class", "images#", "of the class#")}
		for _, p := range pairs {
			t.Rows = append(t.Rows, []cellView{text(e.Classes[p.Target]), text(e.Classes[p.Predicted]), count(p.Images), share(float64(p.Images) / float64(m.Classes[p.Target].Support))})
		}
		c.Pairs = t
	} else {
		c.Notes = append(c.Notes, "No image was confused.")
	}
	v.Confusion = c
	v.Classes = e.classes(d.rows)
	v.Mistakes = e.mistakes(d.images)
	v.Reliability = e.reliability()
}

// classes returns the table of classes, with up to most rows.
func (e *Evaluation) classes(most int) *classesView {
	m := e.Metrics
	v := &classesView{Table: tableView{Sortable: true, Tall: true, Head: head("class", "images#", "right#", "precision#", "recall#", "F1#", "predicted#")}}
	order := make([]int, len(m.Classes))
	for i := range order {
		order[i] = i
	}
	if len(order) > most {
		order = leastF1(m, most)
		v.Note = fmt.Sprintf("The table shows the %s of %s classes with the lowest F1.", wording.Thousands(most), wording.Thousands(len(m.Classes)))
	}
	for _, i := range order {
		c := m.Classes[i]
		v.Table.Rows = append(v.Table.Rows, []cellView{text(e.Classes[i]), count(c.Support), count(c.Correct), share(c.Precision), share(c.Recall), share(c.F1), count(c.Predicted)})
	}
	v.Table.Caption = fmt.Sprintf("Mean of the classes: precision %s, recall %s, F1 %s. Weighted by images: %s, %s, %s. Click on the head of a column to sort.",
		wording.Percent(m.Macro.Precision), wording.Percent(m.Macro.Recall), wording.Percent(m.Macro.F1), wording.Percent(m.Weighted.Precision), wording.Percent(m.Weighted.Recall), wording.Percent(m.Weighted.F1))
	return v
}

// mistakes returns up to most wrong and as many unsure images. It returns nil if the predictions
// were not kept.
func (e *Evaluation) mistakes(most int) *mistakesView {
	if len(e.Images) == 0 {
		return nil
	}
	v := &mistakesView{}
	wrongs := e.Metrics.Images - e.Metrics.Correct
	if wrongs == 0 {
		v.Note = "No image was predicted wrongly."
	}
	group := func(title, text string, all []evaluate.Ranked) {
		g := groupView{Title: title, Text: text}
		for _, r := range all {
			g.Images = append(g.Images, e.image(r))
		}
		if len(g.Images) > 0 {
			v.Groups = append(v.Groups, g)
		}
	}
	maps := ""
	for _, p := range e.Pictures {
		if p.Map != "" {
			maps = " The second picture shows what the prediction depends on: its probability falls most if the yellow parts are covered."
		}
	}
	wrong := e.wrong(most)
	group("Most confidently wrong", fmt.Sprintf("%d of %s. Such images often have a wrong label, or show something of another class too.%s", len(wrong), wording.Count(wrongs, "wrong image"), maps), wrong)
	unsure := e.unsure(most)
	group("Least sure", fmt.Sprintf("The %s with the lowest probability of the predicted class, without those above.", wording.Count(len(unsure), "image")), unsure)
	return v
}

// image returns an image with its prediction.
func (e *Evaluation) image(r evaluate.Ranked) imageView {
	v := imageView{Picture: e.Pictures[r.Path], Predicted: e.name(r.Top[0].Class), Probability: wording.Percent(r.Confidence()), Path: jsonfile.Text(r.Path)}
	if r.Target != evaluate.Unknown && !r.Correct() {
		v.True = e.name(r.Target)
		v.Others = fmt.Sprintf("%s %s", v.True, wording.Percent(r.TargetProbability))
	} else if len(r.Top) > 1 {
		v.Others = fmt.Sprintf("%s %s", e.name(r.Top[1].Class), wording.Percent(r.Top[1].Probability))
	}
	return v
}

func (e *Evaluation) name(class int) string { return jsonfile.Text(e.Classes[class]) }

// reliability returns the section on probabilities, or nil for runs that did not compute it.
func (e *Evaluation) reliability() *chartsView {
	c, loss, scale, noun := evaluate.Calibration{}, 0.0, "", "image"
	v := &chartsView{}
	if e.Labels != nil {
		c, loss, scale, noun = e.Labels.Calibration, e.Labels.Loss, "a scale and an offset for each label", "pair"
		v.Sentences = append(v.Sentences, "The probabilities of labels are well calibrated if, among the pairs of an image and a label with a probability of 90 %, 90 % of the images have the label.")
	} else {
		c, loss, scale = e.Metrics.Calibration, e.Metrics.LogLoss, fmt.Sprintf("the temperature %.3f", e.Temperature)
		v.Sentences = append(v.Sentences, "A well calibrated classifier is right in 90 % of the cases in which it says 90 %.")
	}
	if c.Bins == nil {
		return nil
	}
	v.Charts = append(v.Charts, reliability("Reliability", noun, c))
	v.Sentences[0] += fmt.Sprintf(" The expected calibration error is %s, and the log loss %.4f.", wording.Percent(c.ECE), loss)
	if e.Calibrated != nil {
		c := e.Calibrated.Calibration
		v.Sentences = append(v.Sentences, fmt.Sprintf("With %s, fitted on validation images, they are %s and %.4f. spt predict --calibrated uses this calibration.", scale, wording.Percent(c.ECE), e.Calibrated.LogLoss))
		v.Charts = append(v.Charts, reliability("Reliability with "+scale, noun, c))
	}
	if c := e.Coverage(); c != nil {
		v.Sentences = append(v.Sentences, "The last chart shows which share of the images is answered if an image with a lower probability is unknown, as with spt predict --reject-below, and the accuracy of these answers.")
		v.Charts = append(v.Charts, coverage(c))
	}
	return v
}

// configuration returns the section on the configuration.
func (r *Run) configuration() (*configurationView, error) {
	if r.Folder == "" {
		return nil, nil // the configuration is not complete
	}
	c := r.Config
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(c); err != nil {
		return nil, fmt.Errorf("writing the configuration into the report: %w", err)
	}
	v := &configurationView{JSON: b.String()}
	row := func(name, value string) {
		if value != "" {
			v.Table.Rows = append(v.Table.Rows, []cellView{text(name), text(value)})
		}
	}
	recipe := r.Config.Recipe()
	if c.Train == nil {
		v.Command = shell.Command("spt", "tune", "--config", r.Folder.Path(run.ConfigFile))
	}
	row("run folder", string(r.Folder))
	row("method", string(r.Config.Method()))
	if c.Train == nil {
		var budgets []string
		for _, b := range c.Tune.Budgets {
			budgets = append(budgets, b.String())
		}
		row("budgets", strings.Join(budgets, ", "))
	}
	row("backbone", c.Model.Path)
	row("commit", c.Model.Commit)
	row("fingerprint of the backbone", c.Model.Fingerprint)
	row("image size", fmt.Sprintf("%d px", c.Model.ImageSize))
	row("data", c.Data.Path)
	row("fingerprint of the data", c.Data.Samples)
	row("splits", fmt.Sprintf("%s: %d train, %d val, %d test", c.Data.Split, c.Data.Train, c.Data.Val, c.Data.Test))
	row("objective", c.Objective)
	row("device", strings.TrimSpace(c.Compute.Device+" "+string(c.Compute.Precision)))
	row("epochs", fmt.Sprint(recipe.Epochs))
	row("batch size", fmt.Sprint(recipe.BatchSize))
	row("learning rate", fmt.Sprintf("%g", recipe.LR))
	row("weight decay", fmt.Sprintf("%g", recipe.WeightDecay))
	row("seed", fmt.Sprint(recipe.Seed))
	row("spt", c.Spt)
	if r.Result != nil && r.Result.Spt != c.Spt {
		row("spt at the end", r.Result.Spt)
	}
	return v, nil
}
