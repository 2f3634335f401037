package bench

import (
	"runtime"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
)

// Peak measures the speed of multiply-adds in registers on all threads, in GFLOPS. It takes 0.3
// seconds.
func Peak() float64 { return peakGFLOPS(runtime.GOMAXPROCS(0), false) }

// Estimate returns about how many seconds the CPU backend takes for one image, without a
// measurement of the backbone: in a forward pass, and in a training step of LoRA of rank 8 on every
// matrix. The seconds are the least arithmetic divided by peak, which [Peak] returns, and by the
// share of the peak that such a backbone reaches.
//
// The shares are those of one processor (AMD EPYC, AVX-512); see shares. On another one, a step
// took up to 1.5 times as long (docs/benchmarks.md, Intel Xeon).
func Estimate(c backbone.Config, peak float64) (forward, step float64, err error) {
	of := shareOf(c)
	flop, err := work(c, peft.Selection{}, Forward, 1)
	if err != nil {
		return 0, 0, err
	}
	forward = flop / 1e9 / (peak * of.forward)
	row, err := method.Lookup(method.LoRA)
	if err != nil {
		return 0, 0, err
	}
	s, err := row.Select(c, method.Options{})
	if err != nil {
		return 0, 0, err
	}
	if flop, err = work(c, s, Method(method.LoRA), 1); err != nil {
		return 0, 0, err
	}
	return forward, flop / 1e9 / (peak * of.step), nil
}

// share holds the shares of the peak that a backbone reaches in forward passes and steps.
type share struct{ forward, step float64 }

// shareOf returns the shares that 'spt bench --batch 8' measures for backbones like c on the
// machine EPYC of docs/benchmarks.md.
func shareOf(c backbone.Config) share {
	switch form := c.Form.(type) {
	case backbone.ViT:
		switch {
		case form.EmbedDim >= 768:
			return share{0.90, 0.85}
		case form.EmbedDim >= 384:
			return share{0.87, 0.78}
		}
		return share{0.83, 0.71}
	case backbone.ConvNeXt:
		if form.EmbedDim < 64 { // measured while other programs ran
			return share{0.65, 0.55}
		}
	}
	return share{0.73, 0.70}
}
