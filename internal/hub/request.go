package hub

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/sptune/spt/progress"
)

const (
	// attempts is the number of consecutive attempts without progress after which retry returns the
	// error.
	attempts = 5
	// maxAttempts is the largest number of attempts for one file, with and without progress. A file
	// of 1 GB may lose its connection every 10 MB.
	maxAttempts = 100
	// A request ends if the server sends fewer bytes than least within a window. This is 4.4 kB/s,
	// a fifth of a slow line. A response that is complete within the first window may be smaller.
	window = time.Minute
	least  = 256 << 10
	// sendWindows is the number of windows that are one window of a request that sends data. The
	// system buffers such data, and the server may work on them before it responds.
	sendWindows = 5
	// maxWait is the longest pause before an attempt that a server can ask for. The Hub counts
	// requests in windows of five minutes.
	maxWait = 5 * time.Minute
	// maxHeaders is the largest size in bytes of the headers of a response. The Hub sends a few
	// kilobytes.
	maxHeaders = 256 << 10
)

// checkEndpoint is the advice for answers that the Hub does not send.
const checkEndpoint = "check that HF_ENDPOINT is the address of a Hub, and that no proxy or login page answers instead of it"

// printable returns text of a server for an error: at most 200 bytes, without control characters
// and without characters that change the direction of text.
func printable(text string) string {
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}

// unreachable is a temporary error: a network error or a problem of the server. A new attempt may
// succeed, which is not so for other errors.
type unreachable struct{ error }

// Unwrap returns the cause.
func (e *unreachable) Unwrap() error { return e.error }

// temporary reports whether err is an unreachable error.
func temporary(err error) bool {
	_, ok := errors.AsType[*unreachable](err)
	return ok
}

// busyError reports that a server asks for a pause before the next request.
type busyError struct {
	error
	wait time.Duration
}

// Unwrap returns the cause.
func (e *busyError) Unwrap() error { return e.error }

// retry calls f again, after pauses that double, as long as f returns a temporary error. A pause is
// longer if the server asks for it. f reports whether it made progress, which resets the count of
// attempts and the pause. If ctx ends, retry returns an interruptedError.
func (c *Client) retry(ctx context.Context, f func() (more bool, err error)) error {
	wait := cmp.Or(c.backoff, 500*time.Millisecond)
	pause, failed := wait, 0
	for n := 1; ; n++ {
		more, err := f()
		if !temporary(err) {
			return err
		}
		if ctx.Err() != nil {
			return interrupted(ctx, c.work())
		}
		if failed++; more {
			failed, pause = 1, wait
		}
		if failed == attempts || n == maxAttempts {
			return fmt.Errorf("%w; tried %d times", err, n)
		}
		rest := pause
		if busy, ok := errors.AsType[*busyError](err); ok && busy.wait > rest {
			rest = busy.wait
			c.Progress.Report(progress.Event{Stage: progress.Note, Item: fmt.Sprintf("%v; waiting %v", err, rest)})
		}
		select {
		case <-ctx.Done():
			return interrupted(ctx, c.work())
		case <-time.After(rest):
		}
		pause *= 2
	}
}

// interruptedError reports that the context of the caller ended. Its message is for users, who do
// not know the messages of package context.
type interruptedError struct {
	work  string // the work that stopped
	cause error  // context.Canceled or context.DeadlineExceeded
}

// interrupted returns the error of the given work for ctx, which has ended.
func interrupted(ctx context.Context, work string) error { return &interruptedError{work, ctx.Err()} }

// work returns the word for what the client does.
func (c *Client) work() string {
	if c.uploads {
		return "upload"
	}
	return "download"
}

// Error says that the work stopped early.
func (e *interruptedError) Error() string {
	if errors.Is(e.cause, context.DeadlineExceeded) {
		return "the time limit ended before the " + e.work + " was complete"
	}
	return "stopped before the " + e.work + " was complete"
}

// Unwrap returns the error of the context.
func (e *interruptedError) Unwrap() error { return e.cause }

