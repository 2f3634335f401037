package hub

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// pushHub plays the parts of the Hub that receive models. It keeps what it receives, and refuses
// requests that the Hub would refuse. TestRealClient compares it with the requests of
// huggingface_hub. The store is on another host.
type pushHub struct {
	*httptest.Server
	store *httptest.Server
	// size in bytes of the parts of an object; an object of at most chunk bytes has none
	chunk int64

	mu       sync.Mutex
	repos    map[string]*pushRepo
	objects  map[string]int64 // SHA-256 of the objects in the store: size
	contents map[string]string
	uploads  map[string][]string // parts of uploads that are not complete
	commits  int                 // number of commits so far, for their hashes
	requests []string            // METHOD PATH of the requests to both hosts
	leaked   bool                // the store has received a token

	// intercept may respond to a request, after it was noted. It returns true if it has done so.
	intercept func(w http.ResponseWriter, r *http.Request) bool
}

// pushRepo is a repository of a pushHub.
type pushRepo struct {
	private  bool
	branches map[string]*pushBranch
}

// pushBranch is a branch of a repository.
type pushBranch struct {
	commit string
	files  map[string]string // path: content
	large  map[string]string // path of a file in the store: SHA-256
}

// largest is the size in bytes from which a pushHub gives no content back.
const largest = 8 << 20

func newPushHub(t *testing.T) *pushHub {
	h := &pushHub{chunk: 1 << 62, repos: map[string]*pushRepo{}, objects: map[string]int64{}, contents: map[string]string{}, uploads: map[string][]string{}}
	h.store = newServer(t, false, h.serveStore)
	h.Server = newServer(t, false, h.serve)
	return h
}

// client returns a client with the token and short waits.
func (h *pushHub) client(t *testing.T) *Client {
	return &Client{Endpoint: h.URL, Cache: t.TempDir(), Token: testToken, backoff: time.Millisecond, window: 2 * time.Second, least: 1}
}

// log returns the requests that were received since the last call, without queries.
func (h *pushHub) log() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.requests
	h.requests = nil
	return l
}

// tokenLeaked reports whether the store has received a token.
func (h *pushHub) tokenLeaked() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leaked
}

// commit makes a commit as another program would.
func (h *pushHub) commit(repo, branch string, files map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.Copy(h.repos[repo].branches[branch].files, files)
	h.repos[repo].branches[branch].commit = h.newCommit()
}

// newCommit returns the hash of a new commit.
func (h *pushHub) newCommit() string {
	h.commits++
	return fmt.Sprintf("%040x", h.commits)
}

// create creates a repository.
func (h *pushHub) create(name string, private bool) {
	files := map[string]string{".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
	h.repos[name] = &pushRepo{private, map[string]*pushBranch{"main": {h.newCommit(), files, map[string]string{}}}}
}

// files returns the content of a branch.
func (h *pushHub) files(repo, branch string) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.repos[repo].branches[branch]
	all := maps.Clone(b.files)
	for path, oid := range b.large {
		all[path] = h.contents[oid]
	}
	return all
}

// refuse answers with an error as the Hub does.
func refuse(w http.ResponseWriter, code int, kind, message string) {
	w.Header().Set("X-Error-Code", kind)
	w.Header().Set("X-Error-Message", message)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}

// strictly decodes a JSON request and refuses unknown fields.
func strictly(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err != nil {
		refuse(w, 400, "", err.Error())
	}
	return err == nil
}

// note records a request and reports whether intercept has responded to it.
func (h *pushHub) note(w http.ResponseWriter, r *http.Request) bool {
	h.mu.Lock()
	h.requests = append(h.requests, r.Method+" "+r.URL.EscapedPath())
	intercept := h.intercept
	h.mu.Unlock()
	return intercept != nil && intercept(w, r)
}

