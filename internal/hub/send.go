package hub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	// maxParts is the largest number of parts in which a store wants a file. Amazon S3, the store
	// of the Hub, allows as many.
	maxParts = 10_000
	// maxRenewals is the number of times that an upload asks again for the addresses of a store
	// that rejected the file. The addresses are valid for some hours.
	maxRenewals = 2
	// maxHeader is the largest number of headers that the Hub can set for a store.
	maxHeader = 32
	// maxETag is the largest size in bytes of the ETag of a part.
	maxETag = 1024
	// modesBatch is the number of files in one request for their kind. huggingface_hub sends as
	// many.
	modesBatch = 256
	// messageSize is the number of bytes of a response in which messageOf looks for a message.
	messageSize = 64 << 10
)

// The content types of git LFS and of a commit.
const (
	lfsType    = "application/vnd.git-lfs+json"
	commitType = "application/x-ndjson"
)

// payload is data to send. open returns a reader from their beginning. moved, which may be nil,
// receives the number of bytes that were read so far.
type payload struct {
	size  int64
	open  func() io.Reader
	moved func(int64)
}

// source reads a payload for one attempt. The goroutines of net/http may read after the attempt has
// ended; then source reads nothing and reports nothing.
type source struct {
	mu    sync.Mutex
	from  io.Reader
	done  int64
	moved func(int64)
	watch *watch
	ended bool
}

// Read reads the next bytes into p.
func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return 0, errors.New("the attempt has ended")
	}
	n, err := s.from.Read(p)
	s.done += int64(n)
	s.watch.moved.Add(int64(n))
	if s.moved != nil {
		s.moved(s.done)
	}
	return n, err
}

// end ends all reads.
func (s *source) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// send sends data once and returns the response, whose body it has read. Only the host of Endpoint
// receives the token. A redirect to another host is an error. Other errors are as those of get.
func (c *Client) send(ctx context.Context, method, address string, header http.Header, data payload) (*http.Response, []byte, error) {
	to, err := url.Parse(address)
	if err != nil || to.Host == "" || to.Scheme != "https" && to.Scheme != "http" {
		return nil, nil, fmt.Errorf("the address %.60q for the upload is not valid; %s", printable(address), checkEndpoint)
	}
	if to.Scheme != "https" && strings.HasPrefix(c.Endpoint, "https:") {
		return nil, nil, fmt.Errorf("the Hub wants the upload to go to %s over %s, which is not encrypted; %s", printable(to.Host), to.Scheme, checkEndpoint)
	}
	attempt, cancel := context.WithCancelCause(ctx)
	w := &watch{caller: ctx, attempt: attempt, cancel: cancel, window: sendWindows * cmp.Or(c.window, window), least: cmp.Or(c.least, least), work: c.work(), sends: true}
	defer w.end()
	request, err := http.NewRequestWithContext(attempt, method, address, nil)
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	var sources []*source
	open := func() (io.ReadCloser, error) {
		s := &source{from: data.open(), moved: data.moved, watch: w}
		mu.Lock()
		sources = append(sources, s)
		mu.Unlock()
		return io.NopCloser(s), nil
	}
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range sources {
			s.end()
		}
	}()
	request.Header, request.ContentLength, request.GetBody = header.Clone(), data.size, open
	request.Body, _ = open()
	if data.size == 0 {
		request.Body = http.NoBody // net/http would not send the length
	}
	if c.isHub(to) && strings.HasPrefix(c.Endpoint, to.Scheme+":") {
		request.Header.Set("Authorization", "Bearer "+c.Token)
	}
	response, err := c.do(request, w, true)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	answer, err := readBody(response)
	return response, answer, err
}

// post sends v as JSON and reads the response into answer, which may be nil. It retries after
// temporary errors, so the request must be one that may be sent twice.
func (c *Client) post(ctx context.Context, address string, v, answer any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.postData(ctx, address, http.Header{"Content-Type": {"application/json"}}, data, answer)
}

