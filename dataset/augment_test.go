package dataset

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/internal/option"
)

// expected holds the results of torchvision that testdata/augment.py wrote.
type expected struct {
	Operations []struct {
		Name      string
		Magnitude int
		Negative  bool
		CRC       uint32
	}
	Jitter []struct {
		Order   []int
		Factors [4]float64
		CRC     uint32
	}
	Crops, Erased []struct {
		Box [4]int
		CRC uint32
	}
	Fill  [3]uint8
	Draws []struct {
		Of            string
		Width, Height int
		Scale, Ratio  [2]float64
		N             float64
		Mean, SD      [4]float64
	}
	Fallback []struct {
		Width, Height int
		Scale, Ratio  [2]float64
		Box           [4]int
	}
	Mixup struct {
		Share   float64
		Targets [4][4]float32
	}
	CutMix []struct {
		Share   float64
		Centre  [2]int
		CRC     uint32
		Targets [4][4]float32
	}
	Beta struct {
		At        []float64
		Quantiles []struct {
			Alpha  float64
			Values []float64
		}
	}
}

func readExpected(t *testing.T) (want expected, photo *RGB) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "augment", "expected.json"))
	if err == nil {
		err = json.Unmarshal(data, &want)
	}
	if err != nil {
		t.Fatal(err)
	}
	return want, readImage(t, "photo.jpg")
}

