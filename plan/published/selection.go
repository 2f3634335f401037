package published

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/pickle"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/sensitivity"
)

// selection is a selection for a ViT. The paper's published code saves it with torch.save, in a
// file with a name such as param_req_0.4.pth. The authors' selections are for a ViT-B/16. A file
// holds these fields:
//
//   - tuned_matrices [depth, 6] has a 1 for each of q, k, v, proj, fc1 and fc2 that gets a
//     structured module.
//   - tuned_vectors lists the names of the vectors that are tuned whole.
//   - unstructured_name_shapes maps the names of all other tensors to their shapes. Its order
//     matters.
//   - unstructured_indexes lists the selected entries of these tensors, as ascending positions in
//     their concatenation.
//   - params, structured_params and unstructured_params are parameter counts.
//
// The file records neither the budget, τ, the module nor the rank.
type selection struct {
	// name is the path of the file.
	name string
	// tensors lists all scored tensors of the backbone, in the order of the backbone, without
	// scores.
	tensors []sensitivity.Tensor
	// matrices names the matrices with a structured module, in the order of tensors.
	matrices []string
	// vectors names the vectors that are tuned whole, in the order of tensors.
	vectors []string
	// entries maps the name of a tensor to the positions of its single entries.
	entries map[string][]int32
	// params is the number of tuned parameters in millions, with the class token, rounded to
	// float32.
	params float64
	// structured is the number of parameters in modules and whole vectors.
	structured int
	// classToken is the number of parameters of the class token.
	classToken int
}

// layer is a scored tensor of a ViT, in a block or after the blocks. sides has one letter for each
// dimension of its shape: d is the width, h is the hidden width of the MLP.
type layer struct {
	name, sides string
	norm        bool
}

// operations lists the operations of the columns of tuned_matrices.
var operations = []string{"attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2"}

var (
	blockLayers = []layer{
		{"norm1.weight", "d", true}, {"norm1.bias", "d", true},
		{"attn.q.weight", "dd", false}, {"attn.q.bias", "d", false},
		{"attn.k.weight", "dd", false}, {"attn.k.bias", "d", false},
		{"attn.v.weight", "dd", false}, {"attn.v.bias", "d", false},
		{"attn.proj.weight", "dd", false}, {"attn.proj.bias", "d", false},
		{"norm2.weight", "d", true}, {"norm2.bias", "d", true},
		{"mlp.fc1.weight", "hd", false}, {"mlp.fc1.bias", "h", false},
		{"mlp.fc2.weight", "dh", false}, {"mlp.fc2.bias", "d", false},
	}
	lastLayers = []layer{{"norm.weight", "d", true}, {"norm.bias", "d", true}}
)

// vitTensors returns the scored tensors of a ViT, without scores.
func vitTensors(depth, width, hidden int) []sensitivity.Tensor {
	tensor := func(prefix string, l layer) sensitivity.Tensor {
		shape := make([]int, len(l.sides))
		for i := range shape {
			shape[i] = map[byte]int{'d': width, 'h': hidden}[l.sides[i]]
		}
		return sensitivity.Tensor{Name: prefix + l.name, Shape: shape, Norm: l.norm}
	}
	var out []sensitivity.Tensor
	for i := range depth {
		for _, l := range blockLayers {
			out = append(out, tensor(fmt.Sprintf("blocks.%d.", i), l))
		}
	}
	for _, l := range lastLayers {
		out = append(out, tensor("", l))
	}
	return out
}

// fields holds the fields of the file of a selection.
type fields struct {
	names        []string // keys of unstructured_name_shapes, in order
	shapes       map[string][]int
	matrices     [][]bool // [depth][6]
	vectors      []string
	indexes      []int64
	params       float64
	unstructured int
	structured   int
}

// load reads a published selection. It does not execute code from the pickle. It returns an error
// if the file is broken, is not a selection, or has fields that contradict each other. It does not
// check the parameter counts; the method plan does.
func load(path string) (*selection, error) {
	v, err := checkpoint.Unpickle(path)
	if err != nil {
		return nil, fmt.Errorf("reading a published selection: %w", err)
	}
	f, err := fieldsOf(v)
	if err != nil {
		return nil, fmt.Errorf("reading the published selection %s: %w", path, err)
	}
	s, err := f.check()
	if err != nil {
		return nil, fmt.Errorf("reading the published selection %s: %w", path, err)
	}
	s.name = path
	return s, nil
}

