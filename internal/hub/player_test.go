package hub

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"
)

// TestMain fails if a package writes to the log, because the log is standard error.
func TestMain(m *testing.M) {
	var mu sync.Mutex
	var logged bytes.Buffer
	log.SetOutput(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return logged.Write(p)
	}))
	code := m.Run()
	mu.Lock()
	defer mu.Unlock()
	if logged.Len() > 0 {
		fmt.Fprintf(os.Stderr, "the log has\n%s", logged.String())
		code = 1
	}
	os.Exit(code)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// kind is the kind of the result of Fetch.
type kind string

const (
	fetched  kind = "success"
	input    kind = "input error" // the user can correct it
	failure  kind = "failure"     // an answer that a new attempt would receive again
	outage   kind = "outage"      // a temporary error, after all attempts
	canceled kind = "cancelled"
)

func kindOf(err error) kind {
	_, wrong := errors.AsType[*InputError](err)
	switch {
	case err == nil:
		return fetched
	case errors.Is(err, context.Canceled):
		return canceled
	case wrong:
		return input
	case temporary(err):
		return outage
	}
	return failure
}

// scene is a request during a scenario.
type scene struct {
	http.ResponseWriter
	request *http.Request
	n       int // number of requests for the same method and path before this one
}

// on reports whether the request has the method, and a path with the given part.
func (s *scene) on(method, part string) bool {
	return s.request.Method == method && strings.Contains(s.request.URL.Path, part)
}

// raw sends text as it is and closes the connection.
func (s *scene) raw(text string) bool {
	conn, _, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(conn, text)
	_ = conn.Close()
	return true
}

// status sends a status without a body.
func (s *scene) status(code int) bool {
	s.WriteHeader(code)
	return true
}

// flood sends zeros until the client closes the connection.
func (s *scene) flood() bool {
	zeros := make([]byte, 1<<16)
	for {
		if _, err := s.Write(zeros); err != nil {
			return true
		}
	}
}

// drip sends n bytes of the requested range of the weights after each pause, until the client
// closes the connection.
func (s *scene) drip(n int, pause time.Duration) bool {
	from := 0
	if _, err := fmt.Sscanf(s.request.Header.Get("Range"), "bytes=%d-", &from); err == nil {
		s.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(weights)-1, len(weights)))
		s.WriteHeader(http.StatusPartialContent)
	}
	for ; from < len(weights); from += n {
		if _, err := io.WriteString(s.ResponseWriter, weights[from:min(from+n, len(weights))]); err != nil {
			break
		}
		s.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(pause)
	}
	return true
}

// scenario is a server that misbehaves, and the expected result of Fetch. The repository has only
// model.safetensors, of 1 MiB, unless files is set. A Fetch without problems sends four requests:
// the description, HEAD, GET to the Hub, GET to the store.
type scenario struct {
	name, ref string
	files     map[string]string
	secure    bool // the Hub has https
	links     bool // the scenario needs symbolic links
	setUp     func(t *testing.T, h *fakeHub, c *Client)
	answer    func(s *scene) bool // reports whether it has responded
	want      kind
	text      string // part of the error
	requests  int    // to both hosts
	bytes     int64  // most bytes of all bodies; 0 means 2 MiB
}

// cutAt sends the weights up to n to a request without a range, and closes the connection.
func cutAt(s *scene, n int) bool {
	serveCut(s.ResponseWriter, 0, n)
	return true
}

const lfs = "/lfs/model.safetensors"