func readImage(t *testing.T, name string) *RGB {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "augment", name))
	if err != nil {
		t.Fatal(err)
	}
	m, err := decodeImage(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func cloned(m *RGB) *RGB { return &RGB{m.Width, m.Height, slices.Clone(m.Pix)} }

func (m *RGB) crc() uint32 { return crc32.ChecksumIEEE(m.Pix) }

// TestOperationsAsTorchvision compares the pixels of every operation of RandAugment, bit for bit,
// with torchvision on an image of Pillow.
func TestOperationsAsTorchvision(t *testing.T) {
	want, photo := readExpected(t)
	tried := map[string]bool{}
	for _, c := range want.Operations {
		i := slices.IndexFunc(operations, func(o operation) bool { return o.name == c.Name })
		if i < 0 {
			t.Fatalf("there is no operation %s", c.Name)
		}
		m := cloned(photo)
		operations[i].apply(m, c.Magnitude, c.Negative, want.Fill)
		if m.crc() != c.CRC {
			t.Errorf("%s with magnitude %d, negative %v: CRC-32 %08x, want %08x", c.Name, c.Magnitude, c.Negative, m.crc(), c.CRC)
		}
		tried[c.Name] = true
		if signed := operations[i].signed; c.Negative && !signed {
			t.Errorf("%s has no negative values", c.Name)
		}
	}
	if len(tried) != len(operations) {
		t.Errorf("%d of %d operations are compared", len(tried), len(operations))
	}
}

// TestColourAsTorchvision compares changes of the colours with given factors and orders, bit for
// bit, with torchvision's ColorJitter on an image of Pillow.
func TestColourAsTorchvision(t *testing.T) {
	want, photo := readExpected(t)
	for _, c := range want.Jitter {
		m := cloned(photo)
		for _, i := range c.Order {
			adjustments[i](m, c.Factors[i])
		}
		if m.crc() != c.CRC {
			t.Errorf("operations %v with factors %v: CRC-32 %08x, want %08x", c.Order, c.Factors, m.crc(), c.CRC)
		}
	}
}

// TestBoxesAsTorchvision compares crops that are resized, and erased rectangles, with torchvision.
func TestBoxesAsTorchvision(t *testing.T) {
	want, photo := readExpected(t)
	for _, c := range want.Crops {
		m, err := resizeBox(photo, box{c.Box[0], c.Box[1], c.Box[2], c.Box[3]}, 32)
		if err != nil || m.crc() != c.CRC {
			t.Errorf("crop %v: error %v, CRC-32 %08x, want %08x", c.Box, err, m.crc(), c.CRC)
		}
	}
	for _, c := range want.Erased {
		m := cloned(photo)
		erase(m, box{c.Box[0], c.Box[1], c.Box[2], c.Box[3]}, want.Fill)
		if m.crc() != c.CRC {
			t.Errorf("erased %v: CRC-32 %08x, want %08x", c.Box, m.crc(), c.CRC)
		}
	}
}

// TestDrawsAsTorchvision compares the distributions of rectangles with those of torchvision: means
// and standard deviations of the area, of the logarithm of the aspect ratio and of the position.
func TestDrawsAsTorchvision(t *testing.T) {
	want, _ := readExpected(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range want.Draws {
		var sum, squares [4]float64
		for range int(c.N) {
			b := box{}
			if c.Of == "crop" {
				b = randomCrop(c.Width, c.Height, c.Scale, c.Ratio, rng)
			} else if drawn, ok := randomErasing(c.Width, c.Height, rng); ok {
				b = drawn
			} else {
				t.Fatal("no rectangle fits")
			}
			if b.x < 0 || b.y < 0 || b.w < 1 || b.h < 1 || b.x+b.w > c.Width || b.y+b.h > c.Height {
				t.Fatalf("%+v does not lie in an image of %d×%d", b, c.Width, c.Height)
			}
			for i, v := range []float64{float64(b.w*b.h) / float64(c.Width*c.Height), math.Log(float64(b.w) / float64(b.h)),
				float64(b.x) / float64(max(1, c.Width-b.w)), float64(b.y) / float64(max(1, c.Height-b.h))} {
				sum[i] += v
				squares[i] += v * v
			}
		}
		for i, name := range []string{"area", "aspect ratio", "x", "y"} {
			mean := sum[i] / c.N
			sd := math.Sqrt(squares[i]/c.N - mean*mean)
			// Both means have a standard error of SD/√N.
			if d, error := math.Abs(mean-c.Mean[i]), c.SD[i]*math.Sqrt(2/c.N); d > 4.5*error+1e-9 {
				t.Errorf("%s %d×%d %v: mean %s %.4f, want %.4f ± %.4f", c.Of, c.Width, c.Height, c.Scale, name, mean, c.Mean[i], error)
			}
			if math.Abs(sd-c.SD[i]) > 0.05*c.SD[i] {
				t.Errorf("%s %d×%d %v: standard deviation of %s %.4f, want %.4f", c.Of, c.Width, c.Height, c.Scale, name, sd, c.SD[i])
			}
		}
	}
	for _, c := range want.Fallback {
		if got, want := randomCrop(c.Width, c.Height, c.Scale, c.Ratio, rng), (box{c.Box[0], c.Box[1], c.Box[2], c.Box[3]}); got != want {
			t.Errorf("no crop of %d×%d fits: got %+v, want %+v", c.Width, c.Height, got, want)
		}
	}
}

// TestRandomParts checks that operations, signs, orders, flips and erasing have the probabilities
// that torchvision gives them. It reads them from the pixels of a marked image.
func TestRandomParts(t *testing.T) {
	m := newRGB(8, 8)
	for i := range m.Pix {
		m.Pix[i] = uint8(i)
	}
	const n = 2000
	count := func(a Augment, is func(got []uint8) bool) float64 {
		transform := Transform{Size: 8, Augment: a}
		hits, dst := 0, make([]uint8, len(m.Pix))
		for i := range n {
			if err := transform.finish(dst, m, 3, i/100, i%100); err != nil {
				t.Fatal(err)
			}
			if is(dst) {
				hits++
			}
		}
		return float64(hits) / n
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 4*math.Sqrt(want*(1-want)/n) {
			t.Errorf("%s: share %.3f, want %.3f", what, got, want)
		}
	}
	upside := cloned(m)
	flipRows(upside)
	near("vertical flip", count(Augment{VerticalFlip: true}, func(p []uint8) bool { return bytes.Equal(p, upside.Pix) }), 0.5)
	near("erasing", count(Augment{Erasing: 0.3, Fill: [3]uint8{7, 7, 7}}, func(p []uint8) bool { return !bytes.Equal(p, m.Pix) }), 0.3)
	for _, o := range operations {
		if o.from == o.to {
			continue
		}
		for _, negative := range []bool{false, true} {
			if negative && !o.signed {
				continue
			}
			changed := cloned(m)
			o.apply(changed, 30, negative, [3]uint8{})
			same := 0 // operations with this result
			for _, other := range operations {
				for _, sign := range []bool{false, true} {
					again := cloned(m)
					if other.apply(again, 30, sign && other.signed, [3]uint8{}); bytes.Equal(again.Pix, changed.Pix) {
						same++ // an operation without a sign counts twice
					}
				}
			}
			near(o.name, count(Augment{RandAugment: 1, Magnitude: 30}, func(p []uint8) bool { return bytes.Equal(p, changed.Pix) }), float64(same)/28)
		}
	}
}

// TestJitterRange checks that factors fill their ranges and that all orders occur.
func TestJitterRange(t *testing.T) {
	defer func(old [4]func(*RGB, float64)) { adjustments = old }(adjustments)
	orders, low, high := map[string]int{}, [4]float64{9, 9, 9, 9}, [4]float64{-9, -9, -9, -9}
	order := ""
	for i := range adjustments {
		adjustments[i] = func(_ *RGB, f float64) {
			order += fmt.Sprint(i)
			low[i], high[i] = min(low[i], f), max(high[i], f)
		}
	}
	rng := rand.New(rand.NewPCG(5, 6))
	const n = 4800
	for range n {
		order = ""
		Augment{Brightness: 0.4, Contrast: 1.5, Saturation: 0.2, Hue: 0.1}.jitter(newRGB(1, 1), rng)
		orders[order]++
	}
	wantLow, wantHigh := [4]float64{0.6, 0, 0.8, -0.1}, [4]float64{1.4, 2.5, 1.2, 0.1}
	for i := range 4 {
		width := wantHigh[i] - wantLow[i]
		if low[i] < wantLow[i] || low[i] > wantLow[i]+0.01*width || high[i] > wantHigh[i] || high[i] < wantHigh[i]-0.01*width {
			t.Errorf("factors of adjustment %d lie in %g to %g, want %g to %g", i, low[i], high[i], wantLow[i], wantHigh[i])
		}
	}
	for o, k := range orders {
		if k < 130 || k > 270 { // 200 ± 5 standard deviations
			t.Errorf("order %s occurs %d times, want about 200", o, k)
		}
	}
	if len(orders) != 24 {
		t.Errorf("%d orders occur, want 24", len(orders))
	}
}

// four returns a mini-batch of the four images that testdata/augment.py mixes, with the classes 0
// to 3.
func four(t *testing.T) *Batch {
	b := squares(readImage(t, "four.png"))
	for i := range 4 {
		b.Targets = append(b.Targets, Class(i))
	}
	return b
}

// squares returns the four squares of an image in which they stand side by side.
func squares(m *RGB) *Batch {
	b := &Batch{N: 4}
	for i := range 4 {
		pix := make([]uint8, 3*m.Height*m.Height)
		cut(pix, m, i*m.Height, 0, m.Height, false)
		b.Pixels = append(b.Pixels, pix...)
	}
	return b
}

// checkTargets compares the targets of a mixed mini-batch with the rows of torchvision.
func checkTargets(t *testing.T, b *Batch, want [4][4]float32) {
	t.Helper()
	for i, row := range want {
		var got [4]float32
		got[b.Targets[i].(Class)] += b.Shares[i]
		got[b.Others[i].(Class)] += 1 - b.Shares[i]
		for c := range row {
			if math.Abs(float64(got[c]-row[c])) > 1e-6 {
				t.Errorf("image %d has the targets %v, want %v", i, got, row)
			}
		}
	}
}

// TestMixAsTorchvision compares Mixup and CutMix with given shares and centres with those of
// torchvision's transforms v2. Mixup rounds to the nearest level; torch rounds halves to even.
func TestMixAsTorchvision(t *testing.T) {
	want, _ := readExpected(t)
	b, mixed := four(t), squares(readImage(t, "mixup.png"))
	b.average(want.Mixup.Share)
	different := 0
	for i, v := range b.Pixels {
		if d := int(v) - int(mixed.Pixels[i]); d < -1 || d > 1 {
			t.Fatalf("value %d is %d, want %d", i, v, mixed.Pixels[i])
		} else if d != 0 {
			different++
		}
	}
	if different > len(b.Pixels)/20 { // a share of 5/16 gives many halves
		t.Errorf("%d of %d values differ by one", different, len(b.Pixels))
	}
	checkTargets(t, b, want.Mixup.Targets)
	for _, c := range want.CutMix {
		b := four(t)
		b.paste(cutBox(c.Share, 48, c.Centre[0], c.Centre[1]), 48)
		side := newRGB(4*48, 48)
		for i := range 4 {
			for y := range 48 {
				copy(side.Pix[3*(y*4*48+i*48):], b.Pixels[3*48*(i*48+y):][:3*48])
			}
		}
		if side.crc() != c.CRC {
			t.Errorf("share %g around %v: CRC-32 %08x, want %08x", c.Share, c.Centre, side.crc(), c.CRC)
		}
		checkTargets(t, b, c.Targets)
	}
	for _, q := range want.Beta.Quantiles {
		rng, values := rand.New(rand.NewPCG(3, 4)), make([]float64, 20000)
		for i := range values {
			values[i] = beta(q.Alpha, rng)
		}
		for i, at := range want.Beta.At {
			below := 0
			for _, v := range values {
				if v <= q.Values[i] {
					below++
				}
			}
			if share, n := float64(below)/float64(len(values)), float64(len(values)); math.Abs(share-at) > 4*math.Sqrt(at*(1-at)/n) {
				t.Errorf("Beta(%g, %[1]g): a share of %.4f is at most %g, want %g", q.Alpha, share, q.Values[i], at)
			}
		}
	}
	if v := beta(1e-4, rand.New(rand.NewPCG(1, 1))); !(v >= 0 && v <= 1) {
		t.Errorf("Beta(0.0001, 0.0001) gives %g", v)
	}
}

// TestMixesOne checks a mini-batch of one image, which is mixed with itself.
func TestMixesOne(t *testing.T) {
	b := &Batch{Pixels: []uint8{1, 2, 3}, Targets: []Target{Class(5)}, N: 1}
	b.average(0.3)
	if !bytes.Equal(b.Pixels, []uint8{1, 2, 3}) || b.Others[0] != Class(5) || len(b.Shares) != 1 {
		t.Errorf("got %+v", b)
	}
}

// strongest returns a transform with every augmentation.
func strongest(size int) Transform {
	return Transform{Size: size, HorizontalFlip: true, Augment: Augment{CropScale: [2]float64{0.3, 1}, VerticalFlip: true, Brightness: 0.4, Contrast: 0.4,
		Saturation: 0.4, Hue: 0.1, RandAugment: 2, Erasing: 0.5, Mixup: 0.8, CutMix: 1, Fill: [3]uint8{1, 2, 3}}}
}

// TestAugmentSame checks that workers, cache and the start of a pass do not change the pixels, the
// targets and the shares of mini-batches.
func TestAugmentSame(t *testing.T) {
	samples := memorySamples(24)
	// images that are reduced before the cache
	for i := range 6 {
		samples[i].Image = pattern(70+i, 50)
	}
	order := Shuffle(len(samples), 7, 3)
	pass := func(workers int, cache *Cache, order []int, epoch int) (all []*Batch) {
		l := NewLoader(samples, strongest(16), cache, LoaderOptions{Workers: workers})
		for b, err := range l.Batches(t.Context(), order, 5, 7, epoch) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b)
		}
		return all
	}
	want := pass(1, nil, order, 3)
	same := func(a, b *Batch) bool {
		return bytes.Equal(a.Pixels, b.Pixels) && slices.Equal(a.Targets, b.Targets) && slices.Equal(a.Others, b.Others) && slices.Equal(a.Shares, b.Shares)
	}
	cache := NewCache(0)
	for name, got := range map[string][]*Batch{"4 workers": pass(4, nil, order, 3), "filling the cache": pass(3, cache, order, 3), "the cache": pass(4, cache, order, 3)} {
		for i, b := range got {
			if !same(b, want[i]) {
				t.Errorf("%s: mini-batch %d differs", name, i)
			}
		}
	}
	for i, b := range pass(4, nil, order[10:], 3) { // a resumed pass
		if !same(b, want[2+i]) {
			t.Errorf("a pass that starts at mini-batch 2: mini-batch %d differs", 2+i)
		}
	}
	if other := pass(1, nil, order, 4); same(other[0], want[0]) || slices.Equal(other[0].Shares, want[0].Shares) {
		t.Error("another epoch is augmented in the same way")
	}
	if len(want[0].Others) != 5 || len(want[0].Shares) != 5 || len(want[4].Shares) != 4 {
		t.Errorf("a mini-batch of 5 has %d other targets and %d shares", len(want[0].Others), len(want[0].Shares))
	}
	cuts := 0
	for epoch := range 40 {
		for _, b := range pass(2, cache, nil, epoch) {
			if f := float64(b.Shares[0]) * 256; f == math.Floor(f) { // whole pixels of 16 × 16
				cuts++
			}
		}
	}
	if cuts < 70 || cuts > 130 { // of 200
		t.Errorf("%d of 200 mini-batches are mixed by CutMix, want about half", cuts)
	}
}

