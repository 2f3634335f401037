package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// memorySamples returns n images of different sizes and contents.
func memorySamples(n int) []Sample {
	samples := make([]Sample, n)
	for i := range samples {
		m := pattern(20+i%7, 15+i%5)
		for j := range m.Pix {
			m.Pix[j] += uint8(37 * i)
		}
		samples[i] = Sample{Image: m, Target: Class(i % 3), Where: fmt.Sprintf("memory:%d", i)}
	}
	return samples
}

// collect runs one pass. It returns the concatenated pixels and labels, and the size of each
// mini-batch.
func collect(t testing.TB, l *Loader, order []int, batchSize int, seed uint64, epoch int) (pixels []uint8, labels []int32, sizes []int) {
	t.Helper()
	for b, err := range l.Batches(context.Background(), order, batchSize, seed, epoch) {
		if err != nil {
			t.Fatal(err)
		}
		if b.N != len(b.Targets) || len(b.Pixels) != b.N*3*l.transform.Size*l.transform.Size {
			t.Fatalf("batch of %d has %d labels and %d bytes", b.N, len(b.Targets), len(b.Pixels))
		}
		pixels = append(pixels, b.Pixels...)
		for _, target := range b.Targets {
			labels = append(labels, int32(target.Stratum()))
		}
		sizes = append(sizes, b.N)
	}
	return pixels, labels, sizes
}

func TestBatches(t *testing.T) {
	samples := memorySamples(11)
	l := NewLoader(samples, Transform{Size: 8}, nil, LoaderOptions{})
	if l.Len() != 11 {
		t.Errorf("Len is %d", l.Len())
	}
	var want []uint8
	for _, s := range samples {
		m, err := resizeBicubic(s.Image, 8, 8)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, m.Pix...)
	}
	pixels, labels, sizes := collect(t, l, nil, 4, 0, 0)
	if !bytes.Equal(pixels, want) || !slices.Equal(labels, []int32{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1}) || !slices.Equal(sizes, []int{4, 4, 3}) {
		t.Errorf("labels %v, sizes %v, pixels equal: %t", labels, sizes, bytes.Equal(pixels, want))
	}
	pixels, labels, sizes = collect(t, l, []int{5, 0, 5, 10}, 2, 0, 0)
	const n = 3 * 8 * 8
	if !slices.Equal(labels, []int32{2, 0, 2, 1}) || !slices.Equal(sizes, []int{2, 2}) || !bytes.Equal(pixels[n:2*n], want[:n]) || !bytes.Equal(pixels[3*n:], want[10*n:]) {
		t.Errorf("in order: labels %v, sizes %v", labels, sizes)
	}
	if _, _, sizes := collect(t, l, []int{}, 2, 0, 0); sizes != nil {
		t.Errorf("an empty order gives batches of %v", sizes)
	}
}

// TestBatchesSame checks that the number of workers, prefetch, batch size, order and cache do not
// change the pixels of a sample.
func TestBatchesSame(t *testing.T) {
	samples := memorySamples(40)
	transform := Transform{Size: 10, Resize: "crop", RandomCrop: true, HorizontalFlip: true}
	const imageBytes = 3 * 10 * 10
	want, _, _ := collect(t, NewLoader(samples, transform, nil, LoaderOptions{Workers: 1, Prefetch: 1}), nil, 40, 7, 3)
	order := Shuffle(len(samples), 7, 3)
	for _, c := range []struct {
		workers, prefetch, batch int
		cache                    *Cache
	}{{1, 4, 7, nil}, {3, 1, 1, NewCache(0)}, {16, 9, 13, NewCache(5000)}, {0, 0, 40, NewCache(-1)}} {
		l := NewLoader(samples, transform, c.cache, LoaderOptions{Workers: c.workers, Prefetch: c.prefetch})
		for range 2 { // the second pass reads the cache
			got, _, _ := collect(t, l, order, c.batch, 7, 3)
			for i, index := range order {
				if !bytes.Equal(got[i*imageBytes:(i+1)*imageBytes], want[index*imageBytes:(index+1)*imageBytes]) {
					t.Fatalf("%+v: sample %d differs", c, index)
				}
			}
		}
	}
	for name, other := range map[string][2]int{"seed": {8, 3}, "epoch": {7, 4}} {
		got, _, _ := collect(t, NewLoader(samples, transform, nil, LoaderOptions{}), nil, 40, uint64(other[0]), other[1])
		if bytes.Equal(got, want) {
			t.Errorf("another %s crops and flips the same", name)
		}
	}
}

