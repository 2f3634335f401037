package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Names of files, folders, classes and tensors, and replies of servers, can hold characters that
// change what a terminal shows: escape sequences, line breaks, marks that reverse the direction of
// the text. So all text for people passes through visible or visibleText, and all JSON through
// visibleJSON.

// message writes a message of one line to standard error.
func (a *app) message(format string, args ...any) {
	fmt.Fprintf(a.stderr, "spt: %s\n", visible(fmt.Sprintf(format, args...)))
}

// messages writes the text of an error to standard error. The functions change its first line.
func (a *app) messages(err error, change ...func(string) string) {
	for i, line := range linesOf(err) {
		if i > 0 {
			fmt.Fprintln(a.stderr, visible(line))
			continue
		}
		for _, f := range change {
			line = f(line)
		}
		a.message("%s", line)
	}
}

// textWriter writes texts through visibleText.
type textWriter struct{ w io.Writer }

func (t textWriter) Write(p []byte) (int, error) {
	_, err := io.WriteString(t.w, visibleText(string(p)))
	return len(p), err
}

// visible returns a text with every character that is not printable written as an escape sequence
// of Go, such as \n or \u202e, and every byte that is not UTF-8 as \x and two digits.
func visible(text string) string { return escaped(text, "") }

// visibleText is like visible, but keeps line breaks and tabs.
func visibleText(text string) string { return escaped(text, "\n\t") }

// escaped implements visible. It does not change the characters in keep.
func escaped(text, keep string) string {
	hidden := func(r rune) bool { return !unicode.IsPrint(r) && !strings.ContainsRune(keep, r) }
	if utf8.ValidString(text) && !strings.ContainsFunc(text, hidden) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case hidden(r):
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		default:
			b.WriteRune(r)
		}
		text = text[n:]
	}
	return b.String()
}

// visibleJSON returns a JSON text in which characters that are not printable have the escape
// sequences of JSON. The text has the same meaning: such characters occur only in strings, and the
// encoder has escaped those of ASCII.
func visibleJSON(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII && !unicode.IsPrint(r) }) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if r <= unicode.MaxASCII || unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// linesOf returns the lines of the text of an error. Only errors.Join breaks a line: a line break
// inside another text comes from a name.
func linesOf(err error) []string {
	text := err.Error()
	var inner []error
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		inner = []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		inner = e.Unwrap()
		var all, lines []string
		for _, part := range inner {
			all = append(all, part.Error())
			lines = append(lines, linesOf(part)...)
		}
		if strings.Join(all, "\n") == text {
			return lines
		}
	}
	for _, part := range inner {
		if part == nil {
			continue
		}
		before, ok := strings.CutSuffix(text, part.Error())
		lines := linesOf(part)
		if !ok || len(lines) == 1 {
			continue
		}
		if heading, ok := strings.CutSuffix(before, "\n"); ok {
			return append([]string{heading}, lines...)
		}
		lines[0] = before + lines[0]
		return lines
	}
	return []string{text}
}
