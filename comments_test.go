package spt_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// Columns of comments. A tab counts as four columns. A line of a paragraph ends between the two,
// unless the next word does not fit or the paragraph ends.
const (
	leastColumns = 80
	mostColumns  = 100
)

// TestCommentWidth checks that comments in Go files fill 80 to 100 columns.
func TestCommentWidth(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, source, parser.ParseComments)
		if err != nil {
			return err
		}
		if ast.IsGenerated(file) {
			return nil
		}
		lines := strings.Split(string(source), "\n")
		for _, group := range file.Comments {
			checkComment(t, path, lines, files, group)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checkComment reports lines of a comment that are too long or too short. The output of an example
// keeps its width.
func checkComment(t *testing.T, path string, lines []string, files *token.FileSet, group *ast.CommentGroup) {
	for i, comment := range group.List {
		at := files.Position(comment.Pos())
		line := lines[at.Line-1]
		if strings.HasPrefix(comment.Text, "//go:") || strings.HasPrefix(comment.Text, "/*") {
			continue
		}
		if regexp.MustCompile(`^// (Unordered o|O)utput:`).MatchString(comment.Text) {
			return
		}
		if n := columns(line); n > mostColumns {
			t.Errorf("%s:%d: the line with this comment has %d columns, more than %d; break it", path, at.Line, n, mostColumns)
		}
		if i+1 == len(group.List) || strings.TrimSpace(line[:at.Column-1]) != "" {
			continue
		}
		next := group.List[i+1].Text
		if !isProse(comment.Text) || !isProse(next) {
			continue
		}
		if word := nextWord(next); columns(line)+1+utf8.RuneCountInString(word) <= leastColumns {
			t.Errorf("%s:%d: the line ends in column %d, but %q fits before column %d; fill it", path, at.Line, columns(line), word, leastColumns)
		}
	}
}

// columns returns the width of a line.
func columns(line string) int {
	return utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    "))
}

var (
	listItem  = regexp.MustCompile(`^// *([-*•]|\d+[.)]) `)
	tableLine = regexp.MustCompile(`\S  +\S|\|`)
	firstWord = regexp.MustCompile(`^// (\[[^\[\]]{1,40}\]\S*|\S+)`)
)

// isProse reports whether a line of a comment is part of a paragraph: not code, a table, a list or
// a heading.
func isProse(text string) bool {
	return strings.HasPrefix(text, "// ") && !strings.HasPrefix(text, "//  ") && !strings.HasPrefix(text, "// \t") &&
		!strings.HasPrefix(text, "// # ") && !listItem.MatchString(text) && !tableLine.MatchString(text)
}

// nextWord returns the first word of a line of a comment. A shape in brackets is one word.
func nextWord(text string) string {
	if match := firstWord.FindStringSubmatch(text); match != nil {
		return match[1]
	}
	return ""
}
