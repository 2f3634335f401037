package chart

import (
	"encoding/hex"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "rewrite the charts in testdata")

type chart interface{ SVG() template.HTML }

func at(v float64) *float64 { return &v }

// small holds a small chart of each kind. The files in testdata have their names.
var small = map[string]chart{
	"line": Line{
		Title: "Accuracy of two methods", XLabel: "Epoch", YLabel: "Top-1 accuracy", YPercent: true,
		Series: []Series{
			{Name: "SPT-LoRA", X: []float64{1, 2, 3, 4}, Y: []float64{0.41, 0.62, 0.7, 0.735}, Low: []float64{0.39, 0.6, 0.69, 0.73}, High: []float64{0.43, 0.65, 0.71, 0.74}},
			{Name: "LoRA", X: []float64{1, 2, 3, 4}, Y: []float64{0.38, 0.6, math.NaN(), 0.72}},
		},
	},
	"bar": Bar{
		Title: "Images of each class and split", XLabel: "Images", YLabel: "Class", Stacked: true, Groups: []string{"train", "val", "test"},
		Bars: []BarValue{{Label: "cat", Value: 800}, {Label: "cat", Value: 200, Group: 1}, {Label: "cat", Value: 1200, Group: 2}, {Label: "dog", Value: 640}, {Label: "dog", Value: 160, Group: 1}},
	},
	"errorbar": Bar{
		Title: "Accuracy of each class", XLabel: "Top-1 accuracy", Percent: true,
		Bars: []BarValue{{Label: "cat", Value: 0.71, Low: at(0.68), High: at(0.74)}, {Label: "dog", Value: 0.9, Low: at(0.88), High: at(0.92)}},
	},
	"heatmap": HeatMap{
		Title: "Tuned parameters", XLabel: "Operation", YLabel: "Block", Unit: "Parameters", Log: true, Rows: []string{"0", "1"}, Columns: []string{"attn.q", "mlp.fc1", "norm2"},
		Cells: []Cell{{0, 0, 12288, "", "", Frame}, {0, 1, 431, "", "", NoMark}, {1, 2, 768, "", "", Dot}, {1, 0, 3, "", "", NoMark}},
		Marks: map[Mark]string{Frame: "structured module", Dot: "whole vector"},
	},
	"scatter": Scatter{
		Title: "Accuracy against tuned parameters", XLabel: "Tuned parameters", YLabel: "Top-1 accuracy", XPercent: true, YPercent: true, XLog: true, Groups: []string{"paper", "this run"},
		Points: []Point{{X: 0.0026, Y: 0.745, Label: "LoRA-8"}, {X: 0.0031, Y: 0.764, Label: "SPT-LoRA", Group: 1, YLow: at(0.76), YHigh: at(0.768)}, {X: 1, Y: 0.689, Label: "full"}},
	},
	"reliability": Reliability{
		Title: "Reliability on the test split",
		Bins:  []Bin{{0, 0.5, 12, 0.42, 0.4, at(0.2), at(0.6), ""}, {0.5, 0.9, 60, 0.74, 0.66, nil, nil, ""}, {Low: 0.9, High: 1, Count: 410, Confidence: 0.98, Accuracy: 0.95}},
	},
}

// TestFiles compares the small charts with testdata. After a wanted change, run go test with
// -update, and look at the files in a browser.
func TestFiles(t *testing.T) {
	for name, c := range small {
		file := filepath.Join("testdata", name+".svg")
		got := string(c.SVG()) + "\n"
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("the chart differs from %s; if the change is wanted, run go test with -update", file)
		}
		check(t, c)
	}
}

// An element is an element of a chart.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Elements []element  `xml:",any"`
}

// attr returns the value of an attribute.
func (e element) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// number returns the value of an attribute as a number.
func (e element) number(name string) float64 {
	v, err := strconv.ParseFloat(e.attr(name), 64)
	if err != nil {
		return math.NaN()
	}
	return v
}

