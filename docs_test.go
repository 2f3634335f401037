package spt_test

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/sweep"
)

// TestDrawing compares the diagram of the packages in docs/architecture.md with the table of
// imports. A package in the diagram may import only packages on a lower line.
func TestDrawing(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, diagram, found := strings.Cut(string(text), "\n\n    cmd/spt\n")
	diagram, _, ended := strings.Cut("cmd/spt\n"+diagram, "\n\n")
	if !found || !ended {
		t.Fatal("docs/architecture.md has no diagram that begins with cmd/spt")
	}
	heights := map[string]int{}
	lines := strings.Split(diagram, "\n")
	for i, line := range lines {
		for _, name := range regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(line), -1) {
			name = strings.Replace(strings.TrimSuffix(name, " (root)"), "…", "...", 1)
			if name == "spt" {
				name = ""
			}
			if place(name) < 0 {
				t.Errorf("the diagram in docs/architecture.md has %q, which is not in the table of imports; remove it", name)
			}
			heights[name] = len(lines) - i
		}
	}
	for _, row := range imports {
		height, drawn := heights[row.name]
		for _, name := range row.may {
			if below := heights[name]; drawn && name != row.name && (below == 0 || below >= height) {
				t.Errorf("package %q may import %q, which is not below it in the diagram; change the diagram in docs/architecture.md", row.name, name)
			}
		}
	}
}

// TestDocumentedPaths checks that the files that the documents name exist. It skips paths with
// NAME, which stands for any name.
func TestDocumentedPaths(t *testing.T) {
	span := regexp.MustCompile("`([\\w.-]+/[\\w./-]+\\.(go|py|sh|c))`")
	for _, document := range documents(t) {
		for _, match := range span.FindAllStringSubmatch(readDocument(t, document), -1) {
			path := match[1]
			if strings.Contains(path, "NAME") {
				continue
			}
			if _, err := os.Stat(filepath.FromSlash(path)); err != nil {
				t.Errorf("%s names the file %s, which does not exist; correct the document", document, path)
			}
		}
	}
}

// TestLinks checks that the relative links in the documents lead to files that exist, and to
// headings that exist.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^()\s]+)\)`)
	for _, document := range documents(t) {
		text := readDocument(t, document)
		for _, match := range link.FindAllStringSubmatch(withoutCode(text), -1) {
			if regexp.MustCompile(`^[a-z]+:`).MatchString(match[1]) {
				continue // another site
			}
			path, anchor, _ := strings.Cut(match[1], "#")
			target := document
			if path != "" {
				target = filepath.Join(filepath.Dir(document), filepath.FromSlash(path))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which does not exist", document, match[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(readDocument(t, target)), anchor) {
				t.Errorf("%s links to %s, but %s has no such heading", document, match[1], target)
			}
		}
	}
}

// documents returns the paths of all Markdown files.
func documents(t *testing.T) []string {
	var paths []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func readDocument(t *testing.T, path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// withoutCode returns a document without its blocks and spans of code.
func withoutCode(text string) string {
	text = regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
	return regexp.MustCompile("`[^`\n]*`").ReplaceAllString(text, "")
}

// anchors returns the anchors of the headings of a document, as GitHub makes them.
func anchors(text string) (out []string) {
	text = regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
	for _, match := range regexp.MustCompile(`(?m)^#+ +(.+?) *$`).FindAllStringSubmatch(text, -1) {
		heading := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(match[1], "$1")
		heading = regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(heading), "")
		anchor := strings.ReplaceAll(heading, " ", "-")
		name := anchor
		for n := 1; slices.Contains(out, name); n++ {
			name = fmt.Sprintf("%s-%d", anchor, n)
		}
		out = append(out, name)
	}
	return out
}

// TestGoBlocks checks that the Go code in README.md is part of a program in examples, which CI
// runs.
func TestGoBlocks(t *testing.T) {
	programs, err := filepath.Glob(filepath.Join("examples", "*", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	var code []string // the lines of each program without indentation
	for _, program := range programs {
		code = append(code, unindented(readDocument(t, program)))
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(readDocument(t, "README.md"), -1)
	if len(blocks) == 0 {
		t.Error("README.md has no Go code")
	}
	for _, block := range blocks {
		if !slices.ContainsFunc(code, func(c string) bool { return strings.Contains(c, unindented(block[1])) }) {
			t.Errorf("README.md has Go code that no program in examples has:\n%s", block[1])
		}
	}
}

// unindented returns a text without the space at the beginning and the end of its lines.
func unindented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
	return b.String()
}

// TestFuzzTargets checks that SECURITY.md lists the fuzz targets of each package, and no others.
func TestFuzzTargets(t *testing.T) {
	targets := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(path))
		for _, match := range regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`).FindAllSubmatch(text, -1) {
			targets[pkg] = append(targets[pkg], "`"+string(match[1])+"`")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(readDocument(t, "SECURITY.md"), "\n## Fuzz targets\n")
	for pkg, names := range targets {
		slices.Sort(names)
		if row := fmt.Sprintf("\n| `%s` | %s |\n", pkg, strings.Join(names, ", ")); !strings.Contains(section, row) {
			t.Errorf("the table of fuzz targets in SECURITY.md lacks this row:%s", row)
		}
	}
	if got := strings.Count(section, "\n| `"); got != len(targets) {
		t.Errorf("the table of fuzz targets in SECURITY.md has %d rows, want %d", got, len(targets))
	}
}

// updateTables rewrites the tables of TestTables.
var updateTables = flag.Bool("update-tables", false, "write the tables of results in the documents again")

// resultTable matches a table of results in a document, after the command that makes it.
var resultTable = regexp.MustCompile(`(?s)(<!-- spt table ([^\n]+) --format markdown -->\n)(.*?)(<!-- end of table -->)`)

// TestTables compares the tables of results in the documents with the results, docs/results. With
// -update-tables it writes the tables again.
func TestTables(t *testing.T) {
	tables := 0
	for _, document := range documents(t) {
		text := readDocument(t, document)
		updated := resultTable.ReplaceAllStringFunc(text, func(found string) string {
			tables++
			part := resultTable.FindStringSubmatch(found)
			made, err := makeTable(strings.Fields(part[2]))
			if err != nil {
				t.Fatalf("%s: %v", document, err)
			}
			return part[1] + made + part[4]
		})
		if updated == text {
			continue
		}
		if !*updateTables {
			t.Errorf("a table in %s differs from its results; write the tables again with: go test . -run TestTables -update-tables", document)
			continue
		}
		if err := os.WriteFile(document, []byte(updated), 0o666); err != nil {
			t.Error(err)
		}
	}
	if tables == 0 {
		t.Error("no document has a table of results")
	}
}

// makeTable returns the output of 'spt table' with these arguments and --format markdown.
func makeTable(arguments []string) (string, error) {
	var rows []sweep.Row
	var o sweep.TableOptions
	for i := 0; i < len(arguments); i++ {
		switch arguments[i] {
		case "--baseline":
			i++
			o.Baseline = arguments[i]
		case "--where":
			i++
			if err := o.Where.Allow(arguments[i]); err != nil {
				return "", err
			}
		default:
			more, err := sweep.ReadCSV(filepath.FromSlash(arguments[i]))
			if err != nil {
				return "", err
			}
			rows = append(rows, more...)
		}
	}
	table, err := sweep.NewTable(rows, o)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = table.Write(&b, "markdown")
	return b.String(), err
}
