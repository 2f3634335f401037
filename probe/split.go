package probe

import "fmt"

const (
	// foldImages is the largest number of training images for cross-validation.
	foldImages = 2000
	// folds is the number of folds of the cross-validation.
	folds = 5
	// tenths is the number of parts of which one is held out of many images.
	tenths = 10
)

// split is a part for training and a part on which the result is measured.
type split struct{ train, val Features }

// splitsOf returns the splits on which the strength of L2 is chosen.
func splitsOf(train, val Features, o Options) ([]split, HeldOut, error) {
	if val.Len() > 0 {
		return []split{{train, val}}, Validation, nil
	}
	parts, used, heldOut := folds, folds, Folds
	if train.Len() > foldImages {
		parts, used, heldOut = tenths, 1, Tenth
	}
	dealt := o.Problem.deal(train.Labels, o.Classes, parts)
	var out []split
	for part := range used {
		var in, held []int
		for i, p := range dealt {
			if p == part {
				held = append(held, i)
			} else {
				in = append(in, i)
			}
		}
		if len(held) > 0 {
			out = append(out, split{train.rows(in), train.rows(held)})
		}
	}
	if len(out) == 0 {
		return nil, "", fmt.Errorf("the strength of L2 needs held-out images, but each training image is the only one of a class; give validation images or more training images")
	}
	return out, heldOut, nil
}
