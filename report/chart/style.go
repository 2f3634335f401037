package chart

import (
	"fmt"
	"html/template"
	"strings"
)

// A tone is a colour on a light and on a dark background.
type tone struct{ light, dark string }

// The colours of series are the palette of Okabe and Ito (2008) for readers with any kind of colour
// vision, in an order in which the first ones differ most. Their yellow is too pale for white paper
// and their blue too deep for a dark screen, so each stands only where it can be seen.
var seriesTones = []tone{
	{"#0072b2", "#56b4e9"}, // blue
	{"#d55e00", "#d55e00"}, // vermilion
	{"#009e73", "#009e73"}, // bluish green
	{"#cc79a7", "#cc79a7"}, // reddish purple
	{"#e69f00", "#e69f00"}, // orange
	{"#56b4e9", "#f0e442"}, // sky blue, yellow
	{"#000000", "#ffffff"},
}

// The steps of a heat map go away from the background, in one hue.
var heatTones = []tone{
	{"#d8e7f5", "#15304d"},
	{"#b9d6ec", "#18446f"},
	{"#94c4df", "#1d5a91"},
	{"#6aaed6", "#2b73b3"},
	{"#4a98c9", "#4a93cc"},
	{"#2e7ebc", "#78b5de"},
	{"#1764ab", "#acd2ea"},
	{"#083a7a", "#deebf7"},
}

// heatTextTones holds the colour of text on each step of a heat map, with a contrast of at least
// 4.5 to 1.
var heatTextTones = []tone{
	{"#000", "#fff"}, {"#000", "#fff"}, {"#000", "#fff"}, {"#000", "#fff"},
	{"#000", "#000"}, {"#000", "#000"}, {"#fff", "#000"}, {"#fff", "#000"},
}

var (
	gridTone  = tone{"#dcdcdc", "#3d3d3d"} // grid lines
	mutedTone = tone{"#595959", "#b0b0b0"} // tick labels, notes and other secondary text
	paperTone = tone{"#ffffff", "#121212"} // background of the page, around markers on noisy lines
)

// properties returns the CSS custom properties of charts with their tones.
func properties(yield func(name string, t tone) bool) {
	for i, t := range seriesTones {
		if !yield(fmt.Sprintf("--chart-%d", i+1), t) {
			return
		}
	}
	for i := range heatTones {
		if !yield(fmt.Sprintf("--chart-heat-%d", i+1), heatTones[i]) || !yield(fmt.Sprintf("--chart-heat-text-%d", i+1), heatTextTones[i]) {
			return
		}
	}
	_ = yield("--chart-grid", gridTone) && yield("--chart-muted", mutedTone) && yield("--chart-paper", paperTone)
}

// Style returns the CSS that a page with charts needs, for its style element. Charts take their
// colours from custom properties, and their text has the colour of the text around them. On a
// screen that prefers dark colours the properties have dark values. On paper they have light
// values. The page sets its own colours of text and background in the same way; a background other
// than #ffffff and #121212 also goes into the property --chart-paper.
func Style() template.CSS {
	var light, dark strings.Builder
	for name, t := range properties {
		fmt.Fprintf(&light, "%s:%s;", name, t.light)
		if t.dark != t.light {
			fmt.Fprintf(&dark, "%s:%s;", name, t.dark)
		}
	}
	return template.CSS(fmt.Sprintf(`:root{%s}
@media screen and (prefers-color-scheme:dark){:root{%s}}
.chart{display:block;max-width:100%%;height:auto}
.chart-scroll{overflow-x:auto}
@media screen and (max-width:40em){.chart{max-width:none}}
@media print{.chart{break-inside:avoid;print-color-adjust:exact;-webkit-print-color-adjust:exact}}
`, light.String(), dark.String()))
}

// paint returns the value of a fill or stroke attribute.
func paint(name string, t tone) string { return fmt.Sprintf("var(%s,%s)", name, t.light) }

var (
	grid  = paint("--chart-grid", gridTone)
	muted = paint("--chart-muted", mutedTone)
	paper = paint("--chart-paper", paperTone)
)

// colour returns the colour of series i, from 0. Colours repeat after seven series.
func colour(i int) string {
	i = modulo(i, len(seriesTones))
	return paint(fmt.Sprintf("--chart-%d", i+1), seriesTones[i])
}

// heat returns the colour of a step of a heat map, and the colour of text on it.
func heat(step int) (fill, text string) {
	return paint(fmt.Sprintf("--chart-heat-%d", step+1), heatTones[step]), paint(fmt.Sprintf("--chart-heat-text-%d", step+1), heatTextTones[step])
}

// dashes holds the dash patterns of lines. Their number and the number of colours have no common
// factor, so 35 series differ in colour or pattern.
var dashes = []string{"", "7 3", "2 2.5", "9 3 2 3", "14 4"}

// dash returns the attribute for the dash pattern of series i, from 0.
func dash(i int) string {
	if pattern := dashes[modulo(i, len(dashes))]; pattern != "" {
		return ` stroke-dasharray="` + pattern + `"`
	}
	return ""
}

// markers holds the shapes of points as path data that begins at the centre. The colour of a series
// has its own shape.
var markers = []string{
	"m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0", // disc
	"m-3-3h6v6h-6z",                   // square
	"m0-4.2l4 7h-8z",                  // triangle up
	"m0-4.5l4.5 4.5-4.5 4.5-4.5-4.5z", // diamond
	"m0 4.2l4-7h-8z",                  // triangle down
	"m-3-3l6 6m0-6l-6 6",              // cross
	"m-4 0h8m-4-4v8",                  // plus
}

// marker returns path data for the marker of series i, from 0, at a point.
func marker(i int, x, y float64) string {
	return fmt.Sprintf("M%v %v%s", px(x), px(y), markers[modulo(i, len(markers))])
}

// modulo returns i modulo n, from 0 to n-1 also for a negative i.
func modulo(i, n int) int { return (i%n + n) % n }
