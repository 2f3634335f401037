package spt_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
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
