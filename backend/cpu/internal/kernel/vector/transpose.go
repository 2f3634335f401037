package vector

// Transpose sets dst[j*ldd+i] = src[i*lds+j] for i < rows and j < cols: src is
// a rows x cols matrix with rows lds apart, dst a cols x rows matrix with rows
// ldd apart. dst and src must not overlap.
func Transpose(dst []float32, ldd int, src []float32, lds int, rows, cols int) {
	if rows <= 0 || cols <= 0 {
		return
	}
	dst, src = dst[:(cols-1)*ldd+rows], src[:(rows-1)*lds+cols]
	// a tile's rows and columns stay in L1 while the other side walks over them
	const tile = 32
	for i0 := 0; i0 < rows; i0 += tile {
		for j0 := 0; j0 < cols; j0 += tile {
			transposeTile(dst[j0*ldd+i0:], ldd, src[i0*lds+j0:], lds, min(tile, rows-i0), min(tile, cols-j0))
		}
	}
}

func transposeTile(dst []float32, ldd int, src []float32, lds int, rows, cols int) {
	i, whole := 0, 0 // rows done; columns done in them
	if level != portable && cols >= 8 {
		whole = cols &^ 7
		for ; i+8 <= rows; i += 8 {
			transpose8(dst[i:], ldd, src[i*lds:], lds, whole/8)
		}
	}
	for r := range rows {
		first := 0
		if r < i {
			first = whole
		}
		for j := first; j < cols; j++ {
			dst[j*ldd+r] = src[r*lds+j]
		}
	}
}
