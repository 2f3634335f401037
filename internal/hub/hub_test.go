package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/sptune/spt/progress"
)

var weights = strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB

func tinyFiles() map[string]string {
	return map[string]string{
		"config.json": `{"num_attention_heads": 2}`, "preprocessor_config.json": `{"image_mean": [0.5, 0.5, 0.5]}`,
		"model.safetensors": weights, "pytorch_model.bin": "older", "README.md": "words",
	}
}

func reference(t *testing.T, s string) Reference {
	t.Helper()
	r, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func fetch(t *testing.T, c *Client, text string) *Snapshot {
	t.Helper()
	s, err := c.Fetch(t.Context(), reference(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// partials returns the paths of the incomplete files in the cache of c.
func partials(t *testing.T, c *Client) (out []string) {
	t.Helper()
	err := filepath.WalkDir(c.Cache, func(path string, d fs.DirEntry, err error) error {
		if strings.Contains(d.Name(), ".incomplete") || strings.Contains(d.Name(), ".tmp") {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFetch checks that the cache has the structure that the documentation of huggingface_hub
// shows.
func TestFetch(t *testing.T) {
	needLinks(t)
	h := newFakeHub(t, tinyFiles())
	c := h.client(t)
	c.Token = testToken
	var authorized atomic.Bool
	h.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
		authorized.Store(authorized.Load() || r.Header.Get("Authorization") == "Bearer "+testToken)
		return false
	}
	var whole []string
	last := map[string]int64{}
	c.Progress = func(e progress.Event) {
		if e.Stage != progress.Download || e.Done < last[e.Item] || e.Done > e.Total {
			t.Errorf("stage %s of %s: %d of %d after %d", e.Stage, e.Item, e.Done, e.Total, last[e.Item])
		}
		if last[e.Item] = e.Done; e.Done == e.Total {
			whole = append(whole, e.Item)
		}
	}
	s := fetch(t, c, "hf:"+testRepo)
	root := filepath.Join(c.Cache, "models--tests--tiny-vit")
	if want := filepath.Join(root, "snapshots", testCommit, "model.safetensors"); s.Path != want || s.Commit != testCommit || s.Note != "" {
		t.Fatalf("got %+v, want path %s", s, want)
	}
	if !authorized.Load() || h.leaked {
		t.Errorf("the hub received the token: %v, want true; the store received it: %v, want false", authorized.Load(), h.leaked)
	}
	if want := []string{"config.json", "preprocessor_config.json", "model.safetensors"}; !slices.Equal(whole, want) {
		t.Errorf("downloaded %v, want %v", whole, want)
	}
	for file, etag := range map[string]string{"model.safetensors": sha256Of(weights), "config.json": gitBlob(h.files["config.json"])} {
		target, err := os.Readlink(filepath.Join(filepath.Dir(s.Path), file))
		if want := filepath.Join("..", "..", "blobs", etag); err != nil || target != want {
			t.Errorf("%s links to %q (%v), want %q", file, target, err, want)
		}
		if content(t, filepath.Join(root, "blobs", etag)) != h.files[file] {
			t.Errorf("the blob of %s has other content", file)
		}
	}
	if got := content(t, filepath.Join(root, "refs", "main")); got != testCommit {
		t.Errorf("refs/main is %q", got)
	}
	if p := partials(t, c); len(p) > 0 {
		t.Errorf("incomplete files remain: %v", p)
	}

	// The second call asks only for the commit of the branch. A reference to a commit needs no
	// request.
	h.log()
	if again := fetch(t, c, "hf:"+testRepo); *again != *s {
		t.Errorf("the second call: got %+v", again)
	}
	if got, want := h.log(), []string{"GET /api/models/" + testRepo + "/revision/main"}; !slices.Equal(got, want) {
		t.Errorf("the second call sent the requests %v, want %v", got, want)
	}
	if by := fetch(t, c, "hf:"+testRepo+"@"+testCommit); *by != *s || len(h.log()) > 0 {
		t.Errorf("with the commit: got %+v, or requests were sent", by)
	}

	// The branch moves to another commit. Unchanged files are linked, not downloaded again.
	c.Progress = nil
	h.commit = strings.Repeat("b", 40)
	h.files["config.json"] = "{}"
	moved := fetch(t, c, "hf:"+testRepo)
	if got := content(t, filepath.Join(filepath.Dir(moved.Path), "config.json")); moved.Commit != h.commit || got != "{}" {
		t.Errorf("after the branch moved: %+v, config %s", moved, got)
	}
	for _, r := range h.log() {
		if strings.HasPrefix(r, "GET /lfs/") {
			t.Errorf("downloaded a file that is in the cache: %s", r)
		}
	}
}

func TestWhichFiles(t *testing.T) {
	index := `{"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}`
	for _, tt := range []struct {
		name, reference string
		files           map[string]string
		want            string   // the weights
		also            []string // other files that are downloaded
		absent          []string // files that are not downloaded
		err             string
	}{
		{name: "safetensors first", files: tinyFiles(), want: "model.safetensors", also: []string{"config.json", "preprocessor_config.json"}, absent: []string{"pytorch_model.bin", "README.md"}},
		{name: "no side files", files: map[string]string{"model.safetensors": "w"}, want: "model.safetensors"},
		{name: "empty file", files: map[string]string{"model.safetensors": "w", "config.json": ""}, want: "model.safetensors", also: []string{"config.json"}},
		{name: "shards", files: map[string]string{"model.safetensors.index.json": index, "model-1.safetensors": "1", "model-2.safetensors": "2", "model-3.safetensors": "3"},
			want: "model.safetensors.index.json", also: []string{"model-1.safetensors", "model-2.safetensors"}, absent: []string{"model-3.safetensors"}},
		{name: "shards in a folder", reference: ":sub/x.index.json", files: map[string]string{"sub/x.index.json": index, "sub/model-1.safetensors": "1", "sub/model-2.safetensors": "2", "sub/config.json": "{}", "config.json": "{}"},
			want: "sub/x.index.json", also: []string{"sub/model-1.safetensors", "sub/model-2.safetensors", "sub/config.json"}, absent: []string{"config.json"}},
		{name: "bin", files: map[string]string{"pytorch_model.bin": "p", "config.json": "{}"}, want: "pytorch_model.bin", also: []string{"config.json"}},
		{name: "bin in shards", files: map[string]string{"pytorch_model.bin.index.json": `{"weight_map": {"a": "p-1.bin"}}`, "p-1.bin": "p"}, want: "pytorch_model.bin.index.json", also: []string{"p-1.bin"}},
		{name: "named", reference: ":ViT-B_16 best@1.npz", files: map[string]string{"ViT-B_16 best@1.npz": "n", "model.safetensors": "w", "config.json": "{}"}, want: "ViT-B_16 best@1.npz", also: []string{"config.json"}, absent: []string{"model.safetensors"}},
		{name: "a request of changes", reference: "@refs/pr/1", files: tinyFiles(), want: "model.safetensors"},
		{name: "nothing usual", files: map[string]string{"vit.npz": "", "README.md": ""}, err: `it has "vit.npz"; name one of these, as in hf:tests/tiny-vit@main:FILE`},
		{name: "no weights", files: map[string]string{"README.md": ""}, err: "the repository has no weights"},
		{name: "no such file", reference: ":other.npz", files: tinyFiles(), err: `has no file "other.npz"`},
		{name: "shard missing", files: map[string]string{"model.safetensors.index.json": index, "model-1.safetensors": "1"}, err: `lists the shard "model-2.safetensors", which the repository does not have`},
		{name: "no index", files: map[string]string{"model.safetensors.index.json": "{}"}, err: "not an index of shards"},
		{name: "broken index", files: map[string]string{"model.safetensors.index.json": "{"}, err: "unexpected end"},
		{name: "climbing shard", files: hostileIndex("../../../../escaped"), err: "expected the name of a file beside the index"},
		{name: "absolute shard", files: hostileIndex("/etc/passwd"), err: "expected the name of a file beside the index"},
		{name: "shard in a folder", files: hostileIndex("a/b"), err: "expected the name of a file beside the index"},
		{name: "shard by backslash", files: hostileIndex(`..\b`), err: "expected the name of a file beside the index"},
		{name: "shard without name", files: hostileIndex(""), err: "expected the name of a file beside the index"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newFakeHub(t, tt.files)
			c := h.client(t)
			text := "hf:" + testRepo + tt.reference
			s, err := c.Fetch(t.Context(), reference(t, text))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %+v, %v; want an error with %q", s, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			folder := filepath.Join(c.Cache, "models--tests--tiny-vit", "snapshots", testCommit)
			if want := filepath.Join(folder, filepath.FromSlash(tt.want)); s.Path != want {
				t.Errorf("path %s, want %s", s.Path, want)
			}
			for _, name := range append(tt.also, tt.want) {
				if content(t, filepath.Join(folder, name)) != tt.files[name] {
					t.Errorf("%s has other content", name)
				}
			}
			for _, name := range tt.absent {
				if _, err := os.Stat(filepath.Join(folder, name)); err == nil {
					t.Errorf("%s was downloaded", name)
				}
			}
			// Without the network, the cache gives the same result.
			h.Close()
			c.Offline = true
			if off := fetch(t, c, text); off.Path != s.Path || off.Commit != s.Commit || !strings.Contains(off.Note, "HF_HUB_OFFLINE") || strings.Contains(off.Note, "may have files that are not in the cache") {
				t.Errorf("offline: %+v", off)
			}
		})
	}
}

// hostileIndex returns a repository whose index names shard.
func hostileIndex(shard string) map[string]string {
	return map[string]string{"model.safetensors.index.json": fmt.Sprintf(`{"weight_map": {"a": %q}}`, shard), shard: "x"}
}

// serveCut sends n bytes of the weights, beginning at from, and closes the connection.
func serveCut(w http.ResponseWriter, from, n int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(weights)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(weights)-1, len(weights)))
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write([]byte(weights[from : from+n]))
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// TestInterruptedDownloads checks that an interrupted download continues from the received bytes if
// the server supports ranges, and that a broken file is never used.
func TestInterruptedDownloads(t *testing.T) {
	const third = 1 << 18
	lfs := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/lfs/") }
	for _, tt := range []struct {
		name    string
		partial string // content of the incomplete file of an earlier download
		answer  func(n int, w http.ResponseWriter, r *http.Request) bool
		want    []string // ranges that are requested from the store
		err     string
	}{
		{name: "cut twice", answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n < 2 {
				serveCut(w, n*third, third)
			}
			return false
		}, want: []string{"", "bytes=262144-", "bytes=524288-"}},
		{name: "left from before", partial: weights[:third], want: []string{"bytes=262144-"}},
		{name: "left whole", partial: weights, want: nil},
		{name: "left too long", partial: weights + "x", want: []string{""}},
		{name: "left broken", partial: "x" + weights[1:third], want: []string{"bytes=262144-", ""}},
		{name: "left broken and whole", partial: "x" + weights[1:], want: []string{""}},
		{name: "no ranges", partial: weights[:third], answer: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte(weights))
			return true
		}, want: []string{"bytes=262144-"}},
		{name: "416", partial: weights[:third], answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			}
			return n == 0
		}, want: []string{"bytes=262144-", ""}},
		{name: "another range", partial: weights[:third], answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				serveCut(w, 100, 100)
			}
			return false
		}, want: []string{"bytes=262144-", ""}},
		{name: "503 and 429", answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n < 2 {
				w.WriteHeader([]int{503, 429}[n])
			}
			return n < 2
		}, want: []string{"", "", ""}},
		{name: "nothing comes", answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				w.Header().Set("Content-Length", fmt.Sprint(len(weights)))
				_, _ = w.Write([]byte(weights[:third]))
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}
			return n == 0
		}, want: []string{"", "bytes=262144-"}},
		{name: "cut at the same place", answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
			serveCut(w, 0, third)
			return true
		}, want: []string{"", "bytes=262144-", "bytes=262144-", "bytes=262144-", "bytes=262144-"}, err: "the server does not continue a download"},
		{name: "wrong content", answer: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte("x" + weights[1:]))
			return true
		}, want: []string{""}, err: "the checksum of the downloaded file is " + sha256Of("x"+weights[1:]) + ", expected " + sha256Of(weights)},
		{name: "wrong content in pieces", answer: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" {
				serveCut(w, 0, third)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", third, len(weights)-1, len(weights)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write([]byte(strings.Repeat("x", len(weights)-third)))
			return true
		}, want: []string{"", "bytes=262144-", "", "bytes=262144-"}, err: "the checksum"},
		{name: "cut short, and said to be whole", answer: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			return true // an empty body
		}, want: []string{"", "", "", "", ""}, err: "the connection ended after 0 of 1048576 bytes"},
		{name: "too much", answer: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte(weights + "x"))
			return true
		}, want: []string{""}, err: "the server sends more than the 1048576 bytes that it announced"},
		{name: "the link has expired", answer: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(403)
			return true
		}, want: []string{""}, err: "403"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newFakeHub(t, tinyFiles())
			c := h.client(t)
			c.window = 300 * time.Millisecond
			var mu sync.Mutex
			var ranges []string
			h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
				if !lfs(r) {
					return false
				}
				mu.Lock()
				n := len(ranges)
				ranges = append(ranges, r.Header.Get("Range"))
				mu.Unlock()
				return tt.answer != nil && tt.answer(n, w, r)
			}
			blob := filepath.Join(c.Cache, "models--tests--tiny-vit", "blobs", sha256Of(weights))
			if tt.partial != "" {
				if err := os.MkdirAll(filepath.Dir(blob), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(blob+".incomplete", []byte(tt.partial), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			s, err := c.Fetch(t.Context(), reference(t, "hf:"+testRepo))
			if tt.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				if content(t, s.Path) != weights || len(partials(t, c)) > 0 {
					t.Errorf("got %d bytes; incomplete files: %v", len(content(t, s.Path)), partials(t, c))
				}
			} else {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "downloading model.safetensors") {
					t.Fatalf("got %v, want an error with %q", err, tt.err)
				}
				if strings.Contains(err.Error(), "signature") {
					t.Errorf("the error contains the signed address: %v", err)
				}
				if _, err := os.Stat(blob); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("an incomplete file was renamed to its final name (%v)", err)
				}
				for _, p := range partials(t, c) {
					if content(t, p) == "" {
						t.Errorf("kept the empty file %s", p)
					}
				}
				if s, _, _ := c.folder(testRepo).find(reference(t, "hf:"+testRepo+"@"+testCommit)); s != nil {
					t.Errorf("the cache has the incomplete model %+v", s)
				}
			}
			if !slices.Equal(ranges, tt.want) {
				t.Errorf("requested the ranges %q from the store, want %q", ranges, tt.want)
			}
		})
	}
}