// all calls f for the element and all elements below it.
func (e element) all(f func(element)) {
	f(e)
	for _, below := range e.Elements {
		below.all(f)
	}
}

// title returns the text that the element shows on hover.
func (e element) title() string {
	for _, below := range e.Elements {
		if below.XMLName.Local == "title" {
			return below.Text
		}
	}
	return ""
}

var (
	longNumber = regexp.MustCompile(`\.\d{3}`)
	allNumbers = regexp.MustCompile(`-?\d+(\.\d+)?(e[+-]?\d+)?`)
	elements   = map[string]bool{"svg": true, "g": true, "path": true, "rect": true, "circle": true, "text": true, "title": true}
)

// check checks what holds for every chart: it is one well-formed element of known kinds, without
// identifiers, handlers and references. Its coordinates are numbers with few digits. The same chart
// gives the same bytes. check returns the element.
func check(t *testing.T, c chart) element {
	t.Helper()
	text := string(c.SVG())
	if again := string(c.SVG()); again != text {
		t.Fatal("the second call of SVG gives other bytes")
	}
	if !utf8.ValidString(text) {
		t.Fatal("the chart is not valid UTF-8")
	}
	decoder := xml.NewDecoder(strings.NewReader(text))
	var e element
	if err := decoder.Decode(&e); err != nil {
		t.Fatalf("the chart is not well-formed: %v\n%s", err, text)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("the chart has content after its element, or %v", err)
	}
	if e.attr("role") != "img" || e.attr("aria-label") == "" {
		t.Errorf("the chart has no text alternative: role %q, aria-label %q", e.attr("role"), e.attr("aria-label"))
	}
	e.all(func(e element) {
		if !elements[e.XMLName.Local] {
			t.Errorf("the chart has an element %q", e.XMLName.Local)
		}
		for _, a := range e.Attrs {
			switch name := a.Name.Local; {
			case name == "id" || name == "href" || name == "style" || strings.HasPrefix(name, "on"):
				t.Errorf("element %s has the attribute %s=%q", e.XMLName.Local, name, a.Value)
			case name == "aria-label" || name == "xmlns":
			case strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") || longNumber.MatchString(a.Value):
				t.Errorf("element %s has the attribute %s=%q", e.XMLName.Local, name, a.Value)
			case name == "d" || name == "x" || name == "y" || name == "cx" || name == "cy" || name == "width" || name == "height":
				for _, number := range allNumbers.FindAllString(a.Value, -1) {
					if v, err := strconv.ParseFloat(number, 64); err != nil || math.Abs(v) > 40000 {
						t.Errorf("element %s has the attribute %s=%q with a coordinate %s", e.XMLName.Local, name, a.Value, number)
					}
				}
				if strings.HasPrefix(a.Value, "-") && (name == "width" || name == "height") {
					t.Errorf("element %s has the attribute %s=%q", e.XMLName.Local, name, a.Value)
				}
			}
		}
	})
	return e
}

// Random numbers and texts for charts, with every special case.
type random struct{ *rand.Rand }

func newRandom(seed uint64) random { return random{rand.New(rand.NewPCG(seed, 0))} }

func (r random) number() float64 {
	special := []float64{0, 1, -1, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, -math.MaxFloat64, math.SmallestNonzeroFloat64, 1e300, 1e-300, 1e15, 1e15 + 1, 0.1, math.Copysign(0, -1)}
	switch r.IntN(6) {
	case 0:
		return special[r.IntN(len(special))]
	case 1:
		return float64(r.IntN(1000))
	case 2:
		return math.Exp(r.NormFloat64()*100) * float64(1-2*r.IntN(2))
	}
	return r.NormFloat64()
}

func (r random) numbers() []float64 {
	n := r.IntN(8)
	if r.IntN(10) == 0 {
		n = r.IntN(2000)
	}
	values := make([]float64, n)
	for i := range values {
		values[i] = r.number()
	}
	return values
}

func (r random) optional() *float64 {
	if r.IntN(2) == 0 {
		return nil
	}
	return at(r.number())
}