func scenarios() []scenario {
	const third = 1 << 18
	onWeights := func(f func(s *scene, ranged bool) bool) func(*scene) bool {
		return func(s *scene) bool { return s.on("GET", lfs) && f(s, s.request.Header.Get("Range") != "") }
	}
	onInfo := func(f func(s *scene) bool) func(*scene) bool {
		return func(s *scene) bool { return s.on("GET", "/api/") && f(s) }
	}
	onHead := func(header ...string) func(*scene) bool {
		return func(s *scene) bool {
			for i := 0; s.request.Method == "HEAD" && i < len(header); i += 2 {
				s.Header().Set(header[i], header[i+1])
			}
			return s.request.Method == "HEAD" && s.status(200)
		}
	}
	redirect := func(to func(*scene) string) func(*scene) bool {
		return func(s *scene) bool {
			s.Header().Set("Location", to(s))
			return s.status(http.StatusFound)
		}
	}
	leftover := func(t *testing.T, _ *fakeHub, c *Client) {
		place(t, c, incomplete, func(path string) error { return os.WriteFile(path, []byte(weights[:third]), 0o666) })
	}
	special := func(make func(path string) error) func(*testing.T, *fakeHub, *Client) {
		return func(t *testing.T, _ *fakeHub, c *Client) { place(t, c, incomplete, make) }
	}
	stale := func(t *testing.T, _ *fakeHub, c *Client) { fetch(t, c, "hf:"+testRepo) }
	shards := map[string]string{"model.safetensors.index.json": `{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}`,
		"1.safetensors": "1", "2.safetensors": "2"}

	return []scenario{
		{name: "well", want: fetched, requests: 4},

		// Downloads that would repeat for ever.
		{name: "cut and 416", answer: onWeights(func(s *scene, ranged bool) bool {
			return ranged && s.status(416) || cutAt(s, third)
		}), want: outage, text: "tried 5 times", requests: 12},
		{name: "cut later each time, and 416", answer: onWeights(func(s *scene, ranged bool) bool {
			return ranged && s.status(416) || cutAt(s, third+1000*s.n)
		}), want: failure, text: "the download began again 3 times", requests: 18, bytes: 4 << 20},
		{name: "cut later each time, and another range", answer: onWeights(func(s *scene, ranged bool) bool {
			if ranged {
				serveCut(s.ResponseWriter, 100, 1000)
			}
			return cutAt(s, third+1000*s.n)
		}), want: failure, text: `the range "bytes 100-1048575/1048576", which was not requested`, requests: 18, bytes: 4 << 20},
		{name: "cut later each time, and the whole file", answer: onWeights(func(s *scene, _ bool) bool {
			return cutAt(s, third+1000*s.n)
		}), want: failure, text: "does not continue a download", requests: 12, bytes: 4 << 20},
		{name: "206 that was not requested", answer: onWeights(func(s *scene, _ bool) bool {
			s.Header().Set("Content-Range", "bytes 0-9/10")
			return s.status(206)
		}), want: failure, text: `"206 Partial Content" with the range "bytes 0-9/10", which was not requested`, requests: 10},
		{name: "204", answer: onWeights(func(s *scene, _ bool) bool { return s.status(204) }), want: failure, text: "204 No Content", requests: 10},
		{name: "416 without a range", answer: onWeights(func(s *scene, _ bool) bool { return s.status(416) }), want: failure, text: "416", requests: 4},
		{name: "one byte each time", answer: onWeights(func(s *scene, _ bool) bool {
			serveCut(s.ResponseWriter, s.n, 1)
			return true
		}), want: outage, text: "tried 100 times", requests: 202},
		{name: "a range answered with 200", setUp: leftover, answer: onWeights(func(s *scene, _ bool) bool {
			_, _ = io.WriteString(s.ResponseWriter, weights)
			return true
		}), want: fetched, requests: 4},
		{name: "cut short", answer: onWeights(func(s *scene, ranged bool) bool {
			if !ranged {
				// with its own Content-Length
				_, _ = io.WriteString(s.ResponseWriter, weights[:third])
			}
			return !ranged
		}), want: fetched, requests: 6},

		// Slow servers.
		{name: "drip", setUp: func(_ *testing.T, _ *fakeHub, c *Client) { c.window, c.least = 50*time.Millisecond, 10_000 },
			answer: onWeights(func(s *scene, _ bool) bool { return s.drip(1, time.Millisecond) }), want: outage, text: "expected at least 10000", requests: 12},
		{name: "slow and steady", setUp: func(_ *testing.T, _ *fakeHub, c *Client) { c.window, c.least = 300*time.Millisecond, 16<<10 },
			answer: onWeights(func(s *scene, _ bool) bool { return s.drip(16<<10, 10*time.Millisecond) }), want: fetched, requests: 4},
		{name: "description by drips", setUp: func(_ *testing.T, _ *fakeHub, c *Client) { c.window, c.least = 50*time.Millisecond, 10_000 },
			answer: onInfo(func(s *scene) bool { return s.drip(1, time.Millisecond) }), want: outage, text: "tried 5 times", requests: 5},
		{name: "no answer", setUp: func(_ *testing.T, _ *fakeHub, c *Client) { c.window = 50 * time.Millisecond },
			answer: func(s *scene) bool { <-s.request.Context().Done(); return true }, want: outage, text: "the server sent 0 bytes", requests: 5},

		// Sizes.
		{name: "endless file", answer: onWeights(func(s *scene, _ bool) bool { return s.flood() }), want: failure, text: "more than the 1048576 bytes that it announced", requests: 4, bytes: 32 << 20},
		{name: "endless description", answer: onInfo((*scene).flood), want: failure, text: "more than 16777216 bytes", requests: 1, bytes: 64 << 20},
		{name: "announced description", answer: onInfo(func(s *scene) bool {
			s.Header().Set("Content-Length", "17000000")
			return s.flood()
		}), want: failure, text: "more than 16777216 bytes", requests: 1, bytes: 16 << 20},
		{name: "large configuration", files: map[string]string{"model.safetensors": weights, "config.json": strings.Repeat(" ", maxText+1)}, want: input, text: "downloading config.json: the file has 16777217 bytes", requests: 2},
		{name: "large index", files: map[string]string{"model.safetensors.index.json": strings.Repeat(" ", maxText+1)}, want: input, text: "the file has 16777217 bytes", requests: 2},
		{name: "many shards", files: map[string]string{"model.safetensors.index.json": manyShards(maxShards + 1)}, want: input, text: "names 1001 shards", requests: 3},
		{name: "larger than the disk", answer: onHead("X-Linked-Etag", sha256Of(weights), "X-Linked-Size", "1000000000000000000"), want: failure, text: "bytes are free on the disk of the cache", requests: 2},
		{name: "shards larger than the disk", files: shards, answer: func(s *scene) bool {
			return s.on("HEAD", "/2.safetensors") && onHead("X-Linked-Etag", sha256Of("2"), "X-Linked-Size", "9223372036854775807")(s)
		}, want: failure, text: "2.safetensors: the file needs 9223372036854775807 bytes", requests: 5},
		{name: "no size", answer: onHead("X-Linked-Etag", sha256Of(weights), "X-Linked-Size", "-1"), want: failure, text: `states the size "-1"`, requests: 2},
		{name: "gzip bomb", answer: onInfo(func(s *scene) bool {
			s.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(s.ResponseWriter)
			zeros := make([]byte, 1<<20)
			for range 1 << 8 {
				_, _ = z.Write(zeros)
			}
			return z.Close() == nil
		}), want: failure, text: "does not describe a repository", requests: 1},
		{name: "gzip for the weights", answer: onWeights(func(s *scene, _ bool) bool {
			s.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(s.ResponseWriter)
			_, _ = io.WriteString(z, weights)
			return z.Close() == nil
		}), want: failure, text: "does not continue a download", requests: 12},
		{name: "header bomb", answer: func(s *scene) bool {
			return s.raw("HTTP/1.1 200 OK\r\nX-Bomb: " + strings.Repeat("x", 4<<20) + "\r\n\r\n")
		}, want: failure, text: "headers exceeded 262144 bytes", requests: 1},
		{name: "many interim responses", answer: func(s *scene) bool {
			return s.raw(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 1<<16))
		}, want: failure, text: "headers exceeded 262144 bytes", requests: 1},

		// Hosts and redirects.
		{name: "token to a store with https", setUp: func(t *testing.T, h *fakeHub, c *Client) {
			h.store = newServer(t, true, h.serveStore)
			c.Token, c.tls = testToken, h.store.Client().Transport.(*http.Transport).TLSClientConfig
		}, want: fetched, requests: 4},
		{name: "token to another host and back", setUp: func(t *testing.T, h *fakeHub, c *Client) {
			c.Token = testToken
			other := newServer(t, false, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" {
					t.Errorf("another host received %v", r.Header)
				}
				http.Redirect(w, r, h.URL+r.URL.Path+"?back", http.StatusTemporaryRedirect)
			})
			h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
				away := strings.HasPrefix(r.URL.Path, "/api/") && r.URL.RawQuery != "back"
				if away {
					http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
				}
				return away
			}
		}, want: fetched, requests: 5},
		{name: "https to http", secure: true, answer: redirect(func(s *scene) string { return "http://" + s.request.Host + s.request.URL.Path }), want: failure, text: "from https to http", requests: 1},
		{name: "https to http for the weights", secure: true, want: failure, text: "from https to http", requests: 3},
		{name: "https to http, with a cache", setUp: stale, answer: redirect(func(s *scene) string { return "ftp://" + s.request.Host }), want: failure, text: "unsupported protocol scheme", requests: 1},
		{name: "https without a trusted certificate", secure: true, setUp: func(_ *testing.T, _ *fakeHub, c *Client) { c.tls = nil }, want: failure, text: "certificate", requests: 0},
		{name: "redirect loop", setUp: stale, answer: redirect(func(s *scene) string { return s.request.URL.Path }), want: failure, text: "more than 10 redirects", requests: 10},
		{name: "redirect to nowhere", setUp: stale, answer: redirect(func(*scene) string { return "http://[\u202e" }), want: failure, text: "Location", requests: 1},

		// Answers that are not those of a hub.
		{name: "HTML for JSON", answer: onInfo(func(s *scene) bool { _, _ = io.WriteString(s.ResponseWriter, "<html>"); return true }), want: failure, text: `begins with "<html>"`, requests: 1},
		{name: "malformed header", setUp: stale, answer: func(s *scene) bool { return s.raw("HTTP/1.1 200 OK\r\nnot a\x1b[31mheader\r\n\r\n") }, want: failure, text: "malformed MIME header", requests: 1},
		{name: "malformed status", setUp: stale, answer: func(s *scene) bool { return s.raw("SSH-2.0-x\u202e\x07" + strings.Repeat("y", 5000) + "\r\n\r\n") }, want: failure, text: "malformed HTTP", requests: 1},
		{name: "malformed chunks", answer: onWeights(func(s *scene, _ bool) bool {
			return s.raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
		}), want: failure, text: "chunk", requests: 4},
		{name: "hostile status line", answer: func(s *scene) bool {
			return s.raw("HTTP/1.1 429 \x1b[31m\u202e" + strings.Repeat("y", 5000) + "\r\n\r\n")
		}, want: outage, text: "answers 429", requests: 5},
		{name: "hostile message", answer: func(s *scene) bool {
			s.Header().Set("X-Error-Message", "\u202e\t"+strings.Repeat("é", 5000))
			return s.status(404)
		}, want: input, text: "(  é", requests: 1},
		{name: "hostile host", answer: redirect(func(s *scene) string { return "http://%E2%80%AE.invalid/" }), want: outage, text: "lookup", requests: 5},
		{name: "hostile names", files: map[string]string{"../../escaped.bin": "x", "/etc/escaped.pt": "x", "a\u202e\n\x1b.npz": "x", strings.Repeat("n", 5000) + ".pt": "x"}, want: input, text: `"../../escaped.bin"`, requests: 1},
		{name: "hostile shard", files: hostileIndex("../../../../escaped\u202e" + strings.Repeat("n", 5000)), want: input, text: "expected the name of a file beside the index", requests: 3},
		{name: "hostile number", files: map[string]string{"model.safetensors.index.json": `{"weight_map": {"a": 1` + strings.Repeat("1", 5000) + `}}`}, want: input, text: "found a number, expected a string", requests: 3},
		{name: "hostile range", answer: onWeights(func(s *scene, _ bool) bool {
			s.Header().Set("Content-Range", strings.Repeat("\u202e", 1000))
			return s.status(206)
		}), want: failure, text: "which was not requested", requests: 10},
		{name: "hostile ETag", answer: onHead("ETag", "\u202e"+strings.Repeat("x", 5000)), want: failure, text: "sends the ETag", requests: 2},
		{name: "hostile commit", answer: onHead("X-Repo-Commit", "\u202e"+strings.Repeat("x", 5000)), want: failure, text: "sends a file of commit", requests: 2},
		{name: "hostile type", answer: onInfo(func(s *scene) bool {
			s.Header().Set("Content-Type", "\u202e"+strings.Repeat("x", 5000))
			_, _ = io.WriteString(s.ResponseWriter, "\u202e\x1b[31m")
			return true
		}), want: failure, text: "does not describe a repository", requests: 1},
		{name: "more than the response", setUp: stale, answer: func(s *scene) bool {
			body := fmt.Sprintf(`{"sha": %q, "siblings": [{"rfilename": "model.safetensors"}]}`, testCommit)
			return s.raw(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%sHTTP/1.1 200 OK\r\n\r\n", len(body), body))
		}, want: fetched, requests: 1},

		// Checksums.
		{name: "other ETag", answer: onHead("ETag", sha256Of("other"), "Content-Length", strconv.Itoa(len(weights))), want: failure, text: "the checksum of the downloaded file is " + sha256Of(weights), requests: 4},
		{name: "other content", answer: onWeights(func(s *scene, _ bool) bool {
			_, _ = io.WriteString(s.ResponseWriter, "x"+weights[1:])
			return true
		}), want: failure, text: "expected " + sha256Of(weights), requests: 4},

		// Statuses.
		{name: "401", answer: func(s *scene) bool { return s.status(401) }, want: input, text: "401", requests: 1},
		{name: "403", answer: func(s *scene) bool { return s.status(403) }, want: input, text: "403", requests: 1},
		{name: "404", answer: func(s *scene) bool { return s.status(404) }, want: input, text: "404", requests: 1},
		{name: "404 for the file", answer: func(s *scene) bool { return s.on("HEAD", "") && s.status(404) }, want: input, text: "404", requests: 2},
		{name: "418", answer: func(s *scene) bool { return s.status(418) }, want: failure, text: "418", requests: 1},
		{name: "429", answer: func(s *scene) bool { return s.status(429) }, want: outage, text: "429", requests: 5},
		{name: "503", answer: func(s *scene) bool { return s.status(503) }, want: outage, text: "503", requests: 5},
		{name: "403 of the store", answer: onWeights(func(s *scene, _ bool) bool { return s.status(403) }), want: failure, text: "the store of the Hub rejected", requests: 4},
		{name: "404 of the store", answer: onWeights(func(s *scene, _ bool) bool { return s.status(404) }), want: failure, text: "the store of the Hub rejected", requests: 4},
		{name: "no such file", ref: ":other.npz", want: input, text: `has no file "other.npz"`, requests: 1},

		// The cache.
		{name: "link in place of the file", links: true, setUp: special(func(path string) error { return os.Symlink("../../../../target", path) }), want: failure, text: "expected a regular file; remove it", requests: 2},
		{name: "pipe in place of the file", setUp: special(mkfifo), want: failure, text: "expected a regular file; remove it", requests: 2},
		{name: "socket in place of the file", setUp: special(mksocket), want: failure, text: "expected a regular file; remove it", requests: 2},
		{name: "folder in place of the file", setUp: special(func(path string) error { return os.Mkdir(path, 0o777) }), want: failure, text: "expected a regular file; remove it", requests: 2},
		{name: "damaged blob", links: true, setUp: func(t *testing.T, h *fakeHub, c *Client) {
			stale(t, h, c)
			place(t, c, "", func(path string) error { return os.Truncate(path, 1000) })
		}, want: fetched, requests: 4},
		{name: "damaged blob of another commit", setUp: func(t *testing.T, _ *fakeHub, c *Client) {
			place(t, c, "", func(path string) error { return os.WriteFile(path, []byte("short"), 0o666) })
		}, want: fetched, requests: 4},
		{name: "damaged copy in place of the link", links: true, setUp: func(t *testing.T, h *fakeHub, c *Client) {
			stale(t, h, c)
			path := c.folder(testRepo).snapshot(testCommit, "model.safetensors")
			if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("short"), 0o666)); err != nil {
				t.Fatal(err)
			}
		}, want: fetched, requests: 2},
		{name: "a file in place of the cache", setUp: func(t *testing.T, _ *fakeHub, c *Client) {
			if err := os.WriteFile(c.Cache, nil, 0o666); err != nil {
				t.Fatal(err)
			}
		}, want: failure, text: "mkdir ", requests: 2},
	}
}

