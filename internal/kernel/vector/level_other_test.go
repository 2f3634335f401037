//go:build !amd64

package vector

// eachLevel calls f with the only version there is.
func eachLevel(f func()) { f() }