// get sends a request without data to the Hub. The caller closes the body of the response. get
// follows redirects, but if follow is false, it returns a redirect with the checksum of the file. A
// status that reports a failure is an error. A response that is too slow is a temporary error of
// get or of a read from the body, with a slowError.
func (c *Client) get(ctx context.Context, method, address string, header http.Header, follow bool) (*http.Response, error) {
	attempt, cancel := context.WithCancelCause(ctx)
	request, err := http.NewRequestWithContext(attempt, method, address, nil)
	if err == nil && request.URL.Host == "" {
		err = fmt.Errorf("%.60q does not begin with http:// or https:// and a host", c.Endpoint)
	}
	if err != nil {
		cancel(nil)
		return nil, inputErrorf("the address of the Hub, which HF_ENDPOINT sets, is not valid: %w", err)
	}
	if header != nil {
		request.Header = header
	}
	if c.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.Token)
	}
	w := &watch{caller: ctx, attempt: attempt, cancel: cancel, window: cmp.Or(c.window, window), least: cmp.Or(c.least, least), work: c.work()}
	return c.do(request, w, follow)
}

// do sends a request, whose context is that of w. See get.
func (c *Client) do(request *http.Request, w *watch, follow bool) (*http.Response, error) {
	request.Header.Set("User-Agent", "spt")
	// The size and the checksum are those of the uncompressed file, so no proxy may compress it.
	request.Header.Set("Accept-Encoding", "identity")
	go w.run()
	response, err := c.client(follow, request.Body != nil).Do(request)
	if err != nil {
		err = w.explain(err)
		w.end()
		return nil, err
	}
	response.Body = &body{response.Body, w}
	if code := response.StatusCode; code >= 300 && (code >= 400 || follow) {
		defer response.Body.Close()
		return nil, c.refusal(response)
	}
	return response, nil
}

// isHub reports whether an address is on the host of Endpoint.
func (c *Client) isHub(address *url.URL) bool {
	hub, err := url.Parse(c.Endpoint)
	return err == nil && address.Host == hub.Host
}

// client returns an HTTP client that follows redirects and does not send the token to other hosts.
// If follow is false, it stops at a redirect with the checksum of the file and returns it as the
// response. If sends is true, the request has data, which go to no other host.
func (c *Client) client(follow, sends bool) *http.Client {
	return &http.Client{Transport: c.transport(), CheckRedirect: func(next *http.Request, before []*http.Request) error {
		if !follow && next.Response.Header.Get("X-Linked-Etag") != "" {
			return http.ErrUseLastResponse
		}
		if len(before) >= maxRedirects {
			return fmt.Errorf("the server sends more than %d redirects", maxRedirects)
		}
		last := before[len(before)-1].URL
		if last.Scheme == "https" && next.URL.Scheme != "https" {
			return fmt.Errorf("%s redirects from https to %s, which is not encrypted", last.Host, next.URL.Scheme)
		}
		if sends && (next.URL.Host != last.Host || next.URL.Scheme != last.Scheme || next.Method != before[0].Method) {
			return fmt.Errorf("%s redirects the upload to %s %s, and data are sent to no other place than the intended one", last.Host, next.Method, next.URL.Host)
		}
		// net/http sends the token to subdomains too, such as the stores of the Hub. Their
		// addresses are signed, and they reject requests with a token.
		if next.URL.Host != before[0].URL.Host || next.URL.Scheme != before[0].URL.Scheme {
			next.Header.Del("Authorization")
		}
		next.Header.Del("Referer") // it would tell the next host the signed address
		return nil
	}}
}

// transport returns a transport with a new connection for each request. net/http writes to the log,
// which is standard error, if a server sends something on a connection that waits for a request.
// Such a connection does not exist here: none is kept after its request, and a new one does not
// read before the request.
func (c *Client) transport() *http.Transport {
	var dialer net.Dialer
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxHeaders,
		TLSClientConfig:        c.tls,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return quietly(dialer.DialContext(ctx, network, address))
		},
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return quietly((&tls.Dialer{NetDialer: &dialer, Config: c.tls}).DialContext(ctx, network, address))
		},
	}
}

// quietConn is a connection whose first read waits for the first write.
type quietConn struct {
	net.Conn
	wrote func() // ends the wait
	wait  <-chan struct{}
}

// quietly returns conn as a quietConn.
func quietly(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	wait := make(chan struct{})
	return &quietConn{conn, sync.OnceFunc(func() { close(wait) }), wait}, nil
}

