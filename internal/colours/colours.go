// Package colours holds the smallest task that tuning can be tested on: images whose class is their
// colour, and a backbone with fixed weights. Only tests import it.
package colours

import (
	"math"
	"math/rand/v2"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
)

// Pixels returns the pixels of image i, [size, size, 3]. Channel i%3 is brighter than the others
// and is the class of the image. Another salt gives other images.
func Pixels(i, size, salt int) []uint8 {
	pix := make([]uint8, size*size*3)
	for k := range pix {
		pix[k] = uint8(40 + (i*31+k*17+salt)%60)
		if k%3 == i%3 {
			pix[k] += 140
		}
	}
	return pix
}

// Samples returns the images 0 … n-1 with their classes.
func Samples(n, size, salt int) []dataset.Sample {
	var out []dataset.Sample
	for i := range n {
		out = append(out, dataset.Sample{Image: &dataset.RGB{Width: size, Height: size, Pix: Pixels(i, size, salt)}, Target: dataset.Class(i % 3)})
	}
	return out
}

// Noise returns n images of random pixels, [n, size, size, 3], and a random class of three for
// each. Every call returns the same images.
func Noise(n, size int) (pixels []uint8, classes []int32) {
	r := rand.New(rand.NewPCG(1, 2))
	pixels, classes = make([]uint8, n*size*size*3), make([]int32, n)
	for i := range pixels {
		pixels[i] = uint8(r.Uint32())
	}
	for i := range classes {
		classes[i] = int32(r.IntN(3))
	}
	return pixels, classes
}

// Model returns a backbone of configuration c. Every call returns the same weights.
func Model(c backbone.Config) *backbone.Model {
	sd := checkpoint.StateDict{}
	for k, p := range c.Params() {
		w := checkpoint.NewTensor(p.Shape...)
		for i := range w.Data {
			w.Data[i] = float32(math.Sin(float64(k+1)*float64(i*i+3*i+1))) * 0.5
		}
		sd[p.Name] = w
	}
	return backbone.NewModel(c, backbone.Preprocessing{Mean: [3]float32{.5, .5, .5}, Std: [3]float32{.5, .5, .5}, Interpolation: "bicubic"}, sd)
}