func (r random) yes() bool { return r.IntN(2) == 0 }

func (r random) text(own string) string {
	texts := []string{
		"", "cat", own, own + own, strings.Repeat("long ", 60), strings.Repeat("W", 300), "<script>alert(1)</script>", `"quotes' & </title></svg>`, "%s %d %!", "]]>", "<!-- -->",
		"שלום עולם", "\u202eevil", "👩‍👩‍👧 é", "a\x00b\x1fc\x7f\u0085", "\xff\xfe", "\ufffe\uffff", "line\nfeed\tand\rreturn", "日本語" + own, "&amp;",
	}
	return texts[r.IntN(len(texts))]
}

func (r random) texts(own string) []string {
	texts := make([]string, r.IntN(9))
	if r.IntN(10) == 0 {
		texts = make([]string, r.IntN(120))
	}
	for i := range texts {
		texts[i] = r.text(own)
	}
	return texts
}

// charts returns a random chart of each kind.
func (r random) charts(own string) []chart {
	title, x, y, description := r.text(own), r.text(own), r.text(own), r.text(own)
	line := Line{Title: title, XLabel: x, YLabel: y, Description: description, XLog: r.yes(), YLog: r.yes(), XPercent: r.yes(), YPercent: r.yes(), YMin: r.optional(), YMax: r.optional()}
	for range r.IntN(4) {
		line.Series = append(line.Series, Series{r.text(own), r.numbers(), r.numbers(), r.numbers(), r.numbers(), r.texts(own)})
	}
	bar := Bar{Title: title, XLabel: x, YLabel: y, Groups: r.texts(own), Stacked: r.yes(), Percent: r.yes(), MostRows: r.IntN(12) - 2, Ends: r.yes()}
	for i, v := range r.numbers() {
		bar.Bars = append(bar.Bars, BarValue{r.text(own) + strconv.Itoa(i/2), v, r.optional(), r.optional(), r.text(own), r.IntN(12) - 2})
	}
	heat := HeatMap{Title: title, XLabel: x, YLabel: y, Unit: r.text(own), Rows: r.texts(own), Columns: r.texts(own), Log: r.yes(), Percent: r.yes(), NoText: r.yes(), Marks: map[Mark]string{Frame: r.text(own), Dot: r.text(own)}}
	for _, v := range r.numbers() {
		heat.Cells = append(heat.Cells, Cell{r.IntN(len(heat.Rows)+2) - 1, r.IntN(len(heat.Columns)+2) - 1, v, r.text(own), r.text(own), Mark(r.IntN(4))})
	}
	scatter := Scatter{Title: title, XLabel: x, YLabel: y, Groups: r.texts(own), XLog: r.yes(), YLog: r.yes(), XPercent: r.yes(), YPercent: r.yes(), Diagonal: r.yes()}
	for _, v := range r.numbers() {
		scatter.Points = append(scatter.Points, Point{v, r.number(), r.optional(), r.optional(), r.optional(), r.optional(), r.text(own), r.text(own), r.IntN(12) - 2})
	}
	reliability := Reliability{Title: title, XLabel: x, YLabel: y, Description: description}
	for _, v := range r.numbers() {
		reliability.Bins = append(reliability.Bins, Bin{v, v + r.Float64(), r.IntN(2000) - 100, r.Float64(), r.number(), r.optional(), r.optional(), r.text(own)})
	}
	return []chart{line, bar, heat, scatter, reliability}
}

// TestRandomCharts checks charts of random data and hostile texts.
func TestRandomCharts(t *testing.T) {
	for seed := range uint64(100) {
		for _, c := range newRandom(seed).charts("x") {
			if check(t, c); t.Failed() {
				t.Fatalf("seed %d, %T", seed, c)
			}
		}
	}
}

func FuzzCharts(f *testing.F) {
	f.Add(uint64(1), "label")
	f.Add(uint64(2), "<\xff\x00&\"'>")
	f.Fuzz(func(t *testing.T, seed uint64, text string) {
		for _, c := range newRandom(seed).charts(text) {
			check(t, c)
		}
	})
}

