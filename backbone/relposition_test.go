package backbone

import (
	"fmt"
	"math"
	"testing"

	"github.com/sptune/spt/internal/fixtures"
)

// TestResizeTable compares resizeTable with timm's resize_rel_pos_bias_table.
func TestResizeTable(t *testing.T) {
	f := fixtures.File(t, "swin/sizes.safetensors")
	tested := 0
	for from := 1; from <= 12; from++ {
		table, err := f.Float32(fmt.Sprint("table.", from))
		if err != nil {
			continue
		}
		for to := 1; to <= 16; to++ {
			want, err := f.Float32(fmt.Sprintf("table.%d.%d", from, to))
			if err != nil {
				continue
			}
			tested++
			worst := 0.0
			for i, v := range resizeTable(table, from, to).Data {
				worst = max(worst, math.Abs(float64(v-want.Data[i])))
			}
			if worst > 1e-4 {
				t.Errorf("%d → %d: differs by %.2g, expected at most 1e-4", from, to, worst)
			}
		}
	}
	if tested != 11 {
		t.Errorf("%d tables compared", tested)
	}
}
