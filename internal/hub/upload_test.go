package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/sptune/spt/progress"
)

// modelFiles are the files of an exported model: one large file and two small ones.
func modelFiles() map[string]string {
	return map[string]string{"model.safetensors": weights, "config.json": `{"a": 1}`, "docs/empty.txt": ""}
}

// folderOf writes files into a new folder.
func folderOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	writeAll(t, dir, files)
	return dir
}

func writeAll(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(text), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
}

// push plans an upload and runs it.
func push(ctx context.Context, c *Client, dir string, r Reference) (*Upload, *Uploaded, error) {
	u, err := c.PlanUpload(ctx, dir, r, false)
	if err != nil {
		return nil, nil, err
	}
	done, err := u.Run(ctx)
	return u, done, err
}

func mustPush(t *testing.T, c *Client, dir, ref string) (*Upload, *Uploaded) {
	t.Helper()
	u, done, err := push(t.Context(), c, dir, reference(t, ref))
	if err != nil {
		t.Fatal(err)
	}
	return u, done
}

// states returns the states of the files of a plan.
func states(u *Upload) map[string]State {
	m := map[string]State{}
	for _, f := range u.Files {
		m[f.Path] = f.State
	}
	return m
}

// has checks the content of a branch.
func (h *pushHub) has(t *testing.T, branch string, want map[string]string) {
	t.Helper()
	got := h.files(testRepo, branch)
	delete(got, ".gitattributes")
	if !maps.Equal(got, want) {
		t.Errorf("the branch %s has %.200q, want %.200q", branch, got, want)
	}
}

// TestUpload uploads a folder several times, to a new repository, unchanged, changed, and to a new
// branch, and counts the requests.
func TestUpload(t *testing.T) {
	h := newPushHub(t)
	c := h.client(t)
	ends := map[string]int64{}
	c.Progress = func(e progress.Event) {
		if e.Stage == progress.Upload && e.Done == e.Total {
			ends[e.Item] = e.Total
		}
	}
	files := modelFiles()
	dir := folderOf(t, files)
	writeAll(t, dir, map[string]string{".git/config": "secret", ".cache/huggingface/x": "secret"})

	u, err := c.PlanUpload(t.Context(), dir, Reference{Repo: testRepo}, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.repos) != 0 || !u.NewRepo || !u.Private || !maps.Equal(states(u), map[string]State{"model.safetensors": Added, "config.json": Added, "docs/empty.txt": Added}) {
		t.Errorf("planned %+v with the states %v, and the Hub has %d repositories", u, states(u), len(h.repos))
	}
	h.log()
	done, err := u.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !h.repos[testRepo].private || !done.Made || done.Address != h.URL+"/"+testRepo || done.Commit != h.repos[testRepo].branches["main"].commit {
		t.Errorf("got %+v of the repository %+v", done, h.repos[testRepo])
	}
	h.has(t, "main", files)
	want := []string{"POST /api/repos/create", "GET /api/models/tests/tiny-vit/revision/main", "POST /api/models/tests/tiny-vit/preupload/main",
		"POST /tests/tiny-vit.git/info/lfs/objects/batch", "PUT /objects/" + sha256Of(weights), "POST /tests/tiny-vit.git/info/lfs/verify", "POST /api/models/tests/tiny-vit/commit/main"}
	if got := h.log(); !slices.Equal(got, want) {
		t.Errorf("got the requests %q, want %q", got, want)
	}
	if !maps.Equal(ends, map[string]int64{"model.safetensors": 1 << 20, "config.json": 8, "docs/empty.txt": 0}) {
		t.Errorf("the last events are %v", ends)
	}

	// The same folder again makes no commit.
	before := done.Commit
	u, done = mustPush(t, c, dir, "hf:"+testRepo)
	if done.Made || done.Commit != before || len(u.Pending()) != 0 || u.NewRepo {
		t.Errorf("got %+v with %v", done, states(u))
	}
	if got := h.log(); len(got) != 1 {
		t.Errorf("got the requests %q, want one", got)
	}

	// One file changes, and files of the repository stay.
	h.commit(testRepo, "main", map[string]string{"README.md": "by another"})
	files["config.json"] = `{"a": 2}`
	writeAll(t, dir, map[string]string{"config.json": files["config.json"]})
	u, done = mustPush(t, c, dir, "hf:"+testRepo)
	if !done.Made || states(u)["config.json"] != Changed || states(u)["model.safetensors"] != Unchanged {
		t.Errorf("got %+v with %v", done, states(u))
	}
	after := maps.Clone(files)
	after["README.md"] = "by another"
	h.has(t, "main", after)
	if got := h.log(); len(got) != 3 {
		t.Errorf("got the requests %q, want 3", got)
	}

	// A new branch begins with main. Its content is in the store, so it is not sent again.
	files["second.safetensors"] = weights
	writeAll(t, dir, map[string]string{"second.safetensors": weights})
	u, done = mustPush(t, c, dir, "hf:"+testRepo+"@trial/a")
	if !u.NewBranch || !done.Made || done.Address != h.URL+"/"+testRepo+"/tree/trial%2Fa" {
		t.Errorf("got %+v of %+v", done, u)
	}
	after["second.safetensors"] = weights
	h.has(t, "trial/a", after)
	for _, request := range h.log() {
		if strings.HasPrefix(request, "PUT") {
			t.Errorf("sent again: %s", request)
		}
	}
	if h.tokenLeaked() {
		t.Error("the store received the token")
	}
	// spt can read what it has uploaded, also with the reader of downloads.
	if _, err := c.info(t.Context(), Reference{Repo: testRepo, Revision: "trial/a"}, false); err != nil {
		t.Error(err)
	}
}

