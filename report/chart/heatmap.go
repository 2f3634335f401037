package chart

import (
	"fmt"
	"html/template"
	"math"
	"strings"
)

// HeatMap is a table of values as colours, such as a confusion matrix, or the number of tuned
// parameters in each block and operation. Rows run from top to bottom. Names and values show while
// there is room; otherwise they show on hover. A map with more than 100 rows or columns becomes
// large and hard to read: aggregate it.
type HeatMap struct {
	// Title, XLabel, YLabel and Description are the texts of the chart. XLabel names the columns,
	// and YLabel the rows. See the package comment.
	Title, XLabel, YLabel, Description string
	// Unit names the values, with their unit.
	Unit          string
	Rows, Columns []string // names
	Cells         []Cell
	// Log makes the scale of colours logarithmic. Cells that are not positive are left out.
	Log bool
	// Percent shows values as percentages: 0.5 as 50%.
	Percent bool
	// NoText leaves out the values in the cells.
	NoText bool
	// Marks names the marks of cells, for the legend. It has no entry for marks that are not used.
	Marks map[Mark]string
}

// Cell is a cell of a HeatMap with a value. Other cells stay empty, which is not the same as 0.
type Cell struct {
	Row, Column int // from 0
	Value       float64
	// Text is the text in the cell. The default is the value in a short form.
	Text string
	// Hover is the text that the cell shows. By default it states the names and the value.
	Hover string
	Mark  Mark
}

// Mark distinguishes cells in a way that does not depend on their colours.
type Mark int

const (
	// NoMark is the mark of an ordinary cell.
	NoMark Mark = iota
	// Frame is a thick frame inside the cell.
	Frame
	// Dot is a dot in the upper right corner of the cell.
	Dot
)

const (
	mapWidth  = 640. // greatest width of a map without texts in its cells
	textsMost = 760. // greatest width of a map with texts in its cells
	cellText  = 11.  // font size of these texts
)

// SVG returns the chart as an element.
func (h HeatMap) SVG() template.HTML {
	var cells []Cell
	var e extent
	outside := 0
	for _, cell := range h.Cells {
		switch {
		case cell.Row < 0 || cell.Row >= len(h.Rows) || cell.Column < 0 || cell.Column >= len(h.Columns):
			outside++
		case drawable(cell.Value, h.Log):
			cells = append(cells, cell)
			e.add(cell.Value)
		}
	}
	if e.any && !h.Log && e.low >= 0 {
		e.add(0)
		e.add(max(e.high, smallest*2))
	}
	s := newScale(e, h.Log, h.Percent, true, 5)
	s.from, s.to = 0, float64(len(heatTones))
	width, height, texts := h.cellSize(cells)
	rows, columns := float64(len(h.Rows)), float64(len(h.Columns))

	// Names of rows stand left of the map, names of columns below it, slanted unless they fit.
	left, below, slanted := 14., 6., false
	rowNames, columnNames := height >= 12, width >= 13
	if rowNames {
		for _, name := range h.Rows {
			left = max(left, min(textWidth(name, fontSize), 160)+10)
		}
	}
	if columnNames {
		longest := 0.
		for _, name := range h.Columns {
			longest = max(longest, textWidth(name, fontSize))
		}
		slanted = longest > width-4
		below = 20
		if slanted {
			longest = min(longest, 120)
			below = longest*math.Sqrt2/2 + 16
			left = max(left, longest*math.Sqrt2/2-width/2+4)
		}
	}
	c := newCanvas(max(420, left+columns*width+10), h.Title)
	h.legend(c, &s, e)
	if h.YLabel != "" {
		c.y += lineHeight
		c.label(2, c.y-4, c.width-4, "", withCount(h.YLabel, rowNames, len(h.Rows)))
	}
	top := c.y + 5
	right, bottom := left+columns*width, top+rows*height

	// A cell is a stroke of width 1 in a coordinate system of rows and columns. That is the
	// shortest form, and maps can have 10,000 cells.
	c.add(`<g transform="translate(%v %v) scale(%v %v)" fill="none" stroke-width="1">`, px(left), px(top+height/2), px(width), px(height))
	for step := range heatTones {
		fill, _ := heat(step)
		var group strings.Builder
		for _, cell := range cells {
			if stepOf(&s, cell.Value) == step {
				fmt.Fprintf(&group, `<path d="M%d %dh1">%s</path>`, cell.Column, cell.Row, hover(h.hover(cell)))
			}
		}
		if group.Len() > 0 {
			c.add(`<g stroke="%s">%s</g>`, fill, group.String())
		}
	}
	c.add("</g>")
	h.lines(c, left, top, width, height)
	h.marks(c, &s, cells, left, top, width, height, texts)
	for i, name := range h.Rows {
		if rowNames {
			c.label(left-6, top+(float64(i)+.5)*height+4, left-8, `text-anchor="end"`, name)
		}
	}
	for i, name := range h.Columns {
		x := left + (float64(i)+.5)*width
		if columnNames && slanted {
			c.add(`<g transform="translate(%v %v) rotate(-45)">`, px(x+4), px(bottom+13))
			c.label(0, 0, 120, `text-anchor="end"`, name)
			c.add("</g>")
		} else if columnNames {
			c.label(x, bottom+16, width, `text-anchor="middle"`, name)
		}
	}
	c.y = bottom + below
	if h.XLabel != "" {
		c.y += lineHeight
		label := withCount(h.XLabel, columnNames, len(h.Columns))
		c.centred((left+right)/2, label)
	}
	c.notPlaced(len(h.Cells)-len(cells)-outside, h.Log, "cell")
	c.note(outside, "1 cell is outside the rows and columns.", "%s cells are outside the rows and columns.")
	return c.svg(h.Title, describe(h.Description, h.summary(cells)...))
}

