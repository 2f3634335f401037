package chart

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
)

// Bar is a chart of horizontal bars, one row for each label, such as the accuracy of each class or
// the number of images of each class and split. A chart with more rows than MostRows becomes a
// profile: the rows in descending order from left to right, without labels.
type Bar struct {
	// Title, XLabel, YLabel and Description are the texts of the chart. XLabel names the values,
	// and YLabel the rows. See the package comment.
	Title, XLabel, YLabel, Description string
	// Bars holds the bars in the order of the rows. Bars with the same label share a row.
	Bars []BarValue
	// Groups holds the names of the groups of bars, such as splits, for the legend. Without names,
	// the chart has no legend.
	Groups []string
	// Stacked puts the bars of a row end to end. Otherwise they lie below each other.
	Stacked bool
	// Percent shows the values as percentages: 0.5 as 50%.
	Percent bool
	// MostRows is the greatest number of rows. The default is 40.
	MostRows int
	// Ends shows the first and the last rows instead of a profile, and states how many rows are
	// left out. Sort the bars before.
	Ends bool
}

// BarValue is a bar of a Bar.
type BarValue struct {
	Label string
	Value float64
	// Low and High are the ends of an error bar. They are optional. Stacked bars and profiles have
	// none.
	Low, High *float64
	// Hover is the text that the bar shows. By default it states the label, the group and the
	// value.
	Hover string
	// Group chooses colour and filling, from 0.
	Group int
}

// A row holds the bars with the same label.
type row struct {
	label string
	bars  []BarValue
}

// total returns the sum of the bars.
func (r row) total() float64 {
	var sum float64
	for _, b := range r.bars {
		sum += b.Value
	}
	return sum
}

// of returns the row with the bars of one group only.
func (r row) of(group int) row {
	return row{r.label, slices.DeleteFunc(slices.Clone(r.bars), func(b BarValue) bool { return b.Group != group })}
}

// SVG returns the chart as an element.
func (b Bar) SVG() template.HTML {
	c := newCanvas(chartWidth, b.Title)
	rows, skipped := b.rows()
	var keys []key
	for i, name := range b.Groups {
		keys = append(keys, key{name, func(c *canvas, x, y float64) { c.bar(x-11, y-5, 22, 10, i, "") }})
	}
	c.legend(keys)
	most := b.MostRows
	if most <= 0 {
		most = 40
	}
	switch {
	case len(rows) <= most:
		b.draw(c, rows, nil)
	case b.Ends:
		first := (most + 1) / 2
		b.draw(c, rows[:first], rows[len(rows)-most+first:])
		c.note(len(rows)-most, "1 row in the middle is not shown.", "%s rows in the middle are not shown.")
	default:
		b.profile(c, rows)
	}
	c.notPlaced(skipped, false, "bar")
	return c.svg(b.Title, describe(b.Description, b.summary(rows)...))
}

// rows returns the bars by their labels, and the number of bars that cannot be drawn.
func (b Bar) rows() (rows []row, skipped int) {
	index := map[string]int{}
	for _, bar := range b.Bars {
		if !drawable(bar.Value, false) {
			skipped++
			continue
		}
		i, known := index[bar.Label]
		if !known {
			i = len(rows)
			index[bar.Label] = i
			rows = append(rows, row{label: bar.Label})
		}
		rows[i].bars = append(rows[i].bars, bar)
	}
	return rows, skipped
}

// scale returns the scale of the values. It begins at 0, because the length of a bar is its value.
func (b Bar) scale(rows []row, n int) scale {
	e := extent{any: true}
	for _, r := range rows {
		var positive, negative float64
		for _, bar := range r.bars {
			if b.Stacked {
				positive += max(bar.Value, 0)
				negative += min(bar.Value, 0)
				e.fraction = e.fraction || bar.Value != math.Trunc(bar.Value)
				continue
			}
			e.addInterval(bar.Value, bar.Low, bar.High, false)
		}
		e.add(positive)
		e.add(negative)
	}
	if e.low == 0 && e.high == 0 {
		e.high = 1
	}
	return newScale(e, false, b.Percent, true, n)
}

