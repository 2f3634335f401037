package plan

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sort"

	"golang.org/x/sync/errgroup"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/sensitivity"
)

// tensor is a scored tensor with the numbers that the selection rule needs.
type tensor struct {
	sensitivity.Tensor
	// base is the first position of the tensor in the concatenation of all tensors.
	base int
	// need is the threshold of the rule: ⌈P/α⌉ or ⌈len/β⌉. If this many entries are selected, the
	// tensor converts: it gets a module or is tuned whole. need exceeds the size of the tensor if
	// neither is possible, as for all tensors with EntriesOnly.
	need int
	// whole is the cost of the tensor at or above the threshold: P or len.
	whole int
	// entry is the cost of each selected entry below the threshold: 1, or 0 if single entries are
	// not tuned.
	entry int
}

// conversion returns by how much the cost changes at the threshold: the cost of the whole tensor
// replaces the cost of the entries below the threshold.
func (t *tensor) conversion() int { return t.whole - (t.need-1)*t.entry }

// event encodes one score and its position as an integer. Events in ascending order give the order
// in which scores are taken: by descending score, then by position in the concatenation of all
// tensors. The upper 32 bits are the complement of the bits of the score. (The bits of floats that
// are not negative sort in the same order as the floats.) The lower 32 bits are the position.
type event uint64

func newEvent(key uint32, position int) event {
	return event(^key)<<32 | event(uint32(position))
}

func (e event) position() int { return int(uint32(e)) }

// key returns the bits of a score. A negative zero counts as zero.
func key(score float32) uint32 { return math.Float32bits(score) &^ (1 << 31) }

// prepare checks the scores and options, and computes the threshold and the costs of each tensor.
// It also returns the options with their defaults.
func prepare(ctx context.Context, scores *sensitivity.Scores, o Options, count Count) ([]tensor, Options, error) {
	o = o.WithDefaults()
	if err := o.check(); err != nil {
		return nil, o, err
	}
	scored := scores.Tensors
	switch {
	case len(scored) == 0:
		return nil, o, fmt.Errorf("there are no scored tensors; score the backbone first")
	case o.Only != Unstructured && count == nil:
		return nil, o, fmt.Errorf("no function counts the parameters of module %q; pass one", o.Module)
	case scores.ClassToken < 0:
		return nil, o, fmt.Errorf("the class token has %d parameters, expected 0 or more", scores.ClassToken)
	}

	tensors := make([]tensor, len(scored))
	seen := make(map[string]bool, len(scored))
	base := 0
	for i, s := range scored {
		size, err := sizeOf(s)
		if err != nil {
			return nil, o, err
		}
		if size != len(s.Scores) {
			return nil, o, fmt.Errorf("tensor %q of shape %v has %d scores, expected %d", s.Name, s.Shape, len(s.Scores), size)
		}
		if seen[s.Name] {
			return nil, o, fmt.Errorf("tensor %q is given twice", s.Name)
		}
		seen[s.Name] = true

		t := tensor{Tensor: s, base: base, entry: 1}
		if o.Only == Structured {
			t.entry = 0
		}
		entriesOnly := s.EntriesOnly || o.Only == Unstructured && len(s.Shape) > 1
		divisor := o.Beta
		switch {
		case len(s.Shape) == 1:
			t.whole = size
		case entriesOnly: // tuned entry by entry only
		default:
			in, out := inOut(s)
			t.whole = count(in, out, o.Rank)
			if t.whole < 1 {
				return nil, o, fmt.Errorf("module %q of rank %d has %d parameters on %q (in %d, out %d), expected 1 or more", o.Module, o.Rank, t.whole, s.Name, in, out)
			}
			divisor = o.Alpha
		}
		t.need = max(1, int(min(math.Ceil(float64(t.whole)/divisor), float64(size+1))))
		if entriesOnly {
			t.need = size + 1
		}
		tensors[i] = t
		base += size
	}
	if base > math.MaxUint32 {
		return nil, o, fmt.Errorf("the tensors have %d parameters, which is more than the %d that a plan can rank", base, math.MaxUint32)
	}
	if by := scores.Criterion; by.Signed() != ByGain(o.Rule) {
		return nil, o, option.Errorf("criterion", "the scores have the criterion %s, but a plan by the rule %q needs the criterion %s; score the backbone with that criterion", by, cmp.Or(o.Rule, "paper"), needed(o.Rule))
	}
	err := each(ctx, tensors, func(_ int, t *tensor) error { return t.checkScores(scores.Criterion) })
	return tensors, o, err
}

// each calls f on every tensor, in up to GOMAXPROCS goroutines. It returns the first error of f, or
// the error of the context.
func each(ctx context.Context, tensors []tensor, f func(i int, t *tensor) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range tensors {
		group.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return f(i, &tensors[i])
		})
	}
	return group.Wait()
}

// checkScores returns an error for the first score that the criterion does not allow.
func (t *tensor) checkScores(by sensitivity.Criterion) error {
	for i, v := range t.Scores {
		if err := by.Check(v); err != nil {
			return fmt.Errorf("the score of %q at flat index %d is %w; check that the loss is finite", t.Name, i, err)
		}
	}
	return nil
}