func (h *pushHub) serve(w http.ResponseWriter, r *http.Request) {
	if h.note(w, r) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	authorized := r.Header.Get("Authorization") == "Bearer "+testToken
	if !authorized && r.Header.Get("Authorization") != "" {
		refuse(w, 401, "", "Invalid credentials in Authorization header")
		return
	}
	var path []string
	for part := range strings.SplitSeq(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/") {
		part, err := url.PathUnescape(part)
		if err != nil {
			refuse(w, 400, "", err.Error())
			return
		}
		path = append(path, part)
	}
	at := func(i int) string {
		if i < len(path) {
			return path[i]
		}
		return ""
	}
	switch {
	case r.URL.Path == "/api/complete_multipart":
		h.complete(w, r)
		return
	case r.URL.Path == "/api/validate-yaml" && r.Method == "POST":
		_, _ = io.WriteString(w, `{"errors": [], "warnings": []}`)
		return
	case r.Method == "POST" && !authorized:
		refuse(w, 401, "", "Invalid username or password.")
		return
	case r.URL.Path == "/api/repos/create" && r.Method == "POST":
		h.serveCreate(w, r)
		return
	}
	name, verb, rest := at(0)+"/"+at(1), at(2), path[min(3, len(path)):]
	if at(0) == "api" && at(1) == "models" {
		name, verb, rest = at(2)+"/"+at(3), at(4), path[min(5, len(path)):]
	}
	name, git := strings.CutSuffix(name, ".git")
	repo := h.repos[name]
	if repo == nil || repo.private && !authorized {
		code := 404
		if !authorized {
			code = 401
		}
		refuse(w, code, "RepoNotFound", "Repository not found")
		return
	}
	branch := repo.branches["main"]
	if !git && len(rest) > 0 && verb != "branch" {
		if branch = repo.branches[rest[0]]; branch == nil {
			refuse(w, 404, "RevisionNotFound", "Invalid rev id: "+rest[0])
			return
		}
	}
	switch {
	case git && r.URL.Path == "/"+name+".git/info/lfs/objects/batch":
		h.batch(w, r, name)
	case git && r.URL.Path == "/"+name+".git/info/lfs/verify":
		var v struct {
			OID  string `json:"oid"`
			Size int64  `json:"size"`
		}
		if strictly(w, r, &v) {
			if size, ok := h.objects[v.OID]; !ok || size != v.Size {
				refuse(w, 404, "", "no such object")
			}
		}
	case r.Method == "GET" && (verb == "" || verb == "revision"):
		h.info(w, name, repo, branch)
	case r.Method == "POST" && verb == "branch":
		if repo.branches[rest[0]] != nil {
			refuse(w, 409, "", "Reference already exists")
			return
		}
		main := repo.branches["main"]
		repo.branches[rest[0]] = &pushBranch{main.commit, maps.Clone(main.files), maps.Clone(main.large)}
	case r.Method == "POST" && verb == "preupload":
		h.preupload(w, r, branch)
	case r.Method == "POST" && verb == "commit":
		h.serveCommit(w, r, name, branch)
	default:
		refuse(w, 404, "", "no such page")
	}
}

func (h *pushHub) serveCreate(w http.ResponseWriter, r *http.Request) {
	var v struct {
		Name, Organization, Type, Visibility string
		Private                              *bool
	}
	if !strictly(w, r, &v) {
		return
	}
	name := v.Organization + "/" + v.Name
	switch {
	case v.Type != "" && v.Type != "model":
		refuse(w, 400, "", "expected a model")
	case v.Organization != "tests":
		refuse(w, 403, "", `You don't have the rights to create a model under the namespace "`+v.Organization+`"`)
	case h.repos[name] != nil:
		w.WriteHeader(409)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "You already created this model repo", "url": h.URL + "/" + name})
	default:
		h.create(name, v.Private != nil && *v.Private || v.Visibility == "private")
		_ = json.NewEncoder(w).Encode(map[string]string{"url": h.URL + "/" + name})
	}
}

func (h *pushHub) info(w http.ResponseWriter, name string, repo *pushRepo, b *pushBranch) {
	var siblings []map[string]any
	for path, text := range b.files {
		siblings = append(siblings, map[string]any{"rfilename": path, "size": len(text), "blobId": gitBlob(text)})
	}
	for path, oid := range b.large {
		siblings = append(siblings, map[string]any{"rfilename": path, "size": h.objects[oid], "blobId": gitBlob("version https://git-lfs…" + oid),
			"lfs": map[string]any{"sha256": oid, "size": h.objects[oid], "pointerSize": 134}})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"id": name, "modelId": name, "sha": b.commit, "private": repo.private, "siblings": siblings, "tags": []string{}, "downloads": 0, "likes": 0})
}