// TestSmallFileChecksum checks that the checksum of a small file, which is that of git, is verified
// too.
func TestSmallFileChecksum(t *testing.T) {
	h := newFakeHub(t, tinyFiles())
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/config.json") {
			_, _ = w.Write([]byte(strings.ToUpper(h.files["config.json"])))
			return true
		}
		return false
	}
	_, err := h.client(t).Fetch(t.Context(), reference(t, "hf:"+testRepo))
	if err == nil || !strings.Contains(err.Error(), "downloading config.json: the checksum") {
		t.Errorf("got %v", err)
	}
}

// TestCancel checks that the end of the context stops a download with an error for users, and that
// the next call continues it.
func TestCancel(t *testing.T) {
	h := newFakeHub(t, tinyFiles())
	c := h.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := true
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/lfs/") && first {
			first = false
			w.Header().Set("Content-Length", fmt.Sprint(len(weights)))
			_, _ = w.Write([]byte(weights[:1000]))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}
		return false
	}
	c.Progress = func(e progress.Event) {
		if e.Item == "model.safetensors" && e.Done == 1000 {
			cancel()
		}
	}
	r := reference(t, "hf:"+testRepo)
	_, err := c.Fetch(ctx, r)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got error %v, want one that wraps context.Canceled", err)
	}
	const want = "fetching hf:tests/tiny-vit@main: downloading model.safetensors: stopped before the download was complete; the next download continues this one"
	if err.Error() != want {
		t.Errorf("got error\n%v\nwant\n%s", err, want)
	}
	// The context has also ended before the first request.
	if _, err := c.Fetch(ctx, r); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "context canceled") {
		t.Errorf("got error %v, want one that wraps context.Canceled and does not show its text", err)
	}
	if p := partials(t, c); len(p) != 1 || len(content(t, p[0])) != 1000 {
		t.Fatalf("the incomplete files are %v, want one of 1000 bytes", p)
	}
	h.log()
	s, err := c.Fetch(t.Context(), r)
	if err != nil || content(t, s.Path) != weights {
		t.Fatalf("the second call: %v", err)
	}
	if l := h.log(); !slices.Contains(l, "GET /lfs/model.safetensors bytes=1000-") {
		t.Errorf("sent the requests %q, want one for the bytes from 1000 on", l)
	}
}

