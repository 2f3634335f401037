package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// unreachable is an error that may pass: of the network, or of a server with a problem. Other
// errors would occur again.
type unreachable struct{ error }

// Unwrap returns the cause.
func (e *unreachable) Unwrap() error { return e.error }

// attempts is the number of attempts without one new byte after which retry gives up.
const attempts = 5

// retry repeats f, with growing pauses, as long as its error may pass. f reports whether new bytes
// have arrived, which resets the count of attempts.
func (c *Client) retry(ctx context.Context, f func() (more bool, err error)) error {
	wait := c.backoff
	if wait == 0 {
		wait = 500 * time.Millisecond
	}
	pause := wait
	for failed := 1; ; failed++ {
		more, err := f()
		var passing *unreachable
		if err == nil || !errors.As(err, &passing) || ctx.Err() != nil {
			return err
		}
		if more {
			failed, pause = 1, wait
		}
		if failed == attempts {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// get sends a request to the Hub. The caller closes the body of the response. Reading the body is
// an error if no byte arrives for the time c.stall. A response that is neither a success nor a
// redirect that follow forbids is an error.
func (c *Client) get(ctx context.Context, method, address string, header http.Header, follow bool) (*http.Response, error) {
	w := &watch{caller: ctx}
	ctx, cancel := context.WithCancelCause(ctx)
	stall := c.stall
	if stall == 0 {
		stall = time.Minute
	}
	w.attempt, w.stall = ctx, stall
	w.timer = time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing arrived for %v", stall)) })
	w.end = func() { w.timer.Stop(); cancel(nil) }
	request, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err == nil && request.URL.Host == "" {
		err = fmt.Errorf("%.60q is not an http:// or https:// address", c.Endpoint)
	}
	if err != nil {
		w.end()
		return nil, fmt.Errorf("the address of the Hub (HF_ENDPOINT) is malformed: %w", err)
	}
	if header != nil {
		request.Header = header
	}
	request.Header.Set("User-Agent", "spt")
	// The bytes are counted and hashed, so no proxy may compress them.
	request.Header.Set("Accept-Encoding", "identity")
	if c.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.Token)
	}
	response, err := c.client(follow).Do(request)
	if err != nil {
		err = w.explain(err)
		w.end()
		return nil, err
	}
	response.Body = &body{response.Body, w}
	if code := response.StatusCode; code >= 300 && (code >= 400 || follow) {
		defer response.Body.Close()
		return nil, refusal(response)
	}
	return response, nil
}

// watch ends a request if no byte arrives for a while.
type watch struct {
	caller, attempt context.Context
	timer           *time.Timer
	stall           time.Duration
	end             func()
}

// body is a body that restarts the timer at each read.
type body struct {
	io.ReadCloser
	*watch
}

// Read reads the next bytes.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.timer.Reset(b.stall)
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

// explain removes the address that net/http puts before its errors. The address of a store is long
// and contains a signature.
func (w *watch) explain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if w.caller.Err() != nil {
		return w.caller.Err()
	}
	if stalled := context.Cause(w.attempt); stalled != nil {
		err = stalled
	}
	return &unreachable{err}
}

// statusError is an error status of the Hub. A repeated request would get it again.
type statusError struct {
	code    int    // HTTP status
	problem string // what it means and what to do
}

// Error returns the problem.
func (e *statusError) Error() string { return e.problem }

// refusal returns the error for the status of a response. The Hub also sets the header
// X-Error-Code.
func refusal(r *http.Response) error {
	code, host := r.StatusCode, r.Request.URL.Host
	said := ""
	if text := r.Header.Get("X-Error-Message"); text != "" {
		text = strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return ' '
			}
			return r
		}, text)
		said = fmt.Sprintf(" (%.300s)", text)
	}
	const token = "give a token of an account that may read it: in HF_TOKEN, or by 'hf auth login'"
	problem := ""
	switch kind := r.Header.Get("X-Error-Code"); {
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500:
		return &unreachable{fmt.Errorf("%s answers %s%s", host, r.Status, said)}
	case kind == "GatedRepo" || code == http.StatusForbidden:
		problem = "access is denied: if the repository is gated, accept its licence on its page, and " + token
	case code == http.StatusUnauthorized:
		problem = "there is no such repository, or it is private or gated: check the name, accept its licence on its page if it has one, and " + token
	case kind == "RevisionNotFound":
		problem = "the repository has no such revision: check what follows @"
	case kind == "EntryNotFound":
		problem = "the repository has no such file at this revision"
	case code == http.StatusNotFound:
		problem = "there is no such repository, revision or file: check the name"
	default:
		problem = "the request was refused"
	}
	return &statusError{code, fmt.Sprintf("%s answers %s%s: %s", host, r.Status, said, problem)}
}

// repoInfo lists the files of a revision.
type repoInfo struct {
	commit string
	files  []string
}

// info asks the Hub for the files of a revision. If patient is true, it repeats the request while
// the Hub cannot be reached.
func (c *Client) info(ctx context.Context, r Reference, patient bool) (*repoInfo, error) {
	address := fmt.Sprintf("%s/api/models/%s/revision/%s", c.Endpoint, r.Repo, url.PathEscape(r.Revision))
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

// askInfo asks the Hub once.
func (c *Client) askInfo(ctx context.Context, address string) (*repoInfo, error) {
	response, err := c.get(ctx, http.MethodGet, address, nil, true)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	// The answer for a repository of thousands of files is far smaller.
	const most = 64 << 20
	data, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	if err != nil {
		return nil, err
	}
	var doc struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
		} `json:"siblings"`
	}
	if err := json.Unmarshal(data, &doc); err != nil || !IsCommit(doc.SHA) || len(data) > most {
		return nil, fmt.Errorf("%s does not describe a repository (%s, %.60q…): check that HF_ENDPOINT is the address of a Hub, and that no proxy or portal answers in its place", response.Request.URL.Host, response.Header.Get("Content-Type"), data[:min(len(data), 60)])
	}
	info := &repoInfo{commit: doc.SHA}
	for _, s := range doc.Siblings {
		info.files = append(info.files, s.Name)
	}
	return info, nil
}