// These limits bound the work that an untrusted file can cause. The largest ViTs have 48 blocks,
// and the authors' selections have at most 50,000 entries.
const (
	mostBlocks  = 1000
	mostEntries = 1 << 24
)

// fieldsOf returns the fields in the value of a pickle.
func fieldsOf(v pickle.Value) (f fields, err error) {
	root, ok := v.(*pickle.Dict)
	if !ok {
		return f, fmt.Errorf("the file holds no dict, expected one with tuned_matrices, tuned_vectors and unstructured_indexes; give a published selection")
	}
	get := func(key string) pickle.Value {
		v, ok := root.Get(key)
		if !ok && err == nil {
			err = fmt.Errorf("the file has no %q; give a published selection", key)
		}
		return v
	}
	shapes, sizes := get("unstructured_name_shapes"), get("unstructured_name_shapes_int")
	matrices, vectors, indexes := get("tuned_matrices"), get("tuned_vectors"), get("unstructured_indexes")
	params, unstructured, structured := get("params"), get("unstructured_params"), get("structured_params")
	if err != nil {
		return f, err
	}
	if err := f.takeMatrices(matrices); err != nil {
		return f, err
	}
	if err := f.takeVectors(vectors); err != nil {
		return f, err
	}
	if err := f.takeShapes(shapes, sizes); err != nil {
		return f, err
	}
	if err := f.takeIndexes(indexes); err != nil {
		return f, err
	}
	for _, n := range []struct {
		name string
		v    pickle.Value
		to   *int
	}{{"unstructured_params", unstructured, &f.unstructured}, {"structured_params", structured, &f.structured}} {
		x, ok := number(n.v)
		if !ok || x != math.Trunc(x) || x < 0 || x > 1<<48 {
			return f, fmt.Errorf("%s is not a number of parameters", n.name)
		}
		*n.to = int(x)
	}
	if f.params, ok = number(params); !ok || !(f.params >= 0 && f.params < 1<<24) {
		return f, fmt.Errorf("params is not a number of millions of parameters")
	}
	return f, nil
}

// number returns the value of a Python or NumPy number, or of a tensor with one element.
func number(v pickle.Value) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	case pickle.Tensor:
		if slices.ContainsFunc(v.Shape(), func(d int) bool { return d != 1 }) {
			return 0, false
		}
		if n, err := v.Int64(); err == nil {
			return float64(n[0]), true
		}
		if x, err := v.Float32(); err == nil {
			return float64(x[0]), true
		}
	}
	return 0, false
}

// takeMatrices sets f.matrices.
func (f *fields) takeMatrices(v pickle.Value) error {
	rows, ok := v.(*pickle.List)
	if !ok || len(rows.Items) < 1 || len(rows.Items) > mostBlocks {
		return fmt.Errorf("tuned_matrices is not a list of 1 to %d blocks", mostBlocks)
	}
	for i, r := range rows.Items {
		row, ok := r.(*pickle.List)
		if !ok || len(row.Items) != len(operations) {
			return fmt.Errorf("tuned_matrices[%d] is not a list of %d numbers, one each for %s", i, len(operations), strings.Join(operations, ", "))
		}
		tuned := make([]bool, len(row.Items))
		for j, x := range row.Items {
			if tuned[j] = x == int64(1) || x == true; !tuned[j] && x != int64(0) && x != false {
				return fmt.Errorf("tuned_matrices[%d][%d] is neither 0 nor 1", i, j)
			}
		}
		f.matrices = append(f.matrices, tuned)
	}
	return nil
}

// mostTensors returns the number of scored tensors of a ViT with as many blocks as the file has.
func (f *fields) mostTensors() int { return len(f.matrices)*len(blockLayers) + len(lastLayers) }

