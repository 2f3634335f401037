package sweep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// claim is the right of this process to run a job. Only one process at a time has it.
type claim struct {
	// release ends the claim. done reports whether nobody will claim the name again.
	release func(done bool)
}

// tryLock locks a file without waiting. Tests replace it.
var tryLock = func(path string) (locked bool, unlock func() error, err error) {
	l := flock.New(path)
	locked, err = l.TryLock()
	return locked, l.Close, err
}

// take claims a name in the folder dir, such as the ID of a job. It returns nil if another process
// has the claim. The lock ends with the process, also if the process is killed.
//
// Some network file systems have no locks. There, the claim is a file that is created exclusively
// and that the process touches regularly. If the process dies, the claim ends after claimTimeout.
func take(dir, name string) (*claim, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("making the folder of claims: %w", err)
	}
	path := filepath.Join(dir, name+".lock")
	locked, unlock, err := tryLock(path)
	switch {
	case err == nil && !locked:
		return nil, nil
	case err == nil:
		return &claim{func(done bool) {
			// While the job is not done, the file must stay: a process that locks a removed file
			// and a process that makes a new one would both have the claim.
			if done {
				_ = os.Remove(path)
			}
			_ = unlock()
		}}, nil
	case !errors.Is(err, syscall.ENOLCK) && !errors.Is(err, syscall.ENOSYS) && !errors.Is(err, errors.ErrUnsupported):
		return nil, fmt.Errorf("claiming a job with %s: %w", path, err)
	}
	return takeFile(filepath.Join(dir, name+".claim"))
}

// claimTimeout is the time after which a claim file is stale if its process has not touched it.
const claimTimeout = 2 * time.Minute

// takeFile claims by creating a file.
func takeFile(path string) (*claim, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if errors.Is(err, fs.ErrExist) && stale(path) {
		// Two processes can find the same stale file. Only one of them can rename it away.
		aside := fmt.Sprintf("%s.%d", path, os.Getpid())
		if os.Rename(path, aside) != nil {
			return nil, nil
		}
		if !stale(aside) { // another process has replaced the stale file since
			_ = os.Rename(aside, path)
			return nil, nil
		}
		_ = os.Remove(aside)
		f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil, nil
	}
	if err == nil {
		host, _ := os.Hostname()
		_, err = fmt.Fprintf(f, "%s %d\n", host, os.Getpid())
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("claiming a job with %s: %w", path, err)
	}
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case now := <-time.After(claimTimeout / 6):
				_ = os.Chtimes(path, now, now)
			}
		}
	}()
	return &claim{func(bool) {
		close(stop)
		_ = os.Remove(path)
	}}, nil
}

// stale reports whether the process of a claim file has ended.
func stale(path string) bool {
	stat, err := os.Stat(path)
	if err != nil {
		return false
	}
	if time.Since(stat.ModTime()) > claimTimeout {
		return true
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	words := strings.Fields(string(data))
	host, _ := os.Hostname()
	if len(words) != 2 || words[0] != host {
		return false
	}
	pid, err := strconv.Atoi(words[1])
	if err != nil {
		return false
	}
	process, err := os.FindProcess(pid)
	return err == nil && errors.Is(process.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

// claimed reports whether a process has the claim of a name.
func claimed(dir, name string) bool {
	if path := filepath.Join(dir, name+".claim"); !stale(path) {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	path := filepath.Join(dir, name+".lock")
	if _, err := os.Stat(path); err != nil {
		return false
	}
	locked, unlock, err := tryLock(path)
	if locked {
		_ = unlock()
	}
	return err == nil && !locked
}
