package vector

// eachLevel calls f with every version that this processor supports.
func eachLevel(f func()) {
	best := level
	defer func() { level = best }()
	for level = portable; level <= best; level++ {
		f()
	}
}
