package cpu

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/gomlx/compute"
)

// recorder is a backend that keeps the last compiled program and its tasks.
type recorder struct {
	*backend
	exec  *executable
	tasks []task
}

func (r *recorder) Builder(name string) compute.Builder {
	return &recorded{newBuilder(r.backend, name), r}
}

type recorded struct {
	*builder
	to *recorder
}

// Compile does the same as compile and keeps the tasks.
func (b *recorded) Compile() (compute.Executable, error) {
	c, err := lower(b.builder)
	if err != nil {
		return nil, err
	}
	b.to.tasks = c.schedule(b.builder)
	b.to.exec, err = c.executable(b.builder, b.to.tasks)
	return b.to.exec, err
}

// shadow simulates the memory of a program step by step.
type shadow struct {
	owner map[int]*tensor // the tensor in each cache line of the arena
}

// lines returns the range of cache lines of t in the arena.
func lines(t *tensor) (from, to int) {
	return t.slot.offset / arenaAlign, (t.slot.offset + t.bytes() + arenaAlign - 1) / arenaAlign
}

// check returns an error for the first step of x that reads overwritten memory, or that overwrites
// memory that a later step reads.
func (s *shadow) check(x *executable, tasks []task) error {
	s.owner = map[int]*tensor{}
	last := lastReads(tasks)
	for i, st := range tasks {
		for _, t := range st.reads {
			if t.slot.where != inArena {
				continue
			}
			if !t.used {
				return fmt.Errorf("step %d reads tensor %d, which has no memory", i, t.id)
			}
			for l, to := lines(t); l < to; l++ {
				if s.owner[l] != t {
					return fmt.Errorf("step %d reads tensor %d at %d, but cache line %d belongs to another tensor", i, t.id, t.slot.offset, l)
				}
			}
		}
		written := map[int]bool{}
		for _, t := range st.writes {
			if d := t.slot.donor; d != nil && (d.where != inInput || last[d] != i || d.bytes != t.bytes()) {
				return fmt.Errorf("step %d writes an output over input %d, which step %d reads", i, d.index, last[d])
			}
			if t.slot.where != inArena {
				continue
			}
			if t.slot.offset%arenaAlign != 0 || t.slot.offset < 0 || t.slot.offset+t.bytes() > x.arenaBytes {
				return fmt.Errorf("tensor %d lies at %d to %d of an arena of %d bytes", t.id, t.slot.offset, t.slot.offset+t.bytes(), x.arenaBytes)
			}
			for l, to := lines(t); l < to; l++ {
				if written[l] {
					return fmt.Errorf("step %d writes two results to line %d", i, l)
				}
				written[l] = true
				// A step may overwrite a tensor that it reads only if the tensor is its alias and
				// no later step reads it.
				o := s.owner[l]
				if o != nil && slices.Contains(st.reads, o) && (t.alias != o || last[o.slot] != i || o.bytes() != t.bytes() || o.slot.offset != t.slot.offset) {
					return fmt.Errorf("step %d writes tensor %d over tensor %d, which it reads", i, t.id, o.id)
				}
			}
		}
		for _, t := range st.writes {
			if t.slot.where == inArena {
				for l, to := lines(t); l < to; l++ {
					s.owner[l] = t
				}
			}
		}
	}
	return nil
}

func lastReads(tasks []task) map[*slot]int {
	last := map[*slot]int{}
	for i, s := range tasks {
		for _, t := range s.reads {
			last[t.slot] = i
		}
	}
	return last
}

// greatest returns the largest arena memory in bytes that is in use in one step. It is a lower
// limit for every memory plan with the same aliases.
func greatest(tasks []task) (most int) {
	last := lastReads(tasks)
	alive := map[*tensor]bool{}
	for i, s := range tasks {
		for _, t := range s.writes {
			if t.slot.where == inArena {
				alive[t] = true
				delete(alive, t.alias)
			}
		}
		n := 0
		for t := range alive {
			from, to := lines(t)
			n += (to - from) * arenaAlign
		}
		most = max(most, n)
		maps.DeleteFunc(alive, func(t *tensor, _ bool) bool { return last[t.slot] <= i })
	}
	return most
}

// apart assigns separate memory to every result.
func apart(x *executable, tasks []task) {
	x.arenaBytes = 0
	for _, s := range tasks {
		for _, t := range s.writes {
			t.alias, t.slot.donor = nil, nil
			if t.slot.where == inArena {
				from, to := lines(t)
				t.slot.offset = x.arenaBytes
				x.arenaBytes += (to - from) * arenaAlign
			}
		}
	}
}

