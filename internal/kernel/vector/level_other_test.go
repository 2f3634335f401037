//go:build !amd64 && !arm64

package vector

// eachLevel calls f once, because there is only the portable version.
func eachLevel(f func()) { f() }
