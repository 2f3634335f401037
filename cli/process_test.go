package cli

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sptune/spt/run"
)

// place is a folder in which a test runs the program in processes of its own. It holds a data set,
// data, and a model, vit.safetensors.
type place struct {
	t   *testing.T
	dir string
	spt string // path of the program
}

// newPlace returns a place in a temporary folder. The data set has three classes with the given
// number of images each.
func newPlace(t *testing.T, images int) *place {
	t.Helper()
	dir := t.TempDir()
	p := &place{t, dir, filepath.Join(dir, "spt")} // TestMain runs the program under this name
	self, err := os.Executable()
	if err == nil {
		err = errors.Join(linkProgram(self, p.spt), makeImages(p.path("data"), images), makeModel(p.path("vit.safetensors"), 1, 5, 16, 16, ""))
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// linkProgram makes the program at path another name, and not a symbolic link: a program that
// starts itself again finds its own path through symbolic links.
func linkProgram(program, path string) error {
	if os.Link(program, path) == nil {
		return nil
	}
	data, err := os.ReadFile(program) // the folders are on different file systems
	if err == nil {
		err = os.WriteFile(path, data, 0o777)
	}
	return err
}

func (p *place) path(elements ...string) string {
	return filepath.Join(append([]string{p.dir}, elements...)...)
}

// command returns a command that runs a program in the folder.
func (p *place) command(program string, args ...string) *exec.Cmd {
	c := exec.Command(program, args...)
	c.Dir = p.dir
	return c
}

// call runs a program in the folder and returns its exit code and messages.
func (p *place) call(program string, args ...string) (code int, messages string) {
	p.t.Helper()
	c := p.command(program, args...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		p.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), stderr.String()
}

// do runs spt, which must succeed.
func (p *place) do(args ...string) {
	p.t.Helper()
	if code, messages := p.call(p.spt, args...); code != 0 {
		p.t.Fatalf("spt %s: exit code %d\n%s", strings.Join(args, " "), code, messages)
	}
}

// read returns the content of a file in the folder.
func (p *place) read(elements ...string) []byte {
	p.t.Helper()
	data, err := os.ReadFile(p.path(elements...))
	if err != nil {
		p.t.Fatal(err)
	}
	return data
}

// leftovers returns the temporary files and the training states in a folder and below it.
func leftovers(folder string) (paths []string, err error) {
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasSuffix(path, ".tmp") || d.Name() == run.TrainStateFile) {
			paths = append(paths, path)
		}
		return err
	})
	return paths, err
}

// slowHub is a hub that sends the weights of a model slowly.
type slowHub struct {
	hub http.Handler

	mu     sync.Mutex
	stall  bool          // send half of the requested range, and then wait until the client is gone
	pause  time.Duration // pause after each kilobyte
	ranges []string      // the ranges of the requests for the weights; "" for the whole file
	asked  int           // number of requests for the size of the weights
}

func (h *slowHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, ".safetensors") && r.Method == http.MethodHead {
		h.mu.Lock()
		h.asked++
		h.mu.Unlock()
	} else if strings.HasSuffix(r.URL.Path, ".safetensors") {
		h.mu.Lock()
		h.ranges = append(h.ranges, r.Header.Get("Range"))
		w = &slowWriter{w, r, h.stall, h.pause}
		h.mu.Unlock()
	}
	h.hub.ServeHTTP(w, r)
}

// set sets stall and pause, and forgets the requests so far.
func (h *slowHub) set(stall bool, pause time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stall, h.pause, h.ranges, h.asked = stall, pause, nil, 0
}

// requested returns the ranges of the requests since the last set, and how often a client has asked
// for the size.
func (h *slowHub) requested() (ranges []string, asked int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ranges), h.asked
}

// checkDownload checks that the last download continued an earlier one, and calls checkCache.
func (p *place) checkDownload(inputs *place, hub *slowHub) {
	p.t.Helper()
	ranges, _ := hub.requested()
	if len(ranges) != 1 || !strings.HasPrefix(ranges[0], "bytes=") {
		p.t.Errorf("the hub received requests for the ranges %q, expected one request for the rest", ranges)
	}
	p.checkCache(inputs)
}

// checkCache checks that the cache holds the weights of the hub and no part of them.
func (p *place) checkCache(inputs *place) {
	p.t.Helper()
	want := inputs.read("hub", "model.safetensors")
	entries, err := os.ReadDir(p.path("hf", "models--tests--vit", "blobs"))
	if err != nil || len(entries) != 1 || entries[0].Name() != fmt.Sprintf("%x", sha256.Sum256(want)) {
		p.t.Fatalf("the cache holds %v, %v", entries, err)
	}
	if !bytes.Equal(p.read("hf", "models--tests--vit", "blobs", entries[0].Name()), want) {
		p.t.Error("the downloaded weights differ from those of the hub")
	}
}

type slowWriter struct {
	http.ResponseWriter
	request *http.Request
	stall   bool
	pause   time.Duration
}

func (w *slowWriter) Write(data []byte) (n int, err error) {
	end := len(data)
	if w.stall {
		end /= 2
	}
	for n < end && err == nil && w.request.Context().Err() == nil {
		var sent int
		sent, err = w.ResponseWriter.Write(data[n:min(n+1024, end)])
		n += sent
		w.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(w.pause)
	}
	if w.stall {
		<-w.request.Context().Done()
	}
	return n, errors.Join(err, w.request.Context().Err())
}
