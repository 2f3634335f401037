package browsertest

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

//go:embed checks.js
var checks string

// check returns the problems that a function of checks.js finds.
func (p *tab) check(t *testing.T, call string, arguments ...any) []string {
	t.Helper()
	return get(t, p, chromedp.Evaluate[[]string](checks+"."+fmt.Sprintf(call, arguments...)))
}

// checkAll makes all checks of a page that was opened with open, except those of its content.
func (p *tab) checkAll(t *testing.T) {
	t.Helper()
	p.expand(t)
	report(t, "resources", p.check(t, "resources()"))
	report(t, "images", p.images(t))
	p.screenshots(t)
	for _, width := range widths {
		p.window(t, width, width < 500)
		report(t, "width", p.check(t, "overflow(%d)", width))
	}
	for _, scheme := range []string{"light", "dark"} {
		p.colourScheme(t, scheme)
		report(t, scheme+" mode", p.check(t, "contrast(%v)", scheme == "dark"))
	}
	p.colourScheme(t, "light")
	report(t, "print", p.print(t))
	report(t, "sorting", p.sorting(t))
	report(t, "policy", policy(t, p.url))
}

// widths are the widths of the windows in which pages are checked, in CSS pixels.
var widths = []int64{360, 800, 1400}

// expand opens everything in the page that can be folded.
func (p *tab) expand(t *testing.T) {
	t.Helper()
	p.do(t, chromedp.Evaluate[chromedp.Void](checks+".expand()"))
}

// colourScheme sets the colour scheme that the reader prefers: light or dark.
func (p *tab) colourScheme(t *testing.T, scheme string) {
	t.Helper()
	p.do(t, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	}))
}

// images checks that each drawing has a name for screen readers or is hidden from them.
func (p *tab) images(t *testing.T) []string {
	t.Helper()
	problems := p.check(t, "images()")
	p.do(t, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		document, err := cdp.Call(ctx, target, dom.GetDocument, dom.GetDocumentParams{})
		if err != nil {
			return err
		}
		found, err := cdp.Call(ctx, target, dom.QuerySelectorAll, dom.QuerySelectorAllParams{NodeID: document.Root.NodeID, Selector: "svg[role=img]"})
		if err != nil {
			return err
		}
		alone := false
		for i, id := range found.NodeIDs {
			tree, err := cdp.Call(ctx, target, accessibility.GetPartialAXTree, accessibility.GetPartialAXTreeParams{NodeID: id, FetchRelatives: &alone})
			if err != nil {
				return err
			}
			if len(tree.Nodes) == 0 || tree.Nodes[0].Ignored || tree.Nodes[0].Name == nil || strings.Trim(string(tree.Nodes[0].Name.Value), `" `) == "" {
				problems = append(problems, fmt.Sprintf("image %d of %d has no accessible name", i+1, len(found.NodeIDs)))
			}
		}
		return nil
	}))
	return problems
}

// column is the sorting of a column of a table, see checks.js.
type column struct {
	Name       string   `json:"name"`
	Values     []string `json:"values"`
	Distinct   int      `json:"distinct"`
	Ascending  bool     `json:"ascending"`
	Descending bool     `json:"descending"`
	Announced  string   `json:"announced"`
	Together   bool     `json:"together"`
	Rows       []string `json:"rows"`
}

