package dataset

import (
	"fmt"
	"strings"
	"testing"
)

// TestLimit checks that a limited split keeps the shares of the classes, at least one training
// image of each, the order of the images, and the same images for the same seed.
func TestLimit(t *testing.T) {
	sizes := []int{600, 300, 99, 1}
	var train, test []Sample
	for class, size := range sizes {
		for i := range size {
			train = append(train, Sample{Path: fmt.Sprintf("%d/%03d", class, i), Target: Class(class)})
		}
		test = append(test, Sample{Path: fmt.Sprintf("test/%d", class), Target: Class(class)})
	}
	d, err := New("set", []string{"a", "b", "c", "d"}, train, nil, test)
	if err != nil {
		t.Fatal(err)
	}
	limited, err := d.Limit(100, 5)
	if err != nil {
		t.Fatal(err)
	}
	for class, want := range []int{60, 30, 9, 1} { // one image of c gives way to d
		if got := limited.ClassCounts()[class]; got < want-1 || got > want+1 {
			t.Errorf("%d images of class %d, expected about %d", got, class, want)
		}
	}
	if len(limited.Train) != 100 || len(limited.Test) != len(test) || limited.ClassCounts()[3] != 1 {
		t.Errorf("%d training images, %d test images, %d of the smallest class", len(limited.Train), len(limited.Test), limited.ClassCounts()[3])
	}
	for i := 1; i < len(limited.Train); i++ {
		if limited.Train[i-1].Path >= limited.Train[i].Path {
			t.Fatalf("the order has changed at %s", limited.Train[i].Path)
		}
	}
	if !strings.Contains(limited.Split, "at most 100 images") || len(d.Train) != 1000 {
		t.Errorf("splits %q; %d images are left in the data set itself", limited.Split, len(d.Train))
	}
	again, err := d.Limit(100, 5)
	if err != nil || again.Fingerprint() != limited.Fingerprint() {
		t.Errorf("the same seed gives other images (%v)", err)
	}
	other, err := d.Limit(100, 6)
	if err != nil || other.Fingerprint() == limited.Fingerprint() {
		t.Errorf("another seed gives the same images (%v)", err)
	}
	if whole, err := d.Limit(1000, 5); err != nil || len(whole.Train) != 1000 {
		t.Errorf("a limit of all images removes some (%v)", err)
	}
	if _, err := d.Limit(3, 5); err == nil || !strings.Contains(err.Error(), "4 classes") {
		t.Errorf("3 images for 4 classes: error %v", err)
	}
}
