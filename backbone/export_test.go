package backbone

// The following are for the tests of package backbone_test.
var (
	ResizePosEmbed = resizePosEmbed
	AllNamings     = namings
)
