package chart

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Sizes in units of the SVG, which are CSS pixels unless a page shrinks the chart.
const (
	chartWidth = 600
	fontSize   = 12.
	titleSize  = 15. // of bold text, which is wider
	lineHeight = 17.
)

// px is a coordinate. It prints with at most one decimal.
type px float64

func (v px) String() string {
	if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
		return "0"
	}
	text := trimmed(strconv.FormatFloat(float64(v), 'f', 1, 64))
	if text == "-0" {
		return "0"
	}
	return text
}

// A canvas collects the elements of a chart from top to bottom.
type canvas struct {
	strings.Builder
	width float64
	y     float64 // lower edge of the elements so far
	notes []string
}

// newCanvas returns a canvas with the title of the chart.
func newCanvas(width float64, title string) *canvas {
	c := &canvas{width: width, y: 4}
	for _, line := range wrap(title, width-8, titleSize*1.15, 2) {
		c.y += 19
		c.text(2, c.y-4, `font-size="15" font-weight="600"`, line)
	}
	return c
}

// add writes an element. The format and the arguments must be valid SVG.
func (c *canvas) add(format string, args ...any) { fmt.Fprintf(c, format, args...) }

// text writes a text that begins, or ends, or is centred at a point of the baseline, as the
// attributes say.
func (c *canvas) text(x, y float64, attributes, s string) {
	if s != "" {
		c.add(`<text x="%v" y="%v" %s>%s</text>`, px(x), px(y), attributes, escape(s))
	}
}

// label writes a text in the given width. If the text is cut, the whole text shows on hover.
func (c *canvas) label(x, y, width float64, attributes, s string) {
	if short := cut(s, width, fontSize); short != clean(s) {
		c.add(`<text x="%v" y="%v" %s>%s%s</text>`, px(x), px(y), attributes, escape(short), hover(s))
	} else {
		c.text(x, y, attributes, s)
	}
}

// centred writes the label of a horizontal axis around x on the line c.y, inside the chart.
func (c *canvas) centred(x float64, s string) {
	half := textWidth(s, fontSize)/2 + 2
	x = max(min(x, c.width-half), min(half, c.width/2))
	c.label(x, c.y-4, c.width-4, `text-anchor="middle"`, s)
}

// note adds a line below the chart and to its description. It does nothing if n is 0. The format
// has one verb, for n.
func (c *canvas) note(n int, one, many string) {
	if n == 1 {
		c.notes = append(c.notes, one)
	} else if n > 1 {
		c.notes = append(c.notes, fmt.Sprintf(many, grouped(float64(n), 0)))
	}
}

// A key is an entry of a legend: a name and a sample, which draws itself around a point. The sample
// is at most 24 wide.
type key struct {
	name   string
	sample func(c *canvas, x, y float64)
}

// legend writes entries side by side, in as many rows as they need.
func (c *canvas) legend(keys []key) {
	if len(keys) == 0 {
		return
	}
	x := 2.
	c.y += lineHeight
	for _, k := range keys {
		width := 46 + min(textWidth(k.name, fontSize), c.width/2)
		if x > 2 && x+width > c.width {
			x = 2
			c.y += lineHeight
		}
		k.sample(c, x+14, c.y-8)
		c.label(x+31, c.y-4, c.width/2, "", k.name)
		x += width
	}
	c.y += 4
}

// xAxis draws the grid, the ticks and the label of a horizontal axis below a plot. The label is
// optional.
func (c *canvas) xAxis(s *scale, left, top, right, bottom float64, label string) {
	end := math.Inf(-1)
	var lines, texts strings.Builder
	names := s.labels()
	for i, tick := range s.ticks {
		x := s.at(tick)
		fmt.Fprintf(&lines, "M%v %vV%v", px(x), px(top), px(bottom+4))
		half := textWidth(names[i], fontSize) / 2
		if x-half < end+6 { // labels of an axis with huge numbers can be long
			continue
		}
		end = x + half
		fmt.Fprintf(&texts, `<text x="%v" y="%v">%s</text>`, px(x), px(bottom+17), escape(names[i]))
	}
	c.add(`<path d="%s" stroke="%s"/><path d="M%v %vH%v" stroke="currentColor"/>`, lines.String(), grid, px(left), px(bottom), px(right))
	c.add(`<g text-anchor="middle" fill="%s">%s</g>`, muted, texts.String())
	c.y = bottom + 20
	if label != "" {
		c.y += lineHeight
		c.centred((left+right)/2, label)
	}
}

// yAxis draws the grid and the ticks of a vertical axis left of a plot.
func (c *canvas) yAxis(s *scale, left, right float64) {
	var lines strings.Builder
	c.add(`<g text-anchor="end" fill="%s">`, muted)
	for i, name := range s.labels() {
		y := s.at(s.ticks[i])
		fmt.Fprintf(&lines, "M%v %vH%v", px(left), px(y), px(right))
		c.add(`<text x="%v" y="%v">%s</text>`, px(left-6), px(y+4), escape(name))
	}
	c.add(`</g><path d="%s" stroke="%s"/>`, lines.String(), grid)
}