// TestUploadPublic checks who can read a repository.
func TestUploadPublic(t *testing.T) {
	h := newPushHub(t)
	c := h.client(t)
	dir := folderOf(t, modelFiles())
	u, err := c.PlanUpload(t.Context(), dir, Reference{Repo: testRepo}, true)
	if err != nil || u.Private {
		t.Fatalf("%+v, %v", u, err)
	}
	if _, err := u.Run(t.Context()); err != nil || h.repos[testRepo].private {
		t.Fatalf("%+v, %v", h.repos[testRepo], err)
	}
	// An existing repository keeps its visibility, and the plan says so.
	if u, err := c.PlanUpload(t.Context(), dir, Reference{Repo: testRepo}, false); err != nil || u.Private || u.NewRepo {
		t.Fatalf("%+v, %v", u, err)
	}

	// A Hub that makes a public repository in spite of the request receives no file.
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/repos/create" {
			h.mu.Lock()
			h.create("tests/other", false)
			h.mu.Unlock()
		}
		return r.URL.Path == "/api/repos/create"
	}
	h.log()
	_, _, err = push(t.Context(), c, dir, Reference{Repo: "tests/other"})
	if kindOf(err) != input || !strings.Contains(err.Error(), "nothing was uploaded") || len(h.log()) != 3 {
		t.Errorf("got %v", err)
	}
}

// TestUploadParts uploads an object in parts, one of which fails at first, and checks that progress
// never goes back.
func TestUploadParts(t *testing.T) {
	h := newPushHub(t)
	h.chunk = 300_000 // four parts, the last one shorter
	c := h.client(t)
	var last int64
	c.Progress = func(e progress.Event) {
		if e.Item == "model.safetensors" {
			if e.Done < last || e.Total != int64(len(weights)) {
				t.Errorf("%d of %d bytes after %d", e.Done, e.Total, last)
			}
			last = e.Done
		}
	}
	var failed atomic.Int64
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/2") && failed.Add(1) < 3 {
			_, _ = io.CopyN(io.Discard, r.Body, 100_000)
			panic(http.ErrAbortHandler)
		}
		return false
	}
	mustPush(t, c, folderOf(t, modelFiles()), "hf:"+testRepo)
	h.has(t, "main", modelFiles())
	if last != int64(len(weights)) || failed.Load() != 3 {
		t.Errorf("the last event has %d bytes after %d attempts", last, failed.Load())
	}
	if n := len(slices.DeleteFunc(h.log(), func(r string) bool { return !strings.HasPrefix(r, "PUT /parts/") })); n != 6 {
		t.Errorf("sent %d parts, want 6", n)
	}
}