// withCount returns a label of an axis. It adds the number of names if the axis does not show them.
func withCount(label string, names bool, n int) string {
	if names || n == 0 {
		return label
	}
	return fmt.Sprintf("%s (%s, names on hover)", label, grouped(float64(n), 0))
}

// cellSize returns the width and the height of a cell, and whether texts fit into the cells.
func (h HeatMap) cellSize(cells []Cell) (width, height float64, texts bool) {
	columns, rows := float64(max(1, len(h.Columns))), float64(max(1, len(h.Rows)))
	// Cells are wide enough for the names of the columns, if the names are short.
	widest := 30.
	for _, name := range h.Columns {
		widest = max(widest, textWidth(name, fontSize)+8)
	}
	if widest*columns > mapWidth {
		widest = 30
	}
	width, height = max(1, min(mapWidth/columns, widest)), max(1, min(mapWidth*1.2/rows, 22))
	if len(h.Rows) == len(h.Columns) {
		height = min(width, 34)
	}
	width, height = math.Floor(10*width)/10, math.Floor(10*height)/10 // as precise as coordinates
	if h.NoText {
		return width, height, false
	}
	widest = 0
	for _, cell := range cells {
		room := 8.
		if cell.Mark == Dot {
			room = 18 // the text may not touch the dot
		}
		widest = max(widest, textWidth(h.text(cell), cellText)+room)
	}
	if widest = math.Ceil(max(width, widest)); widest*columns > textsMost || height < 15 {
		return width, height, false
	}
	if len(h.Rows) == len(h.Columns) {
		height = min(widest, 34)
	}
	return widest, height, true
}

// stepOf returns the step of colour of a value.
func stepOf(s *scale, v float64) int {
	return max(0, min(len(heatTones)-1, int(math.Floor(s.at(v)+1e-9))))
}

// legend draws the scale of colours and the names of the marks.
func (h HeatMap) legend(c *canvas, s *scale, e extent) {
	var keys []key
	for _, mark := range []Mark{Frame, Dot} {
		if name := h.Marks[mark]; name != "" {
			keys = append(keys, key{name, func(c *canvas, x, y float64) {
				c.add(`<rect x="%v" y="%v" width="22" height="13" fill="none" stroke="%s"/>`, px(x-11), px(y-6), grid)
				c.mark(mark, x-11, y-6, 22, 13, "currentColor")
			}})
		}
	}
	c.legend(keys)
	if !e.any {
		return
	}
	const swatch = 24.
	c.y += lineHeight
	start := 2.
	if h.Unit != "" {
		start = min(textWidth(h.Unit, fontSize)+12, c.width-8*swatch-20)
		c.label(2, c.y-4, start-4, "", h.Unit)
	}
	for i := range heatTones {
		fill, _ := heat(i)
		c.add(`<path d="M%v %vh%vv12h-%[3]vz" fill="%s" stroke="%s"/>`, px(start+float64(i)*swatch), px(c.y-14), px(swatch), fill, grid)
	}
	c.y += 13
	ticks := *s
	ticks.from, ticks.to = start, start+swatch*float64(len(heatTones))
	end := math.Inf(-1)
	for i, name := range ticks.labels() {
		x, half := ticks.at(ticks.ticks[i]), textWidth(name, fontSize)/2
		if x-half > end+6 {
			c.text(x, c.y-2, `text-anchor="middle" fill="`+muted+`"`, name)
			end = x + half
		}
	}
	c.y += 2
}