// TestEmpty checks charts without any data.
func TestEmpty(t *testing.T) {
	for _, c := range []chart{Line{}, Line{Series: []Series{{}}}, Bar{}, HeatMap{}, Scatter{}, Reliability{}} {
		found := false
		check(t, c).all(func(e element) { found = found || e.Text == "No data" })
		if !found {
			t.Errorf("%T does not say that it has no data", c)
		}
	}
}

// hovers returns the positions of the points of a line chart by their hover texts.
func hovers(e element) map[string][2]float64 {
	points := map[string][2]float64{}
	e.all(func(e element) {
		if e.XMLName.Local == "circle" && e.title() != "" {
			points[e.title()] = [2]float64{e.number("cx"), e.number("cy")}
		}
	})
	return points
}

// TestPositions checks positions that were computed by hand. The plot of a line chart without title
// begins at y = 12 and is 250 high. It ends 14 before the right edge at 600, and has a margin of 8
// inside. The labels 0.0 to 1.0 take 1.56 em of 12 at the left, and 10 more.
func TestPositions(t *testing.T) {
	left, right := 1.56*12+10+8, 600.-14-8
	near := func(name string, got, want [2]float64) {
		t.Helper()
		if math.Abs(got[0]-want[0]) > 0.06 || math.Abs(got[1]-want[1]) > 0.06 {
			t.Errorf("%s lies at %v, want %v", name, got, want)
		}
	}
	points := hovers(check(t, Line{Series: []Series{{X: []float64{0, 5, 10}, Y: []float64{0, 0.25, 1}}}}))
	near("first point", points["0\n0"], [2]float64{left, 262})
	near("middle", points["5\n0.25"], [2]float64{(left + right) / 2, 12 + 250*0.75})
	near("last point", points["10\n1"], [2]float64{right, 12})

	points = hovers(check(t, Line{XLog: true, Series: []Series{{X: []float64{1e-4, 1e-3, 1e-2}, Y: []float64{0, 0.5, 1}}}}))
	near("middle decade", points["0.001\n0.5"], [2]float64{(left + right) / 2, 137})
}

// TestBars checks that lengths of bars have the ratio of their values, and that stacked bars follow
// each other.
func TestBars(t *testing.T) {
	widths := map[string]float64{}
	ends := map[string]float64{}
	starts := map[string]float64{}
	read := func(b Bar) {
		check(t, b).all(func(e element) {
			if e.XMLName.Local == "rect" && e.title() != "" {
				widths[e.title()], starts[e.title()], ends[e.title()] = e.number("width"), e.number("x"), e.number("x")+e.number("width")
			}
		})
	}
	read(Bar{Bars: []BarValue{{Label: "a", Value: 40}, {Label: "b", Value: 10}, {Label: "c", Value: -20}}})
	if a, b, c := widths["a\n40"], widths["b\n10"], widths["c\n−20"]; math.Abs(a-4*b) > 0.3 || math.Abs(c-2*b) > 0.3 || b == 0 {
		t.Errorf("bars of 40, 10 and −20 have the lengths %g, %g and %g", a, b, c)
	}
	if end, start := ends["c\n−20"], starts["b\n10"]; math.Abs(end-start) > 0.11 {
		t.Errorf("a negative bar ends at %g, a positive one begins at %g", end, start)
	}
	read(Bar{Stacked: true, Groups: []string{"train", "val"}, Bars: []BarValue{{Label: "a", Value: 30}, {Label: "a", Value: 10, Group: 1}}})
	if end, start := ends["a\ntrain: 30"], starts["a\nval: 10"]; math.Abs(end-start) > 0.11 || math.Abs(widths["a\ntrain: 30"]-3*widths["a\nval: 10"]) > 0.3 {
		t.Errorf("the first bar ends at %g, the stacked one begins at %g", end, start)
	}
}

