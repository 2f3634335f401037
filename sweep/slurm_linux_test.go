package sweep

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sptune/spt/internal/shell"
)

// TestSlurmScript checks when the batch script starts the program again and when it queues the
// element again.
func TestSlurmScript(t *testing.T) {
	// The program writes a line when it begins, and saves its state after the signal TERM.
	const waits = `trap 'kill $!; echo saved >>"$dir/log"; exit 130' TERM; sleep 30 & echo begins >>"$dir/log"; wait`
	for _, test := range []struct {
		name, program string
		signal        syscall.Signal
		all           bool // the program gets the signal too
		code          int
		log           string
	}{
		{name: "done", program: `echo begins >>"$dir/log"`, log: "begins"},
		{name: "broken job", program: `echo begins >>"$dir/log"; exit 3`, code: 3, log: "begins"},
		{name: "interrupted", program: `echo begins >>"$dir/log"; exit 130`, code: 130, log: "begins"},
		{name: "killed once", program: `echo begins >>"$dir/log"; [ -e "$dir/again" ] || { touch "$dir/again"; kill -9 $$; }`, log: "begins begins"},
		{name: "always killed", program: `echo begins >>"$dir/log"; kill -9 $$`, code: 137, log: "begins begins begins begins begins"},
		{name: "time limit", program: waits, signal: syscall.SIGUSR1, code: 130, log: "begins saved requeue 17_4"},
		{name: "cancelled", program: waits, signal: syscall.SIGTERM, all: true, code: 130, log: "begins saved"},
		{name: "done at the time limit", program: strings.Replace(waits, "130", "0", 1), signal: syscall.SIGUSR1, log: "begins saved"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := fake(t, "sbatch", "echo 17")
			write(t, filepath.Join(dir, "scontrol"), "#!/bin/sh\necho \"$@\" >>"+shell.Quote(filepath.Join(dir, "log"))+"\n")
			write(t, filepath.Join(dir, "program"), "#!/bin/bash\ndir="+shell.Quote(dir)+"\n"+test.program+"\n")
			s := mustSubmit(t, jobFolder(t, 5), "slurm", SubmitOptions{Program: filepath.Join(dir, "program")})
			c := exec.Command("bash", s.File)
			c.Env = append(os.Environ(), "SLURM_ARRAY_TASK_ID=4", "SLURM_ARRAY_JOB_ID=17")
			c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(dir, "log")
			if test.signal != 0 {
				for start := time.Now(); read(t, log) == "" && time.Since(start) < 10*time.Second; {
					time.Sleep(5 * time.Millisecond)
				}
				process := c.Process.Pid
				if test.all {
					process = -process // the process group
				}
				if err := syscall.Kill(process, test.signal); err != nil {
					t.Fatal(err)
				}
			}
			err := c.Wait()
			if code := c.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit code %d, expected %d: %v", code, test.code, err)
			}
			if got := strings.Join(strings.Fields(read(t, log)), " "); got != test.log {
				t.Errorf("log %q, expected %q", got, test.log)
			}
		})
	}
}
