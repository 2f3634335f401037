package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/embedded"
)

// TestDocumentCommands runs the commands in the blocks of type console of the documents, in their
// order, in a folder for each document. The folder holds small stand-ins:
//
//	vit_tiny.safetensors   the embedded backbone, which also stands for every model of the Hub
//	photos/                a folder with three class folders of 20 images each
//	new/                   a folder with images without classes
//
// A command must succeed. Its output is not compared, because the documents show the output for
// real data.
func TestDocumentCommands(t *testing.T) {
	for _, document := range []string{"README.md", "docs/guide.md", "docs/research.md"} {
		t.Run(document, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(document)))
			if err != nil {
				t.Fatal(err)
			}
			script, err := documentScript(string(text))
			if err != nil {
				t.Fatalf("%s: %v", document, err)
			}
			file := filepath.Join(t.TempDir(), "commands.txtar")
			if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
				t.Fatal(err)
			}
			testscript.Run(t, testscript.Params{
				Files: []string{file}, RequireExplicitExec: true,
				Cmds: map[string]func(*testscript.TestScript, bool, []string){"mkdata": mkdata, "mkhub": mkhub, "mkembedded": mkembedded},
			})
		})
	}
}

// mkembedded FILE writes the embedded backbone.
func mkembedded(ts *testscript.TestScript, _ bool, args []string) {
	m, err := embedded.Model(0)
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o777))
	ts.Check(m.Save(ts.MkAbs(args[0]), checkpoint.F32, nil))
}

var (
	consoleBlock = regexp.MustCompile("(?ms)^ *```console\n(.*?)^ *```$")
	hubReference = regexp.MustCompile(`hf:([\w.-]+/[\w.-]+)`)
)

// documentScript returns the commands of a document as a script for testscript.
func documentScript(text string) (string, error) {
	var b strings.Builder
	b.WriteString("mkembedded vit_tiny.safetensors\nmkdata photos 10\nmkdata new 2\n")
	n := 0
	for _, block := range consoleBlock.FindAllStringSubmatch(text, -1) {
		lines := strings.Split(block[1], "\n")
		for i := 0; i < len(lines); i++ {
			command, ok := strings.CutPrefix(strings.TrimSpace(lines[i]), "$ ")
			if !ok {
				continue // output
			}
			for strings.HasSuffix(command, `\`) && i+1 < len(lines) {
				i++
				command = strings.TrimSuffix(command, `\`) + strings.TrimSpace(lines[i])
			}
			words, err := shellWords(command)
			if err != nil {
				return "", err
			}
			if rest := words[min(3, len(words)):]; slices.Equal(words[:len(words)-len(rest)], []string{"go", "run", "./cmd/spt"}) {
				words = append([]string{"spt"}, rest...)
			}
			if len(words) > 1 && words[1] == "demo" {
				// The demo takes half a minute otherwise.
				words = append(words, "--epochs", "1", "--method", "lora")
			}
			if words[0] != "spt" {
				return "", fmt.Errorf("the command %q is not a command of spt; show it in a block of another type", command)
			}
			if reference := hubReference.FindStringSubmatch(command); reference != nil {
				fmt.Fprintf(&b, "mkembedded hub%d/model.safetensors\nmkhub %s 1 hub%d\n", n, reference[1], n)
			}
			for i, word := range words {
				words[i] = "'" + strings.ReplaceAll(word, "'", "''") + "'"
			}
			fmt.Fprintf(&b, "exec %s\n", strings.Join(words, " "))
			n++
		}
	}
	if n == 0 {
		return "", fmt.Errorf("there is no block of type console with a command")
	}
	return b.String(), nil
}

// shellWords splits a command line at spaces. It knows single and double quotes.
func shellWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, begun := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, begun = r, true
		case quote == 0 && strings.ContainsRune("|&;<>$`*?", r):
			return nil, fmt.Errorf("the command %q needs a shell (%q); show it in a block of another type", line, r)
		case quote == 0 && r == ' ':
			if begun {
				words, begun = append(words, word.String()), false
				word.Reset()
			}
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the command %q has an open quote", line)
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}
