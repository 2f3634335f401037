package vector

// eachLevel calls f with the portable version and with NEON.
func eachLevel(f func()) {
	defer func() { level = neon }()
	for _, level = range []int{portable, neon} {
		f()
	}
}