// cut separates the largest scores from the others. It admits the scores with a key greater than
// key, and the first `ties` scores whose key equals key.
type cut struct {
	key  uint32
	ties int
}

// cutAt returns the cut that admits the m largest scores of all parts together. m is at least 1 and
// at most the number of scores. cutAt does not sort. It finds the key with two histograms, of the
// upper and of the lower 16 bits of the keys.
func cutAt(m int, parts ...[]float32) cut {
	var high [1 << 15]uint32
	for _, scores := range parts {
		for _, v := range scores {
			high[key(v)>>16]++
		}
	}
	upper, above := bucket(high[:], m)
	m -= above

	var low [1 << 16]uint32
	for _, scores := range parts {
		for _, v := range scores {
			if k := key(v); k>>16 == upper {
				low[k&0xffff]++
			}
		}
	}
	lower, above := bucket(low[:], m)
	return cut{key: upper<<16 | lower, ties: m - above}
}

// bucket returns the bucket that holds the m-th item, counting items from the last bucket
// downwards. above is the number of items in the buckets above this bucket.
func bucket(counts []uint32, m int) (b uint32, above int) {
	i := len(counts) - 1
	for ; above+int(counts[i]) < m; i-- {
		above += int(counts[i])
	}
	return uint32(i), above
}

// take appends the events of the scores of t that the cut admits. It reduces c.ties, so callers can
// take from several tensors in turn.
func (c *cut) take(events []event, t *tensor) []event {
	for i, v := range t.Scores {
		k := key(v)
		if k < c.key {
			continue
		}
		if k == c.key {
			if c.ties == 0 {
				continue
			}
			c.ties--
		}
		events = append(events, newEvent(k, t.base+i))
	}
	return events
}

// tally tracks the cost of the plan while scores are taken one after another.
type tally struct {
	tensors []tensor
	taken   []int // number of entries taken from each tensor
	cost    int   // of the plan so far, in parameters
}

func newTally(tensors []tensor, classToken int) *tally {
	return &tally{tensors: tensors, taken: make([]int, len(tensors)), cost: classToken}
}

// owner returns the index of the tensor to which an event belongs.
func owner(tensors []tensor, e event) int {
	return sort.Search(len(tensors), func(i int) bool { return tensors[i].base > e.position() }) - 1
}

// change returns the tensor of an event, and by how much the cost changes if the event is taken.
// Below the threshold of its tensor an entry costs t.entry. Above the threshold it costs nothing.
func (a *tally) change(e event) (i, change int) {
	i = owner(a.tensors, e)
	t := &a.tensors[i]
	switch n := a.taken[i] + 1; {
	case n < t.need:
		change = t.entry
	case n == t.need:
		change = t.conversion()
	}
	return i, change
}

// add takes one more entry.
func (a *tally) add(e event) {
	i, change := a.change(e)
	a.taken[i]++
	a.cost += change
}

// newPlan returns the plan that takes the given events. The events may leave out entries of a
// tensor beyond its threshold, because they do not change the plan.
func newPlan(tensors []tensor, events []event, o Options, budget, classToken int) *Plan {
	p := &Plan{
		Compat:    o.Compat,
		FromBlock: o.FromBlock,
		Only:      o.Only,
		Rule:      o.Rule,
		Module:    o.Module,
		Rank:      o.Rank,
		Alpha:     o.Alpha,
		Beta:      o.Beta,
		Budget:    budget,
		Cost:      Cost{ClassToken: classToken},
		Matrices:  []string{},
		Vectors:   []string{},
		Entries:   map[string][]int32{},

		Sensitive: map[string]int{},
	}
	if p.Compat == CompatRelease {
		p.CountedOnly = map[string][]int32{}
	}
	indexes := make([][]int32, len(tensors))
	for _, e := range events {
		i := owner(tensors, e)
		indexes[i] = append(indexes[i], int32(e.position()-tensors[i].base))
	}
	for i, t := range tensors {
		slices.Sort(indexes[i])
		switch n := len(indexes[i]); {
		case n == 0:
		case n >= t.need && len(t.Shape) > 1:
			p.Matrices = append(p.Matrices, t.Name)
			p.Cost.Structured += t.whole
		case n >= t.need:
			p.Vectors = append(p.Vectors, t.Name)
			p.Cost.Vectors += t.whole
		case t.entry == 0:
		case t.Norm && p.Compat == CompatRelease:
			p.CountedOnly[t.Name] = indexes[i]
			p.Cost.CountedOnly += n
		default:
			p.Entries[t.Name] = indexes[i]
			p.Cost.Unstructured += n
		}
	}
	p.Cost.Total = p.Cost.sum()
	all := make([]*tensor, len(tensors))
	for i := range tensors {
		all[i] = &tensors[i]
	}
	for _, e := range largest(budget, all...) {
		p.Sensitive[tensors[owner(tensors, e)].Name]++
	}
	return p
}
