package depthwise

import "unsafe"

// sum is what a tile adds up for each of its pixels: rows of width taps, or of
// pixels in a gradient. The first cut of each row come in runs. Weights lie as
// [rows, cut, lanes], then [rows, width − cut, lanes].
type sum struct {
	kn            *kernel
	width, cut    int
	runs, singles []int  // where they read, in bytes
	most          [2]int // columns of a tile of one row, of two rows
}

// sum describes rows × width taps that stand rowStep and step positions of the
// padded input apart.
func (p *packing) sum(rows, width, rowStep, step int) *sum {
	s := &sum{kn: p.kn, width: width, most: p.kn.cols}
	if step == p.steps && width >= run {
		s.cut = width / run * run
		s.most = p.kn.runCols
	}
	for i := range rows {
		for j := range width {
			at := 4 * p.kn.lanes * (i*rowStep*p.row + p.column(j*step))
			if j >= s.cut {
				s.singles = append(s.singles, at)
			} else if j%run == 0 {
				s.runs = append(s.runs, at)
			}
		}
	}
	return s
}

// gather brings one row of weights, step floats apart, to where w has row i of
// rows.
func (s *sum) gather(w []float32, rows, i int, src []float32, step, channels int) {
	lanes := s.kn.lanes
	if s.cut > 0 {
		s.kn.gather(&w[i*s.cut*lanes], 4*lanes, &src[0], 4*step, channels, s.cut)
	}
	if rest := s.width - s.cut; rest > 0 {
		s.kn.gather(&w[(rows*s.cut+i*rest)*lanes], 4*lanes, &src[s.cut*step], 4*step, channels, rest)
	}
}

// tileRows is how many of the rows left a tile of so many columns takes.
func (s *sum) tileRows(left, cols int) int {
	if left > 1 && cols <= s.most[1] {
		return 2
	}
	return 1
}

// add computes a tile with n rows of weights from the i-th on, of rows.
func (s *sum) add(t *tile, w []float32, rows, i, n int) {
	lanes, rest := s.kn.lanes, s.width-s.cut
	if s.cut > 0 {
		t.kernel, t.offsets, t.taps = unsafe.Pointer(&w[i*s.cut*lanes]), unsafe.Pointer(&s.runs[0]), n*s.cut/run
		s.kn.runs(t)
	}
	if rest > 0 {
		add := t.add
		if s.cut > 0 {
			t.add = 1
		}
		t.kernel, t.offsets, t.taps = unsafe.Pointer(&w[(rows*s.cut+i*rest)*lanes]), unsafe.Pointer(&s.singles[0]), n*rest
		s.kn.tile(t)
		t.add = add
	}
}
