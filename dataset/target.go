package dataset

import (
	"fmt"
	"slices"
	"strconv"
)

// Target is the annotation of one image, which a model learns to predict. [Class] is the target of
// an image with one label, and [Labels] of an image with any number of labels. Layouts create
// targets, and an objective (package objective) encodes them for the training step. The other parts
// of this package do not depend on the kind of target.
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

// Labels is the target of an image with any number of labels: their class ids, in ascending order.
// An image without a label has no ids, but its target is known: it shows none of the classes.
type Labels []int

// Check returns an error if the ids are not ascending, or if one of them is not one of the class
// ids 0 … classes-1.
func (l Labels) Check(classes int) error {
	for i, id := range l {
		if err := Class(id).Check(classes); err != nil {
			return err
		}
		if i > 0 && id <= l[i-1] {
			return fmt.Errorf("label %d follows label %d: list each label once, in ascending order", id, l[i-1])
		}
	}
	return nil
}

// Stratum returns -1, because an image with several labels belongs to no single class.
func (l Labels) Stratum() int { return -1 }

// String returns the class ids in brackets, such as "[0 3]".
func (l Labels) String() string { return fmt.Sprint([]int(l)) }

// MapClasses returns the labels with the class id rows[c] in place of each class id c.
func (l Labels) MapClasses(rows []int) Target {
	mapped := make(Labels, len(l))
	for i, id := range l {
		mapped[i] = rows[id]
	}
	slices.Sort(mapped)
	return mapped
}

// ClassesOf returns the class ids of a target: those of [Labels], or else the class that the target
// counts as. It is empty for a target without a class, and for nil.
func ClassesOf(t Target) []int {
	if l, ok := t.(Labels); ok {
		return l
	}
	if t == nil || t.Stratum() < 0 {
		return nil
	}
	return []int{t.Stratum()}
}
