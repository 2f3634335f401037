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

// unreachable is a temporary error: a network error or a problem of the server. A new attempt may
// succeed, which is not so for other errors.
type unreachable struct{ error }

// Unwrap returns the cause.
func (e *unreachable) Unwrap() error { return e.error }

// attempts is the number of consecutive attempts without a new byte after which retry returns the
// error.
const attempts = 5

// retry calls f again, after pauses that double, as long as f returns a temporary error. f reports
// whether it received new bytes, which resets the count of attempts. If ctx ends, retry returns an
// interruptedError.
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
			return interrupted(ctx)
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// interruptedError reports that the context of the caller ended. Its message is for users, who do
// not know the messages of package context.
type interruptedError struct {
	cause error // context.Canceled or context.DeadlineExceeded
}

// interrupted returns the error for ctx, which has ended.
func interrupted(ctx context.Context) error { return &interruptedError{ctx.Err()} }

// Error says that the download stopped early.
func (e *interruptedError) Error() string {
	if errors.Is(e.cause, context.DeadlineExceeded) {
		return "the time limit ended before the download was complete"
	}
	return "stopped before the download was complete"
}

// Unwrap returns the error of the context.
func (e *interruptedError) Unwrap() error { return e.cause }

// get sends a request to the Hub. The caller closes the body of the response. A read from the body
// returns an error if no byte arrives within c.stall. get follows redirects, but if follow is
// false, it returns a redirect with the checksum of the file. A status that reports a failure is an
// error.
func (c *Client) get(ctx context.Context, method, address string, header http.Header, follow bool) (*http.Response, error) {
	w := &watch{caller: ctx}
	ctx, cancel := context.WithCancelCause(ctx)
	stall := c.stall
	if stall == 0 {
		stall = time.Minute
	}
	w.attempt, w.stall = ctx, stall
	w.timer = time.AfterFunc(stall, func() { cancel(fmt.Errorf("the server sent nothing for %v", stall)) })
	w.end = func() { w.timer.Stop(); cancel(nil) }
	request, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err == nil && request.URL.Host == "" {
		err = fmt.Errorf("%.60q does not begin with http:// or https:// and a host", c.Endpoint)
	}
	if err != nil {
		w.end()
		return nil, fmt.Errorf("the address of the Hub, which HF_ENDPOINT sets, is not valid: %w", err)
	}
	if header != nil {
		request.Header = header
	}
	request.Header.Set("User-Agent", "spt")
	// The size and the checksum are those of the uncompressed file, so no proxy may compress it.
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

// watch ends a request if no byte arrives within the time stall.
type watch struct {
	caller, attempt context.Context // context of the caller, and the one of this request
	timer           *time.Timer     // cancels attempt
	stall           time.Duration
	end             func() // stops the timer and cancels attempt
}

// body is the body of a response. Each read restarts the timer of watch.
type body struct {
	io.ReadCloser
	*watch
}

// Read reads the next bytes into p.
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

// explain returns the error to report for err, an error of net/http. It removes the address,
// because the address of a store is long and contains a signature. If the context of the caller has
// ended, it returns an interruptedError.
func (w *watch) explain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if w.caller.Err() != nil {
		return interrupted(w.caller)
	}
	if stalled := context.Cause(w.attempt); stalled != nil {
		err = stalled
	}
	return &unreachable{err}
}

// statusError is a response of the Hub with an error status. A new attempt would receive the same
// status.
type statusError struct {
	code    int    // HTTP status
	problem string // message with the meaning of the status and advice
}

// Error returns the problem.
func (e *statusError) Error() string { return e.problem }

// refusal returns the error for a response with an error status. It also reads the headers
// X-Error-Code and X-Error-Message of the Hub.
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
	const token = "set HF_TOKEN to the token of an account that may read the repository, or run 'hf auth login'"
	problem := ""
	switch kind := r.Header.Get("X-Error-Code"); {
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500:
		return &unreachable{fmt.Errorf("%s answers %s%s", host, r.Status, said)}
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
		problem = "the server rejected the request"
	}
	return &statusError{code, fmt.Sprintf("%s answers %s%s: %s", host, r.Status, said, problem)}
}

// repoInfo describes a revision of a repository.
type repoInfo struct {
	commit string
	files  []string // paths in the repository
}

// info asks the Hub for the commit and the files of a revision. If patient is true, it retries
// while the Hub cannot be reached.
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

// askInfo sends the request of info once.
func (c *Client) askInfo(ctx context.Context, address string) (*repoInfo, error) {
	response, err := c.get(ctx, http.MethodGet, address, nil, true)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	// 64 MiB. The response for a repository with thousands of files is far smaller.
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
		return nil, fmt.Errorf("the response of %s does not describe a repository (it is %s and begins with %.60q); check that HF_ENDPOINT is the address of a Hub, and that no proxy or login page answers instead of it", response.Request.URL.Host, response.Header.Get("Content-Type"), data[:min(len(data), 60)])
	}
	info := &repoInfo{commit: doc.SHA}
	for _, s := range doc.Siblings {
		info.files = append(info.files, s.Name)
	}
	return info, nil
}
