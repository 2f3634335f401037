package vector

// Dropout sets dst[i] = x[i]*m[i] with the m of [DropoutMask], without writing
// m. So a dropped element becomes a zero of the sign of x[i], or NaN where x[i]
// is infinite or NaN. Rate: see BenchmarkL1/Dropout; 2.6 to 2.7 elements a
// nanosecond from 1024 elements on, where [Philox] has its rate.
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
			var m [4]float32
			for i := 0; i < n; i += 4 {
				maskBlock(&m, scale, threshold, key, counter, i/4)
				for j, v := range x[i:min(i+4, n)] {
					dst[i+j] = v * m[j]
				}
			}
		}
		dst, x = dst[n:], x[n:]
		counter[0], counter[1] = 0, counter[1]+1
	}
}

// DropoutMask sets dst[i] to scale where word i of [Philox] for key and counter
// is at least threshold, and to 0 elsewhere: an element is dropped with
// probability threshold/2^32. A piece of a longer slice that begins at element
// 4b takes counter+b.
func DropoutMask(dst []float32, scale float32, threshold uint32, key [2]uint32, counter [4]uint32) {
	for len(dst) > 0 {
		part := dst[:untilCarry(len(dst), counter)]
		keys, product := philoxKeys(key, counter)
		switch level {
		case avx512:
			dropoutMaskAVX512(part, scale, threshold, &keys, product)
		case avx2:
			dropoutMaskAVX2(part, scale, threshold, &keys, product)
		default:
			var m [4]float32
			for i := 0; i < len(part); i += 4 {
				maskBlock(&m, scale, threshold, key, counter, i/4)
				copy(part[i:], m[:])
			}
		}
		dst = dst[len(part):]
		counter[0], counter[1] = 0, counter[1]+1
	}
}

// maskBlock is [DropoutMask] for the block of counter+b, where counter[0]+b
// does not overflow.
func maskBlock(m *[4]float32, scale float32, threshold uint32, key [2]uint32, counter [4]uint32, b int) {
	counter[0] += uint32(b)
	for j, word := range philoxBlock(key, counter) {
		m[j] = 0
		if word >= threshold {
			m[j] = scale
		}
	}
}