// TestAugmentation checks that random crops come from every position and that half of the images
// are flipped. Positions and flips must be uniform and independent of each other.
func TestAugmentation(t *testing.T) {
	m := newRGB(9, 8) // every pixel holds its position
	for y := range 8 {
		for x := range 9 {
			copy(m.Pix[3*(9*y+x):], []uint8{uint8(x), uint8(y), 0})
		}
	}
	transform := Transform{Size: 4, Resize: "crop", ResizeTo: 8, RandomCrop: true, HorizontalFlip: true}
	if err := transform.Validate(); err != nil {
		t.Fatal(err)
	}
	seen := make(map[[3]int]int) // x0, y0, flipped
	const n = 6000
	dst := make([]uint8, 3*4*4)
	for i := range n {
		transform.finish(dst, m, 11, i/1000, i%1000)
		x0, y0, flipped := int(dst[0]), int(dst[1]), 0
		if dst[3] < dst[0] {
			x0, flipped = x0-3, 1
		}
		for y := range 4 {
			for x := range 4 {
				wantX := x0 + x
				if flipped == 1 {
					wantX = x0 + 3 - x
				}
				if p := dst[3*(4*y+x):]; int(p[0]) != wantX || int(p[1]) != y0+y {
					t.Fatalf("pixel (%d, %d) comes from (%d, %d), want (%d, %d)", x, y, p[0], p[1], wantX, y0+y)
				}
			}
		}
		seen[[3]int{x0, y0, flipped}]++
	}
	// Each combination of 6 columns, 5 rows and 2 flips has the probability 1/60. Chi-square with
	// 59 degrees of freedom is below 98.3 with a probability of 0.999.
	if len(seen) != 60 {
		t.Fatalf("%d different crops, want 60", len(seen))
	}
	chi := 0.0
	for _, k := range seen {
		chi += math.Pow(float64(k)-n/60, 2) / (n / 60)
	}
	if chi > 98.3 {
		t.Errorf("chi-square %.1f, want at most 98.3: crops and flips are not uniform", chi)
	}
}

// TestTransformSizes compares sizes and the centre crop with the results of torchvision's Resize
// and CenterCrop.
func TestTransformSizes(t *testing.T) {
	for _, c := range []struct {
		w, h               int
		transform          Transform
		resizedW, resizedH int
	}{
		{300, 200, Transform{Size: 224}, 224, 224},
		{300, 200, Transform{Size: 224, Resize: "crop"}, 384, 256},
		{199, 301, Transform{Size: 224, Resize: "crop", ResizeTo: 256}, 256, 387}, // 387.2
		// shorter side round(384·256/224) = 439, longer side 664.02
		{301, 199, Transform{Size: 384, Resize: "crop"}, 664, 439},
		{50, 50, Transform{Size: 7, Resize: "crop", ResizeTo: 7}, 7, 7},
	} {
		if err := c.transform.Validate(); err != nil {
			t.Fatal(err)
		}
		m, err := c.transform.resize(pattern(c.w, c.h), frame{0, 0, float64(c.w), float64(c.h)})
		if err != nil {
			t.Fatal(err)
		}
		if m.Width != c.resizedW || m.Height != c.resizedH {
			t.Errorf("%d×%d with %+v becomes %d×%d, want %d×%d", c.w, c.h, c.transform, m.Width, m.Height, c.resizedW, c.resizedH)
		}
	}
	// A centre crop of 4 starts at round(1.5) = 2 in 7 columns, and at round(2.5) = 2 in 9 rows.
	m := newRGB(7, 9)
	m.Pix[3*(7*2+2)] = 255
	dst := make([]uint8, 3*4*4)
	Transform{Size: 4, Resize: "crop", ResizeTo: 7}.finish(dst, m, 0, 0, 0)
	if dst[0] != 255 {
		t.Error("the centre crop does not start at (2, 2)")
	}
}

