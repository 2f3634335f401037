package live

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counted returns a page that counts its calls, and the counter.
func counted() (func(context.Context) ([]byte, error), *atomic.Int64) {
	var calls atomic.Int64
	return func(context.Context) ([]byte, error) {
		return fmt.Appendf(nil, "<p>page %d</p>", calls.Add(1)), nil
	}, &calls
}

// listen serves a page on a free port of 127.0.0.1 until the test ends.
func listen(t *testing.T, page func(context.Context) ([]byte, error)) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", page)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// get returns the status, the header and the body of a page.
func get(t *testing.T, client *http.Client, url string) (int, http.Header, string) {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(body)
}

// event is a server-sent event. A comment is an event of the type ":".
type event struct{ kind, data, id string }

// stream is an open stream of events.
type stream struct {
	events chan event // is closed at the end of the stream
	stop   func()
}

// follow opens the stream of events of a server. last is the last event that the client got before.
func follow(t *testing.T, client *http.Client, url, last string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if kind := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || kind != "text/event-stream" {
		t.Fatalf("the stream has status %d and type %q", response.StatusCode, kind)
	}
	lines := bufio.NewScanner(response.Body)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "retry: ") {
		t.Fatalf("the stream begins with %q", lines.Text())
	}
	s := &stream{events: make(chan event, 1000), stop: cancel}
	go func() {
		defer response.Body.Close()
		defer close(s.events)
		var e event
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ":")
			switch value = strings.TrimPrefix(value, " "); name {
			case "event":
				e.kind = value
			case "data":
				e.data = value
			case "id":
				e.id = value
			case "":
				if lines.Text() != "" {
					e.kind = ":"
				}
				if e != (event{}) {
					s.events <- e
				}
				e = event{}
			}
		}
	}()
	return s
}

// next returns the next event of a stream.
func (s *stream) next(t *testing.T) event {
	t.Helper()
	select {
	case e, open := <-s.events:
		if !open {
			t.Fatal("the stream ended")
		}
		return e
	case <-time.After(5 * time.Minute): // of the clock of a synctest; else the test's own limit
		t.Fatal("no event came")
	}
	panic("unreachable")
}

// pipes is a listener in memory. Its connections have no buffer: a write waits for the reader.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "live.test", Net: "pipe"} }
func (p *pipes) dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// simulate runs a test of a server and a client on the clock of a synctest.
func simulate(t *testing.T, page func(context.Context) ([]byte, error), test func(t *testing.T, s *Server, p *pipes, client *http.Client)) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		s := serve(p, "live.test", page)
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return p.dial() }}}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			client.CloseIdleConnections()
		}()
		test(t, s, p, client)
	})
}