// A plot is the rectangle between two axes.
type plot struct {
	left, top, right, bottom float64
	x, y                     scale
}

// plot draws two axes below the elements so far. The label of the y axis stands above the axis,
// where a long one has room.
func (c *canvas) plot(x, y scale, xLabel, yLabel string, height float64) *plot {
	const inset = 8 // free space at the ends of the x axis, so that markers do not touch the frame
	p := &plot{x: x, y: y, right: c.width - 14}
	if yLabel != "" {
		c.y += lineHeight
		c.label(2, c.y-4, c.width-4, "", yLabel)
	}
	p.top = c.y + 8
	p.bottom = p.top + height
	for _, name := range p.y.labels() {
		p.left = max(p.left, textWidth(name, fontSize)+10)
	}
	p.x.from, p.x.to = p.left+inset, p.right-inset
	p.y.from, p.y.to = p.bottom, p.top
	c.yAxis(&p.y, p.left, p.right)
	c.xAxis(&p.x, p.left, p.top, p.right, p.bottom, xLabel)
	return p
}

// svg returns the chart as an element. The notes follow the description.
func (c *canvas) svg(title, description string) template.HTML {
	for _, note := range c.notes {
		for _, line := range wrap(note, c.width-8, fontSize, 3) {
			c.y += lineHeight
			c.text(2, c.y-4, `fill="`+muted+`"`, line)
		}
		description += " " + note
	}
	label := strings.TrimSpace(strings.Join([]string{sentence(title), strings.TrimSpace(description)}, " "))
	return template.HTML(fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" aria-label="%s" width="%v" height="%v" viewBox="0 0 %[2]v %[3]v" `+
		`fill="currentColor" font-family="system-ui,sans-serif" font-size="12" direction="ltr">%[4]s</svg>`, escape(label), px(c.width), px(c.y+4), c.String()))
}

// sentence returns s with a full stop at its end, unless s is empty or has an end.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if last, _ := utf8.DecodeLastRuneInString(s); s == "" || strings.ContainsRune(".!?…", last) {
		return s
	}
	return s + "."
}

// plural returns "1 point" or "2 points" for one = "point".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(float64(n), 0) + " " + one + "s"
}

// hover returns the element that shows a text over the element around it.
func hover(s string) string {
	if s == "" {
		return ""
	}
	return "<title>" + escape(s) + "</title>"
}

// escape returns s for the content of an element or an attribute.
func escape(s string) string { return html.EscapeString(clean(s)) }

// clean returns s without characters that XML forbids and without control characters, except line
// feeds. Characters that override the direction of text are dropped, because they would reorder the
// text around a label.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\t' || r == '\r':
			return ' '
		case r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return -1
		case unicode.IsControl(r) || r == 0xfffe || r == 0xffff:
			return utf8.RuneError
		}
		return r // also utf8.RuneError for bytes that are not UTF-8
	}, s)
}

// textWidth returns an estimate of the width of a text in a sans-serif font, rather too large than
// too small.
func textWidth(s string, size float64) float64 {
	var em float64
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case strings.ContainsRune("ijlI.,:;'|!()[]/\\ tfr-", r):
			em += 0.36
		case strings.ContainsRune("mwMW@%", r):
			em += 0.92
		case r >= 0x1100 && (r < 0x2000 || r > 0x2fff) || r == '—' || r == '…':
			em += 1.05
		case unicode.IsUpper(r):
			em += 0.7
		default:
			em += 0.6
		}
	}
	return em * size
}

// cut returns s, or its beginning with "…", in the given width.
func cut(s string, width, size float64) string {
	s = clean(s)
	if textWidth(s, size) <= width {
		return s
	}
	end, used := 0, textWidth("…", size)
	for i, r := range s {
		// The end may not separate a character from the marks or the joiner that follow it.
		if !unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
			end = i
		}
		if used += textWidth(string(r), size); used > width {
			break
		}
	}
	return strings.TrimRight(s[:end], " \n\u200d") + "…"
}

// wrap returns s in at most n lines of the given width, the last one cut.
func wrap(s string, width, size float64, n int) []string {
	var lines []string
	line := ""
	words := strings.Fields(clean(s))
	for i, word := range words {
		if line != "" && textWidth(line+" "+word, size) > width {
			if len(lines) == n-1 {
				line += " " + strings.Join(words[i:], " ")
				break
			}
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	if line == "" {
		return lines
	}
	for i := range lines {
		lines[i] = cut(lines[i], width, size)
	}
	return append(lines, cut(line, width, size))
}