// TestUploadChild is the process that TestKilledUpload kills.
func TestUploadChild(t *testing.T) {
	endpoint, dir := os.Getenv("SPT_TEST_UPLOAD_TO"), os.Getenv("SPT_TEST_UPLOAD")
	if endpoint == "" {
		t.Skip("only for TestKilledUpload")
	}
	c := &Client{Endpoint: endpoint, Cache: t.TempDir(), Token: testToken}
	_, _, err := push(t.Context(), c, dir, Reference{Repo: testRepo})
	t.Error(err)
}

// TestKilledUpload kills a process in the middle of the second of three large files. The next
// upload sends only the last two.
func TestKilledUpload(t *testing.T) {
	h := newPushHub(t)
	files := map[string]string{"1.safetensors": weights + "1", "2.safetensors": weights + "2", "3.safetensors": weights + "3", "config.json": "{}"}
	dir := folderOf(t, files)
	reached := make(chan struct{})
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, sha256Of(files["2.safetensors"])) {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<19)
			close(reached)
			_, _ = io.Copy(io.Discard, r.Body) // until the process is gone
			return true
		}
		return false
	}
	child := exec.Command(os.Args[0], "-test.run=^TestUploadChild$")
	child.Env = append(os.Environ(), "SPT_TEST_UPLOAD_TO="+h.URL, "SPT_TEST_UPLOAD="+dir)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-reached:
	case <-time.After(30 * time.Second):
		t.Error("the child does not upload")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	h.has(t, "main", map[string]string{}) // no commit
	h.mu.Lock()
	h.intercept = nil
	h.mu.Unlock()
	h.log()
	mustPush(t, h.client(t), dir, "hf:"+testRepo)
	h.has(t, "main", files)
	var sent []string
	for _, r := range h.log() {
		if path, ok := strings.CutPrefix(r, "PUT /objects/"); ok {
			sent = append(sent, path)
		}
	}
	if want := []string{sha256Of(files["2.safetensors"]), sha256Of(files["3.safetensors"])}; !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
}

// TestUploadRace lets other programs make commits during an upload.
func TestUploadRace(t *testing.T) {
	for _, tt := range []struct {
		name  string
		other func(n int) map[string]string // files of commit n of another program
		n     int                           // number of its commits
		err   string
	}{
		{"another file", func(int) map[string]string { return map[string]string{"README.md": "other"} }, 1, ""},
		{"the same file", func(int) map[string]string { return map[string]string{"config.json": "other"} }, 1, "another program changed config.json"},
		{"the same content", func(int) map[string]string { return map[string]string{"config.json": modelFiles()["config.json"]} }, 1, ""},
		{"always", func(n int) map[string]string { return map[string]string{"README.md": fmt.Sprint(n)} }, 100, "make commits on this branch all the time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newPushHub(t)
			h.create(testRepo, true)
			n := 0
			h.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/commit/") && n < tt.n {
					n++
					h.commit(testRepo, "main", tt.other(n))
				}
				return false
			}
			_, _, err := push(t.Context(), h.client(t), folderOf(t, modelFiles()), Reference{Repo: testRepo})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := modelFiles()
			maps.Copy(want, tt.other(1))
			h.has(t, "main", want)
		})
	}

	// The response to the commit is lost. The commit is made once.
	h := newPushHub(t)
	lost := false
	h.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/commit/") && !lost {
			lost = true
			h.mu.Lock()
			defer h.mu.Unlock()
			h.serveCommit(&discardResponse{}, r, testRepo, h.repos[testRepo].branches["main"])
			panic(http.ErrAbortHandler)
		}
		return false
	}
	_, done := mustPush(t, h.client(t), folderOf(t, modelFiles()), "hf:"+testRepo)
	h.has(t, "main", modelFiles())
	if h.commits != 2 || done.Commit != fmt.Sprintf("%040x", 2) {
		t.Errorf("%d commits; the upload reports %s", h.commits, done.Commit)
	}
}

