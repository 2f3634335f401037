package run_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// hubData answers as the Hub does for one data set, tests/pets. Its revisions have different
// commits.
type hubData struct {
	mu       sync.Mutex
	branches map[string]map[string]string // files by path, by revision
	gated    bool
	asked    []string // paths of the files that were sent
}

// commitOf returns the commit of a revision.
func commitOf(revision string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(revision)))[:40]
}

func (h *hubData) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	refuse := func(code int, kind string) {
		w.Header().Set("X-Error-Code", kind)
		w.WriteHeader(code)
	}
	if h.gated {
		refuse(http.StatusForbidden, "GatedRepo")
		return
	}
	if revision, ok := strings.CutPrefix(r.URL.Path, "/api/datasets/tests/pets/revision/"); ok {
		files := h.branches[revision]
		if files == nil {
			refuse(http.StatusNotFound, "RevisionNotFound")
			return
		}
		type sibling struct {
			Name string `json:"rfilename"`
			Size int    `json:"size"`
		}
		var siblings []sibling
		for name, text := range files {
			siblings = append(siblings, sibling{name, len(text)})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"sha": commitOf(revision), "siblings": siblings})
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/datasets/tests/pets/resolve/")
	for revision, files := range h.branches {
		if name, found := strings.CutPrefix(rest, commitOf(revision)+"/"); ok && found && files[name] != "" {
			if r.Method == http.MethodGet {
				h.asked = append(h.asked, name)
			}
			w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256([]byte(files[name])))))
			w.Header().Set("Content-Length", fmt.Sprint(len(files[name])))
			_, _ = w.Write([]byte(files[name]))
			return
		}
	}
	refuse(http.StatusNotFound, "RepoNotFound")
}

// start starts the hub with an empty cache.
func (h *hubData) start(t *testing.T) {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HOME", t.TempDir())
	for _, name := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"} {
		t.Setenv(name, "")
	}
}

