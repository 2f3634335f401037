package cpu

import (
	"strings"
	"testing"

	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/support/backendtest"
)

// TestCompliance runs the backend tests of GoMLX.
func TestCompliance(t *testing.T) {
	be, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	defer be.Finalize()
	backendtest.RunAll(t, be, nil)
}

// TestOtherBackend checks that the functions of this package refuse a backend of another package.
func TestOtherBackend(t *testing.T) {
	other, err := gobackend.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Finalize()
	if Is(other) || !Is(newBackend(t)) {
		t.Error("Is does not distinguish the backends")
	}
	if memory, ok := MemoryOf(other); ok || memory != (Memory{}) {
		t.Errorf("MemoryOf returned %+v, %t", memory, ok)
	}
	if timings := TimeSteps(other)(); timings != nil {
		t.Errorf("TimeSteps returned %v", timings)
	}
	if _, err := Borrow(other, []float32{1}, 1); err == nil || !strings.Contains(err.Error(), "shape [1]") {
		t.Errorf("Borrow returned the error %v", err)
	}
}
