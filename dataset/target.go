package dataset

import (
	"fmt"
	"strconv"
)

// Target is the annotation of one image, which a model learns to predict. [Class] is the target of
// an image with one label. Layouts create targets, and an objective (package objective) encodes
// them for the training step. The other parts of this package do not depend on the kind of target.
type Target interface {
	// Check returns an error if the target does not fit a data set with the given number of
	// classes.
	Check(classes int) error

	// Stratum returns the class id that the image counts as. Splits are stratified by this id.
	// Stratum returns -1 if the target belongs to no single class. All such images form one
	// stratum, and they are not counted by class.
	Stratum() int

	// String returns the target as text. Equal targets have equal texts, and different targets have
	// different texts. Fingerprints cover the text, so it must not depend on the location of the
	// data set.
	String() string
}

// Class is the target of an image with one label. Its value is the class id, which starts at 0.
type Class int

// Check returns an error if c is not one of the class ids 0 … classes-1.
func (c Class) Check(classes int) error {
	if c < 0 || int(c) >= classes {
		return fmt.Errorf("label %d is out of range: the data set has %d classes, with labels from 0", int(c), classes)
	}
	return nil
}

// Stratum returns the class id.
func (c Class) Stratum() int { return int(c) }

// String returns the class id in decimal digits.
func (c Class) String() string { return strconv.Itoa(int(c)) }