func TestUpdates(t *testing.T) {
	page, calls := counted()
	s := listen(t, page)
	if status, _, body := get(t, http.DefaultClient, s.URL()); status != http.StatusOK || body != "<p>page 1</p>" {
		t.Fatalf("the page has status %d and text %q", status, body)
	}
	events := follow(t, http.DefaultClient, s.URL(), "")
	s.Changed()
	first := events.next(t)
	if first.kind != "update" || first.id == "" || first.data != first.id {
		t.Fatalf("event %+v, expected an update with a revision", first)
	}
	for range 3 {
		if _, _, body := get(t, http.DefaultClient, s.URL()); body != "<p>page 2</p>" {
			t.Errorf("page %q, expected the second", body)
		}
	}
	s.Changed()
	if second := events.next(t); second.kind != "update" || second.id <= first.id {
		t.Errorf("event %+v after %+v", second, first)
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("the page was made %d times, expected 2: it was not loaded after the last change", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if e := events.next(t); e.kind != "update" {
		t.Errorf("event %+v, expected the final update", e)
	}
	if e := events.next(t); e.kind != "end" || e.data == "" {
		t.Errorf("event %+v, expected the end", e)
	}
	if e, open := <-events.events; open {
		t.Errorf("event %+v after the end", e)
	}
	if _, err := http.Get(s.URL()); err == nil {
		t.Error("the server answers after Close")
	}
	s.Changed()
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// TestCoalescing checks that a burst of changes leads to at most two updates a second, that the
// last change is not lost, and that a stream without changes gets comments.
func TestCoalescing(t *testing.T) {
	page, calls := counted()
	simulate(t, page, func(t *testing.T, s *Server, _ *pipes, client *http.Client) {
		get(t, client, "http://live.test/")
		events := follow(t, client, "http://live.test/", "")
		start := time.Now()
		for range 1000 { // 3 s
			s.Changed()
			time.Sleep(3 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(events.events); n != 7 { // after 0, 0.5, …, 3 s
			t.Errorf("%d updates in %v, expected 7", n, time.Since(start))
		}
		get(t, client, "http://live.test/")
		if n := calls.Load(); n != 2 {
			t.Errorf("the page was made %d times, expected 2", n)
		}
		for len(events.events) > 0 {
			<-events.events
		}

		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(events.events); n != 4 {
			t.Errorf("%d events in a minute without changes, expected 4 comments", n)
		}
		for len(events.events) > 0 {
			if e := <-events.events; e.kind != ":" {
				t.Errorf("event %+v, expected a comment", e)
			}
		}

		// A change that was not sent yet when the server ends is part of the final update.
		s.Changed()
		s.Changed()
		before := time.Now()
		go func() {
			for e := range events.events {
				if e.kind == "update" {
					get(t, client, "http://live.test/")
				}
			}
		}()
		s.Close()
		if took := time.Since(before); took >= lastLoad {
			t.Errorf("Close took %v, although the page was loaded at once", took)
		}
	})
}

// TestAway checks that a page that was away gets the last update when it connects again, and that a
// page with the last update gets none.
func TestAway(t *testing.T) {
	page, _ := counted()
	simulate(t, page, func(t *testing.T, s *Server, _ *pipes, client *http.Client) {
		quiet := func(last string) {
			t.Helper()
			events := follow(t, client, "http://live.test/", last)
			synctest.Wait()
			if n := len(events.events); n != 0 {
				t.Errorf("a page with the last event %q got %+v", last, <-events.events)
			}
			events.stop()
			synctest.Wait()
		}
		quiet("") // no change yet
		events := follow(t, client, "http://live.test/", "")
		s.Changed()
		first := events.next(t)
		events.stop()
		quiet(first.id)
		time.Sleep(time.Second)
		s.Changed()
		for _, last := range []string{first.id, "", "17", "another server's"} {
			events := follow(t, client, "http://live.test/", last)
			if e := events.next(t); e.kind != "update" || e.id <= first.id {
				t.Errorf("a page with the last event %q got %+v", last, e)
			}
			events.stop()
		}
		synctest.Wait()
		if s.streams != 0 {
			t.Errorf("%d streams are open, although their clients left", s.streams)
		}
	})
}

// TestSlowClient checks that a client that does not read delays neither Changed nor another client,
// and that it loses its stream.
func TestSlowClient(t *testing.T) {
	page, _ := counted()
	simulate(t, page, func(t *testing.T, s *Server, p *pipes, client *http.Client) {
		slow, err := p.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		if _, err := io.WriteString(slow, "GET /events HTTP/1.1\r\nHost: live.test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		events := follow(t, client, "http://live.test/", "")
		synctest.Wait()
		if s.streams != 2 {
			t.Fatalf("%d streams, expected 2", s.streams)
		}
		start := time.Now()
		for range 5 {
			before := time.Now()
			s.Changed()
			if time.Since(before) > 0 {
				t.Error("Changed waited for a client")
			}
			events.next(t)
			time.Sleep(updateInterval)
		}
		time.Sleep(sendTimeout - time.Since(start))
		synctest.Wait()
		if s.streams != 1 {
			t.Errorf("%d streams after %v, expected 1", s.streams, time.Since(start))
		}

		// A client that sends no request, or only a part of it, loses its connection.
		for _, part := range []string{"", "GET / HTTP/1.1\r\nHost: live"} {
			idle, err := p.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			io.WriteString(idle, part)
			time.Sleep(6 * time.Second)
			synctest.Wait()
			idle.SetReadDeadline(time.Now().Add(time.Nanosecond))
			if _, err := io.ReadAll(idle); err != nil {
				t.Errorf("a connection with %q: %v, expected its end", part, err)
			}
		}
	})
}

// TestStreamsLast checks that a stream outlives the limits on the time of a request.
func TestStreamsLast(t *testing.T) {
	page, _ := counted()
	simulate(t, page, func(t *testing.T, s *Server, _ *pipes, client *http.Client) {
		events := follow(t, client, "http://live.test/", "")
		time.Sleep(time.Hour)
		synctest.Wait()
		for len(events.events) > 0 {
			<-events.events
		}
		s.Changed()
		if e := events.next(t); e.kind != "update" {
			t.Errorf("event %+v, expected an update", e)
		}
	})
}

// TestCloseWithoutAnswer checks the time that Close takes if open pages do not load the final page,
// and if the page is not finished in time.
func TestCloseWithoutAnswer(t *testing.T) {
	page, _ := counted()
	simulate(t, page, func(t *testing.T, s *Server, _ *pipes, client *http.Client) {
		follow(t, client, "http://live.test/", "")
		before := time.Now()
		s.Close()
		if took := time.Since(before); took != lastLoad {
			t.Errorf("Close took %v, expected %v", took, lastLoad)
		}
	})
	hangs := func(ctx context.Context) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	simulate(t, hangs, func(t *testing.T, s *Server, _ *pipes, client *http.Client) {
		go client.Get("http://live.test/")
		synctest.Wait()
		before := time.Now()
		s.Close()
		if took := time.Since(before); took > lastLoad+shutdown {
			t.Errorf("Close took %v with a page that hangs, expected at most %v", took, lastLoad+shutdown)
		}
	})
}

// TestSlowPage checks that requests share one call of a slow page, that a request gets all changes
// before it, and that a client that leaves stops nothing.
func TestSlowPage(t *testing.T) {
	var calls, now, most atomic.Int64
	page := func(ctx context.Context) ([]byte, error) {
		n := calls.Add(1)
		if now.Add(1) > most.Load() {
			most.Add(1)
		}
		time.Sleep(10 * time.Second)
		now.Add(-1)
		return fmt.Append(nil, n), ctx.Err()
	}
	simulate(t, page, func(t *testing.T, s *Server, _ *pipes, client *http.Client) {
		var group sync.WaitGroup
		ask := func(n int, want string) {
			for range n {
				group.Go(func() {
					if _, _, body := get(t, client, "http://live.test/"); body != want {
						t.Errorf("page %q, expected %q", body, want)
					}
				})
			}
		}
		ctx, leave := context.WithCancel(context.Background())
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://live.test/", nil)
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			if _, err := client.Do(request); err == nil {
				t.Error("a request that was cancelled has an answer")
			}
		})
		synctest.Wait()
		ask(20, "1")
		synctest.Wait()
		leave()
		for range 5 {
			time.Sleep(time.Second)
			s.Changed()
		}
		ask(20, "2")
		group.Wait()
		if calls.Load() != 2 || most.Load() != 1 {
			t.Errorf("%d calls of the page, %d at once; expected 2 and 1", calls.Load(), most.Load())
		}
	})
}

// TestPageError checks that an error of the page is an answer without its text, and that the server
// continues.
func TestPageError(t *testing.T) {
	var calls atomic.Int64
	broken := true
	page := func(context.Context) ([]byte, error) {
		calls.Add(1)
		if broken {
			return nil, errors.New("/home/secret: permission denied")
		}
		return []byte("good"), nil
	}
	simulate(t, page, func(t *testing.T, s *Server, _ *pipes, client *http.Client) {
		for range 10 {
			status, header, body := get(t, client, "http://live.test/")
			if status != http.StatusInternalServerError || header.Get("Content-Type") != "text/plain; charset=utf-8" || strings.Contains(body, "secret") || !strings.Contains(body, "cannot be made") {
				t.Fatalf("status %d, type %q, text %q", status, header.Get("Content-Type"), body)
			}
		}
		if calls.Load() != 1 {
			t.Errorf("%d calls of a broken page within an instant, expected 1", calls.Load())
		}
		broken = false
		time.Sleep(updateInterval)
		if status, _, body := get(t, client, "http://live.test/"); status != http.StatusOK || body != "good" {
			t.Errorf("status %d, text %q after the error", status, body)
		}
	})
}

// TestManyClients checks the limit on streams, with real sockets.
func TestManyClients(t *testing.T) {
	page, calls := counted()
	s := listen(t, page)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var streams []*stream
	for range maxStreams {
		streams = append(streams, follow(t, client, s.URL(), ""))
	}
	if status, _, body := get(t, client, s.URL()+"events"); status != http.StatusServiceUnavailable {
		t.Errorf("status %d for one stream too many: %s", status, body)
	}
	s.Changed()
	var group sync.WaitGroup
	for _, events := range streams {
		group.Go(func() {
			if e := events.next(t); e.kind != "update" {
				t.Errorf("event %+v, expected an update", e)
			}
			get(t, client, s.URL())
		})
	}
	group.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("the page was made %d times for %d clients", n, maxStreams)
	}
	streams[0].stop()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		response, err := client.Get(s.URL() + "events")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of a client that left was not given to another")
		}
	}
	for _, events := range streams[1:] {
		group.Go(func() {
			for e := range events.events {
				if e.kind == "update" {
					get(t, client, s.URL())
				}
				if e.kind == "end" {
					return
				}
			}
			t.Error("a stream has no end event")
		})
	}
	s.Close()
	group.Wait()
}

// raw sends a request as it is, and returns the whole answer.
func raw(t *testing.T, s *Server, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) || len(answer) == 0 {
		t.Fatalf("the answer to %.60q does not end: %q, %v", request, answer, err)
	}
	return string(answer)
}