// Read reads after the first write.
func (q *quietConn) Read(p []byte) (int, error) {
	<-q.wait
	return q.Conn.Read(p)
}

// Write writes p, and allows reads.
func (q *quietConn) Write(p []byte) (int, error) {
	q.wrote()
	return q.Conn.Write(p)
}

// Close closes the connection, which ends reads.
func (q *quietConn) Close() error {
	q.wrote()
	return q.Conn.Close()
}

// watch ends a request if too few bytes arrive.
type watch struct {
	caller, attempt context.Context // context of the caller, and the one of this request
	cancel          context.CancelCauseFunc
	window          time.Duration
	least           int64
	work            string       // see Client.work
	sends           bool         // the request has data
	moved           atomic.Int64 // bytes of the data and of the response in this window
}

// slowError reports that a server sent or took too few bytes.
type slowError struct {
	moved, least int64
	window       time.Duration
	sends        bool
}

// Error names the bytes and the limit.
func (e *slowError) Error() string {
	verb := "sent"
	if e.sends {
		verb = "took and sent"
	}
	return fmt.Sprintf("the server %s %d bytes within %v; expected at least %d", verb, e.moved, e.window, e.least)
}

// run compares each window with the limit until the request ends.
func (w *watch) run() {
	tick := time.NewTicker(w.window)
	defer tick.Stop()
	for {
		select {
		case <-w.attempt.Done():
			return
		case <-tick.C:
			if n := w.moved.Swap(0); n < w.least {
				w.cancel(&slowError{n, w.least, w.window, w.sends})
			}
		}
	}
}

// end ends the request.
func (w *watch) end() { w.cancel(nil) }

// body is the body of a response, whose bytes watch counts.
type body struct {
	io.ReadCloser
	*watch
}

// Read reads the next bytes into p.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.moved.Add(int64(n))
	if err != nil && err != io.EOF {
		err = b.explain(err)
	}
	return n, err
}

// Close closes the body and ends the request.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}

// answerError is an error of net/http, which may contain text of the server.
type answerError struct{ error }

// Error returns the text of the error without the characters that printable removes.
func (e *answerError) Error() string { return printable(e.error.Error()) }

// Unwrap returns the cause.
func (e *answerError) Unwrap() error { return e.error }

// explain returns the error to report for err, an error of net/http. It removes the address,
// because the address of a store is long and contains a signature. Only a network error is
// temporary. A server that breaks the rules of HTTP has answered, and would do so again. If the
// context of the caller has ended, explain returns an interruptedError.
func (w *watch) explain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if w.caller.Err() != nil {
		return interrupted(w.caller, w.work)
	}
	if slow, ok := errors.AsType[*slowError](context.Cause(w.attempt)); ok {
		return &unreachable{slow}
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &unreachable{&answerError{err}}
	}
	return fmt.Errorf("%w; %s", &answerError{err}, checkEndpoint)
}

// statusError is a response of the Hub with an error status. A new attempt would receive the same
// status.
type statusError struct {
	code    int    // HTTP status
	kind    string // X-Error-Code of the Hub
	problem string // message with the meaning of the status and advice
}

// Error returns the problem.
func (e *statusError) Error() string { return e.problem }

// refusal returns the error for a response with an error status. It also reads the headers
// X-Error-Code and X-Error-Message of the Hub, and for an upload the message in the body.
func (c *Client) refusal(r *http.Response) error {
	code, answers := r.StatusCode, printable(r.Request.URL.Host)+" answers "+printable(r.Status)
	text := r.Header.Get("X-Error-Message")
	if text == "" && c.uploads {
		text = messageOf(r)
	}
	if text != "" {
		answers += " (" + printable(text) + ")"
	}
	if code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500 {
		err := errors.New(answers)
		if wait := waitOf(r.Header); wait > 0 {
			err = &busyError{err, min(wait, maxWait)}
		}
		return &unreachable{err}
	}
	kind, advice := r.Header.Get("X-Error-Code"), downloadAdvice
	if c.uploads {
		advice = uploadAdvice
	}
	problem, input := "the store of the Hub rejected the request; try again later", false
	if c.isHub(r.Request.URL) {
		problem, input = advice(code, kind)
	}
	err := &statusError{code, kind, answers + ": " + problem}
	if input {
		return &InputError{err}
	}
	return err
}

