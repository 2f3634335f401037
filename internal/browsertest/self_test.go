package browsertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/sptune/spt/report/live"
)

// sortScript sorts tables as the checks expect.
const sortScript = `
for (const button of document.querySelectorAll("table.sortable th button"))
	button.addEventListener("click", () => {
		const header = button.parentElement, body = header.closest("table").tBodies[0];
		const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
		for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
		header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
		const value = row => row.cells[header.cellIndex].dataset.value ?? row.cells[header.cellIndex].textContent;
		const order = (a, b) => a === "" || b === "" ? (a === "") - (b === "") : sign * (isFinite(a) ? a - b : a.localeCompare(b));
		body.append(...[...body.rows].sort((a, b) => order(value(a), value(b))));
	});
`

// goodPage is a page that passes all checks. Tests replace a part of it by a mistake.
const goodPage = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; script-src 'sha256-HASH'">
<link rel="icon" href="data:,">
<title>A page</title>
<style>
:root { color-scheme: light dark; }
body { color: #222; background: #fff; }
.scroll { overflow-x: auto; }
.dark { fill: #123; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #111; } .muted { color: #aaa; } }
</style>
<main>
<section id="answer"><h2>Answer</h2><p class="muted">Text with a <a href="https://example.com/" style="color: inherit">link</a>.</p><p data-epoch>EPOCH</p></section>
<section id="classes"><h2>Classes</h2>
<div class="scroll"><div style="width: 2000px">wide</div></div>
<svg role="img" aria-label="a bar of 3" width="100" height="20"><rect width="100" height="20" class="dark"/><text x="5" y="15" fill="#fff">3</text></svg>
<svg role="img" width="10" height="10"><title>a square</title><rect width="10" height="10"/></svg>
<svg aria-hidden="true" width="10" height="10"><rect width="10" height="10"/></svg>
<details><summary>More</summary><svg role="img" aria-label="folded" width="10" height="10"></svg></details>
<table class="sortable">
<thead><tr><th><button>class</button></th><th><button>images</button></th><th><button>recall</button></th></tr></thead>
<tbody>
<tr><td>zebra</td><td>9</td><td data-value="0.5">50 %</td></tr>
<tr><td>ant</td><td>10</td><td data-value="">–</td></tr>
<tr><td>Bee</td><td>100</td><td data-value="0.09">9 %</td></tr>
</tbody></table></section>
</main>
<script>SCRIPT</script>
</html>`

// pageWith returns the good page with a replacement.
func pageWith(t *testing.T, old, new string) []byte {
	t.Helper()
	text := strings.Replace(goodPage, "SCRIPT", sortScript, 1)
	if old != "" && !strings.Contains(text, old) {
		t.Fatalf("the good page has no %q", old)
	}
	text = strings.Replace(text, old, new, 1)
	_, script, _ := strings.Cut(text, "<script>")
	script, _, _ = strings.Cut(script, "</script>")
	hash := sha256.Sum256([]byte(script))
	return []byte(strings.Replace(text, "HASH", base64.StdEncoding.EncodeToString(hash[:]), 1))
}

// writePage writes a page into a file and returns its URL.
func writePage(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a page.html")
	if err := os.WriteFile(path, text, 0o666); err != nil {
		t.Fatal(err)
	}
	return fileURL(t, path)
}

func TestGoodPage(t *testing.T) {
	p := open(t, writePage(t, pageWith(t, "", "")))
	report(t, "structure", p.check(t, `structure(["answer", "classes"])`))
	p.checkAll(t)
}

// TestBadPages checks that each check finds a mistake.
func TestBadPages(t *testing.T) {
	behaviour := func(t *testing.T, p *tab) []string {
		time.Sleep(300 * time.Millisecond) // requests begin after the page is loaded
		return p.behaviour(t)
	}
	call := func(format string, arguments ...any) func(*testing.T, *tab) []string {
		return func(t *testing.T, p *tab) []string { return p.check(t, format, arguments...) }
	}
	width := func(width int64) func(*testing.T, *tab) []string {
		return func(t *testing.T, p *tab) []string {
			p.window(t, width, width < 500)
			return p.check(t, "overflow(%d)", width)
		}
	}
	scheme := func(scheme string) func(*testing.T, *tab) []string {
		return func(t *testing.T, p *tab) []string {
			p.colourScheme(t, scheme)
			return p.check(t, "contrast(%v)", scheme == "dark")
		}
	}
	images := func(t *testing.T, p *tab) []string { p.expand(t); return p.images(t) }
	sorting := func(t *testing.T, p *tab) []string { return p.sorting(t) }
	const (
		noPolicy = `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; script-src 'sha256-HASH'">`
		unsafe   = `script-src 'sha256-HASH'`
	)
	for _, test := range []struct {
		name, old, new string
		check          func(*testing.T, *tab) []string
		want           string // a part of the problem
	}{
		{"image from outside", noPolicy, `<img src="http://127.0.0.1:9/a.png">`, behaviour, "request for http://127.0.0.1:9/a.png"},
		{"image by a name", noPolicy, `<img src="https://example.com/a.png">`, behaviour, "request for https://example.com/a.png"},
		{"another file", noPolicy, `<link rel="stylesheet" href="style.css">`, behaviour, "style.css"},
		{"style from outside", noPolicy, `<style>main { background: url(http://127.0.0.1:9/b.png) }</style>`, behaviour, "request for http://127.0.0.1:9/b.png"},
		{"fetch", noPolicy, `<script>fetch("http://127.0.0.1:9/c").catch(() => {})</script>`, behaviour, "request for http://127.0.0.1:9/c"},
		{"socket", noPolicy, `<script>new WebSocket("ws://127.0.0.1:9/d")</script>`, behaviour, "request for ws://127.0.0.1:9/d"},
		{"beacon", noPolicy, `<script>navigator.sendBeacon("http://127.0.0.1:9/e", "")</script>`, behaviour, "request for http://127.0.0.1:9/e"},
		{"refused image", `<link`, `<img src="http://127.0.0.1:9/f.png"><link`, behaviour, "Content Security Policy"},
		{"exception", noPolicy, `<script>undefined.x</script>`, behaviour, "exception"},
		{"rejection", noPolicy, `<script>Promise.reject(new Error("lost"))</script>`, behaviour, "lost"},
		{"warning", noPolicy, `<script>console.warn("careful", 7)</script>`, behaviour, `"careful"`},
		{"foreign script", noPolicy, `<script>window.hacked = 1</script>`, behaviour, "a script from the text of the page ran"},

		{"preconnection", `<link`, `<link rel="preconnect" href="https://example.com"><link`, call("resources()"), `<link> has href="https://example.com"`},
		{"set of images", `<link`, `<img alt="" srcset="a.png 2x"><link`, call("resources()"), `srcset="a.png 2x"`},
		{"base", `<link`, `<base href="https://example.com"><link`, call("resources()"), "<base>"},
		{"image in a drawing", `<text`, `<image href="a.png"/><text`, call("resources()"), `href="a.png"`},

		{"no viewport", `<meta name="viewport" content="width=device-width">`, ``, width(360), "viewport"},
		{"wide on a phone", `class="scroll"`, ``, width(360), "2008 px"},
		{"wide on a screen", `class="scroll"`, ``, width(1400), "2008 px"},
		{"long word", `Text with`, strings.Repeat("x", 300), width(800), `<p.muted>`},
		{"hidden overflow of a part", `<p class="muted">`, `<p style="width: 900px">`, width(800), "ends at 908 px"},

		{"image without a name", `aria-label="a bar of 3"`, ``, images, "image 1 of 3"},
		{"empty name", `a square`, ` `, images, "image 2 of 3"},
		{"folded image", `aria-label="folded"`, ``, images, "image 3 of 3"},
		{"no role", `svg role="img" aria-label="a bar of 3"`, `svg`, images, "neither"},
		{"no alternative", `<p class="muted">`, `<img src="data:,"><p>`, images, "attribute alt"},

		{"missing section", `id="answer"`, `id="other"`, call(`structure(["answer", "classes"])`), "no section answer"},
		{"order of sections", `id="answer"`, `id="answer"`, call(`structure(["classes", "answer"])`), "the order"},
		{"no heading", `<h2>Classes</h2>`, ``, call(`structure([])`), "has no h2"},
		{"hidden section", `id="answer"`, `id="answer" hidden`, call(`structure([])`), "not visible"},
		{"two mains", `</main>`, `</main><main></main>`, call(`structure([])`), "2 elements <main>"},
		{"id twice", `data-epoch`, `id="answer"`, call(`structure([])`), "twice: answer"},
		{"no language", ` lang="en"`, ``, call(`structure([])`), "language"},

		{"pale text", `.scroll`, `.muted { color: #999 } .scroll`, scheme("light"), "<p.muted>"},
		{"pale text by opacity", `.scroll`, `.muted { opacity: 0.4 } .scroll`, scheme("light"), "<p.muted>"},
		{"dark text in dark mode", `.muted { color: #aaa; }`, `.muted { color: #444; }`, scheme("dark"), "<p.muted>"},
		{"no dark mode", `(prefers-color-scheme: dark)`, `(min-width: 1px) and (max-width: 2px)`, scheme("dark"), "luminance"},
		{"drawing in dark mode", `fill="#fff"`, `fill="#234"`, scheme("dark"), "<text>"},
		{"drawing without a background", `class="dark"`, `fill="none"`, scheme("light"), "<text>"},
		{"default colours", `body { color: #ddd; background: #111; }`, `body { color: #222; background: none }`, scheme("dark"), "rgb(18,18,18)"},

		{"no sorting", `addEventListener("click"`, `addEventListener("other"`, sorting, "the order is"},
		{"descending first", `? -1 : 1`, `? 1 : -1`, sorting, "ascending with the mouse"},
		{"order of texts", `isFinite(a) ? a - b : a.localeCompare(b)`, `a.localeCompare(b)`, sorting, `"images"`},
		{"values in the middle", `(a === "") - (b === "")`, `sign * ((a || 0.2) - (b || 0.2))`, sorting, "without a value"},
		{"rows lost", `body.append(`, `body.rows[0].remove(), body.append(`, sorting, "the rows are not those"},
		{"without announcement", `header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending")`, `header.setAttribute("aria-sort", sign)`, sorting, "aria-sort"},
		{"mouse alone", `addEventListener("click"`, `addEventListener("mousedown"`, sorting, "with the keyboard"},
		{"covered headers", `<main>`, `<main><div style="position: fixed; inset: 0"></div>`, sorting, "cannot be reached"},
		{"no focus", `<th><button>class</button>`, `<th>class`, sorting, "cannot be reached"},

		{"nothing printed", `.scroll`, `@media print { body { display: none } } .scroll`, func(t *testing.T, p *tab) []string { return p.print(t) }, "0 fonts"},
		{"all scripts allowed", unsafe, `script-src 'unsafe-inline'`, func(t *testing.T, p *tab) []string { return policy(t, p.url) }, "an inline script"},
		{"no policy", noPolicy, ``, func(t *testing.T, p *tab) []string { return policy(t, p.url) }, "a handler"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := visit(t, writePage(t, pageWith(t, test.old, test.new)))
			if problems := strings.Join(test.check(t, p), "\n"); !strings.Contains(problems, test.want) {
				t.Errorf("the problems are %q, expected %q", problems, test.want)
			}
		})
	}
}

