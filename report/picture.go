package report

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"html/template"
	"image"
	"image/jpeg"

	"golang.org/x/image/draw"

	"github.com/sptune/spt/dataset"
)

const (
	// pictureSize is the side of a picture in px. A picture takes about 4 kB in base64.
	pictureSize = 112
	// sampleImages is the largest number of training images with a picture.
	sampleImages = 24
)

// detail bounds what a page shows of an evaluation, so that it stays below 3 MB: of the pages of a
// single run and of MaxDetailed runs.
type detail struct {
	images  int // wrong images, and unsure images
	classes int // of the confusion matrix
	rows    int // of the table of classes
}

var (
	single  = detail{images: 24, classes: 100, rows: 1000}
	several = detail{images: 12, classes: 50, rows: 200}
)

// Picture is a small image on the page.
type Picture struct {
	// Image is the image as a data URL. It is empty if there is none.
	Image template.URL
	// Map is the image with what decided the prediction, as a data URL. It is empty if there is
	// none.
	Map template.URL
	// Missing says why Image is empty.
	Missing string
}

// newPicture returns a picture of a whole image, resized to a square.
func newPicture(s dataset.Sample) (Picture, error) {
	pixels, err := dataset.Transform{Size: pictureSize, Resize: "direct"}.SamplePixels(s)
	if err != nil {
		return Picture{}, err
	}
	url, err := dataURL(opaque(pixels, pictureSize))
	return Picture{Image: url}, err
}

// opaque returns the pixels of a square image, [size, size, 3], as an image.
func opaque(pixels []uint8, size int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, size, size))
	for i := range size * size {
		copy(m.Pix[4*i:], pixels[3*i:3*i+3])
		m.Pix[4*i+3] = 0xff
	}
	return m
}

// shrunk returns m with sides of at most pictureSize.
func shrunk(m *image.RGBA) *image.RGBA {
	if m.Rect.Dx() <= pictureSize {
		return m
	}
	out := image.NewRGBA(image.Rect(0, 0, pictureSize, pictureSize))
	draw.CatmullRom.Scale(out, out.Rect, m, m.Rect, draw.Src, nil)
	return out
}

// pictureBytes is the size of a JPEG that a page wants to stay below. Photographs of pictureSize
// do.
const pictureBytes = 4500

// dataURL returns an image as a JPEG in a data URL. The quality is 80, or less if the JPEG is too
// large then.
func dataURL(m image.Image) (template.URL, error) {
	var b bytes.Buffer
	for quality := 80; quality == 80 || b.Len() > pictureBytes && quality > 0; quality -= 20 {
		b.Reset()
		if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: quality}); err != nil {
			return "", fmt.Errorf("encoding a picture: %w", err)
		}
	}
	return template.URL("data:image/jpeg;base64," + base64.StdEncoding.EncodeToString(b.Bytes())), nil
}