func TestRefusals(t *testing.T) {
	answer := func(code int, header ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			return true
		}
	}
	onHead := func(f func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool { return r.Method == http.MethodHead && f(w, r) }
	}
	for _, tt := range []struct {
		name, reference string
		intercept       func(http.ResponseWriter, *http.Request) bool
		want            []string
		code            int
	}{
		{name: "unknown repository", reference: "hf:no/such", want: []string{"401 Unauthorized", "there is no such repository, or it is private or gated", "HF_TOKEN"}, code: 401},
		{name: "unknown revision", reference: "hf:" + testRepo + "@v9", want: []string{"404", "no such revision", "hf:tests/tiny-vit@v9"}, code: 404},
		{name: "gated", intercept: onHead(answer(403, "X-Error-Code", "GatedRepo", "X-Error-Message", "You need\u202eto agree")), want: []string{"accept its licence", "HF_TOKEN", "You need to agree"}, code: 403},
		{name: "404 without a word", intercept: answer(404), want: []string{"there is no such repository, revision or file"}, code: 404},
		{name: "file gone", intercept: onHead(answer(404, "X-Error-Code", "EntryNotFound")), want: []string{"no such file at this revision"}, code: 404},
		{name: "down", intercept: answer(503), want: []string{"503"}},
		{name: "limited", intercept: answer(429), want: []string{"429"}},
		{name: "no hub", intercept: func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte("<html>Please log in"))
			return true
		}, want: []string{"does not describe a repository", "<html>Please log in", "HF_ENDPOINT"}},
		{name: "hostile commit", intercept: func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte(`{"sha": "../../x", "siblings": []}`))
			return true
		}, want: []string{"does not describe a repository"}},
		{name: "hostile etag", intercept: onHead(answer(200, "ETag", `"../../../escaped"`)), want: []string{"sends the ETag", "escaped"}},
		{name: "no etag", intercept: onHead(answer(200)), want: []string{"sends the ETag"}},
		{name: "another commit", intercept: onHead(answer(200, "X-Repo-Commit", strings.Repeat("c", 40))), want: []string{"sends a file of commit", testCommit}},
		{name: "no size", intercept: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				w.Header().Set("ETag", `"opaque"`)
				w.Header().Set("Transfer-Encoding", "chunked")
			} else if strings.Contains(r.URL.Path, "/resolve/") {
				_, _ = w.Write([]byte("some"))
				w.(http.Flusher).Flush()
			} else {
				return false
			}
			return true
		}, want: []string{"states the size"}},
		{name: "redirects without end", intercept: func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return true
		}, want: []string{"more than 10 redirects"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newFakeHub(t, tinyFiles())
			h.intercept = tt.intercept
			c := h.client(t)
			text := tt.reference
			if text == "" {
				text = "hf:" + testRepo
			}
			s, err := c.Fetch(t.Context(), reference(t, text))
			if err == nil {
				t.Fatalf("got %+v", s)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			var status *statusError
			if errors.As(err, &status) != (tt.code != 0) || tt.code != 0 && status.code != tt.code {
				t.Errorf("status %+v, want %d", status, tt.code)
			}
			if _, err := os.Stat(filepath.Join(c.Cache, "models--tests--tiny-vit", "refs", "main")); err == nil {
				t.Error("refs/main names a commit that is not in the cache")
			}
		})
	}
}

