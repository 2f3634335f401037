package gemm

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/cpu"
)

// bf16Unit is a unit of the processor that multiplies bfloat16 numbers.
type bf16Unit int

const (
	noUnit   bf16Unit = iota
	tileUnit          // the tiles of AMX-BF16
	dotUnit           // the vector registers of AVX512-BF16
)

// bf16Found returns the unit that calls with BF16 use, and an error that says what is missing if
// there is none. The first call asks Linux for the permission to use the tiles.
var bf16Found = sync.OnceValues(func() (bf16Unit, error) {
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
	switch {
	case len(missing) > 0:
		return noUnit, fmt.Errorf("this processor lacks %s", strings.Join(missing, ", "))
	case x.HasAMXTile && x.HasAMXBF16 && allowTiles() == nil:
		return tileUnit, nil
	}
	return dotUnit, nil
})

// SupportsBF16 returns nil if this processor can compute products with BF16, and otherwise an error
// that says what is missing.
func SupportsBF16() error {
	_, err := bf16Found()
	return err
}

// withoutTiles makes all calls use the vector registers. Tests set it.
var withoutTiles bool

// unit returns the unit that calls use.
func unit() bf16Unit {
	u, _ := bf16Found()
	if withoutTiles && u == tileUnit {
		return dotUnit
	}
	return u
}

// compute computes the strip.
func (t *strip) compute() {
	if unit() == tileUnit {
		stripAMX(t)
	} else {
		stripDP(t)
	}
}

// peakBF16 runs a loop of independent products of bfloat16 numbers. It returns the number of its
// floating-point operations.
func peakBF16() int {
	const rounds = 2000
	if unit() == tileUnit {
		peakAMX(rounds)
		return rounds * 4 * 2 * 16 * 16 * tileDepth
	}
	peakDP(4 * rounds)
	return 4 * rounds * 16 * 2 * 32
}

// BF16Kernel returns the name of the kernel of calls with BF16 and the size of its blocks, rows ×
// columns.
func BF16Kernel() string {
	if unit() == tileUnit {
		return "amx-bf16 32x32"
	}
	return "avx512-bf16 12x32"
}
