// Package synth generates synthetic images with labels. A vision transformer can be pretrained and
// tuned on them without downloading a data set.
//
// The package has two parts:
//
//   - [Pretraining] draws images for pretraining. A class of [Classes] is a scene or a form. In
//     a scene, a shape with a texture is repeated in an arrangement. A form is a fractal, a
//     silhouette or a surface in a tint. To distinguish the classes, a model needs the features of
//     a general backbone: outlines, textures, colours, relative positions, numbers.
//   - [Tasks] returns small downstream tasks. Three of them have new forms as classes: fractals,
//     silhouettes, surfaces. Three are like those in the structured group of VTAB: count
//     (clevr_count), orientation (dsprites_ori), location (dsprites_loc). Pretraining does not need
//     location and orientation, and needs the count only in part. So the tasks need tuning.
//
// Fractals follow FractalDB and its form with one instance for each class: an iterated function
// system with perturbed coefficients (fractal.go). Silhouettes follow visual atoms (silhouette.go).
//
// Images of one class differ in all other properties: colours, position, scale, rotation, shading
// and clutter of the background, contrast, and noise.
//
// An image is drawn in two steps. First a scene is drawn at random: a background and a list of
// objects. An object is a shape (shape.go) with a texture (texture.go or surface.go). All lengths
// are fractions of the side of the image. Then the scene is rendered (scene.go) from signed
// distances, with edges that are one pixel wide. A scene can be rendered at any size. The shapes
// are designed for images of 32 to 224 pixels.
//
// # Reproducibility
//
// Every function is pure: equal arguments give equal bytes, in any order of calls, from any number
// of goroutines, on every architecture. The source follows three rules for this:
//
//   - Random numbers come from a PCG generator. Its seed is the SHA-256 hash of the arguments.
//   - The source uses only exactly rounded functions of package math: Sqrt, Floor, Ceil, Abs.
//     Directions are drawn as vectors, because the last bit of Sin and Cos depends on the machine.
//   - Every floating-point product is written float64(a*b). Otherwise Go may fuse it with a
//     following addition. Go does so on arm64 but not on amd64.
package synth

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"
)

// DefaultSize is the side, in pixels, of the images that the embedded backbone is pretrained on.
const DefaultSize = 64

// source returns the random generator of one image, or of one block of labels. Its seed is a hash
// of all arguments.
func source(kind, split string, numbers ...uint64) *rand.Rand {
	// The zero bytes give ("ab", "c") and ("a", "bc") different keys.
	key := append([]byte(kind), 0)
	key = append(key, split...)
	key = append(key, 0)
	for _, n := range numbers {
		key = binary.LittleEndian.AppendUint64(key, n)
	}
	sum := sha256.Sum256(key)
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])))
}

// uniform draws a number from [low, high).
func uniform(r *rand.Rand, low, high float64) float64 {
	return low + float64((high-low)*r.Float64())
}

// vector is a point or a direction. x grows to the right and y downwards, as in images.
type vector struct{ x, y float64 }

func dot(a, b vector) float64 { return float64(a.x*b.x) + float64(a.y*b.y) }

// rotate rotates v by the angle that turns (1, 0) into the unit vector by.
func rotate(v, by vector) vector {
	return vector{float64(v.x*by.x) - float64(v.y*by.y), float64(v.x*by.y) + float64(v.y*by.x)}
}

// anyDirection draws a unit vector, uniformly over the circle. It normalises a random point of the
// disc. It rejects points near the centre, because the division would lose precision there.
func anyDirection(r *rand.Rand) vector {
	for {
		v := vector{uniform(r, -1, 1), uniform(r, -1, 1)}
		if square := dot(v, v); square > 0.01 && square <= 1 {
			length := math.Sqrt(square)
			return vector{v.x / length, v.y / length}
		}
	}
}

// tilt draws a unit vector near (1, 0) whose slope is at most limit.
func tilt(r *rand.Rand, limit float64) vector {
	slope := uniform(r, -limit, limit)
	length := math.Sqrt(1 + float64(slope*slope))
	return vector{1 / length, slope / length}
}