// TestRetry checks that a request is repeated if the server has a temporary problem.
func TestRetry(t *testing.T) {
	h := newFakeHub(t, tinyFiles())
	seen := map[string]bool{}
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		key := r.Method + r.URL.Path
		first := !seen[key]
		seen[key] = true
		if first {
			w.WriteHeader(502)
		}
		return first
	}
	if s := fetch(t, h.client(t), "hf:"+testRepo); content(t, s.Path) != weights {
		t.Error("the weights have other content")
	}
}

// TestUnreachable checks that Fetch uses the cache if the Hub cannot be reached, and that the note
// says why.
func TestUnreachable(t *testing.T) {
	h := newFakeHub(t, tinyFiles())
	c := h.client(t)
	s := fetch(t, c, "hf:"+testRepo)
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(500); return true }
	h.log()
	if again := fetch(t, c, "hf:"+testRepo); again.Path != s.Path || !strings.Contains(again.Note, "500") || len(h.log()) != 1 {
		t.Errorf("while the hub has a problem: got %+v", again)
	}
	h.Close()
	if again := fetch(t, c, "hf:"+testRepo); again.Path != s.Path || !strings.Contains(again.Note, "the Hub cannot be reached") || !strings.Contains(again.Note, testCommit) {
		t.Errorf("without the hub: got %+v", again)
	}
	if _, err := c.Fetch(t.Context(), reference(t, "hf:"+testRepo+"@other")); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a revision that is not cached: %v", err)
	}
}