// TestManyBars checks charts with more rows than fit.
func TestManyBars(t *testing.T) {
	var bars []BarValue
	for i := range 1000 {
		for group, n := range []int{700, 100, 200} {
			bars = append(bars, BarValue{Label: fmt.Sprint("class ", i), Value: float64(n + i%5), Group: group})
		}
	}
	profile := Bar{Bars: bars, Stacked: true, Groups: []string{"train", "val", "test"}}
	if size := len(profile.SVG()); size > 100_000 {
		t.Errorf("a profile of 1,000 classes has %d bytes", size)
	}
	areas, columns := 0, 0
	first := ""
	check(t, profile).all(func(e element) {
		if d := e.attr("d"); strings.HasSuffix(d, "z") && e.title() == "" && strings.Count(d, "V") == 2000 {
			areas++
		}
		if strings.Contains(e.title(), " of 1000\n") {
			if columns++; columns == 1 {
				first = e.title()
			}
		}
	})
	if areas != 3 || columns != 100 || first != "1 to 10 of 1000\nclass 4: 1,012\n…\nclass 49: 1,012" {
		t.Errorf("the profile has %d areas and %d columns; the first column shows %q", areas, columns, first)
	}
	rows := 0
	ends := check(t, Bar{Bars: bars, Stacked: true, Ends: true, MostRows: 11})
	ends.all(func(e element) {
		if strings.HasPrefix(e.Text, "class ") && e.XMLName.Local == "text" {
			rows++
		}
	})
	if label := ends.attr("aria-label"); rows != 11 || !strings.Contains(label, "989 rows in the middle are not shown.") {
		t.Errorf("the chart of the ends has %d rows; its description is %q", rows, label)
	}
}

// TestSkipped checks that charts state how many values they leave out.
func TestSkipped(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, test := range []struct {
		chart chart
		want  string
	}{
		{Line{Series: []Series{{X: []float64{1, 2, nan, 4}, Y: []float64{1, inf, 3, 4}}}}, "2 points are not shown: not a finite number."},
		{Line{YLog: true, Series: []Series{{X: []float64{1, 2}, Y: []float64{-1, 3}}}}, "1 point is not shown: not a positive finite number."},
		{Line{Series: []Series{{X: []float64{1, 2, 3}, Y: []float64{1}}}}, "2 points are not shown: they have one coordinate only."},
		{Line{YMax: at(2), Series: []Series{{X: []float64{1, 2, 3}, Y: []float64{1, 2, 3}}}}, "1 point is beyond the ends of the vertical axis."},
		{Bar{Bars: []BarValue{{Value: nan}, {Value: 1}}}, "1 bar is not shown: not a finite number."},
		{HeatMap{Log: true, Rows: []string{"a"}, Columns: []string{"b", "c"}, Cells: []Cell{{Value: 0}, {Column: 1, Value: 2}}}, "1 cell is not shown: not a positive finite number."},
		{HeatMap{Rows: []string{"a"}, Columns: []string{"b"}, Cells: []Cell{{Value: 1}, {Column: 1, Value: 2}}}, "1 cell is outside the rows and columns."},
		{Scatter{Points: []Point{{X: nan}, {X: 1}}}, "1 point is not shown: not a finite number."},
		{Reliability{Bins: []Bin{{Low: 0.5, High: 0.2, Count: 1}}}, "1 bin is not shown: its values are not parts of 1."},
	} {
		shown := false
		e := check(t, test.chart)
		e.all(func(e element) { shown = shown || e.Text == test.want })
		if label := e.attr("aria-label"); !shown || !strings.HasSuffix(label, test.want) {
			t.Errorf("%T: description %q, want %q at its end, and as a note (%v)", test.chart, label, test.want, shown)
		}
	}
}