func (h *pushHub) preupload(w http.ResponseWriter, r *http.Request, b *pushBranch) {
	var v struct {
		Files []struct {
			Path   string `json:"path"`
			Sample string `json:"sample"`
			Size   int64  `json:"size"`
		} `json:"files"`
		GitIgnore string `json:"gitIgnore"`
	}
	if !strictly(w, r, &v) {
		return
	}
	var files []map[string]any
	for _, f := range v.Files {
		sample, err := base64.StdEncoding.DecodeString(f.Sample)
		if err != nil || int64(len(sample)) != min(f.Size, 512) {
			refuse(w, 400, "", "bad sample")
			return
		}
		mode := "regular"
		if strings.HasSuffix(f.Path, ".safetensors") || f.Size > 10<<20 || bytes.IndexByte(sample, 0) >= 0 {
			mode = "lfs"
		}
		out := map[string]any{"path": f.Path, "uploadMode": mode, "shouldIgnore": slices.Contains(strings.Split(v.GitIgnore, "\n"), f.Path)}
		if oid, ok := b.large[f.Path]; ok {
			out["oid"] = oid
		} else if text, ok := b.files[f.Path]; ok {
			out["oid"] = gitBlob(text)
		}
		files = append(files, out)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"files": files})
}

func (h *pushHub) batch(w http.ResponseWriter, r *http.Request, name string) {
	type object struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	}
	var v struct {
		Operation string            `json:"operation"`
		Transfers []string          `json:"transfers"`
		HashAlgo  string            `json:"hash_algo"`
		Ref       map[string]string `json:"ref"`
		Objects   []object          `json:"objects"`
	}
	if r.Header.Get("Content-Type") != lfsType || r.Header.Get("Accept") != lfsType {
		refuse(w, 415, "", "expected git LFS")
		return
	}
	if !strictly(w, r, &v) {
		return
	}
	if v.Operation != "upload" || v.HashAlgo != "sha256" || !slices.Contains(v.Transfers, "multipart") || !slices.Contains(v.Transfers, "basic") {
		refuse(w, 400, "", fmt.Sprintf("bad batch %+v", v))
		return
	}
	var objects []map[string]any
	for _, o := range v.Objects {
		out := map[string]any{"oid": o.OID, "size": o.Size}
		objects = append(objects, out)
		if _, ok := h.objects[o.OID]; ok {
			continue
		}
		upload := map[string]any{"href": h.store.URL + "/objects/" + o.OID + "?signature=secret"}
		if o.Size > h.chunk {
			id := fmt.Sprint(len(h.uploads))
			n := int((o.Size + h.chunk - 1) / h.chunk)
			h.uploads[id] = make([]string, n)
			header := map[string]string{"chunk_size": strconv.FormatInt(h.chunk, 10)}
			for i := range n {
				header[fmt.Sprintf("%05d", i+1)] = fmt.Sprintf("%s/parts/%s/%d?signature=secret", h.store.URL, id, i+1)
			}
			upload = map[string]any{"href": h.URL + "/api/complete_multipart?uploadId=" + id, "header": header}
		}
		out["actions"] = map[string]any{"upload": upload, "verify": map[string]any{"href": h.URL + "/" + name + ".git/info/lfs/verify"}}
	}
	w.Header().Set("Content-Type", lfsType)
	_ = json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": objects})
}

