package vector

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
		switch level {
		case avx512:
			dropoutAVX512(dst[:n], x, scale, threshold, &keys, product)
		case avx2:
			dropoutAVX2(dst[:n], x, scale, threshold, &keys, product)
		default:
			for i := 0; i < n; i += 4 {
				block := philoxBlock(key, [4]uint32{counter[0] + uint32(i/4), counter[1], counter[2], counter[3]})
				for j, v := range x[i:min(i+4, n)] {
					m := float32(0)
					if block[j] >= threshold {
						m = scale
					}
					dst[i+j] = v * m
				}
			}
		}
		dst, x = dst[n:], x[n:]
		counter[0], counter[1] = 0, counter[1]+1
	}
}
