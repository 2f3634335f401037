package hub

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	testRepo   = "tests/tiny-vit"
	testCommit = "0123456789abcdef0123456789abcdef01234567"
	testToken  = "hf_secret"
)

// fakeHub responds as the Hub does, with the headers that its documentation and its Python library
// describe. It sends small files directly. For large files it redirects to a store on another host.
// The checksum of a large file is in the first response.
type fakeHub struct {
	*httptest.Server
	store *httptest.Server

	mu       sync.Mutex
	files    map[string]string
	large    map[string]bool // files in the store
	commit   string          // commit of main
	requests []string        // METHOD PATH RANGE of the requests to both hosts
	leaked   bool            // the store has received the token
	served   atomic.Int64    // bytes of the responses of both hosts, without headers

	// intercept may respond to a request. It returns true if it has done so.
	intercept func(w http.ResponseWriter, r *http.Request) bool
}

// newFakeHub starts a fake hub with one repository, testRepo.
func newFakeHub(t *testing.T, files map[string]string) *fakeHub {
	h := &fakeHub{files: files, large: map[string]bool{}, commit: testCommit}
	for name := range files {
		h.large[name] = strings.HasSuffix(name, ".safetensors") || strings.HasSuffix(name, ".bin") || strings.HasSuffix(name, ".parquet")
	}
	h.store = newServer(t, false, func(w http.ResponseWriter, r *http.Request) { h.serveStore(&counter{w, &h.served}, r) })
	h.Server = newServer(t, false, h.count)
	return h
}

// count calls serve and counts the bytes of the response.
func (h *fakeHub) count(w http.ResponseWriter, r *http.Request) { h.serve(&counter{w, &h.served}, r) }

// newServer starts a server that writes nothing to the log.
func newServer(t *testing.T, secure bool, handler http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// counter counts the bytes of a response.
type counter struct {
	http.ResponseWriter
	served *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.served.Add(int64(n))
	return n, err
}

func (c *counter) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// client returns a client with a new cache and short waits.
func (h *fakeHub) client(t *testing.T) *Client {
	return &Client{Endpoint: h.URL, Cache: t.TempDir(), backoff: time.Millisecond, window: 2 * time.Second, least: 1}
}

// note records a request and reports whether intercept has responded to it.
func (h *fakeHub) note(w http.ResponseWriter, r *http.Request) bool {
	h.mu.Lock()
	entry := r.Method + " " + r.URL.Path
	if v := r.Header.Get("Range"); v != "" {
		entry += " " + v
	}
	h.requests = append(h.requests, entry)
	intercept := h.intercept
	h.mu.Unlock()
	return intercept != nil && intercept(w, r)
}

// log returns the requests that were received since the last call.
func (h *fakeHub) log() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.requests
	h.requests = nil
	return l
}

func (h *fakeHub) serve(w http.ResponseWriter, r *http.Request) {
	if h.note(w, r) {
		return
	}
	refuse := func(code int, kind string) {
		w.Header().Set("X-Error-Code", kind)
		w.Header().Set("X-Error-Message", kind+" says the fake hub")
		w.WriteHeader(code)
	}
	known := func(revision string) bool {
		return revision == "main" || revision == "refs/pr/1" || revision == h.commit
	}
	// A data set has the same interface at other paths.
	path := strings.Replace(r.URL.Path, "/api/datasets/", "/api/models/", 1)
	if revision, ok := strings.CutPrefix(path, "/api/models/"+testRepo+"/revision/"); ok {
		if !known(revision) {
			refuse(404, "RevisionNotFound")
			return
		}
		type sibling struct {
			Name string `json:"rfilename"`
			Size int    `json:"size"`
		}
		var siblings []sibling
		for name, content := range h.files {
			siblings = append(siblings, sibling{name, len(content)})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"id": testRepo, "sha": h.commit, "siblings": siblings})
		return
	}
	rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "/datasets"), "/"+testRepo+"/resolve/")
	if !ok {
		refuse(401, "RepoNotFound")
		return
	}
	var revision, file string
	for name := range h.files {
		if strings.HasSuffix(rest, "/"+name) && len(name) > len(file) {
			revision, file = strings.TrimSuffix(rest, "/"+name), name
		}
	}
	if file == "" {
		refuse(404, "EntryNotFound")
		return
	}
	if !known(revision) {
		refuse(404, "RevisionNotFound")
		return
	}
	content := h.files[file]
	w.Header().Set("X-Repo-Commit", h.commit)
	if h.large[file] {
		w.Header().Set("X-Linked-Etag", strconv.Quote(sha256Of(content)))
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(content)))
		w.Header().Set("ETag", `"of-the-pointer"`)
		http.Redirect(w, r, h.store.URL+"/lfs/"+file+"?signature=secret", http.StatusFound)
		return
	}
	w.Header().Set("ETag", strconv.Quote(gitBlob(content)))
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
}

func (h *fakeHub) serveStore(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.leaked = h.leaked || r.Header.Get("Authorization") != ""
	h.mu.Unlock()
	if h.note(w, r) {
		return
	}
	content := h.files[strings.TrimPrefix(r.URL.Path, "/lfs/")]
	w.Header().Set("ETag", `"of-the-store-1"`) // not a checksum of the content
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
}

// sha256Of returns the SHA-256 of s, which is the ETag of a large file.
func sha256Of(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// gitBlob returns the hash that git gives to the content s, which is the ETag of a small file.
func gitBlob(s string) string {
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(s), s))
	return hex.EncodeToString(sum[:])
}
