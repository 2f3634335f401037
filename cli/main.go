// Package cli is the command line of spt, which fine-tunes pretrained vision transformers for image
// tasks. [Main] parses the arguments, runs one command and returns the exit code of the process. A
// program can register its own structured module, architecture or objective and then call Main:
// every command then accepts the names that the program has registered.
//
// Each command is one file of the package, such as tune.go. A command turns flags into calls of the
// library, [github.com/sptune/spt], and prints the result. A newcomer begins with main.go and
// tune.go.
//
// All flags are rows of the table in flags.go. The other files about flags read this table: flag.go
// defines a row, values.go has the types of values, check.go checks flags before a command runs,
// and help.go prints the help. The files output.go and progress.go print results and progress.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"runtime/trace"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/shell"
	"github.com/sptune/spt/objective"
	"github.com/sptune/spt/progress"
	"github.com/sptune/spt/run"
)

// The exit codes of the process, as description explains them to users.
const (
	exitFailed      = run.ExitFailed
	exitUsage       = run.ExitUsage
	exitInput       = run.ExitInput
	exitInterrupted = run.ExitInterrupted
)

const description = `spt makes an image classifier from a pretrained vision transformer. It tunes under one percent
of the weights, those that matter most for the task (Sensitivity-aware visual
Parameter-efficient Tuning, He et al., ICCV 2023).

Begin with 'spt demo', which needs no files, or with

  spt tune --model hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k --data photos

where photos is a folder with one folder of images for each class. 'spt tune' runs all
stages; 'spt score', 'spt plan' and 'spt train' run one stage each. The result is a delta: the
tuned weights, one to two megabytes for a ViT-B. 'spt predict', 'spt eval', 'spt merge' and
'spt export' use the delta together with the pretrained model, which is called the backbone.
'spt completion SHELL' prints a script that completes commands and flags in your shell.

Exit codes:
  0    done
  1    failed
  2    wrong usage: an unknown command, flag or value
  3    bad input: a file or folder is missing or damaged, or does not fit the other inputs
  130  interrupted; the command that continues the run is printed, if there is one`

// app holds the state of one run of the program.
type app struct {
	stdout, stderr io.Writer
	terminal       bool // stderr is a terminal

	json, quiet, showHelp, showAll bool
	cpuprofile, trace              string
	// score is the name of the metric of validation and test images; empty before a task is open
	score string

	times     stageTimes
	entered   bool  // the flags and arguments were parsed and the command has begun
	helpError error // the error of --help together with an unknown command
	// the command line that continues the run after an interrupt; nil if there is none
	resume   atomic.Pointer[string]
	training atomic.Bool // a training runs, which saves its state after an interrupt
}

// Main runs the command that args describe and returns the exit code of the process. args are the
// arguments without the name of the program, as in os.Args[1:]. Main prints results to standard
// output, and progress and errors to standard error. Every command accepts the structured modules,
// architectures and objectives that the caller has registered.
func Main(args []string) int {
	// Nearly all of the heap are weights and activations, which stay in use. With Go's default GOGC
	// of 100, garbage could double the heap before a collection.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
	a := &app{stdout: os.Stdout, stderr: os.Stderr, terminal: term.IsTerminal(int(os.Stderr.Fd()))}
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup makes the program ignore SIGHUP
		ends = append(ends, syscall.SIGHUP) // sent when the terminal closes
		// The shell and the kernel each send a SIGHUP. The second one must not end the program
		// while it saves its state.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	// After the first signal, the next one ends the program.
	context.AfterFunc(ctx, stop)
	return a.supervise(ctx, func() int { return a.main(ctx, args) })
}

// interruptGrace is the time that a command has to end after a signal.
const interruptGrace = 900 * time.Millisecond

// supervise returns the exit code of work. If ctx is cancelled and work does not return within
// interruptGrace, because it reads a slow file or hashes a large one, supervise removes the
// temporary files and returns without waiting for work. It waits for a training that saves its
// state.
func (a *app) supervise(ctx context.Context, work func() int) int {
	done := make(chan int, 1)
	go func() { done <- work() }()
	select {
	case code := <-done:
		return code
	case <-ctx.Done():
	}
	select {
	case code := <-done:
		return code
	case <-time.After(interruptGrace):
	}
	if a.training.Load() {
		return <-done
	}
	a.message("interrupted")
	a.adviseResume("to continue")
	atomicfile.Abandon()
	return exitInterrupted
}