// postData is post for encoded data.
func (c *Client) postData(ctx context.Context, address string, header http.Header, data []byte, answer any) error {
	var response *http.Response
	var text []byte
	err := c.retry(ctx, func() (_ bool, err error) {
		response, text, err = c.send(ctx, http.MethodPost, address, header, payload{size: int64(len(data)), open: func() io.Reader { return bytes.NewReader(data) }})
		return false, err
	})
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("the response of %s is not the expected JSON (it is %.60q and begins with %.60q); %s", printable(response.Request.URL.Host), response.Header.Get("Content-Type"), text[:min(len(text), 60)], checkEndpoint)
	}
	return nil
}

// messageOf returns the message in the body of a response with an error status: the JSON fields
// error or message. It returns "" if there is none.
func messageOf(r *http.Response) string {
	text, err := io.ReadAll(io.LimitReader(r.Body, messageSize))
	var doc struct {
		Error   any `json:"error"`
		Message any `json:"message"`
	}
	if err != nil || json.Unmarshal(text, &doc) != nil {
		return ""
	}
	for _, v := range []any{doc.Error, doc.Message} {
		if s, ok := v.(string); ok && s != "" {
			return s
		}
	}
	return ""
}

// modes asks the Hub which of the files belong into its store, and which into the commit. It
// returns the files without those that the Hub ignores, and the names of the latter.
func (u *Upload) modes(ctx context.Context, files []*UploadFile) (kept []*UploadFile, ignored []string, err error) {
	type file struct {
		Path   string `json:"path"`
		Sample []byte `json:"sample"` // base64
		Size   int64  `json:"size"`
	}
	address := fmt.Sprintf("%s/api/models/%s/preupload/%s", u.client.Endpoint, u.Repo, url.PathEscape(u.Branch))
	for batch := range slices.Chunk(files, modesBatch) {
		request := map[string]any{}
		var ask []file
		for _, f := range batch {
			ask = append(ask, file{f.Path, f.sample, f.Bytes})
		}
		request["files"] = ask
		if i := slices.IndexFunc(u.Files, func(f *UploadFile) bool { return f.Path == ".gitignore" }); i >= 0 {
			text, err := u.read(u.Files[i])
			if err != nil {
				return nil, nil, err
			}
			request["gitIgnore"] = string(text)
		}
		var answer struct {
			Files []struct {
				Path   string `json:"path"`
				Mode   string `json:"uploadMode"`
				Ignore bool   `json:"shouldIgnore"`
			} `json:"files"`
		}
		if err := u.client.post(ctx, address, request, &answer); err != nil {
			return nil, nil, fmt.Errorf("asking for the kinds of the files: %w", err)
		}
		modes := map[string]int{}
		for i, m := range answer.Files {
			modes[m.Path] = i + 1
		}
		for _, f := range batch {
			i := modes[f.Path] - 1
			if i < 0 || answer.Files[i].Mode != "lfs" && answer.Files[i].Mode != "regular" {
				return nil, nil, fmt.Errorf("the Hub does not say whether %s is a large file; %s", f.Path, checkEndpoint)
			}
			if answer.Files[i].Ignore {
				ignored = append(ignored, f.Path)
				continue
			}
			f.large = answer.Files[i].Mode == "lfs" && f.Bytes > 0 // a store takes no empty file
			kept = append(kept, f)
		}
	}
	return kept, ignored, nil
}

// action is a request that a store wants for an object, as the batch API of git LFS describes it.
type action struct {
	Address string            `json:"href"`
	Header  map[string]string `json:"header"`
}