func TestTransformErrors(t *testing.T) {
	for _, tr := range []Transform{
		{}, {Size: -1}, {Size: 100000}, {Size: 8, Resize: "stretch"}, {Size: 8, RandomCrop: true}, {Size: 8, ResizeTo: 9},
		{Size: 8, Resize: "crop", ResizeTo: 7}, {Size: 8, Resize: "crop", ResizeTo: 100000}, {Size: 8, Resize: "crop", ResizeTo: -1},
	} {
		if tr.Validate() == nil {
			t.Errorf("%+v was accepted", tr)
		}
		if err := firstError(NewLoader(memorySamples(1), tr, nil, LoaderOptions{}), nil, 1); err == nil {
			t.Errorf("a loader with the invalid transform %+v returns no error", tr)
		}
	}
	// A very narrow image would become huge if its shorter side were resized to 256.
	thin := []Sample{{Image: newRGB(1, 1_000_000), Where: "thin.txt:1"}}
	err := firstError(NewLoader(thin, Transform{Size: 224, Resize: "crop"}, nil, LoaderOptions{}), nil, 1)
	if err == nil || !strings.Contains(err.Error(), "thin.txt:1") || !strings.Contains(err.Error(), "256×256000000") {
		t.Errorf("a very narrow image: error %v, want one that names thin.txt:1 and the size 256×256000000", err)
	}
}

