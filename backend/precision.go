package backend

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/gomlx/compute/dtypes"

	"github.com/sptune/spt/backend/cpu"
	"github.com/sptune/spt/internal/option"
)

// Precision selects the number type of the frozen matrices and the activations of a network. The
// zero value means [F32]. With BF16, a GPU also stores them in bfloat16. The processor stores
// float32 and rounds the operands of matrix products. With every precision, the tuned parameters,
// their gradients, the optimiser state, the statistics of norms, softmax and the loss are float32.
type Precision string

// The known precisions. An empty Precision means F32.
const (
	F32  Precision = "f32"  // everything is float32
	BF16 Precision = "bf16" // frozen matrices and activations are bfloat16 in products
)

// Validate returns an error if p is not a known precision.
func (p Precision) Validate() error {
	switch p {
	case "", F32, BF16:
		return nil
	}
	return option.Unknown("precision", "precision", p, []Precision{F32, BF16})
}

// DType returns the GoMLX type of frozen matrices and activations in graphs for be. A processor
// that [OpenIn] opened with BF16 rounds the operands of products itself, so its graphs are float32.
func (p Precision) DType(be Backend) dtypes.DType {
	if p == BF16 && !cpu.IsBF16(be) {
		return dtypes.BFloat16
	}
	return dtypes.Float32
}

// DefaultPrecision returns BF16 if be runs on a GPU that supports bfloat16, and F32 otherwise.
func DefaultPrecision(be Backend) Precision {
	if !OnDevice(be) || len(gpus()) == 0 {
		return F32
	}
	gpu := gpus()[0] // a plug-in opened by its path runs on the first GPU
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

// beforeAmpere matches the names of NVIDIA GPUs with a compute capability below 8. These GPUs do
// not support bfloat16.
var beforeAmpere = regexp.MustCompile(`\b([KMP][0-9]+|V100|GV100|T4|T[0-9]{3,4}|MX[0-9]+|GTX|Quadro RTX|RTX 20[0-9]+|TITAN|Titan)\b`)

// TimedPrecision returns the precision of a run with a time limit for which the user gave none:
// BF16 if the device is a processor that has it, which fits more training steps into the time.
// Otherwise it returns "", which stands for DefaultPrecision. device is a name as for [OpenIn].
func TimedPrecision(device string) Precision {
	if (device == "cpu" || (device == "" || device == Auto) && len(gpus()) == 0) && cpu.SupportsBF16() == nil {
		return BF16
	}
	return ""
}
