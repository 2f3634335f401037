// Package browsertest checks the pages of spt in a real browser, Chromium. The package is a module
// of its own.
//
// The checks are in checks_test.go and checks.js, the tests of the checks in self_test.go, and the
// tests of spt in report_test.go. All tests are skipped where Chromium is missing. Screenshots of
// the pages are written into the folder that the environment variable SPT_SCREENSHOTS names.
package browsertest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// limit is the time that a step of a test may take.
const limit = 30 * time.Second

// browser is the context of the browser of all tests. Each page has a profile of its own in it.
var browser context.Context

// temporary is a folder for files of all tests.
var temporary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if temporary, err = os.MkdirTemp("", "spt-browser"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(temporary)
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path),
			// No name leads anywhere, so that no request leaves this machine.
			chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
			chromedp.DisableGPU, chromedp.Flag("hide-scrollbars", true), chromedp.Flag("disable-component-update", true))
		if os.Getuid() == 0 {
			options = append(options, chromedp.NoSandbox) // the sandbox refuses to run as root
		}
		allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
		defer stop()
		var cancel context.CancelFunc
		browser, cancel = chromedp.NewContext(allocator)
		defer cancel()
		if err := chromedp.Do(browser); err != nil {
			fmt.Fprintf(os.Stderr, "starting %s: %v\n", path, err)
			return 1
		}
		break
	}
	if folder := os.Getenv("SPT_SCREENSHOTS"); folder != "" {
		if err := os.MkdirAll(folder, 0o777); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// tab is a page that is open in the browser.
type tab struct {
	ctx context.Context
	url string

	mu          sync.Mutex
	requests    []string // what the page asked for, without data in the page itself
	messages    []string // warnings, errors and exceptions
	navigations int      // how often the page was loaded
}

// visit opens the page at a URL, file:// or http://, with a fresh profile. It checks nothing.
func visit(t *testing.T, address string) *tab {
	t.Helper()
	if browser == nil {
		t.Skip("Chromium is not installed")
	}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &tab{ctx: ctx, url: address}
	if err := chromedp.Listen(ctx, p.record); err != nil {
		t.Fatal(err)
	}
	p.window(t, 1400, false)
	p.do(t, chromedp.Navigate(address))
	return p
}

// open is visit for a page that must be good: at the end of the test, the page must have asked for
// nothing but itself and its events, logged no warning and no error, and run no foreign script.
func open(t *testing.T, address string) *tab {
	t.Helper()
	p := visit(t, address)
	t.Cleanup(func() {
		report(t, "behaviour", p.behaviour(t))
	})
	return p
}

// record keeps what the tests need of the events of a page.
func (p *tab) record(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if !strings.HasPrefix(e.Request.URL, "data:") {
			p.requests = append(p.requests, e.Request.URL)
		}
	case *network.EventWebSocketCreated:
		p.requests = append(p.requests, e.URL)
	case *page.EventFrameNavigated:
		if e.Frame.ParentID == "" && e.Frame.URL != "about:blank" {
			p.navigations++
		}
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if thrown := e.ExceptionDetails.Exception; thrown != nil {
			text += " " + thrown.Description
		}
		p.messages = append(p.messages, "exception: "+text)
	case *runtime.EventConsoleAPICalled:
		if e.Type == "warning" || e.Type == "error" || e.Type == "assert" {
			var text strings.Builder
			for _, argument := range e.Args {
				fmt.Fprintf(&text, " %s%s", argument.Value, argument.Description)
			}
			p.messages = append(p.messages, fmt.Sprintf("console, %s:%s", e.Type, &text))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == "warning" || e.Entry.Level == "error" {
			p.messages = append(p.messages, fmt.Sprintf("%s, %s: %s %s", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL))
		}
	}
}

// behaviour returns what a page did and should not have done: requests for anything but itself and
// its events, warnings, errors and exceptions, and scripts from names.
func (p *tab) behaviour(t *testing.T) []string {
	t.Helper()
	hacked := evaluate[bool](t, p, `window.hacked !== undefined`)
	p.mu.Lock()
	defer p.mu.Unlock()
	problems := slices.Clone(p.messages)
	own, _, _ := strings.Cut(p.url, "#")
	for _, request := range p.requests {
		request, _, _ = strings.Cut(request, "#")
		if request != own && !(strings.HasPrefix(own, "http:") && request == own+"events") {
			problems = append(problems, "request for "+request)
		}
	}
	if hacked {
		problems = append(problems, "a script from the text of the page ran")
	}
	return problems
}

// report fails the test if there are problems.
func report(t *testing.T, check string, problems []string) {
	t.Helper()
	for _, problem := range problems {
		t.Errorf("%s: %s", check, problem)
	}
}

// do runs steps in a page.
func (p *tab) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatalf("%s: %v", p.url, err)
	}
}

// get runs a step in a page and returns its result.
func get[T any](t *testing.T, p *tab, step chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	result, err := chromedp.Run(ctx, step)
	if err != nil {
		t.Fatalf("%s: %v", p.url, err)
	}
	return result
}

// evaluate returns the value of an expression of JavaScript in a page.
func evaluate[T any](t *testing.T, p *tab, expression string, arguments ...any) T {
	t.Helper()
	return get(t, p, chromedp.Evaluate[T](fmt.Sprintf(expression, arguments...), chromedp.EvalAwaitPromise))
}

// window sets the width of the window in CSS pixels, of a phone or of a desktop computer.
func (p *tab) window(t *testing.T, width int64, phone bool) {
	t.Helper()
	if phone {
		p.do(t, chromedp.EmulateViewport(width, 800, chromedp.EmulateMobile, chromedp.EmulateTouch))
	} else {
		p.do(t, chromedp.EmulateViewport(width, 800))
	}
}

// fileURL returns the URL of a file.
func fileURL(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String()
}

// textOf returns the text of the first element that a selector finds, or "" without such an
// element.
func (p *tab) textOf(t *testing.T, selector string) string {
	t.Helper()
	return evaluate[string](t, p, `document.querySelector(%q)?.textContent.trim() ?? ""`, selector)
}

// awaitChange waits until the text that a selector finds differs from before, and returns the new
// text. The page must not have been loaded again for this.
func (p *tab) awaitChange(t *testing.T, selector, before string) string {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if text := p.textOf(t, selector); text != before {
			p.checkLoadedOnce(t)
			return text
		}
	}
	t.Fatalf("the text %q of %s did not change within %v; problems of the page: %q", before, selector, limit, p.behaviour(t))
	panic("unreachable")
}

// checkLoadedOnce checks that the page was not loaded again.
func (p *tab) checkLoadedOnce(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.navigations != 1 {
		t.Fatalf("%s was loaded %d times", p.url, p.navigations)
	}
}