// complete joins the parts of an object.
func (h *pushHub) complete(w http.ResponseWriter, r *http.Request) {
	var v struct {
		OID   string `json:"oid"`
		Parts []struct {
			PartNumber int    `json:"partNumber"`
			ETag       string `json:"etag"`
		} `json:"parts"`
	}
	if !strictly(w, r, &v) {
		return
	}
	id := r.URL.Query().Get("uploadId")
	parts, ok := h.uploads[id]
	if !ok || len(v.Parts) != len(parts) {
		refuse(w, 404, "", "no such upload")
		return
	}
	for i, p := range v.Parts {
		if p.PartNumber != i+1 || p.ETag != strconv.Quote(sha256Of(parts[i])) {
			refuse(w, 400, "", "wrong part")
			return
		}
	}
	text := strings.Join(parts, "")
	if sha256Of(text) != v.OID {
		refuse(w, 400, "", "the parts have another checksum")
		return
	}
	delete(h.uploads, id)
	h.objects[v.OID], h.contents[v.OID] = int64(len(text)), text
	_, _ = io.WriteString(w, `{"success": true}`)
}

func (h *pushHub) serveStore(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.leaked = h.leaked || r.Header.Get("Authorization") != ""
	h.mu.Unlock()
	if h.note(w, r) {
		return
	}
	if r.Method != "PUT" || r.URL.Query().Get("signature") != "secret" || r.ContentLength < 0 {
		w.WriteHeader(403)
		return
	}
	sum := sha256.New()
	var text strings.Builder
	n, err := io.Copy(io.MultiWriter(sum, &limited{&text}), r.Body)
	if err != nil || n != r.ContentLength {
		w.WriteHeader(400)
		return
	}
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	h.mu.Lock()
	defer h.mu.Unlock()
	digest := hex.EncodeToString(sum.Sum(nil))
	switch path[0] {
	case "objects":
		if path[1] != digest {
			w.WriteHeader(400)
			return
		}
		h.objects[digest], h.contents[digest] = n, text.String()
	case "parts":
		i, _ := strconv.Atoi(path[2])
		if i < 1 || i > len(h.uploads[path[1]]) {
			w.WriteHeader(404)
			return
		}
		h.uploads[path[1]][i-1] = text.String()
	}
	w.Header().Set("ETag", strconv.Quote(digest))
}

// limited writes the first bytes of a text.
type limited struct{ to *strings.Builder }

func (l *limited) Write(p []byte) (int, error) {
	l.to.Write(p[:min(len(p), largest-min(largest, l.to.Len()))])
	return len(p), nil
}

func (h *pushHub) serveCommit(w http.ResponseWriter, r *http.Request, name string, b *pushBranch) {
	if r.Header.Get("Content-Type") != commitType {
		refuse(w, 415, "", "expected "+commitType)
		return
	}
	files, large, header := map[string]string{}, map[string]string{}, false
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var line struct {
			Key   string
			Value struct {
				Summary, Description, ParentCommit string
				Path, Content, Encoding, Algo, OID string
				Size                               int64
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			refuse(w, 400, "", err.Error())
			return
		}
		v := line.Value
		switch line.Key {
		case "header":
			if header = v.Summary != ""; v.ParentCommit != "" && v.ParentCommit != b.commit {
				refuse(w, 412, "", "A commit has happened since. Please refresh and try again.")
				return
			}
		case "file":
			text, err := base64.StdEncoding.DecodeString(v.Content)
			if err != nil || v.Encoding != "base64" || len(text) > 10<<20 {
				refuse(w, 400, "", "bad file "+v.Path)
				return
			}
			files[v.Path] = string(text)
		case "lfsFile":
			if size, ok := h.objects[v.OID]; !ok || v.Algo != "sha256" || v.Size != 0 && v.Size != size {
				refuse(w, 400, "", "LFS pointer pointed to a file that does not exist")
				return
			}
			large[v.Path] = v.OID
		default:
			refuse(w, 400, "", "unknown key "+line.Key)
			return
		}
	}
	if !header || len(files)+len(large) == 0 || lines.Err() != nil {
		refuse(w, 400, "", "empty commit")
		return
	}
	for path, text := range files {
		delete(b.large, path)
		b.files[path] = text
	}
	for path, oid := range large {
		delete(b.files, path)
		b.large[path] = oid
	}
	b.commit = h.newCommit()
	_ = json.NewEncoder(w).Encode(map[string]any{"success": true, "commitOid": b.commit, "commitUrl": h.URL + "/" + name + "/commit/" + b.commit, "hookOutput": ""})
}
