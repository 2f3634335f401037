package sweep

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/wording"
	"github.com/sptune/spt/run"
)

// A Format is a form in which [Table.Write] writes a table.
type Format string

// formats holds the formats and the functions that write a caption and a block of cells. The first
// line of a block is the head.
var formats = []struct {
	name  Format
	write func(w io.Writer, caption string, block [][]string) error
}{
	{"text", writeText},
	{"markdown", writeMarkdown},
	{"latex", writeLaTeX},
	{"csv", writeBlockCSV},
	{"json", nil}, // the Table itself
}

// Formats returns the names of all formats: text, markdown, latex, csv and json.
func Formats() []Format {
	names := make([]Format, len(formats))
	for i, f := range formats {
		names[i] = f.name
	}
	return names
}

// Write writes the table in a format of [Formats]. An unknown format is a [*run.OptionError].
func (t *Table) Write(w io.Writer, format Format) error {
	i := slices.Index(Formats(), format)
	if i < 0 {
		return &run.OptionError{Option: "format", Err: option.Unknown("format", "format", format, Formats())}
	}
	if formats[i].write == nil {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(t)
	}
	if err := formats[i].write(w, t.Caption(), t.Block()); err != nil || t.Baseline == "" {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	caption := fmt.Sprintf("Difference to %s in points: mean ± standard error over pairs of runs on the same task with the same seed. The column “± over seeds” has the standard error over the means of the seeds.", t.Baseline)
	return formats[i].write(w, caption, t.DifferenceBlock())
}

// Caption says what the cells of the table are.
func (t *Table) Caption() string {
	what := map[Metric]string{
		TestAccuracy: "Test accuracy after the last epoch",
		ValAccuracy:  "Validation accuracy after the last epoch",
		TestMax:      "Test-max, the highest test accuracy of all epochs, for comparison only",
	}[t.Metric]
	deviation := ""
	if slices.ContainsFunc(t.Lines, func(l Line) bool { return slices.ContainsFunc(l.Tasks, func(c Cell) bool { return c.SD >= 0 }) }) {
		deviation = " ± standard deviation over seeds"
	}
	return what + ", in percent: mean" + deviation + "."
}

// Block returns the cells of the table as texts. The first line is the head.
func (t *Table) Block() [][]string {
	budgets := slices.ContainsFunc(t.Lines, func(l Line) bool { return l.Budget != "" })
	head := t.withModel("model", "method")
	if budgets {
		head = append(head, "budget")
	}
	head = append(head, "settings", "tuned", "runs")
	head = append(head, t.Tasks...)
	for _, g := range t.Groups {
		head = append(head, "mean "+g)
	}
	if len(t.Groups) > 1 {
		head = append(head, "mean of groups")
	}
	if len(t.Tasks) > 1 {
		head = append(head, "mean of tasks")
	}
	block := [][]string{append(head, "seconds")}
	for _, l := range t.Lines {
		line := t.withModel(l.Model, l.Method)
		if budgets {
			line = append(line, orDash(l.Budget))
		}
		runs := 0
		for _, c := range l.Tasks {
			runs += c.N
		}
		line = append(line, map[string]string{ChoiceFixed: "fixed", ChoiceValidation: "chosen on validation"}[l.Choice], wording.Thousands(int(math.Round(l.Tuned))), fmt.Sprint(runs))
		for _, c := range slices.Concat(l.Tasks, l.Groups) {
			line = append(line, c.percent())
		}
		if len(t.Groups) > 1 {
			line = append(line, l.MeanOfGroups.percent())
		}
		if len(t.Tasks) > 1 {
			line = append(line, l.MeanOfTasks.percent())
		}
		block = append(block, append(line, fmt.Sprintf("%.0f", l.Seconds)))
	}
	return block
}

// DifferenceBlock returns the cells of the comparison with the baseline as texts. The first line is
// the head.
func (t *Table) DifferenceBlock() [][]string {
	block := [][]string{t.withModel("model", "method", "budget", "pairs", "difference", "± over seeds", "better, equal, worse", "tasks better", "seeds better")}
	for _, d := range t.Differences {
		difference, overSeeds := "–", "–"
		switch {
		case d.SE >= 0:
			difference = fmt.Sprintf("%+.2f ± %.2f", 100*d.Mean, 100*d.SE)
		case d.Pairs > 0:
			difference = fmt.Sprintf("%+.2f", 100*d.Mean)
		}
		if d.SeedsSE >= 0 {
			overSeeds = fmt.Sprintf("%.2f", 100*d.SeedsSE)
		}
		block = append(block, t.withModel(d.Model, d.Method, orDash(d.Budget), fmt.Sprint(d.Pairs), difference, overSeeds,
			fmt.Sprintf("%d, %d, %d", d.Better, d.Equal, d.Worse), fmt.Sprintf("%d of %d", d.TasksBetter, d.Tasks), fmt.Sprintf("%d of %d", d.SeedsBetter, d.Seeds)))
	}
	return block
}

// withModel returns the cells, after the model if the lines of the table have several models.
func (t *Table) withModel(model string, cells ...string) []string {
	if slices.ContainsFunc(t.Lines, func(l Line) bool { return l.Model != t.Lines[0].Model }) {
		return append([]string{model}, cells...)
	}
	return cells
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// percent returns a cell in percent, such as "87.3 ± 0.4".
func (c Cell) percent() string {
	switch {
	case c.N == 0:
		return "–"
	case c.SD < 0:
		return fmt.Sprintf("%.1f", 100*c.Mean)
	}
	return fmt.Sprintf("%.1f ± %.1f", 100*c.Mean, 100*c.SD)
}

func writeText(w io.Writer, caption string, block [][]string) error {
	if _, err := fmt.Fprintf(w, "%s\n\n", caption); err != nil {
		return err
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range block {
		if _, err := fmt.Fprintln(out, strings.Join(line, "\t")); err != nil {
			return err
		}
	}
	return out.Flush()
}

func writeMarkdown(w io.Writer, caption string, block [][]string) error {
	text := caption + "\n\n"
	for i, line := range block {
		for _, cell := range line {
			text += "| " + strings.ReplaceAll(cell, "|", `\|`) + " "
		}
		text += "|\n"
		if i == 0 {
			text += strings.Repeat("|---", len(line)) + "|\n"
		}
	}
	_, err := io.WriteString(w, text)
	return err
}

// latexEscapes replaces the characters that are commands in LaTeX.
var latexEscapes = strings.NewReplacer(`\`, `\textbackslash{}`, "&", `\&`, "%", `\%`, "$", `\$`, "#", `\#`, "_", `\_`, "{", `\{`, "}", `\}`,
	"~", `\textasciitilde{}`, "^", `\textasciicircum{}`, "±", `$\pm$`, "–", "--", "−", "$-$")

func writeLaTeX(w io.Writer, caption string, block [][]string) error {
	text := "% " + caption + "\n" + `\begin{tabular}{` + strings.Repeat("l", len(block[0])) + "}\n\\toprule\n"
	for i, line := range block {
		for k, cell := range line {
			if k > 0 {
				text += " & "
			}
			text += latexEscapes.Replace(cell)
		}
		text += " \\\\\n"
		if i == 0 {
			text += "\\midrule\n"
		}
	}
	_, err := io.WriteString(w, text+"\\bottomrule\n\\end{tabular}\n")
	return err
}

func writeBlockCSV(w io.Writer, _ string, block [][]string) error {
	out := csv.NewWriter(w)
	if err := out.WriteAll(block); err != nil {
		return fmt.Errorf("writing CSV: %w", err)
	}
	return nil
}
