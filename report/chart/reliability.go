package chart

import (
	"cmp"
	"fmt"
	"html/template"
	"strings"
)

// Reliability is a reliability diagram: the accuracy of predictions against their confidence. The
// bars of a calibrated classifier end on the diagonal. A second chart below shows the number of
// predictions in each bin.
type Reliability struct {
	// Title, XLabel, YLabel and Description are the texts of the chart. The labels are "Confidence"
	// and "Accuracy" by default. See the package comment.
	Title, XLabel, YLabel, Description string
	// Noun names one of the predictions. The default is "image".
	Noun string
	Bins []Bin
}

// noun returns Noun, and its plural with a capital letter.
func (r Reliability) noun() (one, all string) {
	one = cmp.Or(r.Noun, "image")
	return one, strings.ToUpper(one[:1]) + one[1:] + "s"
}

// Bin holds the predictions with a confidence in an interval. All values are parts of 1.
type Bin struct {
	Low, High  float64 // ends of the interval
	Count      int     // number of predictions; a bin with 0 is empty
	Confidence float64 // mean confidence
	Accuracy   float64 // part of the predictions that is correct
	// AccuracyLow and AccuracyHigh are the ends of an error bar. They are optional.
	AccuracyLow, AccuracyHigh *float64
	// Hover is the text that the bin shows. By default it states the values.
	Hover string
}

// SVG returns the chart as an element.
func (r Reliability) SVG() template.HTML {
	c := newCanvas(460, r.Title)
	xLabel, yLabel := r.XLabel, r.YLabel
	noun, nouns := r.noun()
	if xLabel == "" {
		xLabel = "Confidence"
	}
	if yLabel == "" {
		yLabel = "Accuracy"
	}
	c.legend([]key{
		{"Accuracy of the bin", func(c *canvas, x, y float64) { c.bar(x-11, y-5, 22, 10, 0, "") }},
		{"Mean confidence", func(c *canvas, x, y float64) {
			c.add(`<path d="%s" fill="%s" stroke="%[2]s"/>`, marker(1, x, y), colour(1))
		}},
		{"Perfect calibration", func(c *canvas, x, y float64) {
			c.add(`<path d="M%v %vh24" stroke="%s" stroke-width="1.5" stroke-dasharray="5 4"/>`, px(x-12), px(y), muted)
		}},
	})
	unit := extent{0, 1, true, true}
	var counts extent
	counts.add(0)
	var bins []Bin
	skipped := 0
	for _, b := range r.Bins {
		if part := func(v float64) bool { return v >= 0 && v <= 1 }; !part(b.Low) || !part(b.High) || b.Low >= b.High || b.Count > 0 && (!part(b.Confidence) || !part(b.Accuracy)) {
			skipped++
			continue
		}
		bins = append(bins, b)
		counts.add(float64(b.Count))
	}
	// The upper chart is square, so that the diagonal is at 45 degrees.
	p := c.plot(newScale(unit, false, true, true, 5), newScale(unit, false, true, true, 5), "", yLabel, 380)
	for _, b := range bins {
		if b.Count <= 0 {
			continue
		}
		left, right, y := p.x.at(b.Low), p.x.at(b.High), p.y.at(b.Accuracy)
		c.bar(left+1, y, max(0, right-left-2), p.bottom-y, 0, r.hover(b))
	}
	diagonal(c, p)
	for _, b := range bins {
		if b.Count <= 0 {
			continue
		}
		x := p.x.at(b.Confidence)
		c.add(`<g fill="%s" stroke="%[1]s" pointer-events="none"><path d="%s"/></g>`, colour(1), marker(1, x, p.y.at(b.Confidence)))
		if low, high, ok := ends(&p.y, b.AccuracyLow, b.AccuracyHigh); ok {
			middle := p.x.at(b.Low/2 + b.High/2)
			c.add(`<path d="M%v %vh6m-3 0V%vm-3 0h6" fill="none" stroke="currentColor" stroke-width="1.5" pointer-events="none"/>`, px(middle-3), px(low), px(high))
		}
	}
	q := c.plot(p.x, newScale(counts, false, false, true, 2), xLabel, nouns, 70)
	total := 0
	for _, b := range bins {
		if b.Count > 0 {
			total += b.Count
			left, right, y := q.x.at(b.Low), q.x.at(b.High), q.y.at(float64(b.Count))
			c.bar(left+1, y, max(0, right-left-2), q.bottom-y, 1, r.hover(b))
		}
	}
	if total == 0 {
		c.text((p.left+p.right)/2, (p.top+p.bottom)/2, `text-anchor="middle"`, "No data")
	}
	c.note(skipped, "1 bin is not shown: its values are not parts of 1.", "%s bins are not shown: their values are not parts of 1.")
	sentences := []string{against("Reliability diagram", yLabel, xLabel), fmt.Sprintf("%s, %s.", plural(len(bins), "bin"), plural(total, noun))}
	for _, b := range bins {
		if b.Count > 0 {
			sentences = append(sentences, fmt.Sprintf("Confidence %s to %s: accuracy %s of %s.", value(b.Low, true), value(b.High, true), value(b.Accuracy, true), plural(b.Count, noun)))
		}
	}
	return c.svg(r.Title, describe(r.Description, sentences...))
}

// hover returns the text of a bin.
func (r Reliability) hover(b Bin) string {
	if b.Hover != "" {
		return b.Hover
	}
	_, nouns := r.noun()
	return fmt.Sprintf("Confidence %s to %s\nMean confidence: %s\nAccuracy: %s%s\n%s: %s", value(b.Low, true), value(b.High, true), value(b.Confidence, true),
		value(b.Accuracy, true), interval(b.AccuracyLow, b.AccuracyHigh, true), nouns, grouped(float64(b.Count), 0))
}