// object is an object in an answer of the batch API of git LFS.
type object struct {
	OID     string `json:"oid"`
	Actions *struct {
		Upload *action `json:"upload"`
		Verify *action `json:"verify"`
	} `json:"actions"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// store brings the content of a file into the store of the Hub, unless it is there.
func (u *Upload) store(ctx context.Context, f *UploadFile) error {
	file, err := u.open(f)
	if err != nil {
		return err
	}
	defer file.Close()
	e := &events{report: u.client.Progress, file: f}
	for renewals := 0; ; renewals++ {
		o, err := u.batch(ctx, f)
		if err != nil {
			return err
		}
		if o.Actions == nil || o.Actions.Upload == nil {
			return nil
		}
		err = u.put(ctx, f, file, o.Actions.Upload, e)
		if err == nil && o.Actions.Verify != nil {
			err = u.verify(ctx, f, o.Actions.Verify)
		}
		// The file that was sent must be the one that was hashed.
		if changed := f.unchanged(file); changed != nil {
			return changed
		}
		if err == nil {
			e.complete()
			return nil
		}
		// A new batch has new addresses. It also tells whether the response to an upload that
		// succeeded was lost.
		if _, ok := errors.AsType[*statusError](err); !ok || renewals == maxRenewals {
			return err
		}
	}
}

// batch asks where the content of a file goes.
func (u *Upload) batch(ctx context.Context, f *UploadFile) (*object, error) {
	request, err := json.Marshal(map[string]any{
		"operation": "upload",
		"transfers": []string{"basic", "multipart"},
		"hash_algo": "sha256",
		"ref":       map[string]string{"name": u.Branch},
		"objects":   []map[string]any{{"oid": f.sha256, "size": f.Bytes}},
	})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Objects []object `json:"objects"`
	}
	address := fmt.Sprintf("%s/%s.git/info/lfs/objects/batch", u.client.Endpoint, u.Repo)
	if err := u.client.postData(ctx, address, http.Header{"Content-Type": {lfsType}, "Accept": {lfsType}}, request, &answer); err != nil {
		return nil, err
	}
	if len(answer.Objects) != 1 || answer.Objects[0].OID != f.sha256 {
		return nil, fmt.Errorf("the Hub does not say where the content goes; %s", checkEndpoint)
	}
	o := &answer.Objects[0]
	if o.Error != nil {
		return nil, inputErrorf("the Hub rejects the content: %s (code %d)", printable(o.Error.Message), o.Error.Code)
	}
	return o, nil
}

// put sends the content of a file, in parts if the action has a size of parts. The Hub names the
// addresses of parts in headers: their numbers from 1.
func (u *Upload) put(ctx context.Context, f *UploadFile, file *os.File, a *action, e *events) error {
	text, parts := a.Header["chunk_size"]
	if !parts {
		header, err := a.header()
		if err != nil {
			return err
		}
		if header.Get("Content-Type") == "" {
			header.Set("Content-Type", "application/octet-stream")
		}
		_, err = u.putRange(ctx, a.Address, header, file, 0, f.Bytes, e)
		return err
	}
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil || size < 1 || (f.Bytes-1)/size >= maxParts {
		return fmt.Errorf("the Hub wants parts of %.60q bytes of a file of %d bytes; expected at most %d parts; %s", text, f.Bytes, maxParts, checkEndpoint)
	}
	type part struct {
		Number int    `json:"partNumber"`
		ETag   string `json:"etag"`
	}
	var sent []part
	addresses := a.parts()
	for from := int64(0); from < f.Bytes; from += size {
		n := len(sent) + 1
		address, ok := addresses[n]
		if !ok {
			return fmt.Errorf("the Hub gives no address for part %d of the file; %s", n, checkEndpoint)
		}
		// The addresses of parts are signed for requests without a content type.
		etag, err := u.putRange(ctx, address, http.Header{}, file, from, min(size, f.Bytes-from), e)
		if err != nil {
			return fmt.Errorf("part %d: %w", n, err)
		}
		if etag == "" || len(etag) > maxETag {
			return fmt.Errorf("the store answers part %d of the file with the ETag %.60q; expected at most %d bytes; %s", n, etag, maxETag, checkEndpoint)
		}
		sent = append(sent, part{n, etag})
	}
	request, err := json.Marshal(map[string]any{"oid": f.sha256, "parts": sent})
	if err != nil {
		return err
	}
	return u.client.postData(ctx, a.Address, http.Header{"Content-Type": {lfsType}, "Accept": {lfsType}}, request, nil)
}

// parts returns the addresses of the parts of a file by number. The Hub may write the numbers with
// leading zeros.
func (a *action) parts() map[int]string {
	addresses := map[int]string{}
	for key, address := range a.Header {
		if n, err := strconv.ParseUint(key, 10, 31); err == nil {
			addresses[int(n)] = address
		}
	}
	return addresses
}

// header returns the headers that a store wants.
func (a *action) header() (http.Header, error) {
	if len(a.Header) > maxHeader {
		return nil, fmt.Errorf("the Hub wants %d headers for the store; expected at most %d; %s", len(a.Header), maxHeader, checkEndpoint)
	}
	header := http.Header{}
	for key, value := range a.Header {
		header.Set(key, value)
	}
	return header, nil
}

// putRange sends size bytes of a file, from the position from, and returns the ETag of the
// response.
func (u *Upload) putRange(ctx context.Context, address string, header http.Header, file *os.File, from, size int64, e *events) (string, error) {
	var response *http.Response
	err := u.client.retry(ctx, func() (_ bool, err error) {
		response, _, err = u.client.send(ctx, http.MethodPut, address, header, payload{
			size:  size,
			open:  func() io.Reader { return io.NewSectionReader(file, from, size) },
			moved: func(done int64) { e.sent(from + done) },
		})
		return false, err
	})
	if err != nil {
		return "", err
	}
	return response.Header.Get("ETag"), nil
}

// verify tells the Hub that its store has the content of a file.
func (u *Upload) verify(ctx context.Context, f *UploadFile, a *action) error {
	header, err := a.header()
	if err != nil {
		return err
	}
	request, err := json.Marshal(map[string]any{"oid": f.sha256, "size": f.Bytes})
	if err != nil {
		return err
	}
	header.Set("Content-Type", lfsType)
	header.Set("Accept", lfsType)
	return u.client.postData(ctx, a.Address, header, request, nil)
}

// read returns the content of a file that goes into a commit.
func (u *Upload) read(f *UploadFile) ([]byte, error) {
	if f.Bytes > maxRegular {
		return nil, fmt.Errorf("the Hub wants %s inside the commit, with %d bytes; expected at most %d; %s", f.Path, f.Bytes, maxRegular, checkEndpoint)
	}
	file, err := u.open(f)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data := make([]byte, f.Bytes)
	if _, err := io.ReadFull(file, data); err != nil {
		return nil, f.changed()
	}
	return data, f.unchanged(file)
}

// commit makes a commit with the files on top of the commit u.parent, and returns it. The large
// files must be in the store.
func (u *Upload) commit(ctx context.Context, files []*UploadFile) (string, error) {
	type line struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	}
	lines := []line{{"header", map[string]string{"summary": commitSummary, "description": "", "parentCommit": u.parent}}}
	regular := int64(0)
	for _, f := range files {
		if f.large {
			lines = append(lines, line{"lfsFile", map[string]any{"path": f.Path, "algo": "sha256", "oid": f.sha256, "size": f.Bytes}})
			continue
		}
		data, err := u.read(f)
		if err != nil {
			return "", err
		}
		if regular += f.Bytes; regular > maxCommit {
			return "", inputErrorf("the small files have more than %d bytes together; upload fewer files", maxCommit)
		}
		lines = append(lines, line{"file", map[string]any{"path": f.Path, "content": base64.StdEncoding.EncodeToString(data), "encoding": "base64"}})
	}
	var text bytes.Buffer
	for _, l := range lines {
		if err := json.NewEncoder(&text).Encode(l); err != nil {
			return "", err
		}
	}
	var answer struct {
		Commit string `json:"commitOid"`
	}
	address := fmt.Sprintf("%s/api/models/%s/commit/%s", u.client.Endpoint, u.Repo, url.PathEscape(u.Branch))
	if err := u.client.postData(ctx, address, http.Header{"Content-Type": {commitType}}, text.Bytes(), &answer); err != nil {
		return "", fmt.Errorf("making the commit: %w", err)
	}
	if !IsCommit(answer.Commit) {
		return "", fmt.Errorf("the Hub answers the commit with %.60q; expected a commit; %s", answer.Commit, checkEndpoint)
	}
	for _, f := range files {
		if !f.large {
			(&events{report: u.client.Progress, file: f}).complete()
		}
	}
	return answer.Commit, nil
}
