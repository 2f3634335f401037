package cli

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/sptune/spt/internal/wording"
	"golang.org/x/term"
)

// helpWidth returns the number of columns of the terminal to which w writes, between 40 and 100. It
// is 80 if w is not a terminal.
func helpWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return max(40, min(columns, 100))
		}
	}
	return 80
}

// help prints the help of a command. If an argument names no command, help prints nothing and
// stores the error in helpError, which Main reports.
func (a *app) help(cmd *cobra.Command, _ []string) {
	if cmd.HasAvailableSubCommands() {
		if a.helpError = noSuchCommand(cmd, cmd.Flags().Args()); a.helpError != nil {
			return
		}
	}
	if err := a.write(a.helpText(cmd, helpWidth(a.stdout))); err != nil {
		a.entered, a.helpError = true, err // the usage is right
	}
}

// helpText returns the help of a command: its description, usage, examples and flags.
func (a *app) helpText(cmd *cobra.Command, width int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n%s\n", reflow(cmd.Long, width), commandLine(cmd.UseLine(), width))
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() || c.Name() == "help" {
				entry(&b, "  "+c.Name(), c.Short, 14, width)
			}
		}
	}
	if cmd.Example != "" {
		b.WriteString("\nExamples:\n")
		for line := range strings.Lines(cmd.Example) {
			b.WriteString(commandLine(strings.TrimSpace(line), width) + "\n")
		}
	}
	a.flagHelp(&b, cmd, width)
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n'%s COMMAND --help' describes a command.\n", cmd.CommandPath())
	}
	return b.String()
}

// flagValue matches a flag, and the first character of its value or of the word for its value.
var flagValue = regexp.MustCompile(`(--[\w-]+) ([^-[{|])`)

// commandLine indents a command line. It breaks a line that is too long before flags and arguments,
// and ends each part with a backslash, so that a shell accepts the text.
func commandLine(line string, width int) string {
	const end, space = " \\", "\u00a0"
	// a flag keeps its value on the same line
	line = flagValue.ReplaceAllString(line, "$1"+space+"$2")
	broken := wrapWords(strings.Split(line, " "), width-len("      ")-len(end))
	return "  " + strings.ReplaceAll(strings.ReplaceAll(broken, space, " "), "\n", end+"\n      ")
}

// flagHelp writes the flags of a command by groups: the common flags, or with --all every flag.
func (a *app) flagHelp(b *strings.Builder, cmd *cobra.Command, width int) {
	rows, hidden := flagsOf(tableName(cmd)), 0
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { // flags of cobra, such as --no-descriptions
		if !slices.ContainsFunc(rows, func(row flagRow) bool { return row.name == f.Name }) {
			rows = append(rows, flagRow{name: f.Name, common: true, group: generalGroup, help: f.Usage})
		}
	})
	column := 0
	for _, f := range rows {
		if f.common || a.showAll {
			column = max(column, min(utf8.RuneCountInString(f.head()), 30)+2)
		} else {
			hidden++
		}
	}
	var last group
	for _, f := range rows {
		if !f.common && !a.showAll {
			continue
		}
		if f.group != last {
			fmt.Fprintf(b, "\n%s:\n", f.group)
			last = f.group
		}
		entry(b, f.head(), f.description(), column, width)
	}
	if hidden > 0 {
		fmt.Fprintf(b, "\n'%s --help --all' prints %s.\n", cmd.CommandPath(), wording.Plural(hidden, "more flag"))
	}
}

// head returns the flag as it is typed.
func (f flagRow) head() string {
	text := "      --" + f.name
	if f.short != "" {
		text = "  -" + f.short + ", --" + f.name
	}
	if f.kind != "" {
		text += " " + f.kind
	}
	return text
}

// description returns the flag's help and default.
func (f flagRow) description() string {
	switch {
	case f.auto != "":
		return f.help + " (default " + f.auto + ")"
	case f.def != nil:
		return f.help + " (default " + textOf(f.def) + ")"
	}
	return f.help
}

// entry writes a name and its description, which begins at the given column and is wrapped to
// width.
func entry(b *strings.Builder, name, description string, column, width int) {
	indent := "\n" + strings.Repeat(" ", column)
	if utf8.RuneCountInString(name) > column-2 {
		b.WriteString(name + indent)
	} else {
		fmt.Fprintf(b, "%-*s", column, name)
	}
	b.WriteString(strings.ReplaceAll(wrap(description, width-column), "\n", indent) + "\n")
}

// reflow wraps the paragraphs of a text. A paragraph with indented lines is a list, whose lines are
// not joined. A line of a list has a name, two or more spaces, and a description. If the line is
// too long, the description is wrapped and keeps its indentation.
func reflow(text string, width int) string {
	paragraphs := strings.Split(strings.Trim(strings.ReplaceAll(text, "\t", "    "), "\n"), "\n\n")
	for i, p := range paragraphs {
		if !strings.Contains("\n"+p, "\n ") {
			paragraphs[i] = wrap(p, width)
			continue
		}
		var b strings.Builder
		for line := range strings.Lines(p) {
			line = strings.TrimRight(line, " \n")
			name, description, ok := strings.Cut(strings.TrimLeft(line, " "), "  ")
			if description = strings.TrimLeft(description, " "); ok && utf8.RuneCountInString(line) > width {
				entry(&b, "  "+name, description, utf8.RuneCountInString(line)-utf8.RuneCountInString(description), width)
			} else {
				b.WriteString(line + "\n")
			}
		}
		paragraphs[i] = strings.TrimRight(b.String(), "\n")
	}
	return strings.Join(paragraphs, "\n\n")
}

// indent returns a text with each line indented. reflow treats such a text as a list.
func indent(lines string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(lines, "\n"), "\n", "\n  ")
}

// wrap breaks a text at words so that its lines have at most width columns.
func wrap(text string, width int) string { return wrapWords(strings.Fields(text), width) }

// wrapWords joins words to lines of at most width columns.
func wrapWords(words []string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range words {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
		case column+1+n > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}