// discardResponse is a response that gets lost.
type discardResponse struct{ h http.Header }

func (d *discardResponse) Header() http.Header {
	if d.h == nil {
		d.h = http.Header{}
	}
	return d.h
}
func (d *discardResponse) Write(p []byte) (int, error) { return len(p), nil }
func (d *discardResponse) WriteHeader(int)             {}

// TestUploadPlayer lets servers misbehave. Each scenario checks the kind and the text of the error,
// and that the token reaches only the Hub and appears in no error.
func TestUploadPlayer(t *testing.T) {
	on := func(part string, f func(w http.ResponseWriter, r *http.Request, n int) bool) func(http.ResponseWriter, *http.Request) bool {
		var n atomic.Int64
		return func(w http.ResponseWriter, r *http.Request) bool {
			return strings.Contains(r.Method+" "+r.URL.Path, part) && f(w, r, int(n.Add(1)))
		}
	}
	status := func(code int, message string) func(http.ResponseWriter, *http.Request, int) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ int) bool { refuse(w, code, "", message); return true }
	}
	first := func(times int, f func(http.ResponseWriter, *http.Request, int) bool) func(http.ResponseWriter, *http.Request, int) bool {
		return func(w http.ResponseWriter, r *http.Request, n int) bool { return n <= times && f(w, r, n) }
	}
	reply := func(text string) func(http.ResponseWriter, *http.Request, int) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ int) bool { _, _ = io.WriteString(w, text); return true }
	}
	cut := func(http.ResponseWriter, *http.Request, int) bool { panic(http.ErrAbortHandler) }
	batchOf := func(actions string) func(http.ResponseWriter, *http.Request, int) bool {
		return reply(`{"objects": [{"oid": "` + sha256Of(weights) + `", "size": 1048576, ` + actions + `}]}`)
	}
	for _, tt := range []struct {
		name   string
		ref    string
		setUp  func(t *testing.T, h *pushHub, c *Client)
		answer func(w http.ResponseWriter, r *http.Request) bool
		want   kind
		text   string
	}{
		{name: "well", want: fetched},
		{name: "no token", setUp: func(_ *testing.T, _ *pushHub, c *Client) { c.Token = "" }, want: input, text: "there is no token"},
		{name: "wrong token", setUp: func(_ *testing.T, _ *pushHub, c *Client) { c.Token = "hf_wrong" }, want: input, text: "the token is not valid"},
		{name: "offline", setUp: func(_ *testing.T, _ *pushHub, c *Client) { c.Offline = true }, want: input, text: "HF_HUB_OFFLINE"},
		{name: "another owner", ref: "hf:strangers/model", want: input, text: "You don't have the rights"},
		{name: "a commit", ref: "hf:" + testRepo + "@" + testCommit, want: input, text: "is a commit"},
		{name: "a file", ref: "hf:" + testRepo + ":model.safetensors", want: input, text: "takes no file"},
		{name: "a pull request that is missing", ref: "hf:" + testRepo + "@refs/pr/1", setUp: func(_ *testing.T, h *pushHub, _ *Client) { h.create(testRepo, true) }, want: input, text: "no such branch"},
		{name: "made by another meanwhile", answer: on("POST /api/repos/create", first(1, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			refuse(w, 409, "", "You already created this model repo")
			return true
		})), want: input, text: "creating the repository: 127.0.0.1"},
		{name: "read-only token", answer: on("POST /api/models/tests/tiny-vit/preupload", status(403, "needs write access")), want: input, text: "may not write here"},
		{name: "no space", answer: on("POST /api/models/tests/tiny-vit/commit", status(402, "")), want: input, text: "no space for private files"},
		{name: "bad model card", answer: on("POST /api/models/tests/tiny-vit/commit", status(400, `"license" must be one of`)), want: input, text: `("license" must be one of): the Hub rejects the content`},
		{name: "too large", answer: on("POST /api/models/tests/tiny-vit/commit", status(413, "")), want: input, text: "too large for the Hub"},
		{name: "too large for the store", answer: on("PUT /objects", status(413, "")), want: failure, text: "the store of the Hub rejected the request"},
		{name: "message in the body only", answer: on("batch", func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			w.WriteHeader(422)
			_, _ = io.WriteString(w, `{"message": "odd\u001b[31m objects"}`)
			return true
		}), want: input, text: "(odd [31m objects)"},

		// Temporary failures.
		{name: "5xx everywhere at first", answer: func() func(http.ResponseWriter, *http.Request) bool {
			seen := map[string]int{}
			return func(w http.ResponseWriter, r *http.Request) bool {
				seen[r.Method+r.URL.Path]++
				if seen[r.Method+r.URL.Path] <= 2 {
					w.WriteHeader(500 + seen[r.Method+r.URL.Path])
					return true
				}
				return false
			}
		}(), want: fetched},
		{name: "cut everywhere at first", answer: func() func(http.ResponseWriter, *http.Request) bool {
			seen := map[string]int{}
			return func(_ http.ResponseWriter, r *http.Request) bool {
				if seen[r.Method+r.URL.Path]++; seen[r.Method+r.URL.Path] <= 2 {
					panic(http.ErrAbortHandler)
				}
				return false
			}
		}(), want: fetched},
		{name: "5xx for ever", answer: on("PUT /objects", status(503, "")), want: outage, text: "tried 5 times"},
		{name: "cut for ever", answer: on("/commit/", cut), want: outage, text: "tried 5 times"},
		{name: "busy for a second", answer: on("/preupload/", first(1, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
			return true
		})), want: fetched},
		{name: "store without an answer", setUp: func(_ *testing.T, _ *pushHub, c *Client) { c.window, c.least = 20*time.Millisecond, 1<<30 }, answer: on("PUT /objects", func(_ http.ResponseWriter, r *http.Request, _ int) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return true
		}), want: outage, text: "the server took and sent"},

		// Addresses that expire, and responses that get lost.
		{name: "expired address", answer: on("PUT /objects", first(1, status(403, ""))), want: fetched},
		{name: "expired for ever", answer: on("PUT /objects", status(403, "")), want: failure, text: "403 Forbidden: the store of the Hub rejected"},
		{name: "completion is lost", setUp: func(_ *testing.T, h *pushHub, _ *Client) {
			h.chunk = 1 << 19
			h.intercept = on("complete_multipart", first(1, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.complete(&discardResponse{}, r)
				panic(http.ErrAbortHandler)
			}))
		}, want: fetched},

		// Hosts and redirects.
		{name: "to another host", answer: on("/preupload/", func(w http.ResponseWriter, r *http.Request, _ int) bool {
			http.Redirect(w, r, "http://example.invalid"+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}), want: failure, text: "redirects the upload to POST example.invalid"},
		{name: "to another page of the Hub", answer: on("/preupload/", first(1, func(w http.ResponseWriter, r *http.Request, _ int) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusPermanentRedirect)
			return true
		})), want: fetched},
		{name: "to a page that is read", answer: on("/preupload/", func(w http.ResponseWriter, r *http.Request, _ int) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusSeeOther)
			return true
		}), want: failure, text: "redirects the upload to GET"},
		{name: "verification on another host", setUp: func(t *testing.T, h *pushHub, _ *Client) {
			other := newServer(t, false, func(_ http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "" {
					t.Error("another host received the token")
				}
			})
			h.intercept = on("batch", batchOf(`"actions": {"upload": {"href": "`+h.store.URL+`/objects/`+sha256Of(weights)+`?signature=secret", "header": {"X-Own": "1"}}, "verify": {"href": "`+other.URL+`"}}`))
		}, want: fetched},

		// Answers that are not those of a Hub.
		{name: "HTML", answer: on("/preupload/", reply("<html>")), want: failure, text: `begins with "<html>"`},
		{name: "no modes", answer: on("/preupload/", reply(`{"files": []}`)), want: failure, text: "does not say whether"},
		{name: "unknown mode", answer: on("/preupload/", reply(`{"files": [{"path": "config.json", "uploadMode": "xet"}]}`)), want: failure, text: "does not say whether"},
		{name: "endless answer", answer: on("/preupload/", func(w http.ResponseWriter, r *http.Request, n int) bool { return (&scene{w, r, n}).flood() }), want: failure, text: "more than 16777216 bytes"},
		{name: "no object", answer: on("batch", reply(`{"objects": []}`)), want: failure, text: "does not say where"},
		{name: "another object", answer: on("batch", reply(`{"objects": [{"oid": "x"}]}`)), want: failure, text: "does not say where"},
		{name: "rejected object", answer: on("batch", batchOf(`"error": {"code": 422, "message": "too\u202e odd"}`)), want: input, text: "rejects the content: too  odd (code 422)"},
		{name: "no address", answer: on("batch", batchOf(`"actions": {"upload": {"href": ""}}`)), want: failure, text: "is not valid"},
		{name: "address of a file", answer: on("batch", batchOf(`"actions": {"upload": {"href": "file:///etc/passwd"}}`)), want: failure, text: "is not valid"},
		{name: "parts of no bytes", answer: on("batch", batchOf(`"actions": {"upload": {"href": "http://x", "header": {"chunk_size": "0"}}}`)), want: failure, text: `parts of "0" bytes`},
		{name: "a part for each byte", answer: on("batch", batchOf(`"actions": {"upload": {"href": "http://x", "header": {"chunk_size": "1"}}}`)), want: failure, text: "at most 10000 parts"},
		{name: "too few parts", answer: on("batch", batchOf(`"actions": {"upload": {"href": "http://x", "header": {"chunk_size": "1000000", "-1": "http://y"}}}`)), want: failure, text: "no address for part 1"},
		{name: "many headers", answer: on("batch", batchOf(`"actions": {"upload": {"href": "http://x", "header": {`+manyHeaders(40)+`}}}`)), want: failure, text: "wants 40 headers"},
		{name: "bad header", answer: on("batch", batchOf(`"actions": {"upload": {"href": "http://x", "header": {"a b": "1\r\n2"}}}`)), want: failure, text: "invalid header"},
		{name: "no ETag", setUp: func(_ *testing.T, h *pushHub, _ *Client) { h.chunk = 1 << 19 }, answer: on("PUT /parts", reply("")), want: failure, text: "answers part 1 of the file with the ETag"},
		{name: "no commit", answer: on("/commit/", reply(`{"commitOid": "\u001b"}`)), want: failure, text: "expected a commit"},
		{name: "hostile message", answer: on("/commit/", status(400, "\u202e"+strings.Repeat("x", 5000))), want: input, text: "rejects the content"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newPushHub(t)
			h.intercept = tt.answer
			c := h.client(t)
			if tt.setUp != nil {
				tt.setUp(t, h, c)
			}
			ref := "hf:" + testRepo
			if tt.ref != "" {
				ref = tt.ref
			}
			_, _, err := push(t.Context(), c, folderOf(t, modelFiles()), reference(t, ref))
			if got := kindOf(err); got != tt.want || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %s (%v), want %s with %q", got, err, tt.want, tt.text)
			}
			if err == nil && tt.name != "verification on another host" {
				h.has(t, "main", modelFiles())
			}
			if err != nil && (strings.Contains(err.Error(), "hf_") || len(err.Error()) > 2000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) })) {
				t.Errorf("the error is %q", err)
			}
			if h.tokenLeaked() {
				t.Error("the store received the token")
			}
		})
	}
}