// sorting sorts each table with the class sortable by each of its columns, with the mouse and with
// the Enter key: first ascending, then descending. The order is that of the attributes data-value
// of the cells, or of their texts. The header announces it to screen readers in aria-sort.
func (p *tab) sorting(t *testing.T) (problems []string) {
	t.Helper()
	for table, columns := range get(t, p, chromedp.Evaluate[[]int](checks+".tables()")) {
		if columns == 0 {
			problems = append(problems, fmt.Sprintf("sortable table %d has no header", table+1))
		}
		for i := range columns {
			state := func() column {
				return get(t, p, chromedp.Evaluate[column](fmt.Sprintf("%s.column(%d, %d)", checks, table, i)))
			}
			before := state()
			for step, device := range []string{"mouse", "mouse", "keyboard", "keyboard"} {
				order := []string{"ascending", "descending"}[step%2]
				wrong := func(format string, arguments ...any) {
					problems = append(problems, fmt.Sprintf("table %d, column %q, %s with the %s: ", table+1, before.Name, order, device)+fmt.Sprintf(format, arguments...))
				}
				point := get(t, p, chromedp.Evaluate[[]float64](fmt.Sprintf("%s.aim(%d, %d, %v)", checks, table, i, device == "keyboard")))
				switch {
				case len(point) == 0:
					wrong("the header cannot be reached")
					continue
				case device == "keyboard":
					p.do(t, chromedp.KeyEvent(kb.Enter))
				default:
					p.do(t, chromedp.MouseClickXY(point[0], point[1]))
				}
				after := state()
				if order == "ascending" && !after.Ascending || order == "descending" && !after.Descending {
					wrong("the order is %q", after.Values)
				}
				if after.Announced != order {
					wrong("the header has aria-sort=%q", after.Announced)
				}
				if !after.Together {
					wrong("cells without a value are between others: %q", after.Values)
				}
				if !slices.Equal(after.Rows, before.Rows) {
					wrong("the rows are not those of before")
				}
			}
		}
	}
	return problems
}

// print prints a page to PDF and checks that the file has pages with text.
func (p *tab) print(t *testing.T) (problems []string) {
	t.Helper()
	pdf := get(t, p, chromedp.PrintToPDF(chromedp.PDFPaper(chromedp.PaperA4)))
	pages := len(regexp.MustCompile(`/Type\s*/Page\b`).FindAll(pdf, -1))
	fonts := len(regexp.MustCompile(`/Type\s*/Font\b`).FindAll(pdf, -1))
	if !strings.HasPrefix(string(pdf), "%PDF-") || pages == 0 || fonts == 0 {
		problems = append(problems, fmt.Sprintf("a file of %d bytes with %d pages and %d fonts", len(pdf), pages, fonts))
	}
	t.Logf("printed: %d pages, %d bytes", pages, len(pdf))
	p.save(t, "print.pdf", pdf)
	return problems
}

// screenshots saves pictures of the whole page.
func (p *tab) screenshots(t *testing.T) {
	t.Helper()
	if os.Getenv("SPT_SCREENSHOTS") == "" {
		return
	}
	for _, scheme := range []string{"light", "dark"} {
		p.colourScheme(t, scheme)
		for _, width := range widths {
			p.window(t, width, width < 500)
			p.save(t, fmt.Sprintf("%d-%s.png", width, scheme), get(t, p, chromedp.FullScreenshot(100)))
		}
	}
}

// save writes a file about the page of a test into the folder for screenshots, if there is one.
func (p *tab) save(t *testing.T, name string, content []byte) {
	t.Helper()
	folder := os.Getenv("SPT_SCREENSHOTS")
	if folder == "" {
		return
	}
	path := filepath.Join(folder, strings.ReplaceAll(t.Name(), "/", "-")+"-"+name)
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
}

// policy checks that a page refuses scripts that are not its own: an inline script, a handler in an
// attribute and a javascript: link that are put into the page do not run.
func policy(t *testing.T, address string) (problems []string) {
	t.Helper()
	p := visit(t, address) // a second page, because refused scripts are errors
	ran := evaluate[[]string](t, p, `new Promise(resolve => {
		window.ran = [];
		const add = (name, attributes) => document.body.append(Object.assign(document.createElement(name), attributes));
		add("script", {textContent: "window.ran.push('an inline script')"});
		document.body.insertAdjacentHTML("beforeend", "<img src='data:,' alt='' onerror='window.ran.push(\"a handler\")'>");
		const link = Object.assign(document.createElement("a"), {href: "javascript:void window.ran.push('a link')"});
		document.body.append(link);
		link.click();
		setTimeout(() => resolve(window.ran), 200);
	})`)
	for _, script := range ran {
		problems = append(problems, script+" that is not of the page runs; give the page a Content-Security-Policy with the hash of its script")
	}
	return problems
}
