package dataset

import (
	"cmp"
	"context"
	"crypto/sha256"
	"math"
	"math/bits"
	"slices"

	"github.com/sptune/spt/progress"
)

// Two images are nearly equal if their hashes differ in at most nearBits of 64 bits and if their
// thumbnails correlate with at least nearCorrelation. The hash finds the pairs: it takes 8 bytes
// for each image. The thumbnails, which are computed for these pairs only, reject the images that
// look alike only from far. The values find resized and recompressed copies, and most copies with
// other brightness or without a narrow margin; see TestNearRecall.
const (
	nearBits        = 6
	nearCorrelation = 0.93
)

// nearCandidates limits the number of images with which one image is compared by thumbnails, so
// that a data set of equal-looking images, such as the frames of a video, takes bounded time.
const nearCandidates = 32

// leastContrast is the standard deviation of the brightness of a thumbnail, of 255 levels, below
// which an image is flat. The hash of a flat image is noise, so flat images match no image.
const leastContrast = 2

// thumbSide is the side of thumbnails, in pixels.
const thumbSide = 32

// thumbnail holds the means of thumbSide×thumbSide areas of an image, [thumbSide, thumbSide, 3].
type thumbnail [thumbSide * thumbSide * 3]uint8

// areaTaps returns the filter that divides n samples into thumbSide areas of equal size. The
// weights are in units of 1/(n·thumbSide)·thumbSide, so that they are exact integers and sum to n.
func areaTaps(n int) (out [thumbSide]taps) {
	for i := range out {
		from, to := i*n, (i+1)*n // in units of 1/thumbSide samples
		t := taps{first: from / thumbSide}
		for j := t.first; j*thumbSide < to; j++ {
			t.weights = append(t.weights, int32(min(to, (j+1)*thumbSide)-max(from, j*thumbSide)))
		}
		out[i] = t
	}
	return out
}

// thumbnailOf returns the thumbnail of an image. It computes in integers, so that it does not
// depend on the machine.
func thumbnailOf(m *RGB) *thumbnail {
	rows, columns := areaTaps(m.Height), areaTaps(m.Width)
	out := new(thumbnail)
	line := make([]int64, 3*m.Width)
	area := int64(m.Width) * int64(m.Height)
	for y, r := range rows {
		clear(line)
		for i, w := range r.weights {
			pix := m.Pix[3*m.Width*(r.first+i):][:3*m.Width]
			for x, v := range pix {
				line[x] += int64(w) * int64(v)
			}
		}
		for x, c := range columns {
			var sum [3]int64
			for i, w := range c.weights {
				at := line[3*(c.first+i):][:3]
				for ch := range sum {
					sum[ch] += int64(w) * at[ch]
				}
			}
			for ch, v := range sum {
				out[3*(y*thumbSide+x)+ch] = uint8((v + area/2) / area)
			}
		}
	}
	return out
}

// lowest is the number of frequencies of the hash in each direction.
const lowest = 8

// cosines holds the basis of the discrete cosine transform, [lowest+1, thumbSide], in units of
// 2^-14.
var cosines = func() (out [lowest + 1][thumbSide]int64) {
	for u := range out {
		for x := range out[u] {
			out[u][x] = int64(math.Round(16384 * math.Cos(math.Pi*float64(u*(2*x+1))/(2*thumbSide))))
		}
	}
	return out
}()

// look is the perceptual hash of an image. Zero means that there is none, because the image is flat
// or cannot be read.
type look uint64

// hash returns the perceptual hash (pHash) of the thumbnail: a bit for each of the 64 lowest
// frequencies of the brightness, except the mean, that says whether its amplitude is above the
// median. So 32 bits are set. It returns 0 for a flat image.
func (t *thumbnail) hash() look {
	var grey [thumbSide * thumbSide]int64
	sum, squares := int64(0), int64(0)
	for i := range grey {
		grey[i] = 299*int64(t[3*i]) + 587*int64(t[3*i+1]) + 114*int64(t[3*i+2])
		sum += grey[i]
		squares += grey[i] * grey[i]
	}
	n := int64(len(grey))
	if squares-sum*sum/n < n*1000*1000*leastContrast*leastContrast {
		return 0
	}
	var half [thumbSide][lowest + 1]int64
	for y := range half {
		for u := range half[y] {
			for x := range thumbSide {
				half[y][u] += cosines[u][x] * grey[y*thumbSide+x]
			}
			half[y][u] >>= 10
		}
	}
	amplitude := func(u, v int) (a int64) {
		for y := range half {
			a += cosines[v][y] * half[y][u]
		}
		return a
	}
	amplitudes := make([]int64, 0, 64)
	for v := range lowest {
		for u := range lowest {
			if u+v > 0 {
				amplitudes = append(amplitudes, amplitude(u, v))
			}
		}
	}
	amplitudes = append(amplitudes, amplitude(lowest, 0))
	sorted := slices.Sorted(slices.Values(amplitudes))
	var h look
	for i, a := range amplitudes {
		if a > sorted[31] {
			h |= 1 << i
		}
	}
	return h
}

