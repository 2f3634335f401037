package browsertest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sections are the ids of the sections of the report of a run, in their order.
var sections = []string{"answer", "curves", "confusion", "classes", "mistakes", "reliability", "budget", "data", "configuration"}

// checkSections checks the sections of a report.
func (p *tab) checkSections(t *testing.T, ids ...string) {
	t.Helper()
	var quoted []string
	for _, id := range ids {
		quoted = append(quoted, strconv.Quote(id))
	}
	report(t, "structure", p.check(t, "structure([%s])", strings.Join(quoted, ", ")))
}

// checkClasses checks that the table of the classes has a row for each class.
func (p *tab) checkClasses(t *testing.T, n int) {
	t.Helper()
	if rows := evaluate[int](t, p, `document.querySelectorAll("#classes table.sortable tbody tr").length`); rows != n {
		t.Errorf("the table of the classes has %d rows, expected %d", rows, n)
	}
}

func TestReport(t *testing.T) {
	p := openReport(t, tune(t, classFolders(t, 6, 12), "--budget", "0.3%,0.6%"))
	p.checkSections(t, sections...)
	p.checkClasses(t, 6)
	p.checkAll(t)
}

func TestReportWithoutValidation(t *testing.T) {
	p := openReport(t, tune(t, classFolders(t, 6, 12), "--no-validation"))
	p.checkSections(t, sections...)
	p.checkClasses(t, 6)
	p.checkAll(t)
}

func TestReportOfManyClasses(t *testing.T) {
	p := openReport(t, tune(t, classFolders(t, 100, 3), "--epochs", "2"))
	p.checkSections(t, sections...)
	p.checkClasses(t, 100)
	p.checkAll(t)
}

func TestReportOfRuns(t *testing.T) {
	data := classFolders(t, 4, 10)
	p := openReport(t, tune(t, data), tune(t, data, "--method", "linear"), tune(t, data, "--method", "lora", "--seed", "1"))
	p.checkSections(t, "runs")
	if first := evaluate[string](t, p, `document.querySelector("main section[id]").id`); first != "runs" {
		t.Errorf("the first section is %q, expected runs", first)
	}
	p.checkAll(t)
}

func TestReportOfSweep(t *testing.T) {
	folder := t.TempDir()
	specification := filepath.Join(folder, "methods.yaml")
	text := fmt.Sprintf(`
config:
  model: {path: demo}
  tune: {train: {epochs: 3}}
tasks: [{name: "<script>window.hacked=1</script>", data: {path: %q}}, {name: colours, data: {path: %q}}]
methods: [linear, {name: "\"spt\" & <b>co</b>", tune: {method: spt-lora}, select: {lr: [1e-3, 1e-2]}}]
budgets: [0.5%%]
seeds: [0, 1]
`, classFolders(t, 4, 10), classFolders(t, 5, 10))
	if err := os.WriteFile(specification, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	sweep := filepath.Join(folder, "a sweep")
	spt(t, "sweep", "plan", specification, "--out", sweep)
	spt(t, "sweep", "run", sweep)
	p := openReport(t, sweep)
	p.checkSections(t, "sweep")
	if first := evaluate[string](t, p, `document.querySelector("main section[id]").id`); first != "sweep" {
		t.Errorf("the first section is %q, expected sweep", first)
	}
	p.checkAll(t)
}

// TestReportOfHostileNames checks that names of classes, files and folders stay texts, and that
// long names do not break the layout.
func TestReportOfHostileNames(t *testing.T) {
	p := openReport(t, tune(t, hostileTable(t)))
	p.checkSections(t, sections...)
	p.checkClasses(t, len(hostileClasses))
	text := strings.Join(strings.Fields(p.textOf(t, "#classes")), " ")
	for _, name := range hostileClasses {
		name = strings.Join(strings.Fields(name), " ")
		if runes := []rune(name); len(runes) > 100 { // a report may shorten long names
			name = string(runes[:20])
		}
		if !strings.Contains(text, name) {
			t.Errorf("the section of the classes has no text %q", name)
		}
	}
	p.checkAll(t)
}

// TestLiveRun follows a training from its page: the number of finished epochs grows without the
// page being loaded again, the page shows the result at the end, and is quiet after the end.
func TestLiveRun(t *testing.T) {
	const epochs = 30
	run := startLive(t, classFolders(t, 50, 8), "--epochs", fmt.Sprint(epochs))
	p := open(t, run.url)
	const selector = "#answer [data-epoch]"
	seen := []int{epoch(t, p.textOf(t, selector))}
	for len(seen) < 4 {
		seen = append(seen, epoch(t, p.awaitChange(t, selector, fmt.Sprint(seen[len(seen)-1]))))
	}
	if !slices.IsSorted(seen) {
		t.Errorf("the numbers of finished epochs were %v", seen)
	}
	report(t, "resources", p.check(t, "resources()"))
	report(t, "policy", policy(t, run.url))

	select {
	case err := <-run.done:
		run.done <- err
		if err != nil {
			t.Fatalf("spt tune --live: %v\n%s", err, run.out)
		}
	case <-time.After(2 * time.Minute):
		t.Fatalf("the run did not end:\n%s", run.out)
	}
	time.Sleep(2500 * time.Millisecond) // a page that connects again does so after 2 s
	p.checkSections(t, "answer", "curves")
	p.checkLoadedOnce(t)
	report(t, "images", p.images(t))
	report(t, "sorting", p.sorting(t))
	p.screenshots(t)
}

// epoch returns the number of finished epochs that a page shows.
func epoch(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("the text of [data-epoch] in #answer is %q, expected the number of finished epochs", text)
	}
	return n
}
