package backbone

// ResizePosEmbed is for the tests of package backbone_test.
var ResizePosEmbed = resizePosEmbed