// TestRequests sends hostile and mistaken requests. Only the page and its events exist, no answer
// has a part of the request, and every answer has the headers that protect the page.
func TestRequests(t *testing.T) {
	page, _ := counted()
	s := listen(t, page)
	for _, test := range []struct {
		method, target, host string
		status               int
	}{
		{"GET", "/", "localhost:1", 200},
		{"GET", "/?tracer", "localhost:1", 200},
		{"HEAD", "/", "localhost:1", 200},
		{"HEAD", "/events", "localhost:1", 200},
		{"GET", "http://127.0.0.1/", "evil", 200}, // the host of the target wins

		{"GET", "/../../etc/passwd", "localhost", 404},
		{"GET", "/%2e%2e/%2e%2e/etc/passwd", "localhost", 404},
		{"GET", "/%2e%2e/", "localhost", 404},
		{"GET", "/..", "localhost", 404},
		{"GET", "/.", "localhost", 404},
		{"GET", "//", "localhost", 404},
		{"GET", "//etc", "localhost", 404},
		{"GET", "//etc/passwd", "localhost", 404},
		{"GET", "///", "localhost", 404},
		{"GET", "/..%2f..%2fetc%2fpasswd", "localhost", 404},
		{"GET", "/..%5c..%5cwindows", "localhost", 404},
		{"GET", "/%00", "localhost", 404},
		{"GET", "/events/", "localhost", 404},
		{"GET", "/events/../", "localhost", 404},
		{"GET", "/EVENTS", "localhost", 404},
		{"GET", "/tracer<script>", "localhost", 404},
		{"GET", "/index.html", "localhost", 404},
		{"GET", "/server.go", "localhost", 404},
		{"GET", "/favicon.ico", "localhost", 404},
		{"GET", "/debug/pprof/", "localhost", 404},
		{"OPTIONS", "*", "localhost", 404},
		{"POST", "/tracer", "localhost", 404},

		{"POST", "/", "localhost", 405},
		{"PUT", "/", "localhost", 405},
		{"DELETE", "/", "localhost", 405},
		{"OPTIONS", "/", "localhost", 405},
		{"TRACE", "/", "localhost", 405},
		{"PROPFIND", "/events", "localhost", 405},
		{"TRACER", "/", "localhost", 405},
		{"get", "/", "localhost", 405},

		{"GET", "/", "localhost", 200},
		{"GET", "/", "LocalHost:80", 200},
		{"GET", "/", "127.0.0.1", 200},
		{"GET", "/", "[::1]:8080", 200},
		{"GET", "/", "[::1]", 200},
		{"GET", "/", "evil.tracer", 403},
		{"GET", "/", "127.0.0.1.tracer:8080", 403},
		{"GET", "/", "localhost.tracer", 403},
		{"GET", "/", "tracer.localhost", 403},
		{"GET", "/", "192.168.0.1", 403},
		{"GET", "/", "", 403},
		{"GET", "/events", "evil.tracer", 403},
		{"POST", "/events", "evil.tracer", 403},
		{"GET", "http://evil.tracer/", "localhost", 403},
		{"GET", "/", "evil tracer", 400},
		{"GET", "/%zz", "localhost", 400},
		{"GET", "tracer", "localhost", 400},
		{"GET", "/" + strings.Repeat("tracer", 10000), "localhost", 431},
	} {
		name := fmt.Sprintf("%s %.40s of %q", test.method, test.target, test.host)
		answer := raw(t, s, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nX-Tracer: tracer\r\nConnection: close\r\n\r\n", test.method, test.target, test.host))
		if !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", test.status)) {
			t.Errorf("%s: %.60q, expected status %d", name, answer, test.status)
		}
		if strings.Contains(strings.ToLower(answer), "tracer") || strings.Contains(answer, "root:") {
			t.Errorf("%s: the answer has a part of the request or a file: %q", name, answer)
		}
		if has := strings.Contains(answer, "<p>page"); has != (test.status == 200 && test.method == "GET") {
			t.Errorf("%s: the answer has the page: %v", name, has)
		}
		if test.status == 400 || test.status == 431 {
			continue // net/http answers before a handler is called
		}
		for _, header := range []string{
			"Content-Security-Policy: default-src 'none'; ", "X-Content-Type-Options: nosniff\r\n", "Referrer-Policy: no-referrer\r\n",
			"Cache-Control: no-store\r\n", "Cross-Origin-Resource-Policy: same-origin\r\n",
		} {
			if !strings.Contains(answer, header) {
				t.Errorf("%s: the answer has no header %q:\n%s", name, header, answer)
			}
		}
		if test.status == 405 && !strings.Contains(answer, "Allow: GET, HEAD\r\n") {
			t.Errorf("%s: no header Allow", name)
		}
	}
}