// TestWithdrawn checks that an error status is an error even if the cache has the files, because
// the owner may have withdrawn the model for a reason.
func TestWithdrawn(t *testing.T) {
	h := newFakeHub(t, tinyFiles())
	c := h.client(t)
	fetch(t, c, "hf:"+testRepo)
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(404); return true }
	if s, err := c.Fetch(t.Context(), reference(t, "hf:"+testRepo)); err == nil {
		t.Errorf("got %+v", s)
	}
}

func TestOffline(t *testing.T) {
	needLinks(t)
	h := newFakeHub(t, tinyFiles())
	c := h.client(t)
	c.Offline = true
	r := reference(t, "hf:"+testRepo)
	if _, err := c.Fetch(t.Context(), r); err == nil || !strings.Contains(err.Error(), "HF_HUB_OFFLINE") || !strings.Contains(err.Error(), c.Cache) {
		t.Errorf("an empty cache: %v", err)
	}
	// Another library has downloaded only the files that it needed.
	root := filepath.Join(c.Cache, "models--tests--tiny-vit")
	snapshot := filepath.Join(root, "snapshots", testCommit)
	write := func(path, text string) {
		t.Helper()
		err := os.MkdirAll(filepath.Dir(path), 0o777)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(root, "refs", "main"), testCommit)
	write(filepath.Join(snapshot, "pytorch_model.bin"), "p")
	s := fetch(t, c, "hf:"+testRepo)
	if s.Path != filepath.Join(snapshot, "pytorch_model.bin") || !strings.Contains(s.Note, "may have files that are not in the cache") {
		t.Errorf("got %+v", s)
	}
	// Only the Hub knows that the repository has weights that come first in the order.
	c.Offline = false
	if s := fetch(t, c, "hf:"+testRepo+"@"+testCommit); filepath.Base(s.Path) != "model.safetensors" {
		t.Errorf("online: %+v", s)
	}
	c.Offline = true
	// A link to a deleted blob does not count as a file. The next download repairs it.
	blob := filepath.Join(root, "blobs", sha256Of(weights))
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	if s := fetch(t, c, "hf:"+testRepo); filepath.Base(s.Path) != "pytorch_model.bin" {
		t.Errorf("without the blob: %+v", s)
	}
	c.Offline = false
	if s := fetch(t, c, "hf:"+testRepo); content(t, s.Path) != weights {
		t.Error("the blob has other content")
	}
	c.Offline = true
	// A model with a missing shard is not used.
	write(filepath.Join(root, "refs", "shards"), strings.Repeat("d", 40))
	write(filepath.Join(root, "snapshots", strings.Repeat("d", 40), "model.safetensors.index.json"), `{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}`)
	write(filepath.Join(root, "snapshots", strings.Repeat("d", 40), "1.safetensors"), "1")
	if _, err := c.Fetch(t.Context(), reference(t, "hf:"+testRepo+"@shards")); err == nil || !strings.Contains(err.Error(), "not completely") {
		t.Errorf("a shard is missing: %v", err)
	}
	write(filepath.Join(root, "refs", "main"), "../../x")
	if _, err := c.Fetch(t.Context(), r); err == nil || !strings.Contains(err.Error(), "expected the hash of a commit") {
		t.Errorf("a broken ref: %v", err)
	}
	if len(h.log()) == 0 {
		t.Error("the fake hub received no request, so the test checks nothing")
	}
}