// manyShards returns an index with n shards.
func manyShards(n int) string {
	entries := make([]string, n)
	for i := range entries {
		entries[i] = fmt.Sprintf(`"t%d": "%d.safetensors"`, i, i)
	}
	return `{"weight_map": {` + strings.Join(entries, ", ") + `}}`
}

// place calls f with the path of the blob of the weights in the cache of c, followed by end.
func place(t *testing.T, c *Client, end string, f func(path string) error) {
	t.Helper()
	path := c.folder(testRepo).blob(sha256Of(weights)) + end
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := f(path); errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("needs a system with named pipes and sockets: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// TestPlayer lets servers misbehave. Each scenario checks the kind of the error, the number of
// requests, the bytes that were sent and the memory that was allocated. It also checks that the
// error contains no text of the server that changes a terminal, and that nothing was written
// outside the cache.
func TestPlayer(t *testing.T) {
	for _, tt := range scenarios() {
		t.Run(tt.name, func(t *testing.T) {
			files := tt.files
			if files == nil {
				files = map[string]string{"model.safetensors": weights}
			}
			if tt.links {
				needLinks(t)
			}
			h := newFakeHub(t, files)
			c := h.client(t)
			outside := t.TempDir()
			c.Cache = filepath.Join(outside, "cache")
			c.window = 20 * time.Second
			if tt.secure {
				h.Server = newServer(t, true, h.count)
				c.Endpoint, c.tls = h.URL, h.Client().Transport.(*http.Transport).TLSClientConfig
			}
			if tt.setUp != nil {
				tt.setUp(t, h, c)
			}
			if tt.answer != nil {
				var mu sync.Mutex
				seen := map[string]int{}
				h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
					mu.Lock()
					key := r.Method + r.URL.Path
					n := seen[key]
					seen[key]++
					mu.Unlock()
					return tt.answer(&scene{w, r, n})
				}
			}
			h.log()
			h.served.Store(0)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			s, err := c.Fetch(t.Context(), reference(t, "hf:"+testRepo+tt.ref))
			runtime.ReadMemStats(&after)

			if got := kindOf(err); got != tt.want || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %s (%v), want %s with %q", got, err, tt.want, tt.text)
			}
			if err == nil && content(t, s.Path) != weights {
				t.Error("the weights have other content")
			}
			if requests := h.log(); len(requests) != tt.requests {
				t.Errorf("received %d requests, want %d: %q", len(requests), tt.requests, requests)
			}
			most := tt.bytes
			if most == 0 {
				most = 2 << 20
			}
			if n := h.served.Load(); n > most {
				t.Errorf("sent %d bytes, want at most %d", n, most)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 160<<20 {
				t.Errorf("allocated %d bytes", n)
			}
			if err != nil && (len(err.Error()) > 2000 || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) })) {
				t.Errorf("the error has %d bytes: %.3000q", len(err.Error()), err)
			}
			if h.leaked {
				t.Error("the store received the token")
			}
			entries, err := os.ReadDir(outside)
			if err != nil || len(entries) > 1 {
				t.Errorf("files outside the cache: %v, %v", entries, err)
			}
		})
	}
}

