package gemm

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/cpu"
)

// SupportsBF16 returns nil if this processor can compute products with BF16, and otherwise an error
// that says what is missing. The first call asks Linux for the permission to use the tiles.
func SupportsBF16() error { return tilesAllowed() }

// tilesAllowed implements SupportsBF16.
var tilesAllowed = sync.OnceValue(func() error {
	x := &cpu.X86
	var missing []string
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"AMX-TILE", x.HasAMXTile}, {"AMX-BF16", x.HasAMXBF16}, {"AVX512-BF16", x.HasAVX512BF16},
		{"AVX-512", x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL}, {"BMI2", x.HasBMI2},
	} {
		if !f.has {
			missing = append(missing, f.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("this processor lacks %s", strings.Join(missing, ", "))
	}
	if err := allowTiles(); err != nil {
		return fmt.Errorf("this processor has AMX-BF16, but the operating system does not let programs use it: %w", err)
	}
	return nil
})
