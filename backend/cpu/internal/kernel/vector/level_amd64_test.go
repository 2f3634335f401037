package vector

import "testing"

// eachLevel runs test with every version that this processor has.
func eachLevel(t *testing.T, test func(t *testing.T)) {
	best := level
	defer func() { level = best }()
	for level = portable; level <= best; level++ {
		t.Run(Level(), test)
	}
}
