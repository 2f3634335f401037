package gemm

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/pprof"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sptune/spt/internal/workers"
)

// interrupt starts the profiler, and a goroutine that sends the signal of the preemption of
// goroutines to this process all the time, until the end of the test.
func interrupt(t *testing.T) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "profile"))
	if err != nil {
		t.Fatal(err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		t.Log(err) // the tests are profiled already
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Kill(unix.Getpid(), unix.SIGURG) // never fails for the own process
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		pprof.StopCPUProfile()
		_ = f.Close()
	})
}

// TestBF16Bounds checks that calls read and write nothing beyond the operands.
func TestBF16Bounds(t *testing.T) {
	needBF16(t)
	r := rand.New(rand.NewPCG(21, 22))
	for _, d := range [][3]int{{14, 32, 16}, {33, 45, 100}, {8, 33, 70}, {17, 16, 33}, {1, 1, 1}} {
		for _, a := range layouts {
			for _, b := range layouts {
				c := call(r, d[0], d[1], d[2], a, b, options{1, 1, true, true, false, true, false})
				c.BF16 = true
				want := c.clone()
				naive(want)
				for _, x := range []*[]float32{&c.A.Data, &c.B.Data, &c.C, &c.Bias, &c.PreAct, &c.Residual} {
					*x = guarded(t, *x)
				}
				packed := PackBF16(guarded(t, make([]float32, PackedBF16Len(c.K, c.N))), c.B, c.K, c.N)
				before := c.clone()
				c.Serial(new(workers.Scratch))
				compare(t, "guarded", c, want)
				copy(c.C, before.C)
				c.Packed = packed
				c.Run()
				compare(t, "guarded and packed", c, want)
			}
		}
	}
}
