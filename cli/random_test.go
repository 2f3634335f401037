package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
)

// goNames matches text that only a Go programmer understands, and broken formatting.
var goNames = regexp.MustCompile(`strconv\.|invalid syntax|panic|goroutine |runtime error|%!|<nil>|context canceled|\*?\b(fs|json|os|url|net|http|csv|yaml|run|option|checkpoint)\.[A-Z]\w*|\bcannot unmarshal\b|(^|[^.\w])json: |\bEOF\b`)

// TestRandomCommandLines runs random command lines over the table of flags, with good and bad
// values. None of them panics, shows a Go name or a character that a terminal interprets. The exit
// code is a documented one, and with --json the output of a command that succeeds is JSON.
func TestRandomCommandLines(t *testing.T) {
	lines := 500
	if testing.Short() {
		lines = 100
	}
	dir := t.TempDir()
	t.Chdir(dir)
	// A broken checkpoint instead of a valid one, so that no training begins.
	for name, content := range map[string]string{"empty": "", "text.txt": "hello\n", "broken.safetensors": "\x08\x00\x00\x00\x00\x00\x00\x00{\"a\": 1}",
		"broken.pth": "PK\x03\x04", "list.csv": "path,label\na.png,1\n", "plan.json": "{\"kind\":\"plan\",\"version\":1}", "wrong.json": "{\"kind\": [1, {}]}",
		"run/config.json": "{\"kind\":\"run\",\"version\":1}", "data/a/1.png": "x", "data/b/2.png": "y", "table.parquet": "PAR1PAR1", hostile + ".txt": "x"} {
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	// No path leads out of dir: the commands read whole folders.
	paths := []string{"", "empty", "text.txt", "broken.safetensors", "broken.pth", "list.csv", "plan.json", "wrong.json", "run", "data", "table.parquet",
		"missing", "missing/below", hostile + ".txt", hostile, ".", dir, "hf:", "hf:a", "hf:a/b/c", "data/a/1.png", "run/config.json", "/dev/null"}
	values := []string{"", "0", "1", "-1", "0.5", "1e-3", "1e999", "-1e999", "NaN", "Inf", "9223372036854775808", "99999999999999999999", "0x10", "1_000", "1,2", ",", "0.4M",
		"0.5%", "200%", "-5%", "1e9M", "lora", "spt-lora", "spt-", "release", "gradient", "cpu", "cuda:99999999999999999999", "xla:nothing", "true", "maybe", "8m", "-8m", hostile, strings.Repeat("9", 500)}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	// spt and spt data alone print their help.
	all := slices.DeleteFunc(commands(), func(c *cobra.Command) bool { return c.HasSubCommands() })
	codes := map[int]int{}
	for range lines {
		c := all[r.IntN(len(all))]
		args := strings.Fields(c.CommandPath())[1:]
		if r.IntN(20) == 0 {
			args[0] = pick(values)
		}
		for range r.IntN(6) {
			f := flagsOf(tableName(c))
			flag := f[r.IntN(len(f))]
			if flag.name == "cpuprofile" || flag.name == "trace" {
				continue
			}
			value := pick(values)
			if r.IntN(2) == 0 {
				value = pick(paths)
			}
			if flag.values != nil && r.IntN(2) == 0 {
				if known := flag.values(); len(known) > 0 {
					value = pick(known)
				}
			}
			switch {
			case flag.kind == "" && r.IntN(4) > 0:
				args = append(args, "--"+flag.name)
			case r.IntN(30) == 0:
				args = append(args, "--"+flag.name+pick(values), value)
			default:
				args = append(args, "--"+flag.name+"="+value)
			}
		}
		for range r.IntN(3) {
			args = append(args, pick(paths))
		}
		switch c.Name() {
		case "demo", "bench", "pretrain":
			// these commands need no files, so they would work for long
			args = append(args, "--no-such-flag")
		}
		// The embedded backbone is valid, and so is a reference to the Hub.
		for i, a := range args {
			if strings.HasSuffix(a, "=demo") || strings.Contains(a, "=hf:a/") {
				args[i] = "--model=missing"
			}
		}
		var stdout, stderr bytes.Buffer
		code := -1
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("%q panics: %v", args, p)
				}
			}()
			code = (&app{stdout: &stdout, stderr: &stderr}).main(t.Context(), args)
		}()
		codes[code]++
		for what, text := range map[string]string{"standard output": stdout.String(), "standard error": stderr.String()} {
			if found := goNames.FindString(text); found != "" {
				t.Errorf("%q: %s shows %q:\n%s", args, what, found, cut(text))
			}
			if i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\t' }); i >= 0 {
				t.Errorf("%q: %s holds the character %q:\n%q", args, what, []rune(text[i:])[0], cut(text))
			}
			if len(text) > 1<<16 {
				t.Errorf("%q: %d bytes on %s", args, len(text), what)
			}
		}
		if !slices.Contains([]int{0, exitFailed, exitUsage, exitInput}, code) {
			t.Errorf("%q: exit code %d", args, code)
		}
		if code != 0 && stderr.Len() == 0 {
			t.Errorf("%q: exit code %d without a message", args, code)
		}
		if code == 0 && slices.Contains(args, "--json") && !strings.Contains(strings.Join(args, " "), "--help") {
			for d := json.NewDecoder(&stdout); ; {
				var v any
				if err := d.Decode(&v); err == io.EOF {
					break
				} else if err != nil {
					t.Errorf("%q: the output is no JSON: %v", args, err)
					break
				}
			}
		}
	}
	if codes[0] == 0 || codes[exitUsage] < lines/10 || codes[exitInput] == 0 {
		t.Errorf("exit codes %v, expected some of each", codes)
	}
}

func cut(text string) string { return fmt.Sprintf("%.600s", text) }