// takeVectors sets f.vectors.
func (f *fields) takeVectors(v pickle.Value) error {
	list, ok := v.(*pickle.List)
	if !ok || len(list.Items) > f.mostTensors() {
		return fmt.Errorf("tuned_vectors is not a list of at most %d names", f.mostTensors())
	}
	for i, x := range list.Items {
		name, ok := x.(string)
		if !ok {
			return fmt.Errorf("tuned_vectors[%d] is not a name", i)
		}
		f.vectors = append(f.vectors, name)
	}
	return nil
}

// takeShapes sets f.names and f.shapes.
func (f *fields) takeShapes(shapes, sizes pickle.Value) error {
	byName, ok := shapes.(*pickle.Dict)
	if !ok || byName.Len() > f.mostTensors() {
		return fmt.Errorf("unstructured_name_shapes is not a dict of at most %d shapes", f.mostTensors())
	}
	counts, ok := sizes.(*pickle.Dict)
	if !ok || counts.Len() != byName.Len() {
		return fmt.Errorf("unstructured_name_shapes_int is not a dict of the %d tensors of unstructured_name_shapes", byName.Len())
	}
	f.shapes = make(map[string][]int, byName.Len())
	for key, v := range byName.All() {
		name, ok := key.(string)
		if !ok {
			return fmt.Errorf("unstructured_name_shapes has a key that is not a name")
		}
		list, ok := v.(*pickle.List)
		if !ok || len(list.Items) < 1 || len(list.Items) > 2 {
			return fmt.Errorf("unstructured_name_shapes of %.100q is not a shape of one or two dimensions", name)
		}
		var shape []int
		for _, x := range list.Items {
			d, ok := x.(int64)
			if !ok || d < 1 || d > math.MaxInt32 {
				return fmt.Errorf("unstructured_name_shapes of %.100q is not a shape of positive dimensions", name)
			}
			shape = append(shape, int(d))
		}
		size, err := sizeOf(name, shape)
		if err != nil {
			return err
		}
		v, _ = counts.Get(name)
		if n, ok := number(v); !ok || n != float64(size) {
			return fmt.Errorf("unstructured_name_shapes_int of %.100q is not %d, the size of shape %v", name, size, shape)
		}
		f.names, f.shapes[name] = append(f.names, name), shape
	}
	return nil
}

// takeIndexes sets f.indexes.
func (f *fields) takeIndexes(v pickle.Value) (err error) {
	t, ok := v.(pickle.Tensor)
	if !ok || len(t.Shape()) != 1 || t.Shape()[0] > mostEntries {
		return fmt.Errorf("unstructured_indexes is not a tensor of one dimension and at most %d indexes", mostEntries)
	}
	f.indexes, err = t.Int64()
	return err
}

