package peft

import "github.com/sptune/spt/backbone"

// Full returns the selection of full fine-tuning: every tensor of the backbone c, patch and
// position embedding included.
func Full(c backbone.Config) (s Selection) {
	for _, p := range c.Params() {
		if p.Role != backbone.Head {
			s.Whole = append(s.Whole, p.Name)
		}
	}
	return s
}

// Uniform returns the selection with a structured module of that rank on every matrix of every
// block: LoRA or Adapter without SPT. [New] reports an unknown module and an impossible rank.
func Uniform(c backbone.Config, module string, rank int) Selection {
	s := Selection{Module: module, Rank: rank}
	for _, p := range c.Params() {
		if p.Matrix() {
			s.Structured = append(s.Structured, p.Name)
		}
	}
	return s
}
