package depthwise

import "unsafe"

// sum describes the terms that a tile adds for each of its pixels: rows of width taps, or rows of
// width pixels in a gradient. The first cut taps of each row form runs. The other taps are single.
// The weights of all runs, [rows, cut, lanes], come before the weights of all single taps,
// [rows, width − cut, lanes].
type sum struct {
	kn            *kernel
	width, cut    int
	runs, singles []int  // offsets in bytes at which runs and single taps read
	most          [2]int // largest number of columns of a tile with one row, and with two rows
}

// sum returns the sum of rows × width taps. In the padded input, the taps are rowStep positions
// apart vertically and step positions horizontally.
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

// gather copies one row of weights from src to row i of w, which has the given number of rows. The
// weights in src are step float32s apart.
func (s *sum) gather(w []float32, rows, i int, src []float32, step, channels int) {
	lanes := s.kn.lanes
	if s.cut > 0 {
		s.kn.gather(&w[i*s.cut*lanes], 4*lanes, &src[0], 4*step, channels, s.cut)
	}
	if rest := s.width - s.cut; rest > 0 {
		s.kn.gather(&w[(rows*s.cut+i*rest)*lanes], 4*lanes, &src[s.cut*step], 4*step, channels, rest)
	}
}

// tileRows returns the number of rows of the next tile, 1 or 2. left is the number of remaining
// rows, and cols the number of columns of the tile.
func (s *sum) tileRows(left, cols int) int {
	if left > 1 && cols <= s.most[1] {
		return 2
	}
	return 1
}

// add computes the tile t with the rows i to i+n-1 of the weights w. rows is the number of rows of
// w.
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
