//go:build !amd64

package vector

import "testing"

// eachLevel runs test with the only version there is.
func eachLevel(t *testing.T, test func(t *testing.T)) { t.Run(Level(), test) }