// TestAugmentKeepsFlips checks that augmentation does not change which images are mirrored, and
// that a loader without mixing sets neither Others nor Shares.
func TestAugmentKeepsFlips(t *testing.T) {
	samples := memorySamples(30)
	plain := Transform{Size: 10, HorizontalFlip: true}
	more := plain
	more.Augment.Erasing = 1e-12
	a, _, _ := collect(t, NewLoader(samples, plain, nil, LoaderOptions{}), nil, 7, 1, 2)
	b, _, _ := collect(t, NewLoader(samples, more, nil, LoaderOptions{}), nil, 7, 1, 2)
	if !bytes.Equal(a, b) {
		t.Error("augmentation changes the flips")
	}
	for b, err := range NewLoader(samples, more, nil, LoaderOptions{}).Batches(t.Context(), nil, 7, 1, 2) {
		if err != nil || b.Others != nil || b.Shares != nil {
			t.Fatalf("error %v, others %v, shares %v", err, b.Others, b.Shares)
		}
	}
}

// TestFingerprintAugment checks that the fingerprint covers augmentation, and that a loader without
// it has the fingerprint of earlier versions.
func TestFingerprintAugment(t *testing.T) {
	of := func(tr Transform) string {
		return NewLoader([]Sample{{Path: "a", Target: Class(1), Where: "w"}}, tr, nil, LoaderOptions{}).Fingerprint()
	}
	plain := Transform{Size: 8, Resize: "crop", RandomCrop: true}
	// sha256 of `{Size:8 Resize:crop ResizeTo:0 RandomCrop:true HorizontalFlip:false}\n"a" 1 "w"\n`
	if got, want := of(plain), "f185e725f049cee3c53fe8456c3cf751e2aab9555652de2fb340fbeb461dabaa"; got != want {
		t.Errorf("without augmentation: %s, want %s", got, want)
	}
	flip := plain
	flip.TestFlip = true
	if of(flip) != of(plain) {
		t.Error("a flip of evaluation changes the fingerprint of a loader")
	}
	seen := map[string]bool{of(plain): true}
	for _, a := range []Augment{{VerticalFlip: true}, {Hue: 0.1}, {RandAugment: 1}, {RandAugment: 1, Magnitude: 3}, {Erasing: 0.1}, {Erasing: 0.1, Fill: [3]uint8{1, 2, 3}},
		{Mixup: 0.2}, {CutMix: 0.2}, {Brightness: 0.1}, {Contrast: 0.1}, {Saturation: 0.1}, {CropScale: [2]float64{0.5, 1}}, {CropScale: [2]float64{0.5, 1}, CropRatio: [2]float64{1, 1}}} {
		tr := plain
		if tr.Augment = a; seen[of(tr)] {
			t.Errorf("%+v has the fingerprint of another transform", a)
		}
		seen[of(tr)] = true
	}
}