// TestDescriptions checks the descriptions that are made from the data.
func TestDescriptions(t *testing.T) {
	for name, want := range map[string]string{
		"line": "Accuracy of two methods. Line chart of Top-1 accuracy against Epoch. SPT-LoRA: 4 points, first 41% at 1, last 73.5% at 4, least 41% at 1, greatest 73.5% at 4. " +
			"LoRA: 3 points, first 38% at 1, last 72% at 4, least 38% at 1, greatest 72% at 4. 1 point is not shown: not a finite number.",
		"bar":      "Images of each class and split. Bar chart of Images. 2 rows. Greatest: cat: 2,200. Least: dog: 800.",
		"errorbar": "Accuracy of each class. Bar chart of Top-1 accuracy. 2 rows. Greatest: dog: 90%. Least: cat: 71%.",
		"heatmap": "Tuned parameters. Heat map of Parameters. 2 rows and 3 columns, 4 cells with a value. " +
			"Greatest: 12,288 in row 0, column attn.q. Least: 3 in row 1, column attn.q.",
		"scatter": "Accuracy against tuned parameters. Scatter plot of Top-1 accuracy against Tuned parameters. 3 points. Greatest: SPT-LoRA: 76.4% at 0.31%. Least: full: 68.9% at 100%.",
		"reliability": "Reliability on the test split. Reliability diagram of Accuracy against Confidence. 3 bins, 482 images. Confidence 0% to 50%: accuracy 40% of 12 images. " +
			"Confidence 50% to 90%: accuracy 66% of 60 images. Confidence 90% to 100%: accuracy 95% of 410 images.",
	} {
		if got := check(t, small[name]).attr("aria-label"); got != want {
			t.Errorf("%s: description\n%s\nwant\n%s", name, got, want)
		}
	}
	if got := check(t, Bar{Title: "T", Description: "Own text"}).attr("aria-label"); got != "T. Own text." {
		t.Errorf("description %q, want the one of the field", got)
	}
}

// TestTexts checks how labels become text.
func TestTexts(t *testing.T) {
	long := strings.Repeat("class name ", 30)
	e := check(t, Bar{Bars: []BarValue{{Label: long, Value: 1}, {Label: "<b> & \"c\" \x00\u202e", Value: 2}}})
	cutShort, special := false, false
	e.all(func(e element) {
		cutShort = cutShort || strings.HasSuffix(e.Text, "…") && len(e.Text) < 60 && e.title() == long
		special = special || e.Text == "<b> & \"c\" \ufffd"
	})
	if !cutShort || !special {
		t.Errorf("long label cut with its text on hover: %v; special characters kept: %v", cutShort, special)
	}
	if got := cut("ab👩‍👩‍👧", textWidth("ab👩", 12)+textWidth("…", 12), 12); got != "ab👩…" {
		t.Errorf("cut text is %+q, which ends in a joiner", got)
	}
}

// TestThinning checks that a thinned line keeps the extreme values, and that its size has a bound.
func TestThinning(t *testing.T) {
	random := newRandom(3)
	series := func(n int) Series {
		var s Series
		for i := range n {
			s.X = append(s.X, float64(i))
			s.Y = append(s.Y, random.NormFloat64())
		}
		return s
	}
	if size := len(Line{Series: []Series{series(1000)}}.SVG()); size > 40_000 {
		t.Errorf("a line of 1,000 points has %d bytes", size)
	}
	s := series(100_000)
	s.Y[55_555], s.Y[77_777] = 40, -40
	for i := 0; i < len(s.Y); i += 7 {
		s.Y[i] = math.NaN()
	}
	s.Y[55_555], s.Y[77_777] = 40, -40
	l := Line{Series: []Series{s}}
	if size := len(l.SVG()); size > 40_000 {
		t.Errorf("a line of 100,000 points has %d bytes", size)
	}
	var top, bottom bool
	check(t, l).all(func(e element) {
		if e.attr("stroke-linejoin") == "round" {
			top, bottom = regexp.MustCompile(" 12[LM]").MatchString(e.attr("d")), regexp.MustCompile(" 262[LM]").MatchString(e.attr("d"))
		}
	})
	if !top || !bottom {
		t.Errorf("the thinned line keeps the greatest value: %v, the least value: %v", top, bottom)
	}
}

