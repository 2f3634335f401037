package chart

import (
	"fmt"
	"html/template"
	"math"
	"slices"
)

// Scatter is a chart of single points, such as the accuracies of methods against the number of
// parameters that they tune.
type Scatter struct {
	// Title, XLabel, YLabel and Description are the texts of the chart. See the package comment.
	Title, XLabel, YLabel, Description string
	Points                             []Point
	// Groups holds the names of the groups of points, for the legend. Without names, the chart has
	// no legend.
	Groups []string
	// XLog and YLog make an axis logarithmic. Points that are not positive are left out.
	XLog, YLog bool
	// XPercent and YPercent show values of an axis as percentages: 0.5 as 50%.
	XPercent, YPercent bool
	// Diagonal draws the line on which y equals x.
	Diagonal bool
}

// Point is a point of a Scatter.
type Point struct {
	X, Y float64
	// XLow, XHigh, YLow and YHigh are the ends of error bars. They are optional.
	XLow, XHigh, YLow, YHigh *float64
	// Label stands beside the point if there is room.
	Label string
	// Hover is the text that the point shows. By default it states the label and the values.
	Hover string
	// Group chooses colour and marker, from 0.
	Group int
}

// SVG returns the chart as an element.
func (s Scatter) SVG() template.HTML {
	c := newCanvas(chartWidth, s.Title)
	var x, y extent
	var shown []Point
	for _, p := range s.Points {
		if !drawable(p.X, s.XLog) || !drawable(p.Y, s.YLog) {
			continue
		}
		shown = append(shown, p)
		x.addInterval(p.X, p.XLow, p.XHigh, s.XLog)
		y.addInterval(p.Y, p.YLow, p.YHigh, s.YLog)
	}
	var keys []key
	for i, name := range s.Groups {
		keys = append(keys, key{name, func(c *canvas, x, y float64) {
			c.add(`<path d="%s" fill="%s" stroke="%[2]s"/>`, marker(i, x, y), colour(i))
		}})
	}
	c.legend(keys)
	p := c.plot(newScale(x, s.XLog, s.XPercent, !s.XLog, 6), newScale(y, s.YLog, s.YPercent, true, 5), s.XLabel, s.YLabel, plotHeight+30)
	if s.Diagonal {
		diagonal(c, p)
	}
	for _, q := range shown {
		s.draw(c, p, q)
	}
	s.label(c, p, shown)
	if !x.any {
		c.text((p.left+p.right)/2, (p.top+p.bottom)/2, `text-anchor="middle"`, "No data")
	}
	c.notPlaced(len(s.Points)-len(shown), s.XLog || s.YLog, "point")
	sentences := []string{against("Scatter plot", s.YLabel, s.XLabel), plural(len(shown), "point") + "."}
	if x.any {
		best, worst := shown[0], shown[0]
		for _, q := range shown {
			if q.Y > best.Y {
				best = q
			}
			if q.Y < worst.Y {
				worst = q
			}
		}
		at := func(q Point) string {
			return named(q.Label, fmt.Sprintf("%s at %s", value(q.Y, s.YPercent), value(q.X, s.XPercent)))
		}
		sentences = append(sentences, fmt.Sprintf("Greatest: %s. Least: %s.", at(best), at(worst)))
	}
	return c.svg(s.Title, describe(s.Description, sentences...))
}

// diagonal draws the part inside a plot of the line on which y equals x.
func diagonal(c *canvas, p *plot) {
	low, high := max(p.x.low, p.y.low), min(p.x.high, p.y.high)
	if low < high {
		c.add(`<path d="M%v %vL%v %v" stroke="%s" stroke-width="1.5" stroke-dasharray="5 4"/>`,
			px(p.x.at(low)), px(p.y.at(low)), px(p.x.at(high)), px(p.y.at(high)), muted)
	}
}

// draw draws a point with its error bars.
func (s Scatter) draw(c *canvas, p *plot, q Point) {
	x, y := p.x.at(q.X), p.y.at(q.Y)
	c.add(`<g fill="%s" stroke="%[1]s"><path d="%s`, colour(q.Group), marker(q.Group, x, y))
	if low, high, ok := ends(&p.x, q.XLow, q.XHigh); ok {
		c.add("M%v %vv6m0-3H%vm0-3v6", px(low), px(y-3), px(high))
	}
	if low, high, ok := ends(&p.y, q.YLow, q.YHigh); ok {
		c.add("M%v %vh6m-3 0V%vm-3 0h6", px(x-3), px(low), px(high))
	}
	text := q.Hover
	if text == "" {
		text = named(s.XLabel, value(q.X, s.XPercent)) + interval(q.XLow, q.XHigh, s.XPercent) + "\n" +
			named(s.YLabel, value(q.Y, s.YPercent)) + interval(q.YLow, q.YHigh, s.YPercent)
		if q.Label != "" {
			text = q.Label + "\n" + text
		}
	}
	c.add(`">%s</path></g>`, hover(text))
}

// ends returns the positions of the ends of an error bar. It returns false without an error bar.
func ends(s *scale, low, high *float64) (from, to float64, ok bool) {
	if !bounded(low, high, s.log) {
		return 0, 0, false
	}
	return s.at(*low), s.at(*high), true
}

// A box is an area that a label would cover.
type box struct{ left, top, right, bottom float64 }

func (b box) overlaps(o box) bool {
	return b.left < o.right && o.left < b.right && b.top < o.bottom && o.top < b.bottom
}

// label writes the labels beside the points. A label stands right of its point, left of it, above,
// below or at a corner, where it covers no other point and no earlier label. If there is no such
// place it is left out, and shows on hover only.
func (s Scatter) label(c *canvas, p *plot, points []Point) {
	const most = 170 // width of a label
	var taken []box
	for _, q := range points {
		x, y := p.x.at(q.X), p.y.at(q.Y)
		taken = append(taken, box{x - 5, y - 5, x + 5, y + 5})
		if low, high, ok := ends(&p.y, q.YLow, q.YHigh); ok {
			taken = append(taken, box{x - 2, math.Min(low, high), x + 2, math.Max(low, high)})
		}
	}
	for _, q := range points {
		if q.Label == "" {
			continue
		}
		x, y := p.x.at(q.X), p.y.at(q.Y)
		width := min(most, textWidth(q.Label, fontSize))
		for _, place := range []struct {
			x, y   float64
			anchor string
			left   float64
		}{
			{x + 8, y + 4, "start", x + 8}, {x - 8, y + 4, "end", x - 8 - width},
			{x, y - 9, "middle", x - width/2}, {x, y + 17, "middle", x - width/2},
			{x + 6, y - 6, "start", x + 6}, {x - 6, y - 6, "end", x - 6 - width},
			{x + 6, y + 14, "start", x + 6}, {x - 6, y + 14, "end", x - 6 - width},
		} {
			area := box{place.left, place.y - 10, place.left + width, place.y + 3}
			free := area.left >= p.left && area.right <= c.width && area.top >= p.top-10 && area.bottom <= p.bottom+3
			if free && !slices.ContainsFunc(taken, area.overlaps) {
				taken = append(taken, area)
				c.label(place.x, place.y, most, `text-anchor="`+place.anchor+`"`, q.Label)
				break
			}
		}
	}
}
