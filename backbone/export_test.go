package backbone

// These names are exported for the tests of package backbone_test.
var (
	ResizePosEmbed = resizePosEmbed
	AllNamings     = namings
)
