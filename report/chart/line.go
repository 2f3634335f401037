package chart

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
)

// Line is a line chart, such as the loss of a training.
type Line struct {
	// Title, XLabel, YLabel and Description are the texts of the chart. See the package comment.
	Title, XLabel, YLabel, Description string
	Series                             []Series
	// XLog and YLog make an axis logarithmic. Values that are not positive are left out.
	XLog, YLog bool
	// XPercent and YPercent show values of an axis as percentages: 0.5 as 50%.
	XPercent, YPercent bool
	// YMin and YMax are the ends of the y axis. Lines are clipped there. By default the axis spans
	// the data. A pair that leaves no range is ignored.
	YMin, YMax *float64
}

// Series is one line of a chart.
type Series struct {
	Name string
	// X and Y are the points, in any order. If one is longer, the rest of it is left out. A line
	// has a gap at a point that cannot be drawn.
	X, Y []float64
	// Low and High are the ends of an error band at each point. They are optional.
	Low, High []float64
	// Hover is the text that a point shows. By default it states the name and the values.
	Hover []string
}

const (
	plotHeight = 250
	// Series with more points than this are thinned: each pixel column keeps its least and its
	// greatest value.
	mostPoints  = 500
	mostHovers  = 60 // points of a series that show a text on hover
	mostMarkers = 30 // points of a series that show a marker
)

// A point of a line has positions in the SVG.
type point struct {
	i         int // index in the series
	x, y      float64
	low, high float64 // ends of the error band; NaN without band
	gap       bool    // the line does not lead to the point from the point before it
}

// name returns the name of series i.
func (s Series) name(i int) string {
	if s.Name == "" {
		return fmt.Sprintf("Series %d", i+1)
	}
	return s.Name
}

// band returns the error band at point i, or NaN.
func (s Series) band(i int, log bool) (low, high float64) {
	if i >= len(s.Low) || i >= len(s.High) || !drawable(s.Low[i], log) || !drawable(s.High[i], log) {
		return math.NaN(), math.NaN()
	}
	return s.Low[i], s.High[i]
}

// SVG returns the chart as an element.
func (l Line) SVG() template.HTML {
	c := newCanvas(chartWidth, l.Title)
	var x, y extent
	skipped, single := 0, 0
	for _, s := range l.Series {
		single += max(len(s.X), len(s.Y)) - min(len(s.X), len(s.Y))
		for i := range min(len(s.X), len(s.Y)) {
			if !l.shows(s, i) {
				skipped++
				continue
			}
			x.add(s.X[i])
			y.add(s.Y[i])
			if low, high := s.band(i, l.YLog); !math.IsNaN(low) {
				y.add(low)
				y.add(high)
			}
		}
	}
	if len(l.Series) > 1 {
		var keys []key
		for i, s := range l.Series {
			keys = append(keys, key{s.name(i), func(c *canvas, x, y float64) {
				c.add(`<path d="M%v %vh24" stroke="%s" stroke-width="2"%s/>`, px(x-12), px(y), colour(i), dash(i))
				c.add(`<path d="%s" fill="%s" stroke="%[2]s"/>`, marker(i, x, y), colour(i))
			}})
		}
		c.legend(keys)
	}
	yScale := newScale(y, l.YLog, l.YPercent, true, 5)
	clipped := false
	if low, high, fixed := l.limits(yScale); fixed {
		y = extent{low, high, true, true}
		yScale, clipped = newScale(y, l.YLog, l.YPercent, false, 5), true
		l.noteOutside(c, low, high)
	}
	p := c.plot(newScale(x, l.XLog, l.XPercent, false, 6), yScale, l.XLabel, l.YLabel, plotHeight)
	if clipped {
		c.add(`<svg x="%v" y="%v" width="%v" height="%v" viewBox="%[1]v %[2]v %[3]v %[4]v">`, px(p.left), px(p.top), px(p.right-p.left), px(p.bottom-p.top))
	}
	for i, s := range l.Series {
		l.draw(c, p, s, i)
	}
	if clipped {
		c.add("</svg>")
	}
	if !x.any {
		c.text((p.left+p.right)/2, (p.top+p.bottom)/2, `text-anchor="middle"`, "No data")
	}
	c.notPlaced(skipped, l.XLog || l.YLog, "point")
	c.note(single, "1 point is not shown: it has one coordinate only.", "%s points are not shown: they have one coordinate only.")
	return c.svg(l.Title, describe(l.Description, l.summary()...))
}

