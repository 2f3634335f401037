package dataset

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// photo returns a random image with soft areas, edges and texture.
func photo(rng *rand.Rand) *RGB {
	m := newRGB(50+rng.IntN(100), 50+rng.IntN(100))
	type blob struct{ x, y, radius, angle, hard float64 }
	var blobs []blob
	var colours [][3]float64
	for range 6 + rng.IntN(6) {
		blobs = append(blobs, blob{rng.Float64(), rng.Float64(), 0.1 + 0.3*rng.Float64(), rng.Float64() * math.Pi, 1 + 20*rng.Float64()})
		colours = append(colours, [3]float64{rng.Float64() * 255, rng.Float64() * 255, rng.Float64() * 255})
	}
	ground := [3]float64{rng.Float64() * 255, rng.Float64() * 255, rng.Float64() * 255}
	for y := range m.Height {
		for x := range m.Width {
			at := ground
			for i, b := range blobs {
				dx, dy := float64(x)/float64(m.Width)-b.x, float64(y)/float64(m.Height)-b.y
				u := math.Abs(dx*math.Cos(b.angle)+dy*math.Sin(b.angle)) / b.radius
				v := math.Abs(dy*math.Cos(b.angle)-dx*math.Sin(b.angle)) / b.radius * 2
				w := 1 / (1 + math.Exp(b.hard*(math.Hypot(u, v)-1)))
				for c := range at {
					at[c] += w * (colours[i][c] - at[c])
				}
			}
			for c, v := range at {
				m.Pix[3*(y*m.Width+x)+c] = uint8(max(0, min(255, v+8*rng.NormFloat64())))
			}
		}
	}
	return m
}

