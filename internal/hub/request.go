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

// unreachable is a failure that may pass: of the network, or of a server that
// is not well. Everything else would fail again.
type unreachable struct{ error }

func (e *unreachable) Unwrap() error { return e.error }

// attempts is how often something is tried without one new byte.
const attempts = 5

// retry repeats f, with growing pauses, while its failure may pass. f reports
// whether it brought anything new, which starts the count again.
func (c *Client) retry(ctx context.Context, f func() (progress bool, err error)) error {
	wait := c.backoff
	if wait == 0 {
		wait = 500 * time.Millisecond
	}
	pause := wait
	for failed := 1; ; failed++ {
		progress, err := f()
		var passing *unreachable
		if err == nil || !errors.As(err, &passing) || ctx.Err() != nil {
			return err
		}
		if progress {
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

// get sends a request to the Hub. The answer's body ends with an error where no
// byte comes for a while; the caller closes it. Answers other than success, and
// than a redirect that follow forbids, are errors.
func (c *Client) get(ctx context.Context, method, address string, header http.Header, follow bool) (*http.Response, error) {
	w := &watch{caller: ctx}
	ctx, cancel := context.WithCancelCause(ctx)
	stall := c.stall
	if stall == 0 {
		stall = time.Minute
	}
	w.attempt, w.stall = ctx, stall
	w.timer = time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing came for %v", stall)) })
	w.end = func() { w.timer.Stop(); cancel(nil) }
	request, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err == nil && request.URL.Host == "" {
		err = fmt.Errorf("%.60q is no http:// or https:// address", c.Endpoint)
	}
	if err != nil {
		w.end()
		return nil, fmt.Errorf("the address of the Hub (HF_ENDPOINT) is broken: %w", err)
	}
	if header != nil {
		request.Header = header
	}
	request.Header.Set("User-Agent", "spt")
	// What comes is counted and summed, so nothing may repack it.
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

// watch ends a request when nothing comes.
type watch struct {
	caller, attempt context.Context
	timer           *time.Timer
	stall           time.Duration
	end             func()
}

// body restarts the timer at each read.
type body struct {
	io.ReadCloser
	*watch
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.timer.Reset(b.stall)
	if err != nil && err != io.EOF {
		err = b.explain(err)
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}

// explain leaves out the address that net/http puts before its errors: that of
// a store is long, and signed.
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

// StatusError is a refusal of the Hub, which repeating does not change.
type StatusError struct {
	Code    int    // HTTP status
	Problem string // what it means and what to do
}

func (e *StatusError) Error() string { return e.Problem }

// refusal says what a status means. The Hub says it by X-Error-Code too.
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
		said = fmt.Sprintf(" (it says: %.300s)", text)
	}
	const token = "give a token of an account that may read it: in HF_TOKEN, or by 'hf auth login'"
	problem := ""
	switch kind := r.Header.Get("X-Error-Code"); {
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500:
		return &unreachable{fmt.Errorf("%s answers %s%s", host, r.Status, said)}
	case kind == "GatedRepo" || code == http.StatusForbidden:
		problem = "access is refused: if the repository is gated, accept its licence on its page, and " + token
	case code == http.StatusUnauthorized:
		problem = "there is no such repository, or it is private or gated: check the name, accept its licence on its page if it has one, and " + token
	case kind == "RevisionNotFound":
		problem = "the repository has no such revision: check what follows @"
	case kind == "EntryNotFound":
		problem = "the repository has no such file at this revision"
	case code == http.StatusNotFound:
		problem = "there is no such repository, revision or file: check the name"
	default:
		problem = "it was refused"
	}
	return &StatusError{code, fmt.Sprintf("%s answers %s%s: %s", host, r.Status, said, problem)}
}

// repoInfo is what a revision holds.
type repoInfo struct {
	commit string
	files  []string
}

// info asks what a revision holds; patiently, or once.
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

func (c *Client) askInfo(ctx context.Context, address string) (*repoInfo, error) {
	response, err := c.get(ctx, http.MethodGet, address, nil, true)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	// Repositories of thousands of files stay far below.
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
		return nil, fmt.Errorf("%s does not describe a repository (%s, %.60q…): is HF_ENDPOINT the address of a Hub, and is no proxy or portal in between?", response.Request.URL.Host, response.Header.Get("Content-Type"), data[:min(len(data), 60)])
	}
	info := &repoInfo{commit: doc.SHA}
	for _, s := range doc.Siblings {
		info.files = append(info.files, s.Name)
	}
	return info, nil
}