// shows reports whether point i of a series can be drawn.
func (l Line) shows(s Series, i int) bool {
	return drawable(s.X[i], l.XLog) && drawable(s.Y[i], l.YLog)
}

// noteOutside notes the points that the ends of the y axis leave out.
func (l Line) noteOutside(c *canvas, low, high float64) {
	outside := 0
	for _, s := range l.Series {
		for i := range min(len(s.X), len(s.Y)) {
			if l.shows(s, i) && (s.Y[i] < low || s.Y[i] > high) {
				outside++
			}
		}
	}
	c.note(outside, "1 point is beyond the ends of the vertical axis.", "%s points are beyond the ends of the vertical axis.")
}

// limits returns the ends of the y axis if the chart sets at least one of them.
func (l Line) limits(s scale) (low, high float64, fixed bool) {
	low, high = s.low, s.high
	if l.YMin != nil && drawable(*l.YMin, l.YLog) {
		low, fixed = *l.YMin, true
	}
	if l.YMax != nil && drawable(*l.YMax, l.YLog) {
		high, fixed = *l.YMax, true
	}
	return low, high, fixed && low < high
}

// points returns the points of a series in the order of x, thinned if there are many.
func (l Line) points(s Series, p *plot) []point {
	order := make([]int, min(len(s.X), len(s.Y)))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(s.X[a], s.X[b]) })
	var points []point
	gap := true
	for _, i := range order {
		if !l.shows(s, i) {
			gap = true
			continue
		}
		low, high := s.band(i, l.YLog)
		points = append(points, point{i, p.x.at(s.X[i]), p.y.at(s.Y[i]), p.y.at(low), p.y.at(high), gap})
		gap = false
	}
	if len(points) > mostPoints {
		points = thin(points)
	}
	return points
}

// thin returns the points with the least and the greatest y of each pixel column, and the widest
// band of the column.
func thin(points []point) []point {
	var kept []point
	for len(points) > 0 {
		n := 1
		column := math.Floor(points[0].x)
		for n < len(points) && math.Floor(points[n].x) == column {
			n++
		}
		first, last := 0, 0 // extreme points
		low, high, gap := math.NaN(), math.NaN(), false
		for i, p := range points[:n] {
			if p.y < points[first].y {
				first = i
			}
			if p.y > points[last].y {
				last = i
			}
			if math.IsNaN(low) || p.low > low {
				low = p.low
			}
			if math.IsNaN(high) || p.high < high {
				high = p.high
			}
			gap = gap || p.gap
		}
		first, last = min(first, last), max(first, last)
		q := points[first]
		q.low, q.high, q.gap = low, high, gap
		kept = append(kept, q)
		if last != first {
			q = points[last]
			q.low, q.high, q.gap = low, high, false
			kept = append(kept, q)
		}
		points = points[n:]
	}
	return kept
}

