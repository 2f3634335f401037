// Package colours generates a small synthetic task for tests of fine-tuning. [Samples] returns
// images whose class is their brightest colour channel, and [Model] returns a backbone with fixed
// weights. [Labelled] returns images whose labels are their bright channels. [Noise] returns random
// images with random classes. Only tests import this package.
package colours

import (
	"math"
	"math/rand/v2"

	"github.com/sptune/spt/backbone"
	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
)

// Pixels returns the pixels of image i, [size, size, 3]. The class of the image is i%3, and the
// channel with this number is brighter than the other channels. A different salt gives different
// images of the same classes.
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

// Samples returns the images 0 to n-1 of [Pixels] with their classes, 0 to 2.
func Samples(n, size, salt int) []dataset.Sample {
	var out []dataset.Sample
	for i := range n {
		out = append(out, dataset.Sample{Image: &dataset.RGB{Width: size, Height: size, Pix: Pixels(i, size, salt)}, Target: dataset.Class(i % 3)})
	}
	return out
}

// Labelled returns the images 0 to n-1 with the labels 0 to 2. Image i has label c, and its channel
// c is bright, if bit c of i is set. A different salt gives different images of the same labels.
func Labelled(n, size, salt int) []dataset.Sample {
	var out []dataset.Sample
	for i := range n {
		pix, labels := make([]uint8, size*size*3), dataset.Labels{}
		for k := range pix {
			pix[k] = uint8(40 + (i*31+k*17+salt)%60)
			if i>>(k%3)&1 == 1 {
				pix[k] += 140
			}
		}
		for c := range 3 {
			if i>>c&1 == 1 {
				labels = append(labels, c)
			}
		}
		out = append(out, dataset.Sample{Image: &dataset.RGB{Width: size, Height: size, Pix: pix}, Target: labels})
	}
	return out
}

// Noise returns the random pixels of n images, [n, size, size, 3], and a random class from 0 to 2
// for each image. Calls with the same arguments return the same values.
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

// Model returns a backbone with the configuration c. Every call with the same c returns the same
// weights.
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
