package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sptune/spt/backbone/catalogue"
)

// TestDocument compares docs/cli.md with the commands and their flags. With -update it writes the
// file.
func TestDocument(t *testing.T) {
	path := filepath.Join("..", "docs", "cli.md")
	want := document((&app{}).root())
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not up to date; write it again with: go test ./cli -run TestDocument -update", path)
	}
}

// TestBackbones compares the table of backbones in README.md with the catalogue. With -update it
// writes the table.
func TestBackbones(t *testing.T) {
	path := filepath.Join("..", "README.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- spt models -->\n", "<!-- end of table -->"
	before, rest, found := strings.Cut(string(text), begin)
	table, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("README.md has no table between %q and %q", begin, end)
	}
	var b strings.Builder
	b.WriteString("| name | parameters | input | ImageNet | licence | good for |\n|---|---|---|---|---|---|\n")
	for _, m := range catalogue.All() {
		fmt.Fprintf(&b, "| `%s` | %s | %d px | %s | %s | %s |\n", m.Name, short(m.Parameters()), m.Config.ImageSize, top1(m), m.Licence, m.Use)
	}
	switch {
	case *update:
		if err := os.WriteFile(path, []byte(before+begin+b.String()+end+after), 0o666); err != nil {
			t.Fatal(err)
		}
	case table != b.String():
		t.Error("the table of backbones in README.md is not up to date; write it again with: go test ./cli -run TestBackbones -update")
	}
}

const documentHead = `# Commands

All commands of ` + "`spt`" + ` with all their flags. ` + "`spt COMMAND --help`" + ` prints the same text in a
terminal. A test generates this page from the commands:
` + "`go test ./cli -run TestDocument -update`" + `.

`

// document returns docs/cli.md: a list of the commands, then a section for each.
func document(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(documentHead + "| command | |\n|---|---|\n")
	var commands []*cobra.Command
	var collect func(*cobra.Command)
	collect = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				commands = append(commands, sub)
				collect(sub)
			}
		}
	}
	collect(root)
	for _, c := range commands {
		name := c.CommandPath()
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", name, strings.ReplaceAll(name, " ", "-"), c.Short)
	}
	fmt.Fprintf(&b, "\n## spt\n\n%s\n\n", paragraphs(root.Long))
	b.WriteString("Every command has these flags:\n\n")
	flagTables(&b, flagsOf(root.Name()))
	for _, c := range commands {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n", c.CommandPath(), paragraphs(c.Long))
		fmt.Fprintf(&b, "```text\n%s\n```\n\n", c.UseLine())
		if c.Example != "" {
			b.WriteString("Examples:\n\n```text\n")
			for line := range strings.Lines(c.Example) {
				b.WriteString(strings.TrimSpace(line) + "\n")
			}
			b.WriteString("```\n\n")
		}
		var own []flagRow
		for _, f := range flagsOf(tableName(c)) {
			if f.on != "*" {
				own = append(own, f)
			}
		}
		flagTables(&b, own)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// flagTables writes a table for each group of flags.
func flagTables(b *strings.Builder, rows []flagRow) {
	var last group
	for i, f := range rows {
		if f.group != last {
			fmt.Fprintf(b, "| %s | |\n|---|---|\n", f.group)
			last = f.group
		}
		head := strings.Join(strings.Fields(f.head()), " ")
		fmt.Fprintf(b, "| `%s` | %s |\n", head, strings.ReplaceAll(marked(f.description()), "|", `\|`))
		if i+1 == len(rows) || rows[i+1].group != last {
			b.WriteString("\n")
		}
	}
}

// paragraphs returns a description of a command as Markdown. Lists become blocks of code.
func paragraphs(text string) string {
	parts := strings.Split(strings.Trim(text, "\n"), "\n\n")
	for i, p := range parts {
		if !strings.Contains("\n"+p, "\n ") {
			parts[i] = wrap(marked(p), 100)
			continue
		}
		before, list := "", p
		if !strings.HasPrefix(p, " ") { // a line that introduces the list
			before, list, _ = strings.Cut(p, "\n")
			before += "\n\n"
		}
		parts[i] = before + "```text\n" + list + "\n```"
	}
	return strings.Join(parts, "\n\n")
}

var (
	quotedCommand = regexp.MustCompile(`'((?:spt|go) [^']*)'`)
	bareFlag      = regexp.MustCompile(`(^|[\s(/])(--[\w-]+)`)
)

// marked marks commands and flags in a text as code.
func marked(text string) string {
	text = quotedCommand.ReplaceAllString(text, "`$1`")
	parts := strings.Split(text, "`")
	for i := 0; i < len(parts); i += 2 { // outside of code
		parts[i] = bareFlag.ReplaceAllString(parts[i], "$1`$2`")
	}
	return strings.Join(parts, "`")
}