// TestHeatMapCells checks the places, colours and texts of cells.
func TestHeatMapCells(t *testing.T) {
	e := check(t, HeatMap{Rows: []string{"a", "b"}, Columns: []string{"c", "d", "e"}, Cells: []Cell{{Row: 1, Column: 2, Value: 800}, {Row: 0, Column: 1, Value: 0}}})
	cells := map[string]string{}
	texts := 0
	e.all(func(g element) {
		for _, path := range g.Elements {
			if text := path.title(); text != "" {
				cells[text] = path.attr("d") + " " + g.attr("stroke")
			}
		}
		if g.XMLName.Local == "text" && (g.Text == "800" || g.Text == "0") {
			texts++
		}
	})
	if got := cells["b, e: 800"]; len(cells) != 2 || got != "M2 1h1 var(--chart-heat-8,"+heatTones[7].light+")" {
		t.Errorf("the cells are %v", cells)
	}
	if got := cells["a, d: 0"]; got != "M1 0h1 var(--chart-heat-1,"+heatTones[0].light+")" {
		t.Errorf("the cell of value 0 is %q", got)
	}
	if texts != 4 { // two in cells, two at the ends of the scale
		t.Errorf("the map has %d texts 0 and 800", texts)
	}
}

// TestHeatMapSize checks the size of the largest confusion matrices.
func TestHeatMapSize(t *testing.T) {
	h := HeatMap{Title: "Confusion matrix", XLabel: "Predicted class", YLabel: "True class"}
	for i := range 100 {
		h.Rows = append(h.Rows, fmt.Sprintf("cls %d", i))
		for j := range 100 {
			h.Cells = append(h.Cells, Cell{Row: i, Column: j, Value: float64(1 + (i*j)%50)})
		}
	}
	h.Columns = h.Rows
	if size := len(h.SVG()); size > 620_000 {
		t.Errorf("a map of 100 × 100 cells has %d bytes", size)
	}
}

// TestFit checks that cells show their values and names while they fit.
func TestFit(t *testing.T) {
	for _, test := range []struct {
		classes      int
		texts, names bool
	}{{2, true, true}, {20, true, true}, {40, false, true}, {100, false, false}} {
		var h HeatMap
		for i := range test.classes {
			h.Rows = append(h.Rows, fmt.Sprint("name ", i))
			h.Cells = append(h.Cells, Cell{Row: i, Column: i, Value: 987})
		}
		h.Columns = h.Rows
		texts, names := 0, 0
		check(t, h).all(func(e element) {
			if e.Text == "987" {
				texts++
			}
			if e.XMLName.Local == "text" && strings.HasPrefix(e.Text, "name ") {
				names++
			}
		})
		if (texts == test.classes) != test.texts || (names == 2*test.classes) != test.names {
			t.Errorf("a map of %d classes has %d texts in cells and %d names", test.classes, texts, names)
		}
	}
}

// TestScatterLabels checks that labels cover neither points nor each other.
func TestScatterLabels(t *testing.T) {
	s := Scatter{}
	random := newRandom(5)
	for i := range 40 {
		s.Points = append(s.Points, Point{X: random.Float64(), Y: random.Float64(), Label: fmt.Sprint("method ", i), Hover: fmt.Sprint("point ", i)})
	}
	var points, labels []box
	check(t, s).all(func(e element) {
		if strings.HasPrefix(e.title(), "point ") {
			var x, y float64
			if _, err := fmt.Sscanf(e.attr("d"), "M%g %gm", &x, &y); err != nil {
				t.Fatal(err)
			}
			points = append(points, box{x - 3, y - 3, x + 3, y + 3})
		}
		if strings.HasPrefix(e.Text, "method ") {
			width, x, y := textWidth(e.Text, fontSize), e.number("x"), e.number("y")
			x -= width * map[string]float64{"start": 0, "middle": 0.5, "end": 1}[e.attr("text-anchor")]
			labels = append(labels, box{x, y - 9, x + width, y + 2})
		}
	})
	if len(points) != 40 || len(labels) < 25 {
		t.Fatalf("the chart has %d points and %d labels", len(points), len(labels))
	}
	for i, label := range labels {
		for _, b := range append(points, labels[:i]...) {
			if label.overlaps(b) {
				t.Errorf("a label at %v covers %v", label, b)
			}
		}
	}
}

