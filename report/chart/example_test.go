package chart_test

import (
	"fmt"
	"html/template"
	"regexp"
	"strings"

	"github.com/sptune/spt/report/chart"
)

// A page has the style once, and each chart in an element that scrolls on small screens.
func Example() {
	page := template.Must(template.New("page").Parse(`<!doctype html>
<title>Training</title>
<style>{{.Style}}</style>
{{range .Charts}}<div class="chart-scroll">{{.SVG}}</div>
{{end}}`))
	loss := chart.Line{
		Title:  "Loss of the training",
		XLabel: "Epoch",
		YLabel: "Cross-entropy loss",
		Series: []chart.Series{
			{Name: "train", X: []float64{1, 2, 3}, Y: []float64{2.31, 0.94, 0.52}},
			{Name: "val", X: []float64{1, 2, 3}, Y: []float64{2.4, 1.12, 0.83}},
		},
	}
	var text strings.Builder
	err := page.Execute(&text, map[string]any{"Style": chart.Style(), "Charts": []chart.Line{loss}})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The text for readers who do not see the chart:
	label := regexp.MustCompile(`aria-label="(.*?)"`).FindStringSubmatch(text.String())[1]
	fmt.Println(strings.ReplaceAll(label, ". ", ".\n"))
	// Output:
	// Loss of the training.
	// Line chart of Cross-entropy loss against Epoch.
	// train: 3 points, first 2.31 at 1, last 0.52 at 3, least 0.52 at 3, greatest 2.31 at 1.
	// val: 3 points, first 2.4 at 1, last 0.83 at 3, least 0.83 at 3, greatest 2.4 at 1.
}