// draw draws rows with labels, and below a gap the rows last.
func (b Bar) draw(c *canvas, rows, last []row) {
	const thickness, space = 15., 7.
	all := slices.Concat(rows, last)
	s := b.scale(all, 5)
	left, valueWidth := 0., 0.
	for _, r := range all {
		left = max(left, textWidth(r.label, fontSize)+12)
		valueWidth = max(valueWidth, textWidth(value(r.total(), b.Percent), fontSize))
		for _, bar := range r.bars {
			valueWidth = max(valueWidth, textWidth(value(bar.Value, b.Percent), fontSize))
		}
	}
	left = min(max(left, 20), 220)
	if b.YLabel != "" {
		c.y += lineHeight
		c.label(2, c.y-4, c.width-4, "", b.YLabel)
	}
	top := c.y + 4
	height := func(r row) float64 {
		if b.Stacked {
			return thickness + space
		}
		return thickness*float64(len(r.bars)) + space
	}
	bottom := top + 4
	for _, r := range all {
		bottom += height(r)
	}
	if last != nil {
		bottom += thickness + space
	}
	if len(all) == 0 {
		bottom += 60
	}
	s.from, s.to = left, c.width-valueWidth-14
	c.xAxis(&s, left, top, s.to, bottom, b.XLabel)
	c.add(`<path d="M%v %vV%v" stroke="currentColor"/>`, px(s.at(0)), px(top), px(bottom))
	if len(all) == 0 {
		c.text((left+s.to)/2, (top+bottom)/2+4, `text-anchor="middle"`, "No data")
	}
	y := top + 4
	for i, r := range all {
		if last != nil && i == len(rows) {
			c.text(left-7, y+12, `text-anchor="end"`, "⋮")
			y += thickness + space
		}
		c.label(left-7, y+(height(r)-space)/2+4, left-10, `text-anchor="end"`, r.label)
		positive, negative := 0., 0.
		for k, bar := range r.bars {
			from := 0.
			if b.Stacked && bar.Value < 0 {
				from, negative = negative, negative+bar.Value
			} else if b.Stacked {
				from, positive = positive, positive+bar.Value
			}
			at := y
			if !b.Stacked {
				at += thickness * float64(k)
			}
			x, end := s.at(from), s.at(from+bar.Value)
			c.bar(min(x, end), at, math.Abs(end-x), thickness, bar.Group, b.hover(bar))
			if b.Stacked {
				continue
			}
			right := max(x, end)
			if low, high, ok := ends(&s, bar.Low, bar.High); ok {
				c.add(`<path d="M%v %vv6m0-3H%vm0-3v6" stroke="currentColor" stroke-width="1.5" fill="none"/>`, px(low), px(at+thickness/2-3), px(high))
				right = max(right, high, low)
			}
			c.text(right+5, at+12, "", value(bar.Value, b.Percent))
		}
		if b.Stacked {
			c.text(s.at(positive)+5, y+12, "", value(r.total(), b.Percent))
		}
		y += height(r)
	}
}

// bar draws a bar in the style of a group. Styles differ without colour: full, pale, hatched and
// empty bars.
func (c *canvas) bar(x, y, width, height float64, group int, text string) {
	c.add(`<rect x="%v" y="%v" width="%v" height="%v" %s>%s</rect>`, px(x), px(y), px(width), px(height), filling(group), hover(text))
	if modulo(group, 4) == 2 && width > 4 {
		c.add(`<path d="`)
		for at := x + 4; at < x+width; at += 4 {
			c.add("M%v %vv%v", px(at), px(y), px(height))
		}
		c.add(`" stroke="%s" pointer-events="none"/>`, colour(group))
	}
}

// filling returns the attributes for the area of a group.
func filling(group int) string {
	opacity := []string{".75", ".3", ".08", "0"}[modulo(group, 4)]
	return fmt.Sprintf(`fill="%s" fill-opacity="%s" stroke="%[1]s"`, colour(group), opacity)
}