// TestLock checks that a download waits for the lock of another process, and that the end of ctx
// ends the wait.
func TestLock(t *testing.T) {
	h := newFakeHub(t, tinyFiles())
	c := h.client(t)
	locks := filepath.Join(c.Cache, ".locks", "models--tests--tiny-vit")
	if err := os.MkdirAll(locks, 0o777); err != nil {
		t.Fatal(err)
	}
	other := flock.New(filepath.Join(locks, sha256Of(weights)+".lock"))
	if ok, err := other.TryLock(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if s, err := c.Fetch(ctx, Reference{Repo: testRepo}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "locking") || strings.Contains(err.Error(), "context deadline exceeded") {
		t.Errorf("while another process holds the lock: got %+v, %v", s, err)
	}
	fetched := make(chan error)
	go func() {
		_, err := c.Fetch(t.Context(), Reference{Repo: testRepo})
		fetched <- err
	}()
	select {
	case err := <-fetched:
		t.Errorf("the download did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := other.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-fetched; err != nil {
		t.Error(err)
	}
}

// TestConcurrent checks that concurrent fetches download a file once.
func TestConcurrent(t *testing.T) {
	h := newFakeHub(t, tinyFiles())
	c := h.client(t)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			s, err := c.Fetch(t.Context(), Reference{Repo: testRepo})
			if err != nil {
				t.Error(err)
			} else if data, err := os.ReadFile(s.Path); err != nil || string(data) != weights {
				t.Errorf("%d bytes, %v", len(data), err)
			}
		})
	}
	group.Wait()
	downloads := 0
	for _, r := range h.log() {
		if r == "GET /lfs/model.safetensors" {
			downloads++
		}
	}
	if downloads != 1 {
		t.Errorf("downloaded %d times", downloads)
	}
}

