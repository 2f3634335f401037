package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// hostile is a name with a line break, an escape sequence of terminals, a mark that reverses the
// direction of the text, a control character of C1, and a byte that is not UTF-8.
const hostile = "a\nb\x1b[2J\u202ec\u009bd\xff"

// TestVisible checks that no text for people holds a character that a terminal interprets.
func TestVisible(t *testing.T) {
	want := `a\nb\x1b[2J\u202ec\u009bd\xff`
	if got := visible(hostile); got != want {
		t.Errorf("%q, expected %q", got, want)
	}
	if got := visibleText("a\tb\n" + hostile); got != "a\tb\n"+strings.Replace(want, `\n`, "\n", 1) {
		t.Errorf("%q", got)
	}
	for _, same := range []string{"", "Hälsa 你好 – 5×5", "C:\\n", `quoted "x"`} {
		if got := visible(same); got != same {
			t.Errorf("%q became %q", same, got)
		}
	}
	text, err := json.Marshal(map[string]string{"name": "x\u202ey\u009b\U000e0001z"})
	if err != nil {
		t.Fatal(err)
	}
	shown := visibleJSON(string(text))
	if strings.ContainsFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("the JSON %q holds characters that are not printable", shown)
	}
	// Lines of JSON pass through the same function.
	var line strings.Builder
	if err := (&app{stdout: &line}).writeLine(map[string]string{"name": "x\u202ey\u009b\U000e0001z"}); err != nil || line.String() != shown+"\n" {
		t.Errorf("a line of JSON is %q, %v, expected %q", line.String(), err, shown)
	}
	var before, after map[string]string
	if json.Unmarshal(text, &before) != nil || json.Unmarshal([]byte(shown), &after) != nil || before["name"] != after["name"] {
		t.Errorf("%s has another meaning than %s", shown, text)
	}
}

// TestLinesOf checks that only joined errors break lines: a line break in a name stays in its line.
func TestLinesOf(t *testing.T) {
	missing := &fs.PathError{Op: "open", Path: "a\nb", Err: fs.ErrNotExist}
	two := errors.Join(missing, errors.New("second"))
	for _, c := range []struct {
		err  error
		want []string
	}{
		{missing, []string{"open a\nb: file does not exist"}},
		{two, []string{"open a\nb: file does not exist", "second"}},
		{fmt.Errorf("reading: %w", two), []string{"reading: open a\nb: file does not exist", "second"}},
		{fmt.Errorf("two of them:\n%w", two), []string{"two of them:", "open a\nb: file does not exist", "second"}},
		{errors.Join(two, errors.New("third")), []string{"open a\nb: file does not exist", "second", "third"}},
		{fmt.Errorf("%w and %w", errors.New("a"), errors.New("b")), []string{"a and b"}},
		{fmt.Errorf("%w after: %w", errors.New("a"), two), []string{"a after: open a\nb: file does not exist", "second"}},
	} {
		if got := linesOf(c.err); !slices.Equal(got, c.want) {
			t.Errorf("%q: lines %q, expected %q", c.err, got, c.want)
		}
	}
	var b strings.Builder
	(&app{stderr: &b}).messages(fmt.Errorf("reading: %w", two), func(text string) string { return text + " (--data)" })
	if want := "spt: reading: open a\\nb: file does not exist (--data)\nsecond\n"; b.String() != want {
		t.Errorf("%q, expected %q", b.String(), want)
	}
}