// TestServerSpeaksFirst checks that a server that sends a response before the request does not
// write to the log. [TestMain] checks the log.
func TestServerSpeaksFirst(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			defer conn.Close()
		}
	}()
	for range 20 {
		c := &Client{Endpoint: "http://" + listener.Addr().String(), Cache: t.TempDir(), backoff: time.Millisecond}
		if _, err := c.Fetch(t.Context(), Reference{Repo: testRepo}); kindOf(err) != input {
			t.Errorf("got %v", err)
		}
	}
}

// TestCancelQuickly checks that the end of the context ends each kind of work within a second.
func TestCancelQuickly(t *testing.T) {
	wait := func(h *fakeHub, part string, cancel func(), before func(http.ResponseWriter)) {
		h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, part) {
				return false
			}
			before(w)
			w.(http.Flusher).Flush()
			cancel()
			<-r.Context().Done()
			return true
		}
	}
	sparse := func(path string, size int64) error {
		return errors.Join(os.WriteFile(path, nil, 0o666), os.Truncate(path, size))
	}
	const huge = 1 << 38 // takes minutes to read
	fetching := func(ctx context.Context, c *Client) error {
		_, err := c.Fetch(ctx, Reference{Repo: testRepo})
		return err
	}
	for _, tt := range []struct {
		name  string
		setUp func(t *testing.T, h *fakeHub, c *Client, cancel func())
		work  func(ctx context.Context, c *Client) error
	}{
		{"description", func(_ *testing.T, h *fakeHub, _ *Client, cancel func()) {
			wait(h, "/api/", cancel, func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{") })
		}, fetching},
		{"body", func(_ *testing.T, h *fakeHub, _ *Client, cancel func()) {
			wait(h, "/lfs/", cancel, func(w http.ResponseWriter) {
				w.Header().Set("Content-Length", strconv.Itoa(len(weights)))
				_, _ = io.WriteString(w, "0123")
			})
		}, fetching},
		{"pause between attempts", func(_ *testing.T, h *fakeHub, c *Client, cancel func()) {
			c.backoff = time.Hour
			h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(503)
				time.AfterFunc(100*time.Millisecond, cancel)
				return true
			}
		}, fetching},
		{"incomplete file", func(t *testing.T, h *fakeHub, c *Client, cancel func()) {
			place(t, c, incomplete, func(path string) error { return sparse(path, huge) })
			h.intercept = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodHead {
					return false
				}
				w.Header().Set("ETag", sha256Of(weights))
				w.Header().Set("Content-Length", strconv.Itoa(huge))
				time.AfterFunc(200*time.Millisecond, cancel)
				return true
			}
		}, fetching},
		{"verification", func(t *testing.T, h *fakeHub, c *Client, cancel func()) {
			needLinks(t)
			fetch(t, c, "hf:"+testRepo)
			place(t, c, "", func(path string) error { return sparse(path, huge) })
			time.AfterFunc(200*time.Millisecond, cancel)
		}, func(ctx context.Context, c *Client) error {
			_, err := c.Verify(ctx, testRepo, testCommit)
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newFakeHub(t, map[string]string{"model.safetensors": weights})
			c := h.client(t)
			c.window = time.Hour
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan time.Time, 1)
			context.AfterFunc(ctx, func() { ended <- time.Now() })
			tt.setUp(t, h, c, cancel)
			err := tt.work(ctx, c)
			if kindOf(err) != canceled || !strings.Contains(err.Error(), "stopped before the") {
				t.Fatalf("got %v, want an error of the context", err)
			}
			if late := time.Since(<-ended); late > time.Second {
				t.Errorf("ended %v after the context", late)
			}
		})
	}
}

