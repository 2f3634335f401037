package spt_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDrawing compares the drawing of the house in docs/architecture.md with the table of imports:
// a package that is drawn may import only packages that are drawn on a floor below its own.
func TestDrawing(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, drawing, found := strings.Cut(string(text), "\n\n    cmd/spt\n")
	drawing, _, ended := strings.Cut("cmd/spt\n"+drawing, "\n\n")
	if !found || !ended {
		t.Fatal("docs/architecture.md has no drawing that begins with cmd/spt")
	}
	floors := map[string]int{}
	lines := strings.Split(drawing, "\n")
	for i, line := range lines {
		for _, name := range regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(line), -1) {
			name = strings.Replace(strings.TrimSuffix(name, " (root)"), "…", "...", 1)
			if name == "spt" {
				name = ""
			}
			if place(name) < 0 {
				t.Errorf("the drawing has %q, which is not in the table of imports; remove it", name)
			}
			floors[name] = len(lines) - i
		}
	}
	for _, row := range imports {
		floor, drawn := floors[row.name]
		for _, name := range row.may {
			if below := floors[name]; drawn && name != row.name && (below == 0 || below >= floor) {
				t.Errorf("%q may import %q, which is not drawn below it; change the drawing in docs/architecture.md", row.name, name)
			}
		}
	}
}

// TestDocumentedPaths checks that the files that the documents name exist. NAME stands for a name
// to be chosen.
func TestDocumentedPaths(t *testing.T) {
	documents, err := filepath.Glob(filepath.Join("docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	span := regexp.MustCompile("`([\\w.-]+/[\\w./-]+\\.(go|py|sh|c))`")
	for _, document := range slices.Concat(documents, []string{"README.md"}) {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range span.FindAllStringSubmatch(string(text), -1) {
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