// TestAugmentCache checks which images the cache holds for a random resized crop.
func TestAugmentCache(t *testing.T) {
	transform := Transform{Size: 10, Augment: Augment{CropScale: [2]float64{0.25, 1}}}
	for _, c := range []struct {
		w, h, wantW, wantH int
		scale              float64
	}{
		{100, 50, 40, 20, 0.25}, {50, 100, 20, 40, 0.25}, {100, 50, 40, 20, 0.08}, {100, 50, 20, 10, 1}, {100, 50, 30, 15, 0.5},
		{19, 500, 19, 500, 0.25}, {8, 9, 8, 9, 0.25},
	} {
		transform.Augment.CropScale[0] = c.scale
		m, err := transform.resize(pattern(c.w, c.h), frame{0, 0, float64(c.w), float64(c.h)})
		if err != nil || m.Width != c.wantW || m.Height != c.wantH {
			t.Errorf("%d×%d, smallest crop %g: error %v, %d×%d, want %d×%d", c.w, c.h, c.scale, err, m.Width, m.Height, c.wantW, c.wantH)
		}
	}
	if (Transform{Size: 10}).cacheKey(Sample{Path: "a"}) == transform.cacheKey(Sample{Path: "a"}) {
		t.Error("the cache does not tell images for a random resized crop from others")
	}
	for name, f := range map[string]func(*Augment){"flip": func(a *Augment) { a.VerticalFlip = true }, "mixup": func(a *Augment) { a.Mixup = 1 }} {
		other := Transform{Size: 10}
		f(&other.Augment)
		if (Transform{Size: 10}).cacheKey(Sample{Path: "a"}) != other.cacheKey(Sample{Path: "a"}) {
			t.Errorf("%s: the images are cached twice", name)
		}
		if fixed, ok := NewLoader(nil, other, nil, LoaderOptions{}).Fixed(); ok || fixed.Transform() != (Transform{Size: 10}) {
			t.Errorf("%s: a device may keep the images", name)
		}
	}
}