// lines draws the edges of the cells. Cells that are too small for edges get a line after every
// tenth.
func (h HeatMap) lines(c *canvas, left, top, width, height float64) {
	columns, rows := len(h.Columns), len(h.Rows)
	if columns == 0 || rows == 0 {
		c.text(left, top+20, "", "No data")
		return
	}
	every := func(size float64) int {
		if size < 10 {
			return 10
		}
		return 1
	}
	right, bottom := left+float64(columns)*width, top+float64(rows)*height
	c.add(`<path d="M%v %vH%vV%vH%[1]vz`, px(left), px(top), px(right), px(bottom))
	for i := every(width); i < columns; i += every(width) {
		c.add("M%v %vV%v", px(left+float64(i)*width), px(top), px(bottom))
	}
	for i := every(height); i < rows; i += every(height) {
		c.add("M%v %vH%v", px(left), px(top+float64(i)*height), px(right))
	}
	c.add(`" fill="none" stroke="%s" pointer-events="none"/>`, grid)
}

// marks draws the marks and the texts of the cells, in the colours that contrast with the cells.
func (h HeatMap) marks(c *canvas, s *scale, cells []Cell, left, top, width, height float64, texts bool) {
	c.add(`<g pointer-events="none" text-anchor="middle" font-size="11">`)
	for step := range heatTones {
		_, ink := heat(step)
		var group canvas
		for _, cell := range cells {
			if stepOf(s, cell.Value) != step {
				continue
			}
			x, y := left+float64(cell.Column)*width, top+float64(cell.Row)*height
			group.mark(cell.Mark, x, y, width, height, ink)
			if text := h.text(cell); texts && text != "" {
				group.add(`<text x="%v" y="%v">%s</text>`, px(x+width/2), px(y+height/2+4), escape(text))
			}
		}
		if group.Len() > 0 {
			c.add(`<g fill="%s">%s</g>`, ink, group.String())
		}
	}
	c.add("</g>")
}

// mark draws a mark in a cell.
func (c *canvas) mark(mark Mark, x, y, width, height float64, ink string) {
	size := min(width, height)
	switch mark {
	case Frame:
		line := min(2.5, size/5)
		inset := line/2 + 1
		if size < 8 {
			inset = line / 2
		}
		c.add(`<rect x="%v" y="%v" width="%v" height="%v" fill="none" stroke="%s" stroke-width="%v"/>`,
			px(x+inset), px(y+inset), px(width-2*inset), px(height-2*inset), ink, px(line))
	case Dot:
		r := min(3, size/5)
		c.add(`<circle cx="%v" cy="%v" r="%v" fill="%s"/>`, px(x+width-r-2), px(y+r+2), px(r), ink)
	}
}

// text returns the text in a cell.
func (h HeatMap) text(cell Cell) string {
	if cell.Text != "" {
		return cell.Text
	}
	return short(cell.Value, h.Percent)
}

// hover returns the text that a cell shows.
func (h HeatMap) hover(cell Cell) string {
	if cell.Hover != "" {
		return cell.Hover
	}
	text := fmt.Sprintf("%s, %s: %s", h.Rows[cell.Row], h.Columns[cell.Column], value(cell.Value, h.Percent))
	if name := h.Marks[cell.Mark]; name != "" {
		text += ", " + name
	}
	return text
}

// summary returns sentences about the data.
func (h HeatMap) summary(cells []Cell) []string {
	sentences := []string{against("Heat map", h.Unit, "")}
	sentences = append(sentences, fmt.Sprintf("%s and %s, %s with a value.", plural(len(h.Rows), "row"), plural(len(h.Columns), "column"), plural(len(cells), "cell")))
	if len(cells) == 0 {
		return sentences
	}
	greatest, least := cells[0], cells[0]
	for _, cell := range cells {
		if cell.Value > greatest.Value {
			greatest = cell
		}
		if cell.Value < least.Value {
			least = cell
		}
	}
	at := func(cell Cell) string {
		return fmt.Sprintf("%s in row %s, column %s", value(cell.Value, h.Percent), h.Rows[cell.Row], h.Columns[cell.Column])
	}
	return append(sentences, fmt.Sprintf("Greatest: %s. Least: %s.", at(greatest), at(least)))
}
