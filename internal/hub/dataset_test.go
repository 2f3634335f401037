package hub

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseDataset(t *testing.T) {
	for text, want := range map[string]DatasetReference{
		"hf-dataset:a/b":                          {Repo: "a/b"},
		"hf-dataset:a/b@v1":                       {Repo: "a/b", Revision: "v1"},
		"hf-dataset:a/b/en-US@refs/pr/1":          {Repo: "a/b", Config: "en-US", Revision: "refs/pr/1"},
		"hf-dataset:a/b@refs/convert/parquet":     {Repo: "a/b", Revision: ConvertedRevision},
		"hf-dataset:a/b.c/2020.1@" + testCommit:   {Repo: "a/b.c", Config: "2020.1", Revision: testCommit},
		"hf-dataset:Owner_1/Name-2/with space.v1": {Repo: "Owner_1/Name-2", Config: "with space.v1"},
	} {
		got, err := ParseDataset(text)
		if err != nil || got != want || got.String() != text || !IsDataset(text) || IsReference(text) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a/b", "hf:a/b", "hf-dataset:", "hf-dataset:a", "hf-dataset:a/b/", "hf-dataset:a/b/c/d", "hf-dataset:../b", "hf-dataset:a/b/..", "hf-dataset:a/b@", "hf-dataset:a/b@../x", "hf-dataset:a--x/b", "hf-dataset:a/b/c\n"} {
		if r, err := ParseDataset(text); err == nil {
			t.Errorf("%q: %+v, want an error", text, r)
		}
	}
}

var (
	testData = DatasetReference{Repo: testRepo}
	shards   = map[string]string{"README.md": "# card", "data/train-0.parquet": strings.Repeat("train", 1<<16), "data/test-0.parquet": "test", "data/extra.parquet": "extra"}
)