// check combines the fields into a selection. It returns an error if fields contradict each other.
func (f fields) check() (*selection, error) {
	width, hidden, err := f.sides()
	if err != nil {
		return nil, err
	}
	s := &selection{tensors: vitTensors(len(f.matrices), width, hidden), entries: map[string][]int32{}, params: f.params, structured: f.structured, classToken: width}
	if len(f.indexes) != f.unstructured {
		return nil, fmt.Errorf("unstructured_params is %d, but unstructured_indexes holds %d positions", f.unstructured, len(f.indexes))
	}
	modules := make(map[string]bool)
	for i, row := range f.matrices {
		for j, tuned := range row {
			modules[fmt.Sprintf("blocks.%d.%s.weight", i, operations[j])] = tuned
		}
	}
	whole := make(map[string]bool, len(f.vectors))
	for _, name := range f.vectors {
		if whole[name] {
			return nil, fmt.Errorf("tuned_vectors names %.100q twice", name)
		}
		whole[name] = true
	}

	// Check that every tensor gets a module, is tuned whole, or is in unstructured_name_shapes, but
	// only one of these.
	seen := 0
	for _, t := range s.tensors {
		if _, err := sizeOf(t.Name, t.Shape); err != nil {
			return nil, err
		}
		shape, rest := f.shapes[t.Name]
		if modules[t.Name] {
			s.matrices = append(s.matrices, t.Name)
		}
		if whole[t.Name] {
			if len(t.Shape) != 1 {
				return nil, fmt.Errorf("tuned_vectors names %q, which is a matrix", t.Name)
			}
			s.vectors = append(s.vectors, t.Name)
		}
		tuned := modules[t.Name] || whole[t.Name]
		switch {
		case tuned && rest:
			return nil, fmt.Errorf("%q is in unstructured_name_shapes and also gets a module or is tuned whole, expected only one of these", t.Name)
		case !tuned && !rest:
			return nil, fmt.Errorf("%q is not in unstructured_name_shapes, gets no module and is not tuned whole; give a selection for a ViT with separate q, k and v, with biases and with %d blocks", t.Name, len(f.matrices))
		case rest && !slices.Equal(shape, t.Shape):
			return nil, fmt.Errorf("%q has shape %v, expected %v in a ViT of width %d and MLP width %d", t.Name, shape, t.Shape, width, hidden)
		case rest:
			seen++
		}
	}
	if n := len(s.vectors); n != len(f.vectors) {
		return nil, fmt.Errorf("tuned_vectors has %d names, but only %d of them are names in a ViT of %d blocks", len(f.vectors), n, len(f.matrices))
	}
	if seen != len(f.names) {
		return nil, fmt.Errorf("unstructured_name_shapes has %d names, but only %d of them are names in a ViT of %d blocks", len(f.names), seen, len(f.matrices))
	}

	at, begin, before := 0, int64(0), int64(-1)
	for _, name := range f.names {
		size := int64(1)
		for _, d := range f.shapes[name] {
			size *= int64(d)
		}
		for ; at < len(f.indexes) && f.indexes[at] < begin+size; at++ {
			index := f.indexes[at]
			if index <= before {
				return nil, fmt.Errorf("unstructured_indexes[%d] is %d, expected more than %d; positions are ascending and unique", at, index, before)
			}
			s.entries[name] = append(s.entries[name], int32(index-begin))
			before = index
		}
		begin += size
	}
	if at < len(f.indexes) {
		return nil, fmt.Errorf("unstructured_indexes[%d] is %d, beyond the %d parameters of unstructured_name_shapes", at, f.indexes[at], begin)
	}
	return s, nil
}

// sides returns the width of the ViT and the hidden width of its MLP, from the shapes in the file.
// If the file has no shape with the hidden width, sides takes four times the width, as in every ViT
// of the paper.
func (f fields) sides() (width, hidden int, err error) {
	sides := map[byte]int{}
	for _, name := range f.names {
		own := name
		if rest, ok := strings.CutPrefix(name, "blocks."); ok {
			number, in, _ := strings.Cut(rest, ".")
			if i, err := strconv.Atoi(number); err != nil || i < 0 || i >= len(f.matrices) || strconv.Itoa(i) != number {
				return 0, 0, fmt.Errorf("unstructured_name_shapes names %.100q, but tuned_matrices has %d blocks", name, len(f.matrices))
			}
			own = in
		}
		is := func(l layer) bool { return l.name == own && len(l.sides) == len(f.shapes[name]) }
		layers := blockLayers
		if own == name {
			layers = lastLayers
		}
		i := slices.IndexFunc(layers, is)
		if i < 0 {
			return 0, 0, fmt.Errorf("unstructured_name_shapes has %.100q of shape %v, which is no tensor of a ViT with separate q, k and v", name, f.shapes[name])
		}
		for k, d := range f.shapes[name] {
			if side := layers[i].sides[k]; sides[side] == 0 {
				sides[side] = d
			}
		}
	}
	if sides['d'] == 0 {
		return 0, 0, fmt.Errorf("unstructured_name_shapes has no tensor that gives the width of the ViT")
	}
	if sides['h'] == 0 {
		sides['h'] = 4 * sides['d']
	}
	return sides['d'], sides['h'], nil
}

