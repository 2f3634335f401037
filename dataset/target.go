package dataset

import (
	"fmt"
	"strconv"
)

// Target is the annotation of one image: what a model learns to predict for the image. A layout
// makes targets, an objective encodes them for the training step. Loaders, splits and caches treat
// all targets alike. [Class] is the target of an image with one label.
type Target interface {
	// Check returns an error if the target does not fit a data set of that many classes.
	Check(classes int) error

	// Stratum returns the class id by which the image is counted and splits are stratified. It is
	// -1 for a target that stands for no single class: such images are one stratum and are not
	// counted.
	Stratum() int

	// String returns the target as text. Equal targets have equal texts. Fingerprints contain the
	// text, so it must not depend on where the data set lies.
	String() string
}

// Class is the target of an image with one label: the class id, from 0.
type Class int

// Check returns an error if c is not one of the class ids 0 … classes-1.
func (c Class) Check(classes int) error {
	if c < 0 || int(c) >= classes {
		return fmt.Errorf("label %d is out of range: there are %d classes", int(c), classes)
	}
	return nil
}

// Stratum returns the class id.
func (c Class) Stratum() int { return int(c) }

// String returns the class id in decimal digits.
func (c Class) String() string { return strconv.Itoa(int(c)) }
