package vector

// Transpose sets dst[j*ldd+i] = src[i*lds+j] for i < rows and j < cols. src is a matrix
// [rows, cols] with lds elements from row to row. dst is a matrix [cols, rows] with ldd elements
// from row to row. dst and src must not overlap.
func Transpose(dst []float32, ldd int, src []float32, lds int, rows, cols int) {
	if rows <= 0 || cols <= 0 {
		return
	}
	dst, src = dst[:(cols-1)*ldd+rows], src[:(rows-1)*lds+cols]
	// 16 rows of src fill one cache line of dst. The lines for 64 columns stay in the first-level
	// cache.
	const tileRows, tileCols = 16, 64
	for i := 0; i < rows; i += tileRows {
		for j := 0; j < cols; j += tileCols {
			transposeTile(dst[j*ldd+i:], ldd, src[i*lds+j:], lds, min(tileRows, rows-i), min(tileCols, cols-j))
		}
	}
}

// transposeTile does the same as Transpose for a tile that stays in the first-level cache.
func transposeTile(dst []float32, ldd int, src []float32, lds int, rows, cols int) {
	i, whole := 0, 0 // the assembly has transposed whole columns of the first i rows
	switch {
	case amd64 && level != portable && cols >= 8:
		whole = cols &^ 7
		for ; i+8 <= rows; i += 8 {
			transpose8(dst[i:], ldd, src[i*lds:], lds, whole/8)
		}
	case arm64 && level == neon && cols >= 4:
		whole = cols &^ 3
		for ; i+4 <= rows; i += 4 {
			transpose4NEON(dst[i:], 4*ldd, &src[i*lds], 4*lds, whole/4)
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