// recompressed returns an image after JPEG compression.
func recompressed(t testing.TB, m *RGB, quality int) *RGB {
	r := image.NewRGBA(image.Rect(0, 0, m.Width, m.Height))
	for i := range m.Width * m.Height {
		copy(r.Pix[4*i:], m.Pix[3*i:3*i+3])
		r.Pix[4*i+3] = 255
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, r, &jpeg.Options{Quality: quality}); err != nil {
		t.Fatal(err)
	}
	out, err := decodeImage(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// resized returns an image with sides scaled by a factor.
func resized(t testing.TB, m *RGB, factor float64) *RGB {
	out, err := resizeBicubic(m, int(factor*float64(m.Width)), int(factor*float64(m.Height)))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// cropped returns an image without a share of its width and height on each side.
func cropped(m *RGB, margin float64) *RGB {
	dx, dy := int(math.Ceil(margin*float64(m.Width))), int(math.Ceil(margin*float64(m.Height)))
	out := newRGB(m.Width-2*dx, m.Height-2*dy)
	for y := range out.Height {
		copy(out.Pix[3*out.Width*y:][:3*out.Width], m.Pix[3*((y+dy)*m.Width+dx):])
	}
	return out
}

// brightened returns an image whose pixels are multiplied by a factor.
func brightened(m *RGB, factor float64) *RGB {
	out := newRGB(m.Width, m.Height)
	for i, v := range m.Pix {
		out.Pix[i] = uint8(min(255, factor*float64(v)))
	}
	return out
}

// TestNearRecall plants copies of random images and counts those that are found, and images that
// match by mistake.
func TestNearRecall(t *testing.T) {
	const images = 96
	rng := rand.New(rand.NewPCG(3, 0))
	kinds := []struct {
		name   string
		copied func(*RGB) *RGB
		least  float64
	}{
		{"half the size", func(m *RGB) *RGB { return resized(t, m, 0.5) }, 1},
		{"twice the size", func(m *RGB) *RGB { return resized(t, m, 2) }, 1},
		{"JPEG of quality 50", func(m *RGB) *RGB { return recompressed(t, m, 50) }, 1},
		{"half the size, JPEG of quality 75", func(m *RGB) *RGB { return recompressed(t, resized(t, m, 0.5), 75) }, 1},
		{"brightness × 1.1", func(m *RGB) *RGB { return brightened(m, 1.1) }, 0.98},
		{"brightness × 0.8", func(m *RGB) *RGB { return brightened(m, 0.8) }, 1},
		{"without 1 % on each side", func(m *RGB) *RGB { return cropped(m, 0.01) }, 0.9},
		{"without 2 % on each side", func(m *RGB) *RGB { return cropped(m, 0.02) }, 0.6},
	}
	var train, test []Sample
	var originals []*RGB
	for range images {
		m := photo(rng)
		originals = append(originals, m)
		train = append(train, Sample{Image: m, Target: Class(0)})
	}
	train = append(train, Sample{Image: originals[0], Target: Class(1), Where: "again"})
	train[images].Image = &RGB{originals[0].Width, originals[0].Height, slices.Clone(originals[0].Pix)}
	for i, m := range originals {
		test = append(test, Sample{Image: kinds[i%len(kinds)].copied(m), Target: Class(0)})
	}
	d, err := New("photos", []string{"a", "b"}, train, nil, test)
	if err != nil {
		t.Fatal(err)
	}
	v, err := d.Verify(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	number := map[*RGB]int{}
	for i, m := range originals {
		number[m], number[test[i].Image] = i, i
	}
	number[train[images].Image] = 0
	found := make([]int, len(kinds))
	for _, g := range v.Near {
		first := number[g.Copies[0].Sample.Image]
		for _, c := range g.Copies {
			if number[c.Sample.Image] != first {
				t.Errorf("images %d and %d are different, but were found nearly equal", first, number[c.Sample.Image])
			}
		}
		if !g.LeaksIntoTest || g.Distance > nearBits {
			t.Errorf("image %d: leaks into test: %v, distance %d", first, g.LeaksIntoTest, g.Distance)
		}
		if first == 0 && len(g.Copies) != 3 {
			t.Errorf("the group of image 0 has %d images, want the duplicate in train too", len(g.Copies))
		}
		found[first%len(kinds)]++
	}
	for k, kind := range kinds {
		planted := (images - k + len(kinds) - 1) / len(kinds)
		t.Logf("%s: found %d of %d", kind.name, found[k], planted)
		if float64(found[k]) < kind.least*float64(planted) {
			t.Errorf("%s: found %d of %d", kind.name, found[k], planted)
		}
	}
	again, err := d.Verify(t.Context(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := fmt.Sprint(len(v.Near), v.SHA256), fmt.Sprint(len(again.Near), again.SHA256); a != b {
		t.Errorf("another number of workers gives %s, not %s", b, a)
	}
}

// TestNearFlat checks that images of one colour, with and without noise, and images that cannot be
// hashed match none but their exact copies.
func TestNearFlat(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 0))
	var samples []Sample
	for i := range 20 {
		m := newRGB(40+i, 50)
		for p := range m.Pix {
			m.Pix[p] = uint8(10*i + rng.IntN(1+i%4))
		}
		samples = append(samples, Sample{Image: m, Target: Class(i % 2)})
	}
	samples = append(samples, Sample{Image: newRGB(1, 1), Target: Class(0)}, Sample{Image: newRGB(1, 3000), Target: Class(0)})
	d, err := New("flat", []string{"a", "b"}, samples, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := d.Verify(t.Context(), 0, nil)
	if err != nil || len(v.Near) > 0 {
		t.Errorf("flat images: %d groups of nearly equal images, error %v", len(v.Near), err)
	}
}

// TestNearColour checks that an image with other colours of the same brightness does not match.
func TestNearColour(t *testing.T) {
	a, b := newRGB(64, 64), newRGB(64, 64)
	for y := range 64 {
		for x := range 64 {
			p := 3 * (y*64 + x)
			if (x/9+y/13)%2 == 0 {
				copy(a.Pix[p:], []uint8{200, 0, 0}) // brightness 60
				copy(b.Pix[p:], []uint8{0, 60, 220})
			} else {
				copy(a.Pix[p:], []uint8{250, 250, 250})
				copy(b.Pix[p:], []uint8{250, 250, 250})
			}
		}
	}
	ta, tb := thumbnailOf(a), thumbnailOf(b)
	if d := bits.OnesCount64(uint64(ta.hash() ^ tb.hash())); d > nearBits {
		t.Fatalf("the hashes differ in %d bits, so the test is of no use", d)
	}
	if c := ta.correlation(tb); c >= nearCorrelation {
		t.Errorf("red and blue areas correlate with %.3f", c)
	}
}

// TestNearIndex compares the index with a comparison of all pairs.
func TestNearIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 0))
	var looks []look
	for len(looks) < 2000 {
		l := look(rng.Uint64())
		looks = append(looks, l)
		for range rng.IntN(4) {
			for range rng.IntN(9) {
				l ^= 1 << rng.IntN(64)
			}
			looks = append(looks, l)
		}
		if rng.IntN(20) == 0 {
			looks = append(looks, 0)
		}
	}
	index := newNearIndex(looks)
	pairs := 0
	for i := range looks {
		var want []near
		for j := range i {
			if d := bits.OnesCount64(uint64(looks[i] ^ looks[j])); d <= nearBits && looks[i] != 0 && looks[j] != 0 {
				want = append(want, near{j, d})
			}
		}
		slices.SortStableFunc(want, func(a, b near) int { return a.distance - b.distance })
		if got := index.before(i); !slices.Equal(got, want) {
			t.Fatalf("image %d: found %v, want %v", i, got, want)
		}
		pairs += len(want)
	}
	if pairs < 500 {
		t.Fatalf("only %d pairs", pairs)
	}
	// Equal images are bounded in number.
	same := slices.Repeat([]look{looks[0]}, 500)
	if got := newNearIndex(same).before(499); len(got) != nearCandidates || got[0].image != 0 {
		t.Errorf("%d candidates of 499 equal images", len(got))
	}
}

// BenchmarkThumbnail measures the hash of an image of 500×375 pixels.
func BenchmarkThumbnail(b *testing.B) {
	m := newRGB(500, 375)
	for i := range m.Pix {
		m.Pix[i] = uint8(i * i)
	}
	for b.Loop() {
		thumbnailOf(m).hash()
	}
}