// TestWithoutLinks checks the cache on a system that does not let users create symbolic links, as
// Windows does: files are downloaded once for each commit, and damaged ones again.
func TestWithoutLinks(t *testing.T) {
	defer func(f func(string, string) error) { symlink = f }(symlink)
	symlink = func(old, new string) error {
		return &os.LinkError{Op: "symlink", Old: old, New: new, Err: errors.New("a required privilege is not held by the client")}
	}
	h := newFakeHub(t, tinyFiles())
	c := h.client(t)
	for _, offline := range []bool{false, false, true} {
		c.Offline = offline
		s := fetch(t, c, "hf:"+testRepo)
		if content(t, s.Path) != weights || content(t, filepath.Join(filepath.Dir(s.Path), "config.json")) != h.files["config.json"] {
			t.Error("the snapshot has other content")
		}
	}
	c.Offline = false
	snapshot := c.folder(testRepo).snapshot(testCommit, "model.safetensors")
	if err := os.Truncate(snapshot, 5); err != nil {
		t.Fatal(err)
	}
	if s := fetch(t, c, "hf:"+testRepo); content(t, s.Path) != weights {
		t.Error("the damaged file was not downloaded again")
	}
	h.commit = strings.Repeat("b", 40)
	if s := fetch(t, c, "hf:"+testRepo); content(t, s.Path) != weights || content(t, snapshot) != weights {
		t.Error("after the branch moved, a snapshot has other content")
	}
	downloads := 0
	for _, r := range h.log() {
		if r == "GET /lfs/model.safetensors" {
			downloads++
		}
	}
	if downloads != 3 {
		t.Errorf("downloaded %d times, want 3: once for each commit, and once because of the damage", downloads)
	}
}