// TestUnwritableCache checks the error for a cache without the right to write.
func TestUnwritableCache(t *testing.T) {
	c := newFakeHub(t, tinyFiles()).client(t)
	for _, cause := range []error{syscall.EACCES, syscall.EROFS} {
		err := c.explainDownload("model.safetensors", &fs.PathError{Op: "open", Path: "x", Err: cause})
		if kindOf(err) != failure || !strings.Contains(err.Error(), "is not writable") || !strings.Contains(err.Error(), "HF_HUB_CACHE") {
			t.Errorf("got %v", err)
		}
	}
	if os.Getuid() == 0 || runtime.GOOS == "windows" {
		return // root may write everywhere, and a folder on Windows has no mode
	}
	if err := os.Chmod(c.Cache, 0o555); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(t.Context(), Reference{Repo: testRepo}); kindOf(err) != failure || !strings.Contains(err.Error(), "is not writable") {
		t.Errorf("got %v", err)
	}
}

// TestPipeInPlaceOfRef checks that a named pipe in the cache does not block.
func TestPipeInPlaceOfRef(t *testing.T) {
	c := newFakeHub(t, tinyFiles()).client(t)
	c.Offline = true
	ref := c.folder(testRepo).ref("main")
	if err := os.MkdirAll(filepath.Dir(ref), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := mkfifo(ref); errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("needs a system with named pipes and sockets: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(t.Context(), Reference{Repo: testRepo}); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("got %v", err)
	}
}

// needLinks skips a test if the system does not let the user create symbolic links.
func needLinks(t *testing.T) {
	t.Helper()
	if err := os.Symlink("target", filepath.Join(t.TempDir(), "link")); err != nil {
		t.Skipf("needs symbolic links: on Windows, switch on the developer mode: %v", err)
	}
}

// mksocket creates a socket. The path of a listener is shorter than the paths of the cache.
func mksocket(path string) error {
	if runtime.GOOS == "windows" {
		return errors.ErrUnsupported
	}
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return err
	}
	defer listener.Close()
	return os.Rename(filepath.Join(dir, "s"), path)
}
