package vector

import "golang.org/x/sys/cpu"

//go:generate go run ./asm -out vector_amd64.s -stubs stubs.go -pkg vector

// The instruction sets of this architecture. The constants let the compiler omit calls of assembly
// that does not exist.
const (
	amd64 = true
	arm64 = false
)

// level is the instruction set in use. Only tests change it.
var level = detect()

// detect returns the best instruction set of the processor.
func detect() int {
	x := &cpu.X86
	switch {
	case !x.HasAVX2 || !x.HasFMA || !x.HasF16C || !x.HasBMI2:
		return portable
	case !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL:
		return avx2
	}
	return avx512
}