// TestPlan checks that no step of a random program reads overwritten memory, and that the results
// are the same if tensors do not share memory.
func TestPlan(t *testing.T) {
	t.Parallel()
	be := newBackend(t)
	n := uint64(120)
	if testing.Short() {
		n = 50
	}
	aliases := 0
	for seed := range n {
		r := &recorder{backend: be}
		log, want, err := runProgram(r, seed)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, log)
		}
		if err := new(shadow).check(r.exec, r.tasks); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if least := greatest(r.tasks); r.exec.arenaBytes < least {
			t.Fatalf("seed %d: the arena has %d bytes, but %d are in use at once", seed, r.exec.arenaBytes, least)
		}
		for _, s := range r.tasks {
			for _, w := range s.writes {
				if w.alias != nil {
					aliases++
				}
			}
		}
		in := programInputs(t, be, seed)
		apart(r.exec, r.tasks)
		for i, got := range execute(t, r.exec, in, nil) {
			if !sameBits(got, want[i]) {
				t.Fatalf("seed %d, output %d: the result differs if tensors share memory", seed, i)
			}
		}
	}
	t.Logf("%d results use the memory of an input", aliases)
	if aliases == 0 {
		t.Error("no result uses the memory of an input")
	}
}

// TestPlanDonated checks that random programs give the same bits if every input is donated.
func TestPlanDonated(t *testing.T) {
	t.Parallel()
	be := newBackend(t)
	n := uint64(120)
	if testing.Short() {
		n = 50
	}
	donors := 0
	for seed := range n {
		r := &recorder{backend: be}
		log, want, err := runProgram(r, seed)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, log)
		}
		for _, o := range r.exec.outputs {
			if o.donor != nil {
				donors++
			}
		}
		in := programInputs(t, be, seed)
		for i, got := range execute(t, r.exec, in, slices.Repeat([]bool{true}, len(in))) {
			if !sameBits(got, want[i]) {
				t.Fatalf("seed %d, output %d: donated inputs change the result", seed, i)
			}
		}
	}
	t.Logf("%d outputs use the memory of a donated input", donors)
	if donors == 0 {
		t.Error("no output uses the memory of a donated input")
	}
}

// TestPlanTuningStep checks that the arena of a training step is at most 1.3 times the memory that
// is in use at the same time.
func TestPlanTuningStep(t *testing.T) {
	for _, s := range []tuningStep{smallStep, {batch: 3, tokens: 50, width: 96, heads: 3, hidden: 384, depth: 6, rank: 8, entries: 10}} {
		dims, _ := s.inputs()
		r := &recorder{backend: newBackend(t)}
		x := compiled(t, r, s.graph, dims...).(*executable)
		if err := new(shadow).check(x, r.tasks); err != nil {
			t.Error(err)
		}
		least := greatest(r.tasks)
		t.Logf("depth %d: the arena has %d bytes, %d are in use at once: ratio %.3f", s.depth, x.arenaBytes, least, float64(x.arenaBytes)/float64(least))
		if x.arenaBytes < least || float64(x.arenaBytes) > 1.3*float64(least) {
			t.Errorf("depth %d: the arena has %d bytes, %d are in use at once; expected up to 1.3 times that", s.depth, x.arenaBytes, least)
		}
	}
}

// steady runs the step two times for warm-up and then runs times. Each run gets the state of the
// previous run. steady returns the increase of measure for each run.
func (s tuningStep) steady(t *testing.T, runs int, measure func() int64) int64 {
	be := newBackend(t)
	dims, donate := s.inputs()
	first := slices.Index(donate, true)
	exec := compiled(t, be, s.graph, dims...)
	in := s.upload(t, be)
	once := func() {
		out, err := exec.Execute(in, donate, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = out[0].Finalize() // never fails
		copy(in[first:], out[1:])
	}
	once()
	once()
	before := measure()
	for range runs {
		once()
	}
	return (measure() - before) / int64(runs)
}

// stateful is a step with an arena of about 10 MB.
var stateful = tuningStep{batch: 8, tokens: 50, width: 128, heads: 4, hidden: 512, depth: 3, rank: 4, entries: 100}

// programInputs returns the inputs that runProgram uses for a seed.
func programInputs(t *testing.T, be *backend, seed uint64) (in []compute.Buffer) {
	t.Helper()
	for _, x := range programValues(seed) {
		in = append(in, upload(t, be, x.values, x.dims...))
	}
	return in
}

// TestArenas checks that the number of arenas is the number that was in use at the same time, and
// that the peak counts all of them.
func TestArenas(t *testing.T) {
	var a arenas
	x, y := a.take(1000), a.take(3000)
	a.give(x)
	a.give(y)
	if z := a.take(2000); &z[0] != &y[0] {
		t.Error("a free arena that is large enough was not taken")
	} else {
		a.give(z)
	}
	none := a.take(0)
	x, y = a.take(5000), a.take(900) // the first call replaces the larger free arena
	a.give(none)
	if len(x) != 5000 || len(y) != 1000 {
		t.Errorf("arenas of %d and %d bytes, expected 5000 and 1000", len(x), len(y))
	}
	a.give(x)
	a.give(y)
	if got := a.peakBytes(); got != 6000 || len(a.free) != 2 {
		t.Errorf("peak of %d bytes, %d arenas; expected 6000, 2", got, len(a.free))
	}
}
