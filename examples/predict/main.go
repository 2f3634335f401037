// Command predict prints the most probable class of each image, with the delta of a run:
//
//	go run ./examples/predict RUN IMAGE...
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/sptune/spt"
	"github.com/sptune/spt/delta"
	"github.com/sptune/spt/run"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: predict RUN IMAGE...")
	}
	ctx := context.Background()
	_, config, err := run.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	d, err := delta.Load(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	model, err := config.Model.OpenTuned(ctx, d, nil) // the backbone, at the path in the run
	if err != nil {
		log.Fatal(err)
	}
	tuned, err := spt.Restore(model, d)
	if err != nil {
		log.Fatal(err)
	}
	classifier, err := spt.NewClassifier(nil, model, tuned, d.Classes, d.ImageTransform())
	if err != nil {
		log.Fatal(err)
	}
	defer classifier.Close()
	for p, err := range classifier.Predict(ctx, os.Args[2:], 1) {
		if err == nil {
			err = p.Err // the image cannot be read
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s, %.1f %%\n", p.Path, p.Top[0].Class, 100*p.Top[0].Probability)
	}
}