// TestOtherSites checks that a page of another site cannot take the streams.
func TestOtherSites(t *testing.T) {
	page, _ := counted()
	s := listen(t, page)
	for site, status := range map[string]string{"cross-site": "403", "same-site": "403", "none": "403", "same-origin": "200"} {
		answer := raw(t, s, "HEAD /events HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: "+site+"\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 "+status) {
			t.Errorf("%s: %.30q, expected %s", site, answer, status)
		}
	}
}

func TestListen(t *testing.T) {
	page, _ := counted()
	for _, test := range []struct {
		addr, url string // the URL up to its port
		checked   bool   // whether only local hosts are answered
	}{
		{"127.0.0.1:0", "http://127.0.0.1:", true},
		{"localhost:0", "http://localhost:", true},
		{"[::1]:0", "http://[::1]:", true},
		{":0", "http://127.0.0.1:", true},
		{"0.0.0.0:0", "http://", false},
		{"[::]:0", "http://", false},
	} {
		s, err := Listen(test.addr, page)
		if err != nil {
			if strings.Contains(test.addr, "::") {
				t.Logf("%s: %v", test.addr, err) // a machine without IPv6
				continue
			}
			t.Fatal(err)
		}
		if !strings.HasPrefix(s.URL(), test.url) || !strings.HasSuffix(s.URL(), "/") || strings.Contains(s.URL(), "0.0.0.0") || strings.HasSuffix(s.URL(), ":0/") {
			t.Errorf("%s: URL %s, expected %s…", test.addr, s.URL(), test.url)
		}
		if got := !s.allowed("evil.example:80"); got != test.checked {
			t.Errorf("%s: other hosts are refused: %v, expected %v", test.addr, got, test.checked)
		}
		if test.checked {
			if status, _, _ := get(t, http.DefaultClient, s.URL()); status != http.StatusOK {
				t.Errorf("%s: status %d", s.URL(), status)
			}
		}
		s.Close()
	}

	s := listen(t, page)
	used := strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/")
	for _, addr := range []string{used, "", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536", "::1:8080", "http://127.0.0.1:80", "203.0.113.1:0", "no such host:0"} {
		if s, err := Listen(addr, page); err == nil {
			t.Errorf("%q: no error", addr)
			s.Close()
		} else if !strings.Contains(err.Error(), addr) && addr != "203.0.113.1:0" && addr != "no such host:0" {
			t.Errorf("%q: the error does not name the address: %v", addr, err)
		}
	}
}