// luminance returns the relative luminance of a colour, as WCAG 2.2 defines it.
func luminance(t *testing.T, colour string) float64 {
	t.Helper()
	digits := strings.TrimPrefix(colour, "#")
	if len(digits) == 3 {
		digits = string([]byte{digits[0], digits[0], digits[1], digits[1], digits[2], digits[2]})
	}
	rgb, err := hex.DecodeString(digits)
	if err != nil || len(rgb) != 3 {
		t.Fatalf("colour %q", colour)
	}
	sum := 0.
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		c := float64(rgb[i]) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}

// contrast returns the contrast ratio of two colours, as WCAG 2.2 defines it.
func contrast(t *testing.T, a, b string) float64 {
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// TestContrast checks the contrast of texts and marks. WCAG 2.2 wants 4.5 for texts and 3 for
// graphics. Three colours of Okabe and Ito have less on white; series also differ in their marks.
func TestContrast(t *testing.T) {
	if got := contrast(t, "#777", "#fff"); math.Abs(got-4.48) > 0.005 || contrast(t, "#000", "#fff") != 21 {
		t.Fatalf("contrast of #777 on white is %g, want 4.48", got)
	}
	for i, fill := range heatTones {
		text := heatTextTones[i]
		if light, dark := contrast(t, fill.light, text.light), contrast(t, fill.dark, text.dark); light < 4.5 || dark < 4.5 {
			t.Errorf("text on step %d has a contrast of %.2f in light and %.2f in dark colours, want 4.5", i+1, light, dark)
		}
		if i > 0 && (luminance(t, fill.light) >= luminance(t, heatTones[i-1].light) || luminance(t, fill.dark) <= luminance(t, heatTones[i-1].dark)) {
			t.Errorf("steps %d and %d are not in order of their luminance", i, i+1)
		}
	}
	if light, dark := contrast(t, mutedTone.light, paperTone.light), contrast(t, mutedTone.dark, paperTone.dark); light < 4.5 || dark < 4.5 {
		t.Errorf("secondary text has a contrast of %.2f in light and %.2f in dark colours, want 4.5", light, dark)
	}
	for i, c := range seriesTones {
		light, dark := contrast(t, c.light, paperTone.light), contrast(t, c.dark, paperTone.dark)
		if dark < 4.5 || light < 2 || i < 3 && light < 3 {
			t.Errorf("series %d has a contrast of %.2f in light and %.2f in dark colours", i+1, light, dark)
		}
	}
}

// TestStyle checks that Style defines every custom property that charts use, with the value that
// charts fall back to.
func TestStyle(t *testing.T) {
	css := string(Style())
	root, dark, _ := strings.Cut(css, "@media")
	use := regexp.MustCompile(`var\((--[a-z0-9-]+),(#[0-9a-f]+)\)`)
	used := map[string]bool{}
	for seed := range uint64(100) {
		for _, c := range newRandom(seed).charts("x") {
			for _, match := range use.FindAllStringSubmatch(string(c.SVG()), -1) {
				used[match[1]] = true
				if !strings.Contains(root, match[1]+":"+match[2]+";") {
					t.Fatalf("Style does not define %s as %s", match[1], match[2])
				}
			}
		}
	}
	for name, tone := range properties {
		if !used[name] {
			t.Errorf("no chart uses %s", name)
		}
		if tone.light != tone.dark && !strings.Contains(dark, name+":"+tone.dark+";") {
			t.Errorf("Style does not define %s as %s for dark screens", name, tone.dark)
		}
	}
	if strings.Count(css, "{") != strings.Count(css, "}") || strings.Contains(css, "url(") || strings.Contains(css, "<") {
		t.Errorf("the style has unbalanced braces, an address or a tag:\n%s", css)
	}
}