// downloadAdvice returns what a status of the Hub means for a download, and whether the user can
// correct it.
func downloadAdvice(code int, kind string) (problem string, input bool) {
	const token = "set HF_TOKEN to the token of an account that may read the repository, or run 'hf auth login'"
	switch {
	case kind == "GatedRepo" || code == http.StatusForbidden:
		problem = "access is denied; if the repository is gated, accept its licence on its web page; " + token
	case code == http.StatusUnauthorized:
		problem = "there is no such repository, or it is private or gated; check the name; if the repository has a licence to accept, accept it on its web page; " + token
	case kind == "RevisionNotFound":
		problem = "the repository has no such revision; check the part after @"
	case kind == "EntryNotFound":
		problem = "the repository has no such file at this revision; check the part after the colon"
	case code == http.StatusNotFound:
		problem = "there is no such repository, revision or file; check the name"
	default:
		problem = "the server rejected the request; " + checkEndpoint
	}
	return problem, code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusNotFound
}

// waitOf returns the pause that a server asks for with the header Retry-After, in seconds, or with
// the header RateLimit, such as "api";r=0;t=55. It returns 0 if there is none.
func waitOf(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if _, limit, ok := strings.Cut(h.Get("RateLimit"), ";r=0;t="); ok {
		text = limit
	}
	seconds, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// repoInfo describes a revision of a repository.
type repoInfo struct {
	commit string
	// path in the repository: size in bytes, -1 if the Hub does not state it
	files map[string]int64
	// path in the repository: SHA-256 of a large file, SHA-1 of the git blob of another file, "" if
	// the Hub does not state it
	sums    map[string]string
	private bool // only the owner may read the repository
}

// info asks the Hub for the commit and the files of a revision. If patient is true, it retries
// while the Hub cannot be reached.
func (c *Client) info(ctx context.Context, r Reference, patient bool) (*repoInfo, error) {
	address := fmt.Sprintf("%s/api/%s/revision/%s?blobs=true", c.Endpoint, kindAndRepo(r.Repo), url.PathEscape(r.Revision))
	var info *repoInfo
	ask := func() (_ bool, err error) {
		info, err = c.askInfo(ctx, address)
		return false, err
	}
	if !patient {
		_, err := ask()
		return info, err
	}
	err := c.retry(ctx, ask)
	return info, err
}

// askInfo sends the request of info once.
func (c *Client) askInfo(ctx context.Context, address string) (*repoInfo, error) {
	response, err := c.get(ctx, http.MethodGet, address, nil, true)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	host := printable(response.Request.URL.Host)
	data, err := readBody(response)
	if err != nil {
		return nil, err
	}
	var doc struct {
		SHA      string `json:"sha"`
		Private  bool   `json:"private"`
		Siblings []struct {
			Name string `json:"rfilename"`
			Size *int64 `json:"size"`
			Blob string `json:"blobId"`
			LFS  struct {
				SHA256 string `json:"sha256"`
			} `json:"lfs"`
		} `json:"siblings"`
	}
	if err := json.Unmarshal(data, &doc); err != nil || !IsCommit(doc.SHA) {
		return nil, fmt.Errorf("the response of %s does not describe a repository (it is %.60q and begins with %.60q); %s", host, response.Header.Get("Content-Type"), data[:min(len(data), 60)], checkEndpoint)
	}
	info := &repoInfo{doc.SHA, map[string]int64{}, map[string]string{}, doc.Private}
	for _, s := range doc.Siblings {
		info.files[s.Name] = -1
		info.sums[s.Name] = cmp.Or(s.LFS.SHA256, s.Blob)
		if s.Size != nil {
			info.files[s.Name] = *s.Size
		}
	}
	return info, nil
}

// readBody reads a response of at most maxText bytes.
func readBody(response *http.Response) ([]byte, error) {
	var data []byte
	var err error
	if response.ContentLength <= maxText {
		if data, err = io.ReadAll(io.LimitReader(response.Body, maxText+1)); err != nil {
			return nil, err
		}
	}
	if response.ContentLength > maxText || len(data) > maxText {
		return nil, fmt.Errorf("the response of %s has more than %d bytes; %s", printable(response.Request.URL.Host), maxText, checkEndpoint)
	}
	return data, nil
}
