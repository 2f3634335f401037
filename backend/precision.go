package backend

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/gomlx/compute/dtypes"
)

// Precision is the type in which a network computes. With every precision, the tuned parameters,
// their gradients, the optimiser, the statistics of norms, softmax and the loss are float32.
type Precision string

// The known precisions. An empty Precision means F32.
const (
	F32  Precision = "f32"  // everything is float32
	BF16 Precision = "bf16" // frozen matrices and activations are bfloat16
)

// Validate returns an error if p is not a known precision.
func (p Precision) Validate() error {
	switch p {
	case "", F32, BF16:
		return nil
	}
	return fmt.Errorf("precision %q is unknown; known: %s, %s", string(p), F32, BF16)
}

// DType returns the type of frozen matrices and of activations.
func (p Precision) DType() dtypes.DType {
	if p == BF16 {
		return dtypes.BFloat16
	}
	return dtypes.Float32
}

// DefaultPrecision returns BF16 for a GPU that computes in bfloat16, otherwise F32.
func DefaultPrecision(be Backend) Precision {
	if !OnDevice(be) || len(gpus()) == 0 {
		return F32
	}
	gpu := gpus()[0] // of a plug-in that was given by its path
	if text, ok := strings.CutPrefix(NameOf(be), "cuda:"); ok {
		if n, err := strconv.Atoi(text); err == nil && n < len(gpus()) {
			gpu = gpus()[n]
		}
	}
	if beforeAmpere.MatchString(gpu) {
		return F32
	}
	return BF16
}

// beforeAmpere matches the names of NVIDIA GPUs with a compute capability below 8, which have no
// bfloat16.
var beforeAmpere = regexp.MustCompile(`\b([KMP][0-9]+|V100|GV100|T4|T[0-9]{3,4}|MX[0-9]+|GTX|Quadro RTX|RTX 20[0-9]+|TITAN|Titan)\b`)
