// Package synth draws labelled images, so that a vision transformer can be
// pretrained, tuned and demonstrated where no data set is at hand.
//
// It has two halves:
//
//   - [Pretraining] draws the classes of [Classes]: a shape, filled with a
//     texture, in an arrangement. Telling them apart needs the features that a
//     general backbone has: outlines, textures, relative position, number.
//   - [Tasks] are small downstream tasks like those of VTAB's structured group:
//     count (clevr_count), orientation (dsprites_ori), location (dsprites_loc).
//     Their labels are nuisances in the pretraining (where, which way up) or
//     only partly needed there (how many), so they do call for tuning.
//
// Within a class everything else varies: colours, position, scale, rotation,
// shading and clutter of the background, contrast, noise.
//
// An image is drawn in two steps. A scene is drawn at random: a background and
// a list of objects, each a shape (shape.go) with a texture (texture.go), all in
// fractions of the image's side. Then it is rendered (scene.go) by signed
// distance with edges one pixel wide. The same scene is thus rendered at any
// size; 32 to 224 pixels are what the drawings were made for.
//
// # Reproducibility
//
// Every function here is pure: equal arguments give equal bytes, in any order
// of calls and from any number of goroutines, on every architecture. Three rules
// in the source make it so. Randomness comes from a PCG seeded with a SHA-256 of
// the arguments. Of package math only exactly rounded functions are used (Sqrt,
// Floor, Ceil, Abs): directions are drawn as vectors, never through Sin and Cos, whose
// last bit depends on the machine. And every floating-point product is written
// float64(a*b), because Go may otherwise fuse it with a following addition, as
// it does on arm64 and not on amd64.
package synth

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"
)

// DefaultSize is the side, in pixels, of the images that the embedded backbone
// is pretrained on.
const DefaultSize = 32

// source returns the random numbers of one image (or of one block of labels):
// kind and split name the stream, numbers select within it.
func source(kind, split string, numbers ...uint64) *rand.Rand {
	// The zero bytes keep ("ab", "c") apart from ("a", "bc").
	key := append([]byte(kind), 0)
	key = append(key, split...)
	key = append(key, 0)
	for _, n := range numbers {
		key = binary.LittleEndian.AppendUint64(key, n)
	}
	sum := sha256.Sum256(key)
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])))
}

// uniform draws from [low, high).
func uniform(r *rand.Rand, low, high float64) float64 {
	return low + float64((high-low)*r.Float64())
}

// vector is a point or a direction; x grows to the right and y downwards, as
// pixels are counted.
type vector struct{ x, y float64 }

func dot(a, b vector) float64 { return float64(a.x*b.x) + float64(a.y*b.y) }

// rotate turns v by the angle that turns (1, 0) into the unit vector by.
func rotate(v, by vector) vector {
	return vector{float64(v.x*by.x) - float64(v.y*by.y), float64(v.x*by.y) + float64(v.y*by.x)}
}

// anyDirection draws a unit vector, uniform over the circle: a point of the disc
// (the centre left out, where division would lose digits), normalised.
func anyDirection(r *rand.Rand) vector {
	for {
		v := vector{uniform(r, -1, 1), uniform(r, -1, 1)}
		if square := dot(v, v); square > 0.01 && square <= 1 {
			length := math.Sqrt(square)
			return vector{v.x / length, v.y / length}
		}
	}
}

// tilt draws a unit vector near (1, 0), whose slope is at most limit.
func tilt(r *rand.Rand, limit float64) vector {
	slope := uniform(r, -limit, limit)
	length := math.Sqrt(1 + float64(slope*slope))
	return vector{1 / length, slope / length}
}
