package gemm

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/cpu"
)

// bf16Found reports whether calls with BF16 can use the tiles of AMX-BF16 instead of the vector
// registers of AVX512-BF16. If the processor has neither, the error says what is missing. The first
// call asks Linux for the permission to use the tiles.
var bf16Found = sync.OnceValues(func() (tiles bool, err error) {
	x := &cpu.X86
	var missing []string
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"AVX512-BF16", x.HasAVX512BF16}, {"AVX-512", x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL}, {"BMI2", x.HasBMI2},
	} {
		if !f.has {
			missing = append(missing, f.name)
		}
	}
	if len(missing) > 0 {
		return false, fmt.Errorf("this processor lacks %s", strings.Join(missing, ", "))
	}
	return x.HasAMXTile && x.HasAMXBF16 && allowTiles() == nil, nil
})

// SupportsBF16 returns nil if this processor can compute products with BF16, and otherwise an error
// that says what is missing.
func SupportsBF16() error {
	_, err := bf16Found()
	return err
}

// withoutTiles makes all calls use the vector registers. Tests set it.
var withoutTiles bool

// usesTiles reports whether calls use the tiles.
func usesTiles() bool {
	tiles, _ := bf16Found()
	return tiles && !withoutTiles
}

// compute computes the strip.
func (t *strip) compute() {
	if usesTiles() {
		stripAMX(t)
	} else {
		stripDP(t)
	}
}

// peakBF16 runs a loop of independent products of bfloat16 numbers. It returns the number of its
// floating-point operations.
func peakBF16() int {
	const rounds = 2000
	if usesTiles() {
		peakAMX(rounds)
		return rounds * 4 * 2 * 16 * 16 * tileDepth
	}
	peakDP(4 * rounds)
	return 4 * rounds * 16 * 2 * 32
}

// BF16Kernel returns the name of the kernel of calls with BF16 and the size of its blocks, rows ×
// columns.
func BF16Kernel() string {
	if usesTiles() {
		return "amx-bf16 32x32"
	}
	return "avx512-bf16 12x32"
}
