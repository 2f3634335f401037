package train_test

import (
	"testing"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/backend"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/program"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/train"
)

// BenchmarkStep measures the time of a training step with LoRA on every matrix, and of a forward
// pass. The weights are synthetic.
func BenchmarkStep(b *testing.B) {
	for name, c := range map[string]backbone.Config{
		"demo": {ImageSize: 32, NumClasses: 10, NumHeads: 4, LayerNormEps: 1e-6,
			Form: backbone.ViT{PatchSize: 8, EmbedDim: 128, Depth: 6, HiddenDim: 512}},
		"tiny": {ImageSize: 224, NumClasses: 100, NumHeads: 3, LayerNormEps: 1e-6,
			Form: backbone.ViT{PatchSize: 16, EmbedDim: 192, Depth: 12, HiddenDim: 768}},
	} {
		batch := 64
		if name == "tiny" {
			batch = 8
		}
		be, _, err := backend.Open("cpu", 1)
		if err != nil {
			b.Fatal(err)
		}
		weights := checkpoint.StateDict{}
		for _, p := range c.Params() {
			w := checkpoint.NewTensor(p.Shape...)
			for i := range w.Data {
				w.Data[i] = float32(i%17)/170 - 0.05
			}
			weights[p.Name] = w
		}
		m := backbone.NewModel(c, backbone.Preprocessing{Std: [3]float32{1, 1, 1}}, weights)
		tuning, err := peft.New(c, peft.Uniform(c, "lora", 8))
		if err != nil {
			b.Fatal(err)
		}
		tuned := tuning.Init(0, peft.PaperScheme, weights)
		x, err := program.Tensor(be, make([]uint8, batch*c.ImageSize*c.ImageSize*3), batch, c.ImageSize, c.ImageSize, 3)
		if err != nil {
			b.Fatal(err)
		}
		y, err := program.Tensor(be, make([]int32, batch), batch)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/step", func(b *testing.B) {
			s, err := train.NewStepper(be, m, objective.SingleLabel, tuning, tuned, train.StepOptions{Rates: peft.Rates{DropPath: 0.1, Dropout: 0.1, ModuleDropPath: 0.1}, WeightDecay: 1e-4})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			for b.Loop() {
				if _, _, err := s.Step(b.Context(), x, y, 1e-3, 0); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(batch*b.N)/b.Elapsed().Seconds(), "img/s")
		})
		b.Run(name+"/forward", func(b *testing.B) {
			p, err := train.NewPredictor(be, m, objective.SingleLabel, tuning, tuned)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			for b.Loop() {
				if _, err := p.Logits(b.Context(), x); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(batch*b.N)/b.Elapsed().Seconds(), "img/s")
		})
	}
}
