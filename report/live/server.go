// Package live serves one page that follows something that is still running, such as a training.
//
// Begin with [Listen]. The server has two addresses: / is the page, and /events is a stream of
// server-sent events that tells an open page when to load / again. The events are:
//
//   - update: the page changed. The page loads / and shows the new content.
//   - end: the server stops. The page closes its event source, or the browser would connect again
//     and again. The final update comes before the end.
//
// The data of both is the revision of the page, a number that grows.
//
// The server needs no trust in its clients. It reads no file, answers nothing that a request says,
// and a client that stops reading delays nobody.
package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// updateInterval is the least time between two revisions.
	updateInterval = 500 * time.Millisecond
	// keepAlive is the time between two comments in a stream, so that no proxy closes the stream.
	keepAlive = 15 * time.Second
	// sendTimeout is the time that a client has to take an event before it loses its stream.
	sendTimeout = 10 * time.Second
	// maxStreams is the greatest number of open streams of events.
	maxStreams = 64
	// lastLoad is the time that open pages have to load the final page, and shutdown the time that
	// the server then waits for answers that are under way.
	lastLoad = time.Second
	shutdown = 500 * time.Millisecond
)

// policy allows inline styles and scripts and images in the page itself, and a connection to this
// server. The page can restrict its scripts to their hashes in a policy of its own.
const policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Server serves a live page. Its methods may be called from several goroutines.
type Server struct {
	page     func(ctx context.Context) ([]byte, error)
	url      string
	hosts    []string // the host names that a request may have; nil for all
	http     *http.Server
	served   chan error // the result of Serve
	ctx      context.Context
	cancel   context.CancelFunc
	render   chan struct{} // holds a value while the page is made
	rendered rendering     // guarded by render

	mu       sync.Mutex
	first    uint64        // the first revision
	revision uint64        // grows by 1 with each update
	updated  time.Time     // the time of the last update
	pending  *time.Timer   // makes the next update; nil if none is due
	changed  chan struct{} // is closed at the next update and at the end
	streams  int           // open streams
	ended    bool
	awaited  int           // pages that were open at the end and have not loaded the final page
	loaded   chan struct{} // is closed when awaited reaches 0
}

// rendering is a page, or the error of making it.
type rendering struct {
	revision uint64
	at       time.Time
	body     []byte
	err      error
}

// Listen opens the socket addr and serves the page there until Close. So a wrong address and a used
// port are errors here, before any work begins.
//
// addr is HOST:PORT. Without a host, the server listens on 127.0.0.1 alone; 0.0.0.0 and [::] stand
// for all addresses of the machine. The port 0 stands for a free port, see [Server.URL]. On a
// loopback address, only requests for localhost, a loopback address or HOST are answered. So no web
// site can read the page through a host name of its own that leads to this machine.
//
// page returns the page in HTML. It is called for a request if the page changed since its last
// call, at most about twice a second, and never by two goroutines at once. Its context is cancelled
// by Close, but Close does not wait for a call that ignores this. An error of page is not shown:
// the request gets status 500, and later requests call page again.
func Listen(addr string, page func(ctx context.Context) ([]byte, error)) (*Server, error) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return nil, fmt.Errorf("address of the live page: %q is not HOST:PORT; give an address such as 127.0.0.1:8080, or 127.0.0.1:0 for a free port", addr)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("opening the live page: %w; give another address, or port 0 for a free port", err)
	}
	return serve(listener, host, page), nil
}

// serve serves the page on a listener that was opened for a host.
func serve(listener net.Listener, host string, page func(ctx context.Context) ([]byte, error)) *Server {
	// Pages that an earlier server at this address left open connect again with their last
	// revision.
	first := uint64(time.Now().UnixMilli())
	s := &Server{page: page, served: make(chan error, 1), render: make(chan struct{}, 1), first: first, revision: first,
		changed: make(chan struct{}), loaded: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.url = "http://" + listener.Addr().String() + "/"
	if address, ok := listener.Addr().(*net.TCPAddr); ok {
		if address.IP.IsLoopback() {
			s.hosts = []string{"localhost", "127.0.0.1", "::1", host}
		}
		if address.IP.IsUnspecified() {
			host = "127.0.0.1"
			if name, err := os.Hostname(); err == nil {
				host = name
			}
		}
		s.url = "http://" + net.JoinHostPort(host, strconv.Itoa(address.Port)) + "/"
	}
	s.http = &http.Server{Handler: http.HandlerFunc(s.answer), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, DisableGeneralOptionsHandler: true, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { s.served <- s.http.Serve(listener) }()
	return s
}

// URL returns the address of the page for a browser, such as http://127.0.0.1:8080/. For a server
// on all addresses, it has the name of the machine.
func (s *Server) URL() string { return s.url }

// Changed tells all open pages to load the page again. It returns at once, however many pages are
// open. Pages get at most two updates a second: calls in between are answered by one update.
func (s *Server) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.pending != nil {
		return
	}
	if wait := updateInterval - time.Since(s.updated); wait > 0 {
		s.pending = time.AfterFunc(wait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !s.ended {
				s.update()
			}
		})
		return
	}
	s.update()
}

