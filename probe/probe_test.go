package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// synthetic returns n images of classes with random centres. The spread of the centres decides how
// well a probe can separate the classes. All calls with the same shape have the same centres.
func synthetic(n, width, classes int, spread float64, seed uint64) Features {
	r := rand.New(rand.NewPCG(uint64(width), uint64(classes)))
	centres := make([]float64, classes*width)
	for i := range centres {
		centres[i] = spread * r.NormFloat64()
	}
	r = rand.New(rand.NewPCG(seed, 1))
	f := Features{width, make([]float32, n*width), make([]int32, n)}
	for i := range n {
		f.Labels[i] = int32(i % classes)
		for j := range width {
			f.Values[i*width+j] = float32(centres[(i%classes)*width+j] + r.NormFloat64())
		}
	}
	return f
}

// syntheticOf returns images for a problem. With several labels, each label has a random direction,
// and an image has the labels along whose directions its random features lie.
func syntheticOf(p Problem, n, width, classes int, spread float64, seed uint64) Features {
	if p == OneLabel {
		return synthetic(n, width, classes, spread, seed)
	}
	r := rand.New(rand.NewPCG(uint64(width), uint64(classes)))
	directions := make([]float64, classes*width)
	for i := range directions {
		directions[i] = spread * r.NormFloat64()
	}
	r = rand.New(rand.NewPCG(seed, 1))
	f := Features{width, make([]float32, n*width), make([]int32, n*classes)}
	for i := range n {
		for j := range width {
			f.Values[i*width+j] = float32(r.NormFloat64())
		}
		for k := range classes {
			along := 0.7*r.NormFloat64() - 0.3*float64(k)
			for j := range width {
				along += directions[k*width+j] * float64(f.Values[i*width+j])
			}
			if along > 0 {
				f.Labels[i*classes+k] = 1
			}
		}
	}
	return f
}