// resumeWith sets the command line that continues the run.
func (a *app) resumeWith(words ...string) {
	text := shell.Command(words...)
	a.resume.Store(&text)
}

// adviseResume prints the command line that continues the run, if there is one. when tells the user
// when to run it.
func (a *app) adviseResume(when string) {
	if text := a.resume.Load(); text != nil {
		a.message("%s: %s", when, *text)
	}
}

// watch returns a function that passes the events of a run to report. While the events are those of
// a training, supervise waits for the training. It does not wait for other stages, such as scoring,
// or for the first step of a training: they have no state to save.
func (a *app) watch(report progress.Func) progress.Func {
	return func(e progress.Event) {
		if e.Stage != progress.Note { // any stage may report a note
			a.training.Store(e.Stage == progress.Train || e.Stage == progress.Epoch)
		}
		report(e)
	}
}

// main runs the command that args describe and returns the exit code.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	err = errors.Join(err, a.helpError)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		a.message("%s", describeInterrupt(err))
		a.adviseResume("to continue")
		return exitInterrupted
	}
	a.messages(err, func(text string) string { return describeError(cmd, err, text) })
	var option *run.OptionError
	var input *run.InputError
	var bad *dataset.ImageError
	if errors.As(err, &bad) && canSkip(cmd.Flags()) {
		a.message("with --skip-bad-images the command skips and lists images that are missing or broken")
	}
	if key, ok := errors.AsType[*checkpoint.KeyError](err); ok && len(key.Keys) > 0 {
		a.message("--weights-key KEY chooses, such as --weights-key %s", key.Keys[0])
	}
	switch {
	case errors.As(err, &option):
		return exitUsage
	case !a.entered:
		a.message("'%s --help' describes the usage", cmd.CommandPath())
		return exitUsage
	}
	// A run whose loss is NaN would give the same loss again.
	if _, diverged := errors.AsType[*objective.LossError](err); !diverged {
		a.adviseResume("to continue after the problem is solved")
	}
	if errors.As(err, &input) || errors.As(err, &bad) {
		return exitInput
	}
	return exitFailed
}

// root returns the root command with all commands below it.
func (a *app) root() *cobra.Command {
	cobra.EnableCommandSorting = false // the help lists commands in the order of the work
	root := &cobra.Command{
		Use: "spt", Short: "Tune vision transformers where the task needs it", Long: description,
		SilenceUsage: true, SilenceErrors: true,
		Args: noSuchCommand,
		Run:  func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	root.SetHelpCommand(a.helpCommand())
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetHelpFunc(a.help)
	root.SetFlagErrorFunc(flagError)
	for _, f := range flagsOf(root.Name()) {
		f.add(root, root.PersistentFlags(), &options{app: a})
	}
	for _, verb := range []func(*app) *cobra.Command{tuneCommand, scoreCommand, planCommand, trainCommand, evalCommand,
		predictCommand, mergeCommand, exportCommand, dataCommand, inspectCommand, modelsCommand, devicesCommand, demoCommand, sweepCommand, tableCommand, reportCommand, pretrainCommand, benchCommand, versionCommand} {
		c := verb(a)
		c.DisableFlagsInUseLine = true
		root.AddCommand(c)
	}
	return root
}

// verb returns the function that cobra calls to run a command. It checks the flags, starts the
// profiles of --cpuprofile and --trace, and calls f. An error before this function is wrong usage.
func (a *app) verb(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		a.entered = true
		if err := checkFlags(cmd, args); err != nil {
			return err
		}
		stop, err := a.profile()
		if err != nil {
			return err
		}
		err = f(cmd.Context(), args)
		return errors.Join(err, stop())
	}
}

// profile starts the CPU profile and the execution trace, if their flags are given. stop ends them
// and closes their files.
func (a *app) profile() (stop func() error, err error) {
	var stops []func() error
	stop = func() (err error) {
		for _, s := range stops {
			err = errors.Join(err, s())
		}
		return err
	}
	for _, p := range []struct {
		path  string
		start func(io.Writer) error
		stop  func()
	}{
		{a.cpuprofile, pprof.StartCPUProfile, pprof.StopCPUProfile},
		{a.trace, trace.Start, trace.Stop},
	} {
		if p.path == "" {
			continue
		}
		f, err := os.Create(p.path)
		if err == nil {
			err = p.start(f)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("profiling: %w", err), stop())
		}
		stops = append(stops, func() error {
			p.stop()
			return f.Close()
		})
	}
	return stop, nil
}