// correlation returns the correlation of the pixels of two thumbnails, from -1 to 1. It does not
// depend on brightness and contrast, but on colours.
func (t *thumbnail) correlation(other *thumbnail) float64 {
	var a, b, aa, bb, ab int64
	for i, v := range t {
		x, y := int64(v), int64(other[i])
		a, b, aa, bb, ab = a+x, b+y, aa+x*x, bb+y*y, ab+x*y
	}
	n := int64(len(t))
	return float64(n*ab-a*b) / (math.Sqrt(float64(n*aa-a*a)) * math.Sqrt(float64(n*bb-b*b)))
}

// bands is the number of parts of a hash in nearIndex. Hashes that differ in at most 7 bits differ
// in at most one bit of some part.
const (
	bands    = 4
	bandBits = 64 / bands
)

// band returns part b of the hash.
func (l look) band(b int) int { return int(l >> (bandBits * b) & (1<<bandBits - 1)) }

// nearIndex finds hashes that differ in at most nearBits bits: multi-index hashing (Norouzi,
// Punjani and Fleet, CVPR 2012). It takes 16 bytes for each hash, and 1 MiB.
type nearIndex struct {
	looks []look
	// images[b] lists the images by part b of their hash; those with the part v are at begin[b][v]
	// to begin[b][v+1].
	images [bands][]int32
	begin  [bands][]int32
}

func newNearIndex(looks []look) *nearIndex {
	x := &nearIndex{looks: looks}
	for b := range bands {
		begin := make([]int32, 1<<bandBits+1)
		for _, l := range looks {
			begin[l.band(b)+1]++
		}
		for v := range 1 << bandBits {
			begin[v+1] += begin[v]
		}
		next, images := slices.Clone(begin), make([]int32, len(looks))
		for i, l := range looks {
			images[next[l.band(b)]] = int32(i)
			next[l.band(b)]++
		}
		x.begin[b], x.images[b] = begin, images
	}
	return x
}

// near is an image whose hash is near that of another image.
type near struct{ image, distance int }

// before returns the images before image i whose hashes differ from that of i in at most nearBits
// bits: the nearCandidates nearest.
func (x *nearIndex) before(i int) (found []near) {
	own := x.looks[i]
	if own == 0 {
		return nil
	}
	for b := range bands {
		probe := func(v int) {
			for _, j := range x.images[b][x.begin[b][v]:x.begin[b][v+1]] {
				if int(j) >= i {
					return // the images are in ascending order
				}
				other := x.looks[j]
				if d := bits.OnesCount64(uint64(own ^ other)); other != 0 && d <= nearBits && firstBand(own^other) == b {
					found = append(found, near{int(j), d})
				}
			}
		}
		probe(own.band(b))
		for bit := range bandBits {
			probe(own.band(b) ^ 1<<bit)
		}
	}
	slices.SortFunc(found, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.image, b.image))
	})
	return found[:min(nearCandidates, len(found))]
}

// firstBand returns the first part of the difference of two hashes with at most one bit. Such a
// pair is found in this part only.
func firstBand(difference look) int {
	for b := range bands {
		if bits.OnesCount64(uint64(difference.band(b))) <= 1 {
			return b
		}
	}
	return -1
}

// nearPair is a pair of nearly equal images.
type nearPair struct{ a, b, distance int }

// compared keeps which images are nearly equal. Its methods do nothing if it is nil.
type compared struct {
	pixels [][sha256.Size]byte // hash of the pixels of each image
	pairs  map[imagePair]bool  // whether the images are nearly equal
	grown  bool                // a pair was added
}

