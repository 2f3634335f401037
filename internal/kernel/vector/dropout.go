package vector

import "math"

// Dropout sets dst[i] = x[i]·m[i]. m[i] is scale if word i of [Philox] for key and counter is at
// least threshold, otherwise 0. So an element is dropped with the probability threshold/2^32. A
// dropped element becomes a zero with the sign of x[i], or NaN if x[i] is infinite or NaN. To
// process a part of a longer slice that starts at element 4b, add b to the counter. Speed for 1024
// elements or more: 2.6 to 2.7 elements per nanosecond, measured as for [Philox]
// (BenchmarkL1/Dropout).
func Dropout(dst, x []float32, scale float32, threshold uint32, key [2]uint32, counter [4]uint32) {
	x = x[:len(dst)]
	for len(dst) > 0 {
		n := untilCarry(len(dst), counter)
		keys, product := philoxKeys(key, counter)
		switch {
		case amd64 && level == avx512:
			dropoutAVX512(dst[:n], x, scale, threshold, &keys, product)
		case amd64 && level == avx2:
			dropoutAVX2(dst[:n], x, scale, threshold, &keys, product)
		case arm64 && level == neon:
			whole := n &^ 31
			dropoutNEON(dst[:whole], x, scale, threshold, key[0], key[1], counter[0], counter[1], counter[2], counter[3])
			dropoutGo(dst[whole:n], x[whole:], scale, threshold, key, [4]uint32{counter[0] + uint32(whole/4), counter[1], counter[2], counter[3]})
		default:
			dropoutGo(dst[:n], x, scale, threshold, key, counter)
		}
		dst, x = dst[n:], x[n:]
		counter[0], counter[1] = 0, counter[1]+1
	}
}

// dropoutGo does the same as [Dropout] if no addition to counter[0] carries.
func dropoutGo(dst, x []float32, scale float32, threshold uint32, key [2]uint32, counter [4]uint32) {
	c := counter[0]
	for ; len(dst) >= 4 && len(x) >= 4; dst, x, c = dst[4:], x[4:], c+1 {
		w0, w1, w2, w3 := philoxWords(key[0], key[1], c, counter[1], counter[2], counter[3])
		dst[0] = x[0] * kept(w0, scale, threshold)
		dst[1] = x[1] * kept(w1, scale, threshold)
		dst[2] = x[2] * kept(w2, scale, threshold)
		dst[3] = x[3] * kept(w3, scale, threshold)
	}
	if len(dst) == 0 {
		return
	}
	block := philoxBlock(key, [4]uint32{c, counter[1], counter[2], counter[3]})
	for i := range dst {
		dst[i] = x[i] * kept(block[i], scale, threshold)
	}
}

// kept returns scale if word is at least threshold, otherwise 0. It has no branch, which the
// processor could not predict.
func kept(word uint32, scale float32, threshold uint32) float32 {
	less := (uint64(word) - uint64(threshold)) >> 32 // 32 ones or zeros
	return math.Float32frombits(math.Float32bits(scale) &^ uint32(less))
}
