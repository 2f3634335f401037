package vector

// The instruction sets of this architecture. The constants let the compiler omit calls of assembly
// that does not exist.
const (
	amd64 = false
	arm64 = true
)

// level is the instruction set in use. Every arm64 processor has NEON. Only tests change it.
var level = neon