// update begins a revision and wakes all streams. The caller holds mu.
func (s *Server) update() {
	s.pending = nil
	s.revision++
	s.updated = time.Now()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Close sends the final state to open pages and stops the server. Pages have a second to load the
// final page, so everything that it shows must be complete before Close. Answers that still are
// under way half a second later are cut off. An error is that of a server that stopped before
// Close.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil
	}
	s.ended = true
	if s.pending != nil {
		s.pending.Stop()
	}
	s.awaited = s.streams
	if s.awaited == 0 {
		close(s.loaded)
	}
	s.update()
	s.mu.Unlock()

	wait := time.NewTimer(lastLoad)
	defer wait.Stop()
	select {
	case <-s.loaded:
	case <-wait.C:
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdown)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.cancel()
	if err := <-s.served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the live page: %w", err)
	}
	return nil
}

// answer answers a request. Nothing in an answer comes from the request.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	var serve func(http.ResponseWriter, *http.Request)
	switch r.URL.Path {
	case "/":
		serve = s.servePage
	case "/events":
		serve = s.serveEvents
	}
	switch {
	case !s.allowed(r.Host):
		http.Error(w, "This page is served to this machine alone: open it as localhost.", http.StatusForbidden)
	case serve == nil:
		http.Error(w, "There is no such page.", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "This page can only be read.", http.StatusMethodNotAllowed)
	default:
		serve(w, r)
	}
}

// allowed reports whether the Host header of a request names this server. The port is not compared,
// because ssh may forward another port to this server.
func (s *Server) allowed(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil { // no port
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	return s.hosts == nil || slices.ContainsFunc(s.hosts, func(name string) bool { return strings.EqualFold(name, host) })
}

// servePage answers with the page.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	body, err := s.current(r.Context())
	if err != nil {
		http.Error(w, "The page cannot be made now. Load it again later.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.awaited > 0 {
		if s.awaited--; s.awaited == 0 {
			close(s.loaded)
		}
	}
}

// current returns the page with all changes up to now. Requests that wait for the same call of page
// share its result.
func (s *Server) current(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	wanted := s.revision
	s.mu.Unlock()
	select {
	case s.render <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.render }()
	if had := s.rendered; had.revision < wanted || had.err != nil && time.Since(had.at) >= updateInterval {
		s.mu.Lock()
		revision := s.revision
		s.mu.Unlock()
		body, err := s.page(s.ctx)
		s.rendered = rendering{revision: revision, at: time.Now(), body: body, err: err}
	}
	return s.rendered.body, s.rendered.err
}

// serveEvents sends events until the client leaves or the server ends.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	// Another site cannot read the events, but it could take all streams.
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		http.Error(w, "Only the page itself can follow its events.", http.StatusForbidden)
		return
	}
	s.mu.Lock()
	full := s.streams == maxStreams
	if !full {
		s.streams++
	}
	s.mu.Unlock()
	if full {
		http.Error(w, "Too many pages are open. Close some of them.", http.StatusServiceUnavailable)
		return
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams--
	}()

	control := http.NewResponseController(w)
	send := func(text string) bool {
		control.SetWriteDeadline(time.Now().Add(sendTimeout))
		if _, err := w.Write([]byte(text)); err != nil {
			return false
		}
		return control.Flush() == nil
	}
	w.Header().Set("Content-Type", "text/event-stream")
	if !send("retry: 2000\n\n") || r.Method == http.MethodHead {
		return
	}
	// A browser that connects again sends the last revision that it got. A new page was loaded just
	// before, but perhaps before the last update.
	sent := r.Header.Get("Last-Event-ID")
	if sent == "" {
		sent = strconv.FormatUint(s.first, 10)
	}
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	for {
		s.mu.Lock()
		revision, changed, ended := strconv.FormatUint(s.revision, 10), s.changed, s.ended
		s.mu.Unlock()
		if revision != sent {
			if !send("id: " + revision + "\nevent: update\ndata: " + revision + "\n\n") {
				return
			}
			sent = revision
		}
		if ended {
			send("event: end\ndata: " + revision + "\n\n")
			return
		}
		select {
		case <-changed:
		case <-ticker.C:
			if !send(": keep-alive\n\n") {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