// TestDataset lists and fetches a data set, with and without a network.
func TestDataset(t *testing.T) {
	h := newFakeHub(t, shards)
	c := h.client(t)
	l, err := c.List(t.Context(), testData)
	if err != nil || l.Commit != testCommit || len(l.Files) != 4 || l.Files["data/test-0.parquet"] != 4 || l.Note != "" {
		t.Fatalf("%+v, %v", l, err)
	}
	wanted := []string{"README.md", "data/train-0.parquet"}
	root, err := c.FetchFiles(t.Context(), l, wanted)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(c.Cache, "datasets--tests--tiny-vit", "snapshots", testCommit); filepath.Clean(root) != want {
		t.Errorf("the files are in %s, want %s", root, want)
	}
	for name, text := range shards {
		data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if want := slices.Contains(wanted, name); want != (err == nil) || want && string(data) != text {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
	for _, r := range h.log() {
		if !strings.Contains(r, "/datasets/tests/tiny-vit/") && !strings.Contains(r, "/lfs/data/train") || strings.Contains(r, "test-0") {
			t.Errorf("request %s", r)
		}
	}
	// What is in the cache is not downloaded again, and a commit needs no request at all.
	l, err = c.List(t.Context(), DatasetReference{Repo: testRepo, Revision: testCommit})
	if err != nil || len(l.Files) != 4 {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := c.FetchFiles(t.Context(), l, wanted); err != nil || len(h.log()) != 0 {
		t.Errorf("the second fetch: %v", err)
	}
	if _, err := c.FetchFiles(t.Context(), l, []string{"data/other.parquet"}); !isInput(err) {
		t.Errorf("a missing file: %v", err)
	}

	c.Offline = true
	l, err = c.List(t.Context(), testData)
	if err != nil || l.Commit != testCommit || !strings.Contains(l.Note, "HF_HUB_OFFLINE") {
		t.Fatalf("offline: %+v, %v", l, err)
	}
	if _, err := c.FetchFiles(t.Context(), l, wanted); err != nil {
		t.Errorf("offline: %v", err)
	}
	if _, err := c.FetchFiles(t.Context(), l, []string{"data/test-0.parquet"}); !isInput(err) || !strings.Contains(err.Error(), "data/test-0.parquet is not completely in the cache") {
		t.Errorf("offline, without the file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "README.md"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.FetchFiles(t.Context(), l, wanted); !isInput(err) {
		t.Errorf("offline, with a file that is cut short: %v", err)
	}
	empty := h.client(t)
	empty.Offline = true
	if _, err := empty.List(t.Context(), testData); !isInput(err) || !strings.Contains(err.Error(), "the list of its files is not in the cache") {
		t.Errorf("offline, without a cache: %v", err)
	}
	if len(h.log()) != 0 {
		t.Error("requests were sent offline")
	}
	c.Offline = false
	h.Close()
	if l, err = c.List(t.Context(), testData); err != nil || !strings.Contains(l.Note, "cannot be reached") {
		t.Errorf("without a network: %+v, %v", l, err)
	}
}

func isInput(err error) bool {
	_, ok := errors.AsType[*InputError](err)
	return ok
}

// TestDatasetInterrupted checks that the next fetch continues a download.
func TestDatasetInterrupted(t *testing.T) {
	h := newFakeHub(t, shards)
	c := h.client(t)
	l, err := c.List(t.Context(), testData)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	content := shards["data/train-0.parquet"]
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasPrefix(r.URL.Path, "/lfs/") {
			return false
		}
		w.Header().Set("Content-Length", "327680")
		_, _ = w.Write([]byte(content[:100_000]))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	go func() {
		defer stop()
		for range 1000 {
			if found, _ := filepath.Glob(filepath.Join(c.Cache, "datasets--*", "blobs", "*"+incomplete)); found != nil && sizeOf(found[0]) > 0 {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	file := []string{"data/train-0.parquet"}
	if _, err := c.FetchFiles(ctx, l, file); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	h.mu.Lock()
	h.intercept = nil
	h.mu.Unlock()
	h.log()
	root, err := c.FetchFiles(t.Context(), l, file)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(root, file[0])); err != nil || string(data) != content {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if !slices.ContainsFunc(h.log(), func(r string) bool { return strings.Contains(r, "/lfs/data/train-0.parquet bytes=") }) {
		t.Error("the download began again")
	}
}

// TestDatasetErrors checks the errors of the Hub and of a damaged cache.
func TestDatasetErrors(t *testing.T) {
	h := newFakeHub(t, shards)
	c := h.client(t)
	for r, want := range map[DatasetReference]string{
		{Repo: "no/such"}:                             "no such repository, or it is private or gated",
		{Repo: testRepo, Revision: "v9"}:              "no such revision",
		{Repo: testRepo, Revision: ConvertedRevision}: "no such revision",
		{Repo: "../x"}:                                "not the name of a repository",
	} {
		if _, err := c.List(t.Context(), r); !isInput(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", r, err, want)
		}
	}
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-Error-Code", "GatedRepo")
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	if _, err := c.List(t.Context(), testData); !isInput(err) || !strings.Contains(err.Error(), "accept its licence") {
		t.Errorf("gated: %v", err)
	}
	h.intercept = nil
	if _, err := c.List(t.Context(), testData); err != nil {
		t.Fatal(err)
	}
	path := c.folder(datasets + testRepo).listing(testCommit)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(t.Context(), testData); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a damaged list: %v", err)
	}
	// A file whose name leaves the folder is left out, and a wrong checksum is an error.
	h.files = map[string]string{"../evil": "x", "train.parquet": "data"}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l, err := c.List(t.Context(), testData)
	if err != nil || len(l.Files) != 1 {
		t.Fatalf("%+v, %v", l, err)
	}
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		_, _ = w.Write([]byte("evil"))
		return true
	}
	h.large["train.parquet"] = true
	if _, err := c.FetchFiles(t.Context(), l, []string{"train.parquet"}); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a wrong checksum: %v", err)
	}
}
