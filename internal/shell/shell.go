// Package shell writes command lines that a shell reads back as the same words.
package shell

import (
	"runtime"
	"slices"
	"strings"
	"unicode"
)

// Quote quotes a word for a POSIX shell.
func Quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// Command joins words to a command line for the shell of this system. It quotes words with
// characters that the shell interprets.
func Command(words ...string) string { return commandFor(runtime.GOOS, words) }

// commandFor is Command for the shells of a system. The shells of Windows separate folders with a
// backslash, and cmd.exe knows double quotes only. No path on Windows contains one.
func commandFor(system string, words []string) string {
	quoted := slices.Clone(words)
	for i, w := range words {
		safe := "/._-=,+:%@"
		if system == "windows" {
			safe += `\`
		}
		switch plain := w != "" && !strings.ContainsFunc(w, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(safe, r)
		}); {
		case plain:
		case system == "windows":
			quoted[i] = `"` + w + `"`
		default:
			quoted[i] = Quote(w)
		}
	}
	return strings.Join(quoted, " ")
}
