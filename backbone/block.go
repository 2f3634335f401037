package backbone

import "regexp"

// inBlock matches the name of a tensor in a residual block. Its first group is the name of the
// block.
var inBlock = regexp.MustCompile(`^((?:.*\.)?blocks\.[0-9]+)\.(.+)$`)

// Block returns the name of the residual block that a tensor belongs to: "blocks.3" for
// "blocks.3.attn.q.weight", "stages.1.blocks.0" for "stages.1.blocks.0.gamma". It returns an empty
// string for a tensor outside the blocks.
func Block(tensor string) string {
	m := inBlock.FindStringSubmatch(tensor)
	if m == nil {
		return ""
	}
	return m[1]
}