func firstError(l *Loader, order []int, batchSize int) error {
	for _, err := range l.Batches(context.Background(), order, batchSize, 0, 0) {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestBatchesErrors(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.jpg")
	if err := os.WriteFile(broken, []byte("\xff\xd8\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	samples := memorySamples(20)
	samples[13] = Sample{Path: broken, Where: "test.txt:14"}
	samples[14] = Sample{Path: filepath.Join(dir, "gone.jpg"), Where: "test.txt:15"}
	l := NewLoader(samples, Transform{Size: 8}, nil, LoaderOptions{Workers: 4})
	batches := 0
	var failed error
	for b, err := range l.Batches(context.Background(), nil, 5, 0, 0) {
		if failed != nil {
			t.Fatal("the pass goes on after an error")
		}
		if err != nil {
			failed = err
			continue
		}
		batches += b.N / 5
	}
	// If a mini-batch has two bad images, the error names the first one in the order of the
	// samples.
	if batches != 2 || failed == nil || !strings.Contains(failed.Error(), "test.txt:14") || !strings.Contains(failed.Error(), broken) {
		t.Errorf("%d batches, then error %v; want 2 batches, then an error that names test.txt:14", batches, failed)
	}
	for _, c := range []struct {
		order []int
		batch int
		want  string
	}{{nil, 0, "batch size 0"}, {[]int{0, -20}, 2, "order[1] is -20"}, {[]int{-1}, 2, "order[0] is -1"}} {
		if err := firstError(l, c.order, c.batch); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
}

// goroutinesBack waits until the number of goroutines is not higher than before.
func goroutinesBack(t *testing.T, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%d goroutines are running, but %d were running before the pass", runtime.NumGoroutine(), before)
}

func TestBatchesStop(t *testing.T) {
	before := runtime.NumGoroutine()
	l := NewLoader(memorySamples(60), Transform{Size: 16}, nil, LoaderOptions{Workers: 5, Prefetch: 3})
	for range l.Batches(context.Background(), nil, 4, 0, 0) {
		break
	}
	goroutinesBack(t, before)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	batches := 0
	var failed error
	for _, err := range l.Batches(ctx, nil, 4, 0, 0) {
		if err != nil {
			failed = err
			break
		}
		batches++
		cancel()
	}
	if !errors.Is(failed, context.Canceled) || batches > 1+3+2 {
		t.Errorf("%d batches, then error %v; want few batches after the context is cancelled, then context.Canceled", batches, failed)
	}
	goroutinesBack(t, before)

	if err := func() error {
		for _, err := range l.Batches(ctx, nil, 4, 0, 0) {
			return err
		}
		return nil
	}(); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that is done before the pass: error %v, want context.Canceled", err)
	}
	goroutinesBack(t, before)
}

// TestCache checks that the cache keeps its limit, that a cached image is not decoded again, and
// that different transforms do not share images.
func TestCache(t *testing.T) {
	root := vtabTree.write(t)
	d, err := Open(t.Context(), root, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	samples := slices.Concat(d.Train, d.Val, d.Test) // 6 images
	const pixels = 3 * 8 * 8
	perImage := int64(pixels + len(samples[0].Path) + entryBytes)
	cache := NewCache(4*perImage + perImage/2)
	l := NewLoader(samples, Transform{Size: 8}, cache, LoaderOptions{Workers: 1})
	first, _, _ := collect(t, l, nil, 6, 0, 0)
	if len(cache.images) != 4 || cache.used > 4*perImage+perImage/2 || cache.used < 4*pixels {
		t.Errorf("%d images, %d bytes in the cache, want 4 images in at most %d bytes", len(cache.images), cache.used, 4*perImage+perImage/2)
	}

	all := NewCache(0)
	collect(t, NewLoader(samples, Transform{Size: 8}, all, LoaderOptions{}), nil, 6, 0, 0)
	if len(all.images) != 6 {
		t.Fatalf("%d images in the cache, want 6", len(all.images))
	}
	if err := os.RemoveAll(filepath.Join(root, "images")); err != nil {
		t.Fatal(err)
	}
	// The files no longer exist, so the images come from the cache. Another loader, which flips the
	// same resized images, gets them too.
	again, _, _ := collect(t, NewLoader(samples, Transform{Size: 8, HorizontalFlip: true}, all, LoaderOptions{}), nil, 6, 0, 0)
	if !bytes.Equal(first, again) { // one-pixel images are flat: a flip changes nothing
		t.Error("the pixels from the cache differ from the decoded pixels")
	}
	for _, other := range []Transform{{Size: 9}, {Size: 8, Resize: "crop", ResizeTo: 8}} {
		if firstError(NewLoader(samples, other, all, LoaderOptions{}), nil, 6) == nil {
			t.Errorf("a loader with %+v got images of another transform from the cache", other)
		}
	}

	nothing := NewCache(-1)
	collect(t, NewLoader(memorySamples(3), Transform{Size: 8}, nothing, LoaderOptions{}), nil, 3, 0, 0)
	if len(nothing.images) != 0 || nothing.used != 0 {
		t.Errorf("a cache with a negative limit holds %d images, want none", len(nothing.images))
	}
	var none *Cache
	none.put(cacheKey{}, newRGB(1, 1))
	if none.get(cacheKey{}) != nil {
		t.Error("a nil cache keeps an image")
	}
}

func TestShuffle(t *testing.T) {
	p := Shuffle(1000, 1, 2)
	if !slices.Equal(p, Shuffle(1000, 1, 2)) {
		t.Error("the same seed and epoch give another order")
	}
	if slices.Equal(p, Shuffle(1000, 1, 3)) || slices.Equal(p, Shuffle(1000, 2, 2)) || slices.IsSorted(p) {
		t.Error("another seed or epoch gives the same order")
	}
	slices.Sort(p)
	for i, v := range p {
		if i != v {
			t.Fatalf("not a permutation: %d at %d", v, i)
		}
	}
	// A different result would change every training run.
	if got := Shuffle(8, 42, 0); !slices.Equal(got, []int{3, 4, 2, 1, 5, 0, 6, 7}) {
		t.Errorf("Shuffle(8, 42, 0) is %v", got)
	}
}
