package sweep

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestClaim checks that one claim of a name exists at a time, with locks and, on file systems
// without locks, with claim files.
func TestClaim(t *testing.T) {
	for _, locks := range []bool{true, false} {
		t.Run(fmt.Sprintf("locks %v", locks), func(t *testing.T) {
			if !locks {
				old := tryLock
				tryLock = func(path string) (bool, func() error, error) {
					return false, nil, fmt.Errorf("flock %s: %w", path, syscall.ENOLCK)
				}
				defer func() { tryLock = old }()
			}
			dir := t.TempDir()
			var holders, claims atomic.Int32
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range 200 {
						c, err := take(dir, "job")
						if err != nil {
							t.Error(err)
							return
						}
						if c == nil {
							continue
						}
						if holders.Add(1) > 1 {
							t.Error("two claims at once")
						}
						claims.Add(1)
						holders.Add(-1)
						c.release(false)
					}
				})
			}
			all.Wait()
			if claims.Load() == 0 {
				t.Error("no claim was given")
			}
			c, err := take(dir, "job")
			if err != nil || c == nil {
				t.Fatalf("the claim after all releases: %v, %v", c, err)
			}
			if !claimed(dir, "job") {
				t.Error("the claim does not exist")
			}
			if second, err := take(dir, "job"); second != nil || err != nil {
				t.Errorf("a second claim: %v, %v", second, err)
			}
			c.release(true)
			if claimed(dir, "job") {
				t.Error("the claim exists after the release")
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

// TestStaleClaim checks that a claim file ends with its process, or with the time limit if the
// process is on another machine.
func TestStaleClaim(t *testing.T) {
	dir := t.TempDir()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "job.claim")
	write := func(text string, age time.Duration) {
		then := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o666), os.Chtimes(path, then, then)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		text  string
		age   time.Duration
		stale bool
	}{
		{fmt.Sprintf("%s %d\n", host, os.Getpid()), 0, false},
		{fmt.Sprintf("%s %d\n", host, 1<<22+1), 0, true}, // Linux has no such process
		{"elsewhere 1\n", time.Second, false},
		{"elsewhere 1\n", claimTimeout + time.Second, true},
		{"", 0, false}, // the process has not yet written its name
	} {
		write(c.text, c.age)
		if got := stale(path); got != c.stale {
			t.Errorf("%q, %s old: stale %v", c.text, c.age, got)
		}
		claim, err := takeFile(path)
		if err != nil || (claim != nil) != c.stale {
			t.Errorf("%q, %s old: claim %v, %v", c.text, c.age, claim, err)
		}
		if claim != nil {
			claim.release(true)
		}
	}
}