// draw draws a series: its band, its line, its markers and the areas that show its values.
func (l Line) draw(c *canvas, p *plot, s Series, i int) {
	points := l.points(s, p)
	if len(points) == 0 {
		return
	}
	for _, run := range bands(points) {
		var outline strings.Builder
		for k, q := range run {
			fmt.Fprintf(&outline, "%c%v %v", "ML"[min(k, 1)], px(q.x), px(q.high))
		}
		for _, q := range slices.Backward(run) {
			fmt.Fprintf(&outline, "L%v %v", px(q.x), px(q.low))
		}
		c.add(`<path d="%sz" fill="%s" fill-opacity=".18" stroke="%[2]s" stroke-opacity=".45" stroke-width=".7"/>`, outline.String(), colour(i))
	}
	c.add(`<path d="`)
	for k, q := range points {
		alone := q.gap && (k+1 == len(points) || points[k+1].gap)
		switch {
		case alone && len(points) > mostMarkers:
			c.add("M%v %vh2", px(q.x-1), px(q.y))
		case q.gap:
			c.add("M%v %v", px(q.x), px(q.y))
		default:
			c.add("L%v %v", px(q.x), px(q.y))
		}
	}
	width := "2"
	if len(points) > mostPoints/2 { // a noisy line would look like an area
		width = "1.2"
	}
	c.add(`" fill="none" stroke="%s" stroke-width="%s" stroke-linejoin="round"%s/>`, colour(i), width, dash(i))
	var shapes strings.Builder
	every := 1
	if len(points) > mostMarkers {
		every = (len(points) + 7) / 8 // enough to recognise the series
	}
	for k := every / 2; k < len(points) && (every == 1 || len(l.Series) > 1); k += every {
		shapes.WriteString(marker(i, points[k].x, points[k].y))
	}
	if every > 1 && shapes.Len() > 0 { // an edge tells the markers from the line
		c.add(`<path d="%s" fill="%s" stroke="%[2]s" stroke-width="4"/>`, shapes.String(), paper)
	}
	if shapes.Len() > 0 {
		c.add(`<path d="%s" fill="%s" stroke="%[2]s"/>`, shapes.String(), colour(i))
	}
	c.add(`<g fill="none" pointer-events="all">`)
	every = (len(points) + mostHovers - 1) / mostHovers
	for k := 0; k < len(points); k += every {
		c.add(`<circle cx="%v" cy="%v" r="6">%s</circle>`, px(points[k].x), px(points[k].y), hover(l.hover(s, i, points[k].i)))
	}
	c.add("</g>")
}

// bands cuts points into runs of neighbours that all have a band.
func bands(points []point) [][]point {
	var runs [][]point
	start := 0
	for i, p := range points {
		if p.gap || math.IsNaN(p.low) {
			if i > start+1 {
				runs = append(runs, points[start:i])
			}
			start = i
			if math.IsNaN(p.low) {
				start++
			}
		}
	}
	if len(points) > start+1 {
		runs = append(runs, points[start:])
	}
	return runs
}

// hover returns the text of point k of series i.
func (l Line) hover(s Series, i, k int) string {
	if k < len(s.Hover) && s.Hover[k] != "" {
		return s.Hover[k]
	}
	name := ""
	if len(l.Series) > 1 {
		name = s.name(i) + "\n"
	}
	y := named(l.YLabel, value(s.Y[k], l.YPercent))
	if low, high := s.band(k, l.YLog); !math.IsNaN(low) {
		y += interval(&low, &high, l.YPercent)
	}
	return name + named(l.XLabel, value(s.X[k], l.XPercent)) + "\n" + y
}

// summary returns sentences about the data.
func (l Line) summary() []string {
	sentences := []string{against("Line chart", l.YLabel, l.XLabel)}
	for i, s := range l.Series {
		var order []int
		for k := range min(len(s.X), len(s.Y)) {
			if l.shows(s, k) {
				order = append(order, k)
			}
		}
		if len(order) == 0 {
			sentences = append(sentences, s.name(i)+": no points.")
			continue
		}
		byX := func(a, b int) int { return cmp.Compare(s.X[a], s.X[b]) }
		byY := func(a, b int) int { return cmp.Compare(s.Y[a], s.Y[b]) }
		at := func(k int) string {
			return fmt.Sprintf("%s at %s", value(s.Y[k], l.YPercent), value(s.X[k], l.XPercent))
		}
		sentences = append(sentences, fmt.Sprintf("%s: %s, first %s, last %s, least %s, greatest %s.", s.name(i), plural(len(order), "point"),
			at(slices.MinFunc(order, byX)), at(slices.MaxFunc(order, byX)), at(slices.MinFunc(order, byY)), at(slices.MaxFunc(order, byY))))
	}
	return sentences
}