// plan returns the selection as a plan with Compat. rank is the rank of its modules. The module of
// the plan is the first of the given modules whose parameter count agrees with structured_params of
// the file. If none agrees, or if another count differs from the file, plan returns an error with
// both counts.
//
// Single entries of LayerNorm vectors go to CountedOnly, because the published code counts them but
// does not tune them. The file records neither the budget, α, β nor τ. The budget of the plan is
// the one in [plan.ReleaseBudgets] that is nearest to the cost. Alpha and Beta are those of the
// paper, and Tau is 0.
func (s *selection) plan(rank int, modules ...peft.Module) (*plan.Plan, error) {
	fail := func(format string, args ...any) (*plan.Plan, error) {
		return nil, fmt.Errorf("importing the published selection %s: %w", s.name, fmt.Errorf(format, args...))
	}
	if len(modules) == 0 {
		return fail("no structured module is given; give one, such as LoRA")
	}
	shortest := math.MaxInt
	for _, t := range s.tensors {
		shortest = min(shortest, slices.Min(t.Shape))
	}
	if rank < 1 || rank > shortest {
		return fail("rank is %d, expected 1 to %d, the shortest side of its tensors", rank, shortest)
	}
	o := plan.Options{Compat: plan.CompatRelease}.WithDefaults()
	p := &plan.Plan{
		Compat: o.Compat, Rank: rank, Alpha: o.Alpha, Beta: o.Beta, Cost: plan.Cost{ClassToken: s.classToken},
		Matrices: append([]string{}, s.matrices...), Vectors: append([]string{}, s.vectors...),
		Entries: map[string][]int32{}, CountedOnly: map[string][]int32{},
	}
	tuned := make(map[string]bool)
	for _, name := range slices.Concat(s.matrices, s.vectors) {
		tuned[name] = true
	}
	var matrices []sensitivity.Tensor
	for _, t := range s.tensors {
		entries := slices.Clone(s.entries[t.Name])
		switch {
		case tuned[t.Name] && len(t.Shape) > 1:
			matrices = append(matrices, t)
		case tuned[t.Name]:
			p.Cost.Vectors += t.Shape[0]
		case len(entries) == 0:
		case t.Norm:
			p.CountedOnly[t.Name] = entries
			p.Cost.CountedOnly += len(entries)
		default:
			p.Entries[t.Name] = entries
			p.Cost.Unstructured += len(entries)
		}
	}
	var count plan.Count
	var found []string
	for _, m := range modules {
		n := 0
		for _, t := range matrices {
			n += m.Count(t.Shape[1], t.Shape[0], rank)
		}
		if n+p.Cost.Vectors == s.structured {
			count, p.Module, p.Cost.Structured = m.Count, m.Name, n
			break
		}
		found = append(found, fmt.Sprintf("%d with %s", n+p.Cost.Vectors, m.Name))
	}
	if p.Module == "" {
		return fail("structured_params is %d, but modules of rank %d on the %d matrices and the %d whole vectors have another number of parameters: %s; give the module and the rank of the selection", s.structured, rank, len(s.matrices), len(s.vectors), strings.Join(found, ", "))
	}
	p.Cost.Total = p.Cost.Structured + p.Cost.Vectors + p.Cost.Unstructured + p.Cost.CountedOnly + p.Cost.ClassToken
	// params was rounded to float32, which has a precision of 24 bits.
	if want := s.params * 1e6; math.Abs(want-float64(p.Cost.Total)) > max(0.5, want/(1<<23)) {
		return fail("params is %v million, but structured_params %d, unstructured_params %d and the class token of %d parameters add up to %d", s.params, s.structured, p.Cost.Unstructured+p.Cost.CountedOnly, p.Cost.ClassToken, p.Cost.Total)
	}
	p.Budget = slices.MinFunc(plan.ReleaseBudgets(), func(a, b int) int { return abs(a-p.Cost.Total) - abs(b-p.Cost.Total) })
	if err := p.Validate(s.tensors, count); err != nil {
		return fail("%w", err)
	}
	return p, nil
}

func abs(n int) int { return max(n, -n) }

// sizeOf returns the number of parameters of a tensor with one or two positive dimensions. It
// returns an error if a position in the tensor does not fit an int32.
func sizeOf(name string, shape []int) (int, error) {
	size := 1
	for _, d := range shape {
		size *= d
	}
	if size > math.MaxInt32 {
		return 0, fmt.Errorf("tensor %.100q has shape %v, which is more than the %d parameters that a plan can index", name, shape, math.MaxInt32)
	}
	return size, nil
}