// known returns whether two images are nearly equal, if this is known.
func (c *compared) known(a, b int) (near, ok bool) {
	if c != nil {
		near, ok = c.pairs[pairOf(c.pixels[a], c.pixels[b])]
	}
	return near, ok
}

// add keeps whether two images are nearly equal.
func (c *compared) add(a, b int, near bool) {
	if c != nil {
		c.pairs[pairOf(c.pixels[a], c.pixels[b])], c.grown = near, true
	}
}

// nearPairs returns the pairs of nearly equal images of samples, whose hashes are looks, in a fixed
// order. It decodes the images again whose hashes are near those of others, unless before knows
// whether they are nearly equal; before may be nil. workers is as for parallel. report receives an
// event of stage progress.Compare after each image that is decoded; nil means no progress.
func nearPairs(ctx context.Context, samples []Sample, looks []look, before *compared, workers int, report progress.Func) ([]nearPair, error) {
	index := newNearIndex(looks)
	candidates := make([][]near, len(looks))
	err := parallel(ctx, len(looks), workers, func(i int) { candidates[i] = index.before(i) })
	if err != nil {
		return nil, err
	}
	needed := make(map[int]int) // number of the thumbnail of an image
	var images []int
	need := func(i int) {
		if _, ok := needed[i]; !ok {
			needed[i] = len(images)
			images = append(images, i)
		}
	}
	for i, list := range candidates {
		for _, c := range list {
			if _, ok := before.known(c.image, i); !ok {
				need(i)
				need(c.image)
			}
		}
	}
	thumbnails := make([]*thumbnail, len(images))
	done := counter(len(images), progress.Compare, report)
	err = parallel(ctx, len(images), workers, func(n int) {
		if m, _, err := samples[images[n]].read(); err == nil { // it was read before
			thumbnails[n] = thumbnailOf(m)
		}
		done()
	})
	if err != nil {
		return nil, err
	}
	var pairs []nearPair
	for i, list := range candidates {
		for _, c := range list {
			near, ok := before.known(c.image, i)
			if !ok {
				a, b := thumbnails[needed[c.image]], thumbnails[needed[i]]
				if a == nil || b == nil { // the image cannot be read any more
					continue
				}
				near = a.correlation(b) >= nearCorrelation
				before.add(c.image, i, near)
			}
			if near {
				pairs = append(pairs, nearPair{c.image, i, c.distance})
			}
		}
	}
	return pairs, nil
}

// nearDuplicates returns the groups of nearly equal images, in the order of their first images. all
// is in the order train, val, test. Images with equal pixels are in the groups of their nearly
// equal images; groups in which all images have equal pixels are left out.
func nearDuplicates(ctx context.Context, all []Located, workers int) ([]Duplicate, error) {
	// One image stands for all images with the same pixels.
	first := make(map[[32]byte]int)
	var of []int // the images that stand for others or themselves
	var samples []Sample
	var looks []look
	stands := make([]int, len(all)) // its place in of; -1 for an image that was not read
	for i, l := range all {
		stands[i] = -1
		if l.pixels == [32]byte{} {
			continue
		}
		at, ok := first[l.pixels]
		if !ok {
			at = len(of)
			first[l.pixels] = at
			of, samples, looks = append(of, i), append(samples, l.Sample), append(looks, l.look)
		}
		stands[i] = at
	}
	pairs, err := nearPairs(ctx, samples, looks, nil, workers, nil)
	if err != nil {
		return nil, err
	}
	sets := newUnion(len(of))
	for _, p := range pairs {
		sets.unite(p.a, p.b)
	}
	distance := make(map[int]int)
	for _, p := range pairs {
		root := sets.find(p.a)
		distance[root] = max(distance[root], p.distance)
	}
	copies := make(map[int][]Located)
	var order []int
	for i, l := range all {
		if stands[i] < 0 {
			continue
		}
		root := sets.find(stands[i])
		if _, ok := distance[root]; !ok {
			continue
		}
		if copies[root] == nil {
			order = append(order, root)
		}
		copies[root] = append(copies[root], l)
	}
	var found []Duplicate
	for _, root := range order {
		g := newDuplicate(copies[root])
		g.Near, g.Distance = true, distance[root]
		found = append(found, g)
	}
	return found, nil
}