// TestAugmentSmall checks that images of every small size can be augmented.
func TestAugmentSmall(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5} {
		for w := 1; w < 40; w += 6 {
			for h := 1; h < 40; h += 7 {
				l := NewLoader([]Sample{{Image: pattern(w, h), Target: Class(0), Where: "m"}}, strongest(size), nil, LoaderOptions{})
				for epoch := range 3 {
					for _, err := range l.Batches(t.Context(), nil, 1, 1, epoch) {
						if err != nil {
							t.Fatalf("%d×%d to %d: %v", w, h, size, err)
						}
					}
				}
			}
		}
	}
}

func TestAugmentErrors(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		option string
		a      Augment
	}{
		{"crop-scale", Augment{CropScale: [2]float64{0, 1}}}, {"crop-scale", Augment{CropScale: [2]float64{0.8, 0.5}}}, {"crop-scale", Augment{CropScale: [2]float64{0.5, 1.1}}},
		{"crop-scale", Augment{CropScale: [2]float64{nan, 1}}}, {"crop-ratio", Augment{CropScale: [2]float64{0.5, 1}, CropRatio: [2]float64{2, 1}}},
		{"crop-ratio", Augment{CropRatio: [2]float64{1, 2}}}, {"crop-ratio", Augment{CropScale: [2]float64{0.5, 1}, CropRatio: [2]float64{1, 1e9}}},
		{"colour-jitter", Augment{Brightness: -0.1}}, {"colour-jitter", Augment{Contrast: math.Inf(1)}}, {"colour-jitter", Augment{Saturation: nan}}, {"colour-jitter", Augment{Hue: 0.6}},
		{"rand-augment", Augment{RandAugment: -1}}, {"rand-augment", Augment{RandAugment: 15}}, {"rand-augment-magnitude", Augment{RandAugment: 1, Magnitude: 31}},
		{"rand-augment-magnitude", Augment{Magnitude: 5}}, {"random-erasing", Augment{Erasing: 1.5}}, {"mixup", Augment{Mixup: -1}}, {"cutmix", Augment{CutMix: nan}},
	} {
		err := Transform{Size: 8, Augment: c.a}.Validate()
		if err == nil || option.Of(err) != c.option || strings.Contains(err.Error(), "--") {
			t.Errorf("%+v: the error is %v about %q, want one about %s", c.a, err, option.Of(err), c.option)
		}
	}
	if err := (Transform{Size: 8, Resize: "crop", RandomCrop: true, Augment: Augment{CropScale: [2]float64{0.5, 1}}}).Validate(); option.Of(err) != "random-crop" {
		t.Errorf("two crops: %v", err)
	}
	if err := strongest(8).Validate(); err != nil {
		t.Error(err)
	}
	// An image that is too narrow for the first pass of the resize.
	thin := Transform{Size: 4096, Augment: Augment{CropScale: [2]float64{1, 1}, CropRatio: [2]float64{1e-9, 1}}}
	err := firstError(NewLoader([]Sample{{Image: newRGB(1, 100_000), Where: "thin.txt:1"}}, thin, nil, LoaderOptions{}), nil, 1)
	if err == nil || !strings.Contains(err.Error(), "thin.txt:1") {
		t.Errorf("a very narrow image: error %v", err)
	}
}

// BenchmarkAugment measures what augmentation adds to an image that the cache holds, without the
// mixing of mini-batches.
func BenchmarkAugment(b *testing.B) {
	const size = 224
	light := Augment{CropScale: [2]float64{0.5, 1}}
	strong := light
	strong.RandAugment, strong.Erasing = 2, 0.25
	jitter := light
	jitter.Brightness, jitter.Contrast, jitter.Saturation, jitter.Hue = 0.4, 0.4, 0.4, 0.1
	for _, c := range []struct {
		name string
		a    Augment
	}{{"none", Augment{}}, {"light", light}, {"strong", strong}, {"jitter", jitter}} {
		b.Run(c.name, func(b *testing.B) {
			t := Transform{Size: size, HorizontalFlip: true, Augment: c.a}
			m, err := t.resize(pattern(640, 480), frame{0, 0, 640, 480})
			if err != nil {
				b.Fatal(err)
			}
			dst := make([]uint8, 3*size*size)
			for i := 0; b.Loop(); i++ {
				if err := t.finish(dst, m, 1, 0, i); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