// mustFit returns the result of Fit.
func mustFit(t testing.TB, train, val Features, o Options) *Probe {
	t.Helper()
	p, err := Fit(t.Context(), train, val, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestScikitLearn compares weights, biases, losses and accuracies with those of scikit-learn. The
// file holds 8 digits, and the fits are computed in float32, so the relative bound is 10⁻³ of the
// largest weight. Losses are less sensitive, because their slope at the minimum is 0.
func TestScikitLearn(t *testing.T) {
	type fixture struct {
		Name         string
		Width        int
		Classes      int
		ClassWeights []float64 `json:"class_weights"`
		Values       []float32
		Labels       []int32
		Fits         []struct {
			L2           float64
			Weight, Bias []float64
			Loss         float64
			WeightedLoss float64 `json:"weighted_loss"`
			Accuracy     float64
		}
	}
	type problem struct {
		fixture
		problem Problem
	}
	var cases []problem
	for file, p := range map[string]Problem{"testdata/logistic.json": OneLabel, "testdata/labels.json": SeveralLabels} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var of []fixture
		if err := json.Unmarshal(data, &of); err != nil {
			t.Fatal(err)
		}
		for _, c := range of {
			cases = append(cases, problem{c, p})
		}
	}
	for _, c := range cases {
		train := Features{c.Width, c.Values, c.Labels}
		for _, want := range c.Fits {
			o := Options{Problem: c.problem, Classes: c.Classes, L2s: []float64{want.L2}, ClassWeights: c.ClassWeights, Tolerance: 1e-10, Iterations: 5000}
			p := mustFit(t, train, train, o)
			accuracy, loss, err := p.Evaluate(t.Context(), train)
			if err != nil {
				t.Fatal(err)
			}
			if near := func(a, b float64) bool { return math.Abs(a-b) <= 1e-4*b }; !near(loss, want.Loss) || !near(p.ValLoss, want.WeightedLoss) || !near(p.TrainLoss, want.WeightedLoss) || accuracy != want.Accuracy {
				t.Errorf("%s, l2 %g: loss %g, weighted %g and %g, accuracy %g; scikit-learn has %g, %g, %g", c.Name, want.L2, loss, p.ValLoss, p.TrainLoss, accuracy, want.Loss, want.WeightedLoss, want.Accuracy)
			}
			// A feature's weight is compared in units of the largest weight of the feature. With
			// one label, a constant may be added to all biases.
			for j := range c.Width {
				largest, difference := 0.0, 0.0
				for k := range c.Classes {
					largest = max(largest, math.Abs(want.Weight[k*c.Width+j]))
					difference = max(difference, math.Abs(want.Weight[k*c.Width+j]-float64(p.Weight[k*c.Width+j])))
				}
				if difference > 1e-3*largest {
					t.Errorf("%s, l2 %g: the weights of feature %d differ by %.2g of %.2g", c.Name, want.L2, j, difference, largest)
				}
			}
			largest, offset, wantOffset := 0.0, 0.0, 0.0
			if c.problem == OneLabel {
				offset, wantOffset = float64(p.Bias[0]), want.Bias[0]
			}
			for k := range c.Classes {
				largest = max(largest, math.Abs(want.Bias[k]-wantOffset))
			}
			for k := range c.Classes {
				if d := math.Abs(want.Bias[k] - wantOffset - (float64(p.Bias[k]) - offset)); d > 1e-3*largest {
					t.Errorf("%s, l2 %g: bias %d differs by %.2g of %.2g", c.Name, want.L2, k, d, largest)
				}
			}
		}
	}
}

// naive returns the objective and its gradient in float64, from the formula. loss returns the loss
// of an image with the logits z, and its gradient.
func naive(o *objective, point []float64, loss func(image int, z []float64) (float64, []float64)) (float64, []float64) {
	d, c := o.width, o.classes
	g := make([]float64, len(point))
	value := 0.0
	for i := range o.n {
		z := make([]float64, c)
		for k := range c {
			z[k] = point[c*d+k]
			for j := range d {
				z[k] += point[k*d+j] * float64(o.x[i*d+j])
			}
		}
		v, e := loss(i, z)
		value += v
		for k := range c {
			g[c*d+k] += e[k]
			for j := range d {
				g[k*d+j] += e[k] * float64(o.x[i*d+j])
			}
		}
	}
	value /= float64(o.n)
	for i := range g {
		g[i] /= float64(o.n)
		if i < c*d {
			value += o.l2 / 2 * point[i] * point[i]
			g[i] += o.l2 * point[i]
		}
	}
	return value, g
}

// formula returns the loss of the images of f from the formula of the problem, for naive.
func formula(p Problem, f Features, classes int, weights []float64) func(image int, z []float64) (float64, []float64) {
	weight := func(class int) float64 {
		if weights == nil {
			return 1
		}
		return weights[class]
	}
	if p == SeveralLabels {
		return func(i int, z []float64) (loss float64, g []float64) {
			for k, v := range z {
				p := 1 / (1 + math.Exp(-v))
				if f.Labels[i*classes+k] == 1 {
					loss, g = loss-weight(k)*math.Log(p), append(g, weight(k)*(p-1))
				} else {
					loss, g = loss-math.Log(1-p), append(g, p)
				}
			}
			return loss, g
		}
	}
	total := 0.0
	for _, label := range f.Labels {
		total += weight(int(label))
	}
	return func(i int, z []float64) (loss float64, g []float64) {
		label := int(f.Labels[i])
		w, sum := weight(label)*float64(f.Len())/total, 0.0
		for _, v := range z {
			sum += math.Exp(v)
		}
		for k, v := range z {
			g = append(g, w*math.Exp(v)/sum)
			if k == label {
				g[k] -= w
			}
		}
		return w * (math.Log(sum) - z[label]), g
	}
}

// TestObjective compares the value and the gradient in blocks with the formula. 9,000 images take
// two blocks.
func TestObjective(t *testing.T) {
	for _, s := range []struct {
		problem           Problem
		n, width, classes int
	}{{OneLabel, 3, 1, 2}, {OneLabel, 130, 7, 5}, {OneLabel, 9000, 5, 3}, {SeveralLabels, 3, 1, 1}, {SeveralLabels, 130, 7, 5}, {SeveralLabels, 9000, 5, 3}} {
		f := syntheticOf(s.problem, s.n, s.width, s.classes, 1, 3)
		weights := make([]float64, s.classes)
		for i := range weights {
			weights[i] = 1 + float64(i)
		}
		p, err := newPath(f, Options{Problem: s.problem, Classes: s.classes, ClassWeights: weights})
		if err != nil {
			t.Fatal(err)
		}
		p.objective.l2 = 0.1
		r := rand.New(rand.NewPCG(1, 1))
		for i := range p.solver.point {
			p.solver.point[i] = r.NormFloat64()
		}
		want, wantG := naive(p.objective, p.solver.point, formula(s.problem, f, s.classes, weights))
		g := make([]float64, len(wantG))
		got, err := p.objective.at(t.Context(), p.solver.point, g)
		if err != nil || math.Abs(got-want) > 1e-5*want {
			t.Errorf("%v: value %v, error %v; the formula gives %v", s, got, err, want)
		}
		for i := range g {
			if math.Abs(g[i]-wantG[i]) > 3e-6*(1+math.Abs(wantG[i])) {
				t.Errorf("%v: element %d of the gradient is %v; the formula gives %v", s, i, g[i], wantG[i])
			}
		}
	}
}

// TestMinimum checks that each step of a path ends at the minimum: the gradient of the formula
// vanishes, and the value with the default tolerance is within 1 % of the value of a tight fit.
// Each step starts at the result of the step before.
func TestMinimum(t *testing.T) {
	for _, problem := range []Problem{OneLabel, SeveralLabels} {
		f := syntheticOf(problem, 300, 20, 6, 0.5, 1)
		loss := formula(problem, f, 6, nil)
		tight, err := newPath(f, Options{Problem: problem, Classes: 6, Tolerance: 1e-11, Iterations: 2000})
		if err != nil {
			t.Fatal(err)
		}
		loose, err := newPath(f, Options{Problem: problem, Classes: 6, Tolerance: DefaultTolerance, Iterations: DefaultIterations})
		if err != nil {
			t.Fatal(err)
		}
		for _, l2 := range DefaultL2s() {
			if _, err := tight.step(t.Context(), l2); err != nil {
				t.Fatal(err)
			}
			value, g := naive(tight.objective, tight.solver.point, loss)
			if size := math.Sqrt(dot(g, g)); size > 2e-5 {
				t.Errorf("%T, l2 %g: the gradient at the minimum has length %g", problem, l2, size)
			}
			out, err := loose.step(t.Context(), l2)
			if err != nil || !out.converged {
				t.Fatalf("%T, l2 %g: converged %v, error %v", problem, l2, out.converged, err)
			}
			if got, _ := naive(loose.objective, loose.solver.point, loss); got > 1.01*value {
				t.Errorf("%T, l2 %g: the objective is %g; the minimum is %g", problem, l2, got, value)
			}
		}
	}
}

// TestLBFGS minimises the badly scaled convex function Σ 10^(i/2)·(x_i-1)² + (x_i-1)⁴.
func TestLBFGS(t *testing.T) {
	l := lbfgs{tolerance: 1e-14, iterations: 1000, point: make([]float64, 12), at: func(_ context.Context, x, g []float64) (value float64, _ error) {
		for i, v := range x {
			a, e := math.Pow(10, float64(i)/2), v-1
			value += a*e*e + e*e*e*e
			g[i] = 2*a*e + 4*e*e*e
		}
		return value + 1, nil
	}}
	out, err := l.minimise(t.Context())
	if err != nil || !out.converged {
		t.Fatalf("outcome %+v, error %v", out, err)
	}
	for i, v := range l.point {
		if math.Abs(v-1) > 1e-5 {
			t.Errorf("element %d is %v; the minimum is at 1", i, v)
		}
	}
}

// TestScale checks that scale and offset of features do not change predictions, and that the head
// fits the raw features.
func TestScale(t *testing.T) {
	train, val := synthetic(200, 9, 4, 0.8, 1), synthetic(100, 9, 4, 0.8, 2)
	moved := func(f Features) Features {
		f = f.rows(images(f.Len()))
		for i := range f.Values {
			f.Values[i] = f.Values[i]*float32(math.Pow(4, float64(i%9)-4)) + float32(i%9)
		}
		return f
	}
	o := Options{Classes: 4, Tolerance: 1e-9}
	a, b := mustFit(t, train, val, o), mustFit(t, moved(train), moved(val), o)
	if a.L2 != b.L2 || math.Abs(a.ValLoss-b.ValLoss) > 1e-4*a.ValLoss || a.ValAccuracy != b.ValAccuracy {
		t.Errorf("results %+v and %+v; scale and offset of features must not matter", a.Try, b.Try)
	}
	logits, err := a.Logits(t.Context(), val.Values)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range logits {
		image, k := i/4, i%4
		want := float64(a.Bias[k])
		for j := range 9 {
			want += float64(a.Weight[k*9+j]) * float64(val.Values[image*9+j])
		}
		if math.Abs(float64(got)-want) > 1e-4 {
			t.Fatalf("logit %d of image %d is %v; Weight·x + Bias is %v", k, image, got, want)
		}
	}
}

// images returns 0 to n-1.
func images(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// TestDeterminism checks that the result has the same bits for every number of workers.
func TestDeterminism(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, problem := range []Problem{OneLabel, SeveralLabels} {
		train := syntheticOf(problem, 700, 33, 7, 0.4, 1)
		var want *Probe
		for _, workers := range []int{1, 2, 3, 8, 2} {
			runtime.GOMAXPROCS(workers)
			got := mustFit(t, train, Features{}, Options{Problem: problem, Classes: 7})
			if want == nil {
				want = got
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%T, %d workers: the probe differs from that of one worker", problem, workers)
			}
		}
	}
}

// TestFewImages fits three images a class, a class with one image, a class without training images,
// and validation images that lack a class.
func TestFewImages(t *testing.T) {
	all := synthetic(30, 16, 5, 3, 1)
	val := synthetic(50, 16, 5, 3, 2)
	few := all.rows(images(15))
	one := all.rows([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13}) // class 4 has one image
	if p := mustFit(t, few, Features{}, Options{Classes: 5}); p.HeldOut != Folds || p.ValAccuracy < 0.8 {
		t.Errorf("three images a class: %s, held-out accuracy %g", p.HeldOut, p.ValAccuracy)
	}
	p := mustFit(t, one, Features{}, Options{Classes: 5})
	if accuracy, _, err := p.Evaluate(t.Context(), val); err != nil || accuracy < 0.8 {
		t.Errorf("a class with one image: accuracy %g, error %v", accuracy, err)
	}
	var lacks []int
	for i, label := range val.Labels {
		if label != 2 {
			lacks = append(lacks, i)
		}
	}
	if p := mustFit(t, few, val.rows(lacks), Options{Classes: 5}); p.HeldOut != Validation || p.ValAccuracy < 0.8 {
		t.Errorf("validation images without a class: %s, accuracy %g", p.HeldOut, p.ValAccuracy)
	}
	// Class 5 has no training images: its mean probability is half an image.
	p = mustFit(t, all, val, Options{Classes: 7, L2s: []float64{0.1}})
	logits, err := p.Logits(t.Context(), all.Values)
	if err != nil {
		t.Fatal(err)
	}
	ratio := 0.0
	for i := range all.Len() {
		sum := 0.0
		for _, z := range logits[i*7 : i*7+5] {
			sum += math.Exp(float64(z))
		}
		ratio += math.Exp(float64(logits[i*7+5])) / sum
	}
	if math.Abs(ratio-0.5) > 1e-3 || p.Bias[5] != p.Bias[6] {
		t.Errorf("a class without training images has %g images of probability; 0.5 was expected", ratio)
	}
}

// TestFewLabels fits few images with several labels: a label with one image, one without images,
// one that all images have, and images without a label. Without validation images, the held-out
// predictions are those of the folds.
func TestFewLabels(t *testing.T) {
	const n, classes = 40, 6
	of := func(seed uint64) Features {
		f := syntheticOf(SeveralLabels, n, 8, classes, 1, seed)
		for i := range n {
			row := f.Labels[i*classes : (i+1)*classes]
			row[3], row[4], row[5] = 0, 0, 1
			if i == 7 {
				row[3] = 1
			}
		}
		return f
	}
	train, val := of(1), of(2)
	p := mustFit(t, train, Features{}, Options{Problem: SeveralLabels, Classes: classes})
	if p.HeldOut != Folds || p.ValAccuracy < 0.85 || len(p.HeldOutLogits) != len(p.HeldOutLabels) || len(p.HeldOutLabels) != (n-1)*classes {
		t.Errorf("held out %s, accuracy %g, %d logits of %d labels", p.HeldOut, p.ValAccuracy, len(p.HeldOutLogits), len(p.HeldOutLabels))
	}
	m := SeveralLabels.measure(p.HeldOutLabels, p.HeldOutLogits, classes, nil, nil)
	if math.Abs(m.mean()-p.ValLoss) > 1e-9 || m.accuracy() != p.ValAccuracy {
		t.Errorf("the held-out predictions have the loss %g and the accuracy %g; the figures are %+v", m.mean(), m.accuracy(), p.Try)
	}
	if accuracy, _, err := p.Evaluate(t.Context(), val); err != nil || accuracy < 0.85 {
		t.Errorf("accuracy %g, error %v", accuracy, err)
	}
	for label, want := range map[int]float64{4: 1. / (2 * n), 5: 1 - 1./(2*n)} {
		for _, w := range p.Weight[label*8 : (label+1)*8] {
			if w != 0 {
				t.Errorf("label %d has the weight %g", label, w)
			}
		}
		if got := 1 / (1 + math.Exp(-float64(p.Bias[label]))); math.Abs(got-want) > 1e-6 {
			t.Errorf("label %d has the probability %g; %g was expected", label, got, want)
		}
	}
}

// TestSplit checks that folds are stratified, cover all images once, and keep a class with one
// image for training.
func TestSplit(t *testing.T) {
	labels := []int32{0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3}
	dealt := OneLabel.deal(labels, 5, 5)
	size, at := map[int]int{}, map[[2]int]int{}
	for i, part := range dealt {
		size[part]++
		at[[2]int{int(labels[i]), part}]++
	}
	if dealt[7] != -1 || size[-1] != 1 {
		t.Errorf("parts %v: only image 7 is in no held-out part", dealt)
	}
	for part := range 5 {
		if size[part] != 3 || at[[2]int{0, part}] != 1 || at[[2]int{1, part}] > 1 || at[[2]int{3, part}] < 1 || at[[2]int{3, part}] > 2 {
			t.Errorf("part %d of %v is not stratified", part, dealt)
		}
	}
	several := syntheticOf(SeveralLabels, 100, 4, 3, 1, 1)
	several.Labels = append(several.Labels[:99*3], 0, 0, 0)
	all := positives(several.Labels, 3)
	for part := range 5 {
		var own []int32
		for i, p := range SeveralLabels.deal(several.Labels, 3, 5) {
			if p == part {
				own = append(own, several.Labels[i*3:(i+1)*3]...)
			}
		}
		for label, got := range positives(own, 3) {
			if math.Abs(float64(got)-float64(all[label])/5) > 1.5 || len(own) < 18*3 || len(own) > 22*3 {
				t.Errorf("part %d has %d images, %d of the %d with label %d", part, len(own)/3, got, all[label], label)
			}
		}
	}
	many := synthetic(foldImages+1, 1, 3, 1, 1)
	splits, heldOut, err := splitsOf(many, Features{}, Options{Problem: OneLabel, Classes: 3})
	if err != nil || heldOut != Tenth || len(splits) != 1 || splits[0].val.Len() != 201 || splits[0].train.Len() != 1800 {
		t.Errorf("%d images: %d splits, held out %q, error %v", many.Len(), len(splits), heldOut, err)
	}
}

// TestTried checks the path: descending strengths, the least loss is chosen, and the path ends
// early.
func TestTried(t *testing.T) {
	train, val := synthetic(100, 30, 4, 0.3, 1), synthetic(200, 30, 4, 0.3, 2)
	p := mustFit(t, train, val, Options{Classes: 4})
	if len(p.Tried) == len(DefaultL2s()) {
		t.Error("the path of overlapping classes did not end early")
	}
	for i, try := range p.Tried {
		if i > 0 && try.L2 >= p.Tried[i-1].L2 {
			t.Errorf("strength %g follows %g", try.L2, p.Tried[i-1].L2)
		}
		if try.ValLoss < p.ValLoss || !try.Converged {
			t.Errorf("tried %+v, chosen %+v", try, p.Try)
		}
	}
	if accuracy, loss, err := p.Evaluate(t.Context(), val); err != nil || accuracy != p.ValAccuracy || loss != p.ValLoss {
		t.Errorf("the probe has accuracy %g and loss %g, error %v; its figures are %+v", accuracy, loss, err, p.Try)
	}
	if logits, err := p.Logits(t.Context(), val.Values); err != nil || !reflect.DeepEqual(logits, p.HeldOutLogits) || !reflect.DeepEqual(val.Labels, p.HeldOutLabels) {
		t.Errorf("the held-out predictions are not those of the probe; error %v", err)
	}
	if q := mustFit(t, train, val, Options{Classes: 4, L2s: []float64{1e-3, 1, 0.1, 0.1}}); len(q.Tried) != 3 || q.Tried[0].L2 != 1 {
		t.Errorf("tried %+v for three strengths", q.Tried)
	}
}

// TestHead checks that the head of a probe that separates the training images has the held-out
// loss, with the same predictions, and that other probes are not changed. The third label is rare,
// and weighs more.
func TestHead(t *testing.T) {
	weights := []float64{1, 1, 8}
	for _, problem := range []Problem{OneLabel, SeveralLabels} {
		train, val := syntheticOf(problem, 60, 40, 4, 0.5, 1), syntheticOf(problem, 200, 40, 4, 0.5, 2)
		o := Options{Problem: problem, Classes: 4}
		guess := math.Log(4)
		if problem == SeveralLabels {
			train, val = syntheticOf(problem, 60, 40, 3, 0.5, 1), syntheticOf(problem, 200, 40, 3, 0.5, 2)
			o.Classes, o.ClassWeights, guess = 3, weights, 0
			for label, n := range positives(train.Labels, 3) {
				share, least := float64(n)/60, math.Inf(1)
				for p := 0.0001; p < 1; p += 0.0001 { // the same probability for all images
					least = min(least, -weights[label]*share*math.Log(p)-(1-share)*math.Log(1-p))
				}
				guess += least / 3
			}
		}
		for _, c := range []struct {
			l2      float64
			changes bool
		}{{1e-4, true}, {10, false}} {
			o.L2s = []float64{c.l2}
			p := mustFit(t, train, val, o)
			h, err := p.Head(t.Context(), train)
			if err != nil {
				t.Fatal(err)
			}
			target := min(p.ValLoss, guess/2)
			if c.changes && (h.Scale >= 1 || math.Abs(h.TrainLoss-target) > 0.01*target) || !c.changes && h.Scale != 1 {
				t.Errorf("%T, l2 %g: scale %g, loss %g; the loss of the probe is %g, on held-out images %g, of a guess %g", problem, c.l2, h.Scale, h.TrainLoss, p.TrainLoss, p.ValLoss, guess)
			}
			for i, w := range p.Weight {
				if h.Weight[i] != float32(h.Scale*float64(w)) {
					t.Fatalf("%T, l2 %g: weight %d is not scaled", problem, c.l2, i)
				}
			}
		}
	}
}

// TestErrors checks arguments that cannot work.
func TestErrors(t *testing.T) {
	good := func() Features { return synthetic(40, 3, 4, 1, 1) }
	with := func(change func(f *Features)) Features { f := good(); change(&f); return f }
	nan := with(func(f *Features) { f.Values[10] = float32(math.NaN()) })
	o := Options{Classes: 4}
	for _, c := range []struct {
		name       string
		train, val Features
		o          Options
		want       string
	}{
		{"NaN", nan, good(), o, "feature 1 of training image 3 is NaN"},
		{"Inf", good(), with(func(f *Features) { f.Values[119] = float32(math.Inf(-1)) }), o, "feature 2 of validation image 39 is -Inf"},
		{"label", with(func(f *Features) { f.Labels[5] = 4 }), good(), o, "training image 5 has label 4; labels are 0 to 3"},
		{"negative label", good(), with(func(f *Features) { f.Labels[5] = -1 }), o, "validation image 5 has label -1"},
		{"one class", with(func(f *Features) { clear(f.Labels) }), good(), o, "all 40 training images have class 0"},
		{"one class, folds", with(func(f *Features) { clear(f.Labels) }), Features{}, o, "all 32 training images have class 0"},
		{"single images", good().rows(images(4)), Features{}, o, "each training image is the only one of a class"},
		{"width", good(), synthetic(40, 4, 4, 1, 1), o, "width 4, but 3"},
		{"short", with(func(f *Features) { f.Values = f.Values[1:] }), good(), o, "119 numbers for 40 images"},
		{"zero width", Features{0, nil, []int32{1}}, good(), o, "width 0"},
		{"values without labels", good(), Features{3, []float32{1, 2, 3}, nil}, o, "no validation images"},
		{"empty", Features{Width: 3}, good(), o, "no training images"},
		{"classes", good(), good(), Options{}, "found 0 classes"},
		{"one class of four", good(), good(), Options{Classes: 1}, "labels are 0 to 0"},
		{"strength", good(), good(), Options{Classes: 4, L2s: []float64{1, 0}}, "strength 0"},
		{"NaN strength", good(), good(), Options{Classes: 4, L2s: []float64{1, math.NaN()}}, "strength NaN"},
		{"number of weights", good(), good(), Options{Classes: 4, ClassWeights: []float64{1}}, "1 class weights for 4"},
		{"weight", good(), good(), Options{Classes: 4, ClassWeights: []float64{1, 0, 1, 1}}, "class 1 has weight 0"},
		{"tolerance", good(), good(), Options{Classes: 4, Tolerance: -1}, "tolerance -1"},
		{"iterations", good(), good(), Options{Classes: 4, Iterations: -1}, "-1 iterations"},
	} {
		if _, err := Fit(t.Context(), c.train, c.val, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v; %q was expected", c.name, err, c.want)
		}
	}
	several := Options{Problem: SeveralLabels, Classes: 2}
	labelled := func(labels ...int32) Features { return Features{1, []float32{1, 2, 3}, labels} }
	for _, c := range []struct {
		labels []int32
		want   string
	}{
		{[]int32{0, 1, 1, 0, 2, 0}, "training image 2 has the value 2 for label 0"},
		{[]int32{0, 1, 1, 0, 1}, "found 5 values, which is no multiple of the 2 labels"},
		{[]int32{0, 1, 1, 0}, "3 numbers for 2 images"},
		{[]int32{0, 1, 0, 1, 0, 1}, "all 3 training images have the same labels"},
	} {
		if _, err := Fit(t.Context(), labelled(c.labels...), labelled(0, 1, 1, 0, 1, 1), several); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("labels %v: error %v; %q was expected", c.labels, err, c.want)
		}
	}
	p := mustFit(t, good(), good(), o)
	if _, err := p.Logits(t.Context(), make([]float32, 4)); err == nil {
		t.Error("Logits accepts 4 features of width 3")
	}
	if _, _, err := p.Evaluate(t.Context(), nan); err == nil {
		t.Error("Evaluate accepts NaN")
	}
	if _, err := p.Head(t.Context(), nan); err == nil {
		t.Error("Head accepts NaN")
	}
}

// TestExtremeFeatures fits constant, huge and tiny features beside useful ones.
func TestExtremeFeatures(t *testing.T) {
	widen := func(f Features) Features {
		out := Features{f.Width + 4, nil, f.Labels}
		for i := range f.Len() {
			row := f.Values[i*f.Width : (i+1)*f.Width]
			out.Values = append(out.Values, row...)
			out.Values = append(out.Values, 7, row[0]*1e30, row[1]*1e-35, 1e6+float32(i%2)*0.0625)
		}
		return out
	}
	p := mustFit(t, widen(synthetic(100, 6, 3, 2, 1)), widen(synthetic(100, 6, 3, 2, 2)), Options{Classes: 3})
	if p.ValAccuracy < 0.9 || !finite(p.Weight) || !finite(p.Bias) {
		t.Errorf("accuracy %g, weights %v", p.ValAccuracy, p.Weight)
	}
	for k := range 3 {
		if w := p.Weight[k*10:]; w[6] != 0 || w[8] != 0 || w[9] != 0 {
			t.Errorf("constant features have weights %v", w[6:10])
		}
	}
}

// TestCancel checks that a cancelled context ends a fit that has started.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	train := synthetic(3000, 256, 50, 0.1, 1)
	if _, err := Fit(ctx, train, train, Options{Classes: 50, Tolerance: 1e-12, Iterations: 10000}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v; the deadline was expected", err)
	}
}

// BenchmarkFit fits the whole default path with validation images.
func BenchmarkFit(b *testing.B) {
	for _, s := range []struct {
		problem           Problem
		n, width, classes int
		spread            float64
	}{{OneLabel, 1000, 192, 10, 0.2}, {OneLabel, 1000, 768, 101, 0.2}, {OneLabel, 50000, 384, 1000, 0.2}, {SeveralLabels, 1000, 192, 10, 0.2}, {SeveralLabels, 1000, 768, 80, 0.2}, {SeveralLabels, 50000, 384, 80, 0.2}} {
		b.Run(fmt.Sprintf("%T/%dx%dx%d", s.problem, s.n, s.width, s.classes), func(b *testing.B) {
			train, val := syntheticOf(s.problem, s.n, s.width, s.classes, s.spread, 1), syntheticOf(s.problem, max(200, s.n/20), s.width, s.classes, s.spread, 2)
			iterations := 0
			for b.Loop() {
				iterations = 0
				for _, try := range mustFit(b, train, val, Options{Problem: s.problem, Classes: s.classes}).Tried {
					iterations += try.Iterations
				}
			}
			b.ReportMetric(float64(iterations), "iterations")
		})
	}
}
