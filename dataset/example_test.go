package dataset_test

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log"
	"os"
	"path/filepath"

	"github.com/sptune/spt/dataset"
)

// writeImages writes a folder of images: ten for each of two classes.
func writeImages() (folder string) {
	folder, err := os.MkdirTemp("", "images")
	if err != nil {
		log.Fatal(err)
	}
	for class, c := range map[string]color.Color{"blue": color.NRGBA{B: 255, A: 255}, "red": color.NRGBA{R: 255, A: 255}} {
		if err := os.Mkdir(filepath.Join(folder, class), 0o700); err != nil {
			log.Fatal(err)
		}
		for i := range 10 {
			m := image.NewNRGBA(image.Rect(0, 0, 20+i, 16))
			for j := range m.Rect.Dx() * m.Rect.Dy() {
				m.Set(j%m.Rect.Dx(), j/m.Rect.Dx(), c)
			}
			f, err := os.Create(filepath.Join(folder, class, fmt.Sprintf("%d.png", i)))
			if err != nil {
				log.Fatal(err)
			}
			if err := png.Encode(f, m); err != nil {
				log.Fatal(err)
			}
			if err := f.Close(); err != nil {
				log.Fatal(err)
			}
		}
	}
	return folder
}

// Open a folder with one folder for each class. It has no validation and test split, so Open makes
// them from the training images.
func ExampleOpen() {
	folder := writeImages()
	defer os.RemoveAll(folder)

	data, err := dataset.Open(context.Background(), folder, dataset.OpenOptions{ValFraction: 0.2, TestFraction: 0.1})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(data.Layout, data.Classes)
	fmt.Println(len(data.Train), "train,", len(data.Val), "val,", len(data.Test), "test:", data.Split)
	// Output:
	// imagefolder [blue red]
	// 14 train, 4 val, 2 test: stratified by class 0.7/0.2/0.1 seed 0
}

// Read the training images in mini-batches of 5, in a new order in every epoch.
func ExampleLoader() {
	folder := writeImages()
	defer os.RemoveAll(folder)

	ctx := context.Background()
	data, err := dataset.Open(ctx, folder, dataset.OpenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	transform := dataset.Transform{Size: 8, Resize: "crop", RandomCrop: true, HorizontalFlip: true}
	loader := dataset.NewLoader(data.Train, transform, dataset.NewCache(0), dataset.LoaderOptions{Root: data.Root})
	const seed = 1
	for epoch := range 2 {
		order := dataset.Shuffle(loader.Len(), seed, epoch)
		for batch, err := range loader.Batches(ctx, order, 5, seed, epoch) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println("epoch", epoch, "-", batch.N, "images,", len(batch.Pixels), "bytes")
		}
	}
	// Output:
	// epoch 0 - 5 images, 960 bytes
	// epoch 0 - 5 images, 960 bytes
	// epoch 0 - 5 images, 960 bytes
	// epoch 0 - 1 images, 192 bytes
	// epoch 1 - 5 images, 960 bytes
	// epoch 1 - 5 images, 960 bytes
	// epoch 1 - 5 images, 960 bytes
	// epoch 1 - 1 images, 192 bytes
}
