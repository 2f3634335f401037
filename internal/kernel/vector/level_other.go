//go:build !amd64 && !arm64

package vector

// The instruction sets of this architecture. The constants let the compiler omit calls of assembly
// that does not exist.
const (
	amd64 = false
	arm64 = false
)

// level is the instruction set in use.
const level = portable