// liveScript follows the events of a live page.
const liveScript = `
const events = new EventSource("events");
events.addEventListener("update", async () => {
	const answer = await fetch("./");
	if (answer.ok)
		document.querySelector("main").innerHTML = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main").innerHTML;
});
events.addEventListener("end", () => { events.close(); document.documentElement.dataset.end = "yes"; });
`

// TestLive follows a page of the live server: it shows each change without being loaded again, also
// the last one, and is quiet after the end.
func TestLive(t *testing.T) {
	if browser == nil {
		t.Skip("Chromium is not installed")
	}
	var epoch atomic.Int64
	text := pageWith(t, "<script>"+sortScript, "<script>"+liveScript)
	server, err := live.Listen("127.0.0.1:0", func(context.Context) ([]byte, error) {
		return bytes.Replace(text, []byte("EPOCH"), fmt.Append(nil, epoch.Load()), 1), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	const selector = "#answer [data-epoch]"
	p, second := open(t, server.URL()), open(t, server.URL())
	shown := p.textOf(t, selector)
	if shown != "0" {
		t.Fatalf("the page shows epoch %q", shown)
	}
	for n := range int64(4) {
		epoch.Store(n + 1)
		server.Changed()
		for _, p := range []*tab{p, second} {
			if got := p.awaitChange(t, selector, shown); got != fmt.Sprint(n+1) {
				t.Errorf("the page shows epoch %q, expected %d", got, n+1)
			}
		}
		shown = fmt.Sprint(n + 1)
	}
	report(t, "policy", policy(t, server.URL()))

	epoch.Store(99) // without Changed: the end sends it
	start := time.Now()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("Close took %v with two open pages", time.Since(start).Round(time.Millisecond))
	for _, p := range []*tab{p, second} {
		if got := p.awaitChange(t, selector, shown); got != "99" {
			t.Errorf("the page shows epoch %q at the end, expected 99", got)
		}
		if evaluate[string](t, p, `document.documentElement.dataset.end ?? ""`) != "yes" {
			t.Error("the page got no end")
		}
	}
	time.Sleep(2500 * time.Millisecond) // a page that connects again does so after 2 s
}

// TestReload checks that awaitChange refuses a page that is loaded again.
func TestReload(t *testing.T) {
	if browser == nil {
		t.Skip("Chromium is not installed")
	}
	var loads atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `<title>x</title><p>%d</p><script>setTimeout(() => location.reload(), 300)</script>`, loads.Add(1))
	}))
	defer server.Close()
	p := visit(t, server.URL+"/")
	for deadline := time.Now().Add(limit); p.textOf(t, "p") == "1" && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	p.do(t, chromedp.Navigate("about:blank")) // stops the reloading
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.navigations < 2 {
		t.Errorf("%d navigations of a page that was loaded %d times", p.navigations, loads.Load())
	}
}