func TestNoSpace(t *testing.T) {
	c := newFakeHub(t, tinyFiles()).client(t)
	err := c.explainDownload("model.safetensors", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	if !strings.Contains(err.Error(), "no space is left in the cache "+c.Cache) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Reference{
		"hf:google/vit-base-patch16-224":            {Repo: "google/vit-base-patch16-224"},
		"hf:timm/vit_tiny_patch16_224.augreg_in21k": {Repo: "timm/vit_tiny_patch16_224.augreg_in21k"},
		"hf:a/b@main":                          {"a/b", "main", ""},
		"hf:a/b@refs/pr/3:sub/best.ckpt@2.npz": {"a/b", "refs/pr/3", "sub/best.ckpt@2.npz"},
		"hf:a/b:x y.npz":                       {"a/b", "", "x y.npz"},
		"hf:a/b@console:nullable/com10.npz":    {"a/b", "console", "nullable/com10.npz"},
		"hf:a/b@" + testCommit:                 {"a/b", testCommit, ""},
	} {
		if got, err := Parse(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v (%s), %v", text, got, got, err)
		}
	}
	for _, text := range []string{"", "a/b", "hf:", "hf:a", "hf:a/", "hf:/b", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b--c", "hf:a..b/c", "hf:a/-b", "hf:a/b.", "hf:a b/c", "hf:a/b@", "hf:a/b@..",
		"hf:a/b@../x", "hf:a/b@/x", "hf:a/b@x//y", `hf:a/b@x\y`, "hf:a/b@x\ny", "hf:a/b:", "hf:a/b:../x", "hf:a/b:/etc/passwd", "hf:a/b:x/../../y", `hf:a/b:..\x`, "hf:a/b:C:x", "hf:a/b:.", "hf:a/b@nul", "hf:a/b:sub/CON", "hf:a/b:Aux.npz", "hf:a/b:COM1 .npz", "hf:a/b:x./y", "hf:a/b:x.npz.", "hf:a/b:x ", "hf:" + strings.Repeat("a", 97) + "/b", "hf://a/b"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q: got %+v", text, got)
		}
	}
	c := &Client{Cache: t.TempDir(), Offline: true}
	if _, err := c.Fetch(t.Context(), Reference{Repo: "a/b", File: "../x"}); err == nil || !strings.Contains(err.Error(), "not the path of a file") {
		t.Errorf("a reference that Parse rejects: %v", err)
	}
}

func TestNew(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs the paths of Unix")
	}
	home := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(home, ".cache/huggingface/token"), "from-the-file\n")
	write(filepath.Join(home, "elsewhere/token"), "from-elsewhere")
	const public = "https://huggingface.co"
	for _, tt := range []struct {
		env  map[string]string
		want Client
	}{
		{nil, Client{Endpoint: public, Cache: home + "/.cache/huggingface/hub", Token: "from-the-file"}},
		{map[string]string{"XDG_CACHE_HOME": "/x"}, Client{Endpoint: public, Cache: "/x/huggingface/hub"}},
		{map[string]string{"HF_HOME": "~/elsewhere", "XDG_CACHE_HOME": "/x"}, Client{Endpoint: public, Cache: home + "/elsewhere/hub", Token: "from-elsewhere"}},
		{map[string]string{"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "$HF_HOME/old"}, Client{Endpoint: public, Cache: "/h/old"}},
		{map[string]string{"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"}, Client{Endpoint: public, Cache: "/new"}},
		{map[string]string{"HF_HOME": "/h", "HF_TOKEN_PATH": "~/elsewhere/token"}, Client{Endpoint: public, Cache: "/h/hub", Token: "from-elsewhere"}},
		{map[string]string{"HF_HOME": "/h", "HF_TOKEN": " a\n", "HUGGING_FACE_HUB_TOKEN": "b"}, Client{Endpoint: public, Cache: "/h/hub", Token: "a"}},
		{map[string]string{"HF_HOME": "/h", "HUGGING_FACE_HUB_TOKEN": "b"}, Client{Endpoint: public, Cache: "/h/hub", Token: "b"}},
		{map[string]string{"HF_HOME": "/h", "HF_TOKEN": "a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, Client{Endpoint: public, Cache: "/h/hub"}},
		{map[string]string{"HF_HOME": "/h", "HF_ENDPOINT": "http://mirror:8080/hf/", "HF_HUB_OFFLINE": "1"}, Client{Endpoint: "http://mirror:8080/hf", Cache: "/h/hub", Offline: true}},
		{map[string]string{"HF_HOME": "/h", "TRANSFORMERS_OFFLINE": "yes", "HF_HUB_OFFLINE": "0"}, Client{Endpoint: public, Cache: "/h/hub", Offline: true}},
		{map[string]string{"HF_HOME": "/h", "HF_HUB_OFFLINE": "0"}, Client{Endpoint: public, Cache: "/h/hub"}},
	} {
		t.Run("", func(t *testing.T) {
			for _, name := range []string{"HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} {
				t.Setenv(name, "")
			}
			t.Setenv("HOME", home)
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			c, err := New()
			if err != nil || c.Endpoint != tt.want.Endpoint || c.Cache != tt.want.Cache || c.Token != tt.want.Token || c.Offline != tt.want.Offline {
				t.Errorf("%v: got %+v, %v; want %+v", tt.env, c, err, tt.want)
			}
		})
	}
}
