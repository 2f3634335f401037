package dataset

import (
	"fmt"
	"strconv"
)

// Target is the annotation of one image: what a task learns to predict for it. A layout reads
// targets; an objective encodes them for the training step. [Class] is the target of an image with
// one label.
type Target interface {
	// Check reports why the target does not fit a data set with that many classes.
	Check(classes int) error
	// Stratum returns the class id, from 0, by which splits are stratified and images are counted.
	Stratum() int
	// String returns the target as text. Equal targets have equal texts: fingerprints of data sets
	// are made of them.
	String() string
}

// Class is the target of an image with one label: the class id, from 0.
type Class int

// Check reports whether c is one of the class ids 0 … classes-1.
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

// class returns the class id by which the sample is counted.
func (s Sample) class() int { return s.Target.Stratum() }