// hover returns the text of a bar.
func (b Bar) hover(bar BarValue) string {
	if bar.Hover != "" {
		return bar.Hover
	}
	text := value(bar.Value, b.Percent)
	if !b.Stacked {
		text += interval(bar.Low, bar.High, b.Percent)
	}
	if bar.Group >= 0 && bar.Group < len(b.Groups) {
		text = named(b.Groups[bar.Group], text)
	}
	if bar.Label != "" {
		text = bar.Label + "\n" + text
	}
	return text
}

// profile draws the rows in descending order of their sums, one column for each.
func (b Bar) profile(c *canvas, rows []row) {
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(b.total(), a.total()) })
	x := newScale(extent{0, float64(len(rows)), true, false}, false, false, false, 6)
	what := b.YLabel
	if what == "" {
		what = "Rows"
	}
	p := c.plot(x, b.scale(rows, 5), fmt.Sprintf("%s, in descending order (%s)", what, grouped(float64(len(rows)), 0)), b.XLabel, plotHeight)
	var groups []int
	for _, r := range rows {
		for _, bar := range r.bars {
			groups = append(groups, bar.Group)
		}
	}
	slices.Sort(groups)
	base := make([]float64, len(rows)) // lower ends of the next group
	for _, group := range slices.Compact(groups) {
		c.add(`<path d="M%v %v`, px(p.x.at(0)), px(p.y.at(0)))
		upper := slices.Clone(base)
		for i, r := range rows {
			upper[i] += r.of(group).total()
			c.add("V%vH%v", px(p.y.at(upper[i])), px(p.x.at(float64(i+1))))
		}
		for i := range slices.Backward(rows) {
			c.add("V%vH%v", px(p.y.at(base[i])), px(p.x.at(float64(i))))
		}
		c.add(`z" %s/>`, filling(group))
		if b.Stacked {
			base = upper
		}
	}
	// A column can be narrower than a pixel, so neighbours share a text.
	every := (len(rows) + 99) / 100
	c.add(`<g fill="none" pointer-events="all">`)
	for i := 0; i < len(rows); i += every {
		end := min(i+every, len(rows))
		text := b.text(rows[i])
		if every > 1 {
			text = fmt.Sprintf("%d to %d of %d\n%s\n…\n%s", i+1, end, len(rows), text, b.text(rows[end-1]))
		}
		c.add(`<path d="M%v %vH%vV%vH%[1]vz">%[5]s</path>`, px(p.x.at(float64(i))), px(p.top), px(p.x.at(float64(end))), px(p.bottom), hover(text))
	}
	c.add("</g>")
}

// text returns the label of a row with its sum, or with its value in each group.
func (b Bar) text(r row) string {
	if b.Stacked || len(r.bars) == 1 {
		return named(r.label, value(r.total(), b.Percent))
	}
	var texts []string
	for _, bar := range r.bars {
		texts = append(texts, b.hover(bar))
	}
	return strings.Join(texts, "\n")
}

// summary returns sentences about the data.
func (b Bar) summary(rows []row) []string {
	sentences := []string{against("Bar chart", b.XLabel, ""), plural(len(rows), "row") + "."}
	if len(rows) == 0 {
		return sentences
	}
	if b.Stacked || len(b.Groups) == 0 {
		return append(sentences, b.extremes(rows))
	}
	for i, name := range b.Groups {
		var of []row
		for _, r := range rows {
			if r = r.of(i); len(r.bars) > 0 {
				of = append(of, r)
			}
		}
		if len(of) > 0 {
			sentences = append(sentences, named(name, b.extremes(of)))
		}
	}
	return sentences
}

// extremes returns sentences about the rows with the greatest and the least values.
func (b Bar) extremes(rows []row) string {
	byTotal := func(a, b row) int { return cmp.Compare(a.total(), b.total()) }
	text := func(r row) string { return named(r.label, value(r.total(), b.Percent)) }
	return fmt.Sprintf("Greatest: %s. Least: %s.", text(slices.MaxFunc(rows, byTotal)), text(slices.MinFunc(rows, byTotal)))
}
