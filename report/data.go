package report

import (
	"context"
	"fmt"
	"time"

	"github.com/sptune/spt"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/progress"
)

// Data describes the data set of a run.
type Data struct {
	// Dataset is the data set. The page shows its classes, counts, skipped files and notes.
	Dataset *dataset.Dataset
	// Copies lists the groups of image files that are equal byte for byte.
	Copies []dataset.Duplicate
	// Samples holds pictures of training images, of different classes.
	Samples []Sample
}

// Sample is a picture of a training image.
type Sample struct {
	Picture Picture
	Class   string
}

// Sources is where a page gets its pictures from.
type Sources struct {
	// Data is the data set of the images.
	Data *dataset.Dataset
	// Workers is the number of files that are read at the same time. Default: GOMAXPROCS.
	Workers int
	// Classifier explains the wrong predictions. Default: nil, and they have no explanation.
	Classifier *spt.Classifier
	// ExplainTime is the time in which predictions are explained, as many as fit. Default: 20
	// seconds.
	ExplainTime time.Duration
	// Progress receives an event of the stage progress.Explain for each explained prediction.
	// Default: no events.
	Progress progress.Func
}

// NewData describes a data set. It reads image files of equal size, to find copies, and a few
// training images. workers is as in Sources.
func NewData(ctx context.Context, d *dataset.Dataset, workers int) (*Data, error) {
	out := &Data{Dataset: d}
	var err error
	if out.Copies, err = d.Copies(ctx, workers); err != nil {
		return nil, fmt.Errorf("describing the data set: %w", err)
	}
	for _, s := range firstOfClasses(d, sampleImages) {
		p, err := newPicture(s)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err != nil {
			p.Missing = "cannot be read"
		}
		out.Samples = append(out.Samples, Sample{p, d.TargetName(s.Target)})
	}
	return out, nil
}

// firstOfClasses returns up to n training images: the first one of each class, in the order of the
// classes, and evenly spread over the classes if there are more than n.
func firstOfClasses(d *dataset.Dataset, n int) (out []dataset.Sample) {
	first := make([]*dataset.Sample, len(d.Classes))
	var others []dataset.Sample // of targets without a single class
	for i, s := range d.Train {
		switch class := s.Target.Stratum(); {
		case class < 0:
			others = append(others, s)
		case first[class] == nil:
			first[class] = &d.Train[i]
		}
	}
	var all []dataset.Sample
	for _, s := range first {
		if s != nil {
			all = append(all, *s)
		}
	}
	all = append(all, others[:min(n, len(others))]...)
	for i := range min(n, len(all)) {
		out = append(out, all[i*len(all)/min(n, len(all))])
	}
	return out
}
