package vector

// eachLevel calls f with every version that this processor supports.
func eachLevel(f func()) {
	best := level
	defer func() { level = best }()
	for _, l := range []int{portable, avx2, avx512} {
		if l <= best {
			level = l
			f()
		}
	}
}
