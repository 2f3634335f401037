package backbone

import "regexp"

var inBlock = regexp.MustCompile(`^((?:.*\.)?blocks\.[0-9]+)\.(.+)$`)

// Block returns the name of the residual block to which a tensor belongs: "blocks.3" for
// "blocks.3.attn.q.weight", "stages.1.blocks.0" for "stages.1.blocks.0.gamma". It returns an empty
// name for a tensor outside the blocks.
func Block(tensor string) string {
	m := inBlock.FindStringSubmatch(tensor)
	if m == nil {
		return ""
	}
	return m[1]
}
