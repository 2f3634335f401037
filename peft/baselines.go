package peft

import "github.com/sptune/spt/backbone"

// Full returns the selection of full fine-tuning: all tensors of the backbone c, including the
// patch embedding and the position embedding.
func Full(c backbone.Config) (s Selection) {
	for _, p := range c.Params() {
		if p.Role != backbone.Head {
			s.Whole = append(s.Whole, p.Name)
		}
	}
	return s
}

// Uniform returns a selection with one structured module on each matrix of each block. With "lora"
// or "adapter" this is the method of the same name without SPT. module is a registered name.
// Uniform does not check module and rank; [New] does.
func Uniform(c backbone.Config, module string, rank int) Selection {
	s := Selection{Module: module, Rank: rank}
	for _, p := range c.Params() {
		if p.Matrix() {
			s.Structured = append(s.Structured, p.Name)
		}
	}
	return s
}