// manyHeaders returns n headers as the content of a JSON object.
func manyHeaders(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"a%d": ""`, i))
	}
	return strings.Join(all, ",")
}

// TestUploadSecure checks that no data leave over http if the Hub has https.
func TestUploadSecure(t *testing.T) {
	h := newPushHub(t)
	h.Server = newServer(t, true, h.serve)
	c := h.client(t)
	c.tls = h.Client().Transport.(*http.Transport).TLSClientConfig
	_, _, err := push(t.Context(), c, folderOf(t, modelFiles()), Reference{Repo: testRepo})
	if kindOf(err) != failure || !strings.Contains(err.Error(), "over http, which is not encrypted") || len(h.objects) != 0 {
		t.Errorf("got %v", err)
	}
}

// TestUploadFolder checks which files are uploaded: regular files of the folder only.
func TestUploadFolder(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	writeAll(t, filepath.Dir(secret), map[string]string{"secret": "secret"})
	for _, tt := range []struct {
		name string
		make func(dir string) error
		text string
	}{
		{"link to a file", func(dir string) error { return os.Symlink(secret, filepath.Join(dir, "link")) }, "link has mode L"},
		{"link to a folder", func(dir string) error { return os.Symlink(filepath.Dir(secret), filepath.Join(dir, "link")) }, "link has mode L"},
		{"link inside", func(dir string) error { return os.Symlink("config.json", filepath.Join(dir, "link")) }, "link has mode L"},
		{"pipe", func(dir string) error { return mkfifo(filepath.Join(dir, "pipe")) }, "pipe has mode p"},
		{"name", func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\nb"), nil, 0o666) }, "is not a possible name"},
		{"no folder", os.RemoveAll, "no such file"},
		{"no files", func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o777)) }, "has no files"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("needs links, pipes and the names of Unix")
			}
			h := newPushHub(t)
			dir := folderOf(t, modelFiles())
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			_, _, err := push(t.Context(), h.client(t), dir, Reference{Repo: testRepo})
			if kindOf(err) != input || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %q", err, tt.text)
			}
			if got := h.log(); len(got) != 0 {
				t.Errorf("sent %q", got)
			}
		})
	}

	// Files that change between the plan and the upload.
	for _, tt := range []struct {
		name   string
		change func(path string) error
		text   string
	}{
		{"other content", func(path string) error { return os.WriteFile(path, []byte("other"), 0o666) }, "changes during the upload"},
		{"removed", os.Remove, "no such file"},
		{"link", func(path string) error { return errors.Join(os.Remove(path), os.Symlink(secret, path)) }, "has mode L"},
	} {
		for _, file := range []string{"model.safetensors", "config.json"} {
			t.Run(tt.name+" "+file, func(t *testing.T) {
				if runtime.GOOS == "windows" {
					t.Skip("needs links and the errors of Unix")
				}
				h := newPushHub(t)
				dir := folderOf(t, modelFiles())
				u, err := h.client(t).PlanUpload(t.Context(), dir, Reference{Repo: testRepo}, false)
				if err != nil {
					t.Fatal(err)
				}
				if err := tt.change(filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
				if _, err := u.Run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("got %v, want %q", err, tt.text)
				}
				h.has(t, "main", map[string]string{})
			})
		}
	}

	// The file .gitignore of the folder counts.
	h := newPushHub(t)
	files := modelFiles()
	files[".gitignore"] = "config.json\n"
	_, done := mustPush(t, h.client(t), folderOf(t, files), "hf:"+testRepo)
	delete(files, "config.json")
	h.has(t, "main", files)
	if !slices.Equal(done.Ignored, []string{"config.json"}) {
		t.Errorf("ignored %q", done.Ignored)
	}
}

// TestUploadHuge uploads a file that is larger than the memory that the upload may allocate.
func TestUploadHuge(t *testing.T) {
	h := newPushHub(t)
	dir := folderOf(t, map[string]string{"model.safetensors": ""})
	const size = 256 << 20
	if err := os.Truncate(filepath.Join(dir, "model.safetensors"), size); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	u, _ := mustPush(t, h.client(t), dir, "hf:"+testRepo)
	runtime.ReadMemStats(&after)
	// with the server's copy of the first 8 MiB
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("allocated %d bytes", n)
	}
	if h.objects[u.Files[0].sha256] != size {
		t.Errorf("the store has %v", h.objects)
	}
	// A file of this size is not taken into a commit, whatever the Hub says.
	h = newPushHub(t)
	h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "preupload") {
			_, _ = io.WriteString(w, `{"files": [{"path": "model.safetensors", "uploadMode": "regular"}]}`)
			return true
		}
		return false
	}
	if _, _, err := push(t.Context(), h.client(t), dir, Reference{Repo: testRepo}); kindOf(err) != failure || !strings.Contains(err.Error(), "inside the commit") {
		t.Errorf("got %v", err)
	}
}

// TestUploadCancel checks that the end of the context ends each part of an upload within a second.
func TestUploadCancel(t *testing.T) {
	for _, part := range []string{"GET /api", "POST /api/repos", "preupload", "batch", "PUT /objects", "verify", "/commit/"} {
		t.Run(part, func(t *testing.T) {
			h := newPushHub(t)
			c := h.client(t)
			c.window = time.Hour
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var when time.Time
			h.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.Method+" "+r.URL.Path, part) {
					return false
				}
				when = time.Now()
				cancel()
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return true
			}
			_, _, err := push(ctx, c, folderOf(t, modelFiles()), Reference{Repo: testRepo})
			if kindOf(err) != canceled || !strings.Contains(err.Error(), "stopped before the upload was complete; the next upload sends only") {
				t.Errorf("got %v", err)
			}
			if late := time.Since(when); late > time.Second {
				t.Errorf("ended %v after the context", late)
			}
		})
	}
}

// TestRealClient lets huggingface_hub upload a folder to the Hub that the tests play, so that the
// play accepts the requests of the real client, and the same requests of spt. SPT_EXPORT_PYTHON is
// a Python interpreter with huggingface_hub.
func TestRealClient(t *testing.T) {
	python := os.Getenv("SPT_EXPORT_PYTHON")
	if python == "" {
		t.Skip("SPT_EXPORT_PYTHON is not set")
	}
	h := newPushHub(t)
	h.chunk = 1 << 19
	files := modelFiles()
	files["small.safetensors"] = "12345"
	files["README.md"] = "---\nlicense: mit\n---\n# words\n"
	dir := folderOf(t, files)
	theirs := func() {
		t.Helper()
		script := `
import sys
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo("` + testRepo + `", private=True, exist_ok=True)
api.create_commit("` + testRepo + `", [CommitOperationAdd(p, sys.argv[1] + "/" + p) for p in sys.argv[2:]], commit_message="x")
`
		cmd := exec.CommandContext(t.Context(), python, append([]string{"-c", script, dir}, slices.Sorted(maps.Keys(files))...)...)
		cmd.Env = append(os.Environ(), "HF_ENDPOINT="+h.URL, "HF_TOKEN="+testToken, "HF_HUB_DISABLE_XET=1", "HF_HUB_DISABLE_PROGRESS_BARS=1", "HF_HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	theirs()
	if !h.repos[testRepo].private {
		t.Error("the repository is public")
	}
	h.has(t, "main", files)
	h.log()
	// spt finds that nothing has changed after the upload of huggingface_hub, and the other way
	// round.
	if _, done := mustPush(t, h.client(t), dir, "hf:"+testRepo); done.Made {
		t.Error("spt made a commit that changes nothing")
	}
	writeAll(t, dir, map[string]string{"small.safetensors": "67890"})
	files["small.safetensors"] = "67890"
	mustPush(t, h.client(t), dir, "hf:"+testRepo)
	h.has(t, "main", files)
	commits := h.commits
	theirs()
	if h.commits != commits {
		t.Error("huggingface_hub made a commit after the upload of spt")
	}
	// The kinds of requests of both are the same.
	h.objects, h.contents = map[string]int64{}, map[string]string{}
	kinds := func() map[string]bool {
		m := map[string]bool{}
		for _, r := range h.log() {
			if strings.HasPrefix(r, "POST") && !strings.HasSuffix(r, "/validate-yaml") {
				m[r] = true
			}
		}
		return m
	}
	fresh := func(push func()) map[string]bool {
		delete(h.repos, testRepo)
		h.objects, h.contents = map[string]int64{}, map[string]string{}
		h.log()
		push()
		return kinds()
	}
	a := fresh(func() { theirs() })
	b := fresh(func() { mustPush(t, h.client(t), dir, "hf:"+testRepo) })
	if !reflect.DeepEqual(a, b) {
		t.Errorf("huggingface_hub sends %v, spt sends %v", a, b)
	}
	if h.tokenLeaked() {
		t.Error("the store received the token")
	}
}