// fixture returns a file in testdata of package dataset.
func fixture(t *testing.T, path ...string) string {
	data, err := os.ReadFile(filepath.Join(append([]string{"..", "dataset", "testdata"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestHubData(t *testing.T) {
	part := func(name string) string {
		return fixture(t, "archives", "hub", "data", name+"-00000-of-00001.parquet")
	}
	train, val, test := part("train"), part("validation"), part("test")
	// paths and labels, and no images
	text := fixture(t, "parquet", "metadata", "train", "metadata.parquet")
	for _, c := range []struct {
		name     string
		branches map[string]map[string]string
		ref      string
		images   [3]int
		revision string   // of the commit that is recorded
		fetched  []string // files
		err      []string
	}{
		{"main", map[string]map[string]string{"main": {"README.md": fixture(t, "archives", "hub", "README.md"), "data/train-0.parquet": train, "data/validation-0.parquet": val, "data/test-0.parquet": test, "data/extra-0.parquet": "x", "video.mp4": "x"}},
			"hf-dataset:tests/pets", [3]int{12, 3, 3}, "main", []string{"README.md", "data/train-0.parquet", "data/validation-0.parquet", "data/test-0.parquet"}, nil},
		{"a tag", map[string]map[string]string{"main": {"x": "x"}, "v1": {"train.parquet": train, "test.parquet": test}}, "hf-dataset:tests/pets@v1", [3]int{9, 3, 3}, "v1", []string{"train.parquet", "test.parquet"}, nil},
		{"converted", map[string]map[string]string{"main": {"train.zip": "x"}, "refs/convert/parquet": {"default/train/0000.parquet": train, "default/test/0000.parquet": test, "default/extra/0000.parquet": "x"}},
			"hf-dataset:tests/pets", [3]int{9, 3, 3}, "refs/convert/parquet", []string{"default/train/0000.parquet", "default/test/0000.parquet"}, nil},
		{"a configuration", map[string]map[string]string{"main": {"big/train-0.parquet": "x", "small/train-0.parquet": train, "small/validation-0.parquet": val, "small/test-0.parquet": test}},
			"hf-dataset:tests/pets/small", [3]int{12, 3, 3}, "main", []string{"small/train-0.parquet", "small/validation-0.parquet", "small/test-0.parquet"}, nil},
		{"several configurations", map[string]map[string]string{"main": {"big/train-0.parquet": "x", "small/train-0.parquet": train}}, "hf-dataset:tests/pets", [3]int{}, "", nil,
			[]string{"opening data set hf-dataset:tests/pets: ", "name one of big, small"}},
		{"no images", map[string]map[string]string{"main": {"data/train-0.parquet": text, "data/train-1.parquet": train, "data/test-0.parquet": test}}, "hf-dataset:tests/pets", [3]int{}, "", []string{"data/train-0.parquet"},
			[]string{"no column holds images", "give a data set of images"}},
		{"not converted", map[string]map[string]string{"main": {"train.zip": "x"}}, "hf-dataset:tests/pets", [3]int{}, "", nil, []string{"main has no parquet files, and those that the Hub converts are missing"}},
		{"tag without parquet", map[string]map[string]string{"v1": {"train.zip": "x"}, "refs/convert/parquet": {"default/train/0000.parquet": train}}, "hf-dataset:tests/pets@v1", [3]int{}, "", nil, []string{"the revision v1 has no parquet files"}},
		{"missing revision", map[string]map[string]string{"main": {"train.parquet": train}}, "hf-dataset:tests/pets@v2", [3]int{}, "", nil, []string{"no such revision"}},
		{"broken file", map[string]map[string]string{"main": {"train.parquet": train[:len(train)/2]}}, "hf-dataset:tests/pets", [3]int{}, "", []string{"train.parquet"}, []string{"train.parquet", "cut short"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &hubData{branches: c.branches}
			h.start(t)
			config := run.DataConfig{Path: c.ref}
			d, err := config.Open(t.Context(), nil)
			if c.err != nil {
				for _, want := range c.err {
					if bad := (*run.InputError)(nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), want) {
						t.Errorf("error %v, want an InputError with %q", err, want)
					}
				}
			} else if err != nil {
				t.Fatal(err)
			}
			slices.Sort(h.asked)
			slices.Sort(c.fetched)
			if !slices.Equal(h.asked, c.fetched) {
				t.Errorf("fetched %q, want %q", h.asked, c.fetched)
			}
			if c.err != nil {
				return
			}
			if got := [3]int{len(d.Train), len(d.Val), len(d.Test)}; got != c.images || strings.Join(d.Classes, " ") != "blue green red" || d.Name != "pets" {
				t.Errorf("%s with %v images of %q, want %v", d.Name, got, d.Classes, c.images)
			}
			if config.Commit != commitOf(c.revision) || config.Path != c.ref {
				t.Errorf("%s at commit %s, want that of %s", config.Path, config.Commit, c.revision)
			}
			// The recorded commit is opened again, without a request and from another branch.
			config.Record(d)
			h.asked, h.branches = nil, nil
			again, err := config.Open(t.Context(), nil)
			if err != nil || again.Fingerprint() != d.Fingerprint() || h.asked != nil {
				t.Errorf("the recorded commit: %v, fetched %q", err, h.asked)
			}
		})
	}
}

func TestHubDataErrors(t *testing.T) {
	h := &hubData{gated: true}
	h.start(t)
	var input *run.InputError
	var option *run.OptionError
	if _, err := (&run.DataConfig{Path: "hf-dataset:tests/pets"}).Open(t.Context(), nil); !errors.As(err, &input) || !strings.Contains(err.Error(), "accept its licence") {
		t.Errorf("gated: %v", err)
	}
	if _, err := (&run.DataConfig{Path: "hf-dataset:pets"}).Open(t.Context(), nil); !errors.As(err, &option) {
		t.Errorf("a broken reference: %v", err)
	}
	if _, err := (&run.DataConfig{Path: "hf-dataset:tests/pets", Commit: "main"}).Open(t.Context(), nil); !errors.As(err, &input) || !strings.Contains(err.Error(), "40 hexadecimal digits") {
		t.Errorf("a broken commit: %v", err)
	}
	for _, path := range []string{"s3://bucket/x", "https://example.org/x.zip"} {
		if _, err := (&run.DataConfig{Path: path}).Open(t.Context(), nil); !errors.As(err, &option) || !strings.Contains(err.Error(), "download the data first") {
			t.Errorf("%s: %v", path, err)
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := (&run.DataConfig{Path: "hf-dataset:tests/pets"}).Open(stopped, nil); !errors.Is(err, context.Canceled) || errors.As(err, &input) {
		t.Errorf("cancelled: %v", err)
	}
	t.Setenv("HF_HUB_OFFLINE", "1")
	if _, err := (&run.DataConfig{Path: "hf-dataset:tests/pets"}).Open(t.Context(), nil); !errors.As(err, &input) || !strings.Contains(err.Error(), "HF_HUB_OFFLINE") {
		t.Errorf("offline: %v", err)
	}
	h.gated = false
	h.branches = map[string]map[string]string{"main": {"train.parquet": fixture(t, "archives", "hub", "data", "train-00000-of-00001.parquet")}}
	t.Setenv("HF_HUB_OFFLINE", "")
	var notes []string
	note := func(e progress.Event) {
		if e.Stage == progress.Note {
			notes = append(notes, e.Item)
		}
	}
	if _, err := (&run.DataConfig{Path: "hf-dataset:tests/pets"}).Open(t.Context(), note); err != nil || notes != nil {
		t.Fatal(err, notes)
	}
	t.Setenv("HF_ENDPOINT", "http://127.0.0.1:1")
	if _, err := (&run.DataConfig{Path: "hf-dataset:tests/pets"}).Open(t.Context(), note); err != nil || len(notes) != 1 || !strings.Contains(notes[0], "cannot be reached") {
		t.Errorf("without a network: %v, notes %q", err, notes)
	}
}
