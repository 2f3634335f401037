package shell

import "testing"

// TestCommand checks the quotes of a command line for the shells of each system.
func TestCommand(t *testing.T) {
	for _, c := range []struct{ system, word, want string }{
		{"linux", "runs/a-1%", "runs/a-1%"},
		{"linux", `it's`, `'it'\''s'`},
		{"linux", `a\b`, `'a\b'`},
		{"linux", "", "''"},
		{"windows", `runs\a`, `runs\a`},
		{"windows", `C:\my runs\a`, `"C:\my runs\a"`},
	} {
		if got := commandFor(c.system, []string{"spt", c.word}); got != "spt "+c.want {
			t.Errorf("%s: %s, want spt %s", c.system, got, c.want)
		}
	}
}
