package report

import (
	"cmp"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/report/chart"
	"github.com/sptune/spt/sensitivity"
)

// tunedCell counts the tuned parameters of an operation of a block, by the way in which they are
// tuned.
type tunedCell struct {
	structured, whole, entries int
	tensors                    []string // tensors with tuned parameters, as the hover names them
}

func (c tunedCell) total() int { return c.structured + c.whole + c.entries }

// tunedMap is a table of the tuned parameters: block × operation.
type tunedMap struct {
	blocks, operations []string
	cells              map[[2]string]*tunedCell
}

// cell returns the cell of a block and an operation. It adds them to the map if they are new.
func (m *tunedMap) cell(block, operation string) *tunedCell {
	if !slices.Contains(m.blocks, block) {
		m.blocks = append(m.blocks, block)
	}
	if !slices.Contains(m.operations, operation) {
		m.operations = append(m.operations, operation)
	}
	key := [2]string{block, operation}
	if m.cells[key] == nil {
		m.cells[key] = &tunedCell{}
	}
	return m.cells[key]
}

// newTunedMap returns the map of a selection. It has all blocks and operations of the backbone, so
// that the maps of two runs can be compared. The head is not in it.
func newTunedMap(t *peft.Tuning) *tunedMap {
	m := &tunedMap{cells: map[[2]string]*tunedCell{}}
	tensors := map[string]sensitivity.Tensor{}
	for _, s := range sensitivity.Tensors(t.Config) {
		tensors[s.Name] = s
		block, operation := s.Place()
		m.cell(block, operation)
	}
	own := map[string]backbone.Param{}
	for _, p := range t.Config.Params() {
		own[p.Name] = p
	}
	for _, p := range t.Params {
		if p.Head {
			continue
		}
		name, sparse := strings.CutSuffix(p.Name, peft.SparseValues(""))
		block, operation := placeOf(name, tensors)
		c := m.cell(block, operation)
		_, whole := own[name]
		switch {
		case sparse:
			c.entries += p.Size()
			c.tensors = append(c.tensors, fmt.Sprintf("%d entries of %s", p.Size(), name))
		case whole:
			c.whole += p.Size()
			c.tensors = append(c.tensors, fmt.Sprintf("%s whole, %d", name, p.Size()))
		default:
			c.structured += p.Size()
			c.tensors = append(c.tensors, fmt.Sprintf("%s, %d", name, p.Size()))
		}
	}
	m.order(sensitivity.Tensors(t.Config))
	return m
}

// placeOf returns the block and the operation of a tuned tensor: those of the scored tensor with
// this name, or those of the layer that a module is on. tensors holds the scored tensors.
func placeOf(name string, tensors map[string]sensitivity.Tensor) (block, operation string) {
	if t, ok := tensors[name]; ok {
		return t.Place()
	}
	layer := name
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 {
		layer = name[:dot]
	}
	if t, ok := tensors[layer+".weight"]; ok {
		return t.Place()
	}
	block = backbone.Block(name)
	return cmp.Or(block, "outside the blocks"), layer[strings.LastIndexByte(layer, '.')+1:]
}

// order sorts the operations: those of matrices first, because they hold most of the parameters.
// tensors are the scored tensors.
func (m *tunedMap) order(tensors []sensitivity.Tensor) {
	matrix := map[string]bool{}
	for _, t := range tensors {
		if _, operation := t.Place(); len(t.Shape) > 1 {
			matrix[operation] = true
		}
	}
	slices.SortStableFunc(m.operations, func(a, b string) int {
		switch {
		case matrix[a] == matrix[b]:
			return 0
		case matrix[a]:
			return -1
		}
		return 1
	})
}

// tunedChart returns the map of the tuned parameters.
func tunedChart(t *peft.Tuning) template.HTML {
	m := newTunedMap(t)
	c := chart.HeatMap{Title: "Tuned parameters", XLabel: "Operation", YLabel: "Block", Unit: "Tuned parameters", Rows: m.blocks, Columns: m.operations,
		Description: fmt.Sprintf("Map of %d tuned parameters: %d in modules, %d in tensors that are tuned whole, %d single entries.", t.Counts.Tuned(), t.Counts.Structured, t.Counts.Whole, t.Counts.Entries)}
	c.Marks = map[chart.Mark]string{}
	for key, cell := range m.cells {
		if cell.total() == 0 {
			continue
		}
		mark := chart.NoMark
		switch {
		case cell.structured > 0:
			mark = chart.Frame
			c.Marks[mark] = "module"
		case cell.whole > 0:
			mark = chart.Dot
			c.Marks[mark] = "tensor tuned whole"
		}
		c.Cells = append(c.Cells, chart.Cell{Row: slices.Index(m.blocks, key[0]), Column: slices.Index(m.operations, key[1]), Value: float64(cell.total()),
			Text: fmt.Sprint(cell.total()), Mark: mark, Hover: fmt.Sprintf("%s, %s: %d tuned parameters\n%s", key[0], key[1], cell.total(), strings.Join(cell.tensors, "\n"))})
	}
	sortCells(c.Cells)
	return c.SVG()
}

// sensitivityChart returns the map of the most sensitive weights: figure 5 of the paper.
func sensitivityChart(p *plan.Plan, c backbone.Config) template.HTML {
	m := &tunedMap{cells: map[[2]string]*tunedCell{}}
	sizes, total := map[[2]string]int{}, 0
	for _, t := range sensitivity.Tensors(c) {
		block, operation := t.Place()
		cell := m.cell(block, operation)
		size := 1
		for _, d := range t.Shape {
			size *= d
		}
		sizes[[2]string{block, operation}] += size
		n := p.Sensitive[t.Name]
		cell.entries += n
		total += n
	}
	m.order(sensitivity.Tensors(c))
	h := chart.HeatMap{Title: "Most sensitive weights", XLabel: "Operation", YLabel: "Block", Unit: "Most sensitive weights", Rows: m.blocks, Columns: m.operations, Log: true,
		Description: fmt.Sprintf("Map of the %d weights with the highest sensitivity of the backbone.", total)}
	for key, cell := range m.cells {
		if cell.entries > 0 {
			h.Cells = append(h.Cells, chart.Cell{Row: slices.Index(m.blocks, key[0]), Column: slices.Index(m.operations, key[1]), Value: float64(cell.entries), Text: fmt.Sprint(cell.entries),
				Hover: fmt.Sprintf("%s, %s: %d of the %d most sensitive weights (%s), %s of its %d weights", key[0], key[1], cell.entries, total, wording.Percent(float64(cell.entries)/float64(total)), wording.Percent(float64(cell.entries)/float64(sizes[key])), sizes[key])})
		}
	}
	sortCells(h.Cells)
	return h.SVG()
}

// sortCells puts cells in the order of the rows, because maps have no order.
func sortCells(cells []chart.Cell) {
	slices.SortFunc(cells, func(a, b chart.Cell) int {
		return cmp.Or(cmp.Compare(a.Row, b.Row), cmp.Compare(a.Column, b.Column))
	})
}
