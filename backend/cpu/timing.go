package cpu

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gomlx/compute"
)

// Timing holds the total time of all runs of the steps with the same Kind and Detail. If several
// programs run at the same time, each gets an equal part of the time, so the sum of all timings is
// the elapsed time.
type Timing struct {
	// Kind is the kind of the steps, for example "matrix products", "attention" or "element-wise".
	Kind string
	// Detail is the operation of the steps, with shapes.
	Detail string
	// Calls is the number of runs.
	Calls int
	// Seconds is the total time of the runs, in seconds.
	Seconds float64
}

// timings collects the times of steps while measuring is on.
type timings struct {
	mu sync.Mutex
	of map[[2]string]*Timing // by kind and detail; nil: measuring is off
}

// TimeSteps starts to measure every step of every program on be. Measuring adds about a microsecond
// to each step. The function stop ends the measurement and returns the timings, the longest first.
// If be is not a backend of this package, TimeSteps measures nothing and stop returns nil.
func TimeSteps(be compute.Backend) (stop func() []Timing) {
	b, ok := be.(*backend)
	if !ok {
		return func() []Timing { return nil }
	}
	b.startTimings()
	return b.stopTimings
}

// startTimings starts to measure every step.
func (b *backend) startTimings() {
	b.timings.mu.Lock()
	defer b.timings.mu.Unlock()
	b.timings.of = map[[2]string]*Timing{}
}

// stopTimings stops measuring and returns the timings since startTimings, the longest first.
func (b *backend) stopTimings() (out []Timing) {
	b.timings.mu.Lock()
	defer b.timings.mu.Unlock()
	for _, t := range b.timings.of {
		out = append(out, *t)
	}
	b.timings.of = nil
	slices.SortFunc(out, func(a, b Timing) int {
		if a.Seconds != b.Seconds {
			return -int(1e9 * (a.Seconds - b.Seconds))
		}
		return strings.Compare(a.Detail, b.Detail)
	})
	return out
}

// on reports whether steps are measured.
func (t *timings) on() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of != nil
}

// add adds the time of one run of a step.
func (t *timings) add(s *step, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		return
	}
	key := [2]string{s.kind, s.detail}
	if t.of[key] == nil {
		t.of[key] = &Timing{Kind: s.kind, Detail: s.detail}
	}
	t.of[key].Calls++
	t.of[key].Seconds += d.Seconds()
}

// describe returns the kind and the operation of a node as text, see Timing.
func (n *node) describe() (kind, detail string) {
	if l := n.loop; l != nil {
		names := make([]string, len(l.nodes))
		for i, m := range l.nodes {
			names[i] = strings.TrimPrefix(m.op.String(), "Fused")
			switch m.op {
			case opGELUGrad:
				names[i] = "GeluGrad"
			case opDropout:
				names[i] = "Dropout"
			case opLayerNormGrad:
				names[i] = "LayerNormGrad"
			}
		}
		return "element-wise", fmt.Sprintf("%d×%d %s", l.total/l.loop.cols, l.loop.cols, strings.Join(names, " "))
	}
	switch n.kind {
	case kindDot:
		d := n.dot
		detail = fmt.Sprintf("%d × [%d,%d]·[%d,%d]", d.batch, d.m, d.k, d.k, d.n)
		for _, t := range d.terms {
			detail += fmt.Sprintf(" + [%d,%d]", t.dot.k, d.n)
		}
		if d.gelu {
			detail += " GELU"
		}
		return "matrix products", detail
	case kindSparseDot:
		return "single entries", fmt.Sprintf("of [%d,%d]·[%d,%d]", n.dot.m, n.dot.k, n.dot.k, n.dot.n)
	case kindAttention, kindAttentionVJP:
		return "attention", fmt.Sprintf("%s %v", n.op, n.out[0].shape.Dimensions)
	case kindDepthwise, kindDepthwiseGradient, kindConv:
		return "convolution", n.conv.describe(n)
	case kindDelegated:
		return "on the Go backend of GoMLX", fmt.Sprintf("%s %v", n.op, n.out[0].shape)
	case kindCopy, kindPad, kindConcat:
		return "copies", fmt.Sprint(n.out[0].shape)
	}
	return "other", fmt.Sprintf("%s %v", n.op, n.out[0].shape)
}
