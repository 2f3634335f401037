package sweep

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/run"
)

// slurmScript is the batch script of an element. Slurm sends USR1 to the script, and only to the
// script, two minutes before the time limit. The program then saves its state and ends with exit
// code 130, and the script queues the element again. A cancelled element gets TERM, script and
// program both: the program saves its state, and the script does not queue the element again. If
// only the program was killed, the script starts it again.
const slurmScript = `#!/bin/bash
# Written by spt sweep submit.
program=%s
arguments=(%s)
child= stopped= limit= cancelled= signalled=
stop() { # a second signal would end the program before it has saved its state
	if [ -n "$child" ] && [ -z "$stopped" ]; then
		stopped=yes
		kill -TERM "$child"
	fi
}
trap 'signalled=yes limit=yes; stop' USR1
trap 'signalled=yes cancelled=yes' TERM
for attempt in 1 2 3 4 5; do
	"$program" "${arguments[@]/#INDEX/$SLURM_ARRAY_TASK_ID}" &
	child=$!
	if [ -n "$limit" ]; then stop; fi
	while signalled=; wait "$child"; code=$?; [ -n "$signalled" ]; do :; done
	if [ "$code" -lt 0 ]; then code=130; fi # bash can lose the code after a signal
	if [ "$code" -le 128 ] || [ -n "$cancelled" ]; then break; fi
	if [ -n "$limit" ]; then
		scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
		break
	fi
	if [ "$code" = 130 ]; then break; fi
done
exit "$code"
`

// submitSlurm submits one array of jobs with sbatch.
func submitSlurm(ctx context.Context, s *Submission, o SubmitOptions) error {
	var arguments []string
	for _, word := range s.arguments(o, "INDEX") {
		arguments = append(arguments, shell.Quote(word))
	}
	s.File = filepath.Join(s.Folder, "slurm.sh")
	if err := atomicfile.WriteBytes(s.File, fmt.Appendf(nil, slurmScript, shell.Quote(o.Program), strings.Join(arguments, " "))); err != nil {
		return err
	}
	array := fmt.Sprintf("--array=0-%d", s.Elements-1)
	if o.Concurrency > 0 {
		array += fmt.Sprintf("%%%d", o.Concurrency)
	}
	args := []string{"--parsable", array, "--requeue", "--signal=B:USR1@120", "--open-mode=append", "--job-name=" + s.name,
		"--output=" + strings.ReplaceAll(s.Folder, "%", "%%") + "/%a.log"}
	id, err := output(ctx, "sbatch", append(append(args, o.Options...), s.File)...)
	if err != nil {
		return err
	}
	id, _, _ = strings.Cut(id, ";") // a cluster name follows
	if _, err := strconv.ParseUint(id, 10, 64); err != nil {
		return fmt.Errorf("submitting: sbatch printed %q; expected the number of the job", id)
	}
	s.IDs = []string{id}
	return nil
}

// output runs a program of an engine and returns its output without the last newline.
func output(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", &run.InputError{Err: fmt.Errorf("submitting: the program %s is not installed here; submit on a machine that has it", program)}
	}
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("submitting: %s ended with exit code %d: %s", program, failed.ExitCode(), strings.TrimSpace(string(failed.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("submitting with %s: %w", program, err)
	}
	return strings.TrimSpace(string(out)), nil
}
