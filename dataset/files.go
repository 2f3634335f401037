package dataset

import (
	"fmt"
	"os"
	"strings"
)

// ImageFiles lists the image files that paths name: a file stands for itself, whatever it is called; a folder for all
// images in it and below, in ImageFolder's order. It is an error if a path does not exist or a folder holds no image.
func ImageFiles(paths ...string) ([]string, error) {
	var files []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("looking for images: %w", err)
		}
		if !info.IsDir() {
			files = append(files, p)
			continue
		}
		images, err := imagesBelow(p, nil)
		if err != nil {
			return nil, fmt.Errorf("looking for images in %s: %w", p, err)
		}
		if len(images) == 0 {
			return nil, fmt.Errorf("looking for images: there are none in %s (looked for %s)", p, strings.Join(imageExtensions, " "))
		}
		files = append(files, images...)
	}
	return files, nil
}

// Pixels reads an image file as evaluation does, with no random crop or flip: [Size, Size, 3], RGB.
func (t Transform) Pixels(path string) ([]uint8, error) {
	return t.SamplePixels(Sample{Path: path})
}

// SamplePixels is Pixels of a sample, wherever its image is.
func (t Transform) SamplePixels(s Sample) ([]uint8, error) {
	t.RandomCrop, t.HorizontalFlip = false, false
	if err := t.Validate(); err != nil {
		return nil, err
	}
	m, err := t.load(s, nil)
	if err != nil {
		return nil, err
	}
	pix := make([]uint8, 3*t.Size*t.Size)
	t.finish(pix, m, 0, 0, 0)
	return pix, nil
}
