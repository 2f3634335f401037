// Package cli is the command line of spt: it tunes pretrained vision transformers for image tasks by tuning
// under one percent of their weights.
//
// Each verb is one file here and turns flags into calls of the library,
// github.com/sptune/spt. Flags that several verbs share are in flags.go; what
// people and programs read is written by output.go and progress.go.
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
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sptune/spt/dataset"
	"github.com/sptune/spt/run"
)

// Exit codes, as `spt --help` documents them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInput       = 3
	exitInterrupted = 130 // 128 + SIGINT, as shells count
)

const description = `spt tunes a pretrained vision transformer for an image task by tuning under one
percent of its weights, where the task needs it (Sensitivity-aware visual
Parameter-efficient Tuning, He et al., ICCV 2023).

'spt tune' does it all; 'spt score', 'spt plan' and 'spt train' are its stages.
The result is a delta of one to two megabytes, which 'spt eval', 'spt predict'
and 'spt merge' use. 'spt demo' needs no files at all.

Exit codes:
  0    done
  1    failed
  2    wrong usage: unknown verb, flag or value
  3    bad input: a checkpoint, image, list, plan, scores or delta is missing,
       broken, or does not match the rest
  130  interrupted; if something was kept, how to go on is printed`

// app is one call of the program.
type app struct {
	stdout, stderr io.Writer
	terminal       bool // stderr is one

	json, quiet       bool
	cpuprofile, trace string

	entered bool   // a verb has begun, so errors are no longer cobra's
	resume  string // how to go on when interrupted
}

// Main runs the command line with args, which lack the program's name, and returns the exit
// code of the process. Structured modules, backbones and objectives that the caller has registered
// are available in every command.
func Main(args []string) int {
	// Weights and activations are nearly all of the heap and stay. With Go's default of 100,
	// garbage would double the heap before a collection.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
	a := &app{stdout: os.Stdout, stderr: os.Stderr, terminal: term.IsTerminal(int(os.Stderr.Fd()))}
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		ends = append(ends, syscall.SIGHUP) // the terminal was closed
		// A shell and the kernel send one each: the second must not kill what is being saved.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	// From the first signal on the next one kills, as it does by default.
	context.AfterFunc(ctx, stop)

	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintf(a.stderr, "spt: interrupted: %v\n", err)
		if a.resume != "" {
			fmt.Fprintf(a.stderr, "spt: to go on: %s\n", a.resume)
		}
		return exitInterrupted
	}
	fmt.Fprintf(a.stderr, "spt: %v\n", err)
	var option *run.OptionError
	var input *run.InputError
	var bad *dataset.ImageError
	if errors.As(err, &bad) && canSkip(cmd.Flags()) {
		fmt.Fprintln(a.stderr, "spt: --skip-bad-images leaves out images that are missing or broken, and lists them")
	}
	switch {
	case !a.entered:
		fmt.Fprintln(a.stderr, "spt: 'spt --help' lists the verbs, 'spt VERB --help' a verb's flags")
		return exitUsage
	case errors.As(err, &option):
		return exitUsage
	case errors.As(err, &input), errors.As(err, &bad):
		return exitInput
	}
	if a.resume != "" {
		fmt.Fprintf(a.stderr, "spt: to go on, once that is mended: %s\n", a.resume)
	}
	return exitFailed
}

func (a *app) root() *cobra.Command {
	cobra.EnableCommandSorting = false // the order of the work
	root := &cobra.Command{
		Use: "spt", Short: "Tune vision transformers where the task needs it", Long: description,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		Run:  func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	fs := root.PersistentFlags()
	fs.BoolVar(&a.json, "json", false, "write the result for programs: JSON on standard output, all else on standard error")
	fs.BoolVarP(&a.quiet, "quiet", "q", false, "show no progress")
	fs.StringVar(&a.cpuprofile, "cpuprofile", "", "write a CPU profile to `FILE` (go tool pprof)")
	fs.StringVar(&a.trace, "trace", "", "write an execution trace to `FILE` (go tool trace)")
	for _, verb := range []func(*app) *cobra.Command{tuneCommand, scoreCommand, planCommand, trainCommand, evalCommand,
		predictCommand, mergeCommand, dataCommand, inspectCommand, devicesCommand, demoCommand, pretrainCommand, benchCommand, versionCommand} {
		c := verb(a)
		c.Flags().SortFlags = false
		c.DisableFlagsInUseLine = true
		root.AddCommand(c)
	}
	return root
}

// verb makes a cobra run function of f: what cobra refused before is wrong
// usage; profiles cover f and nothing else.
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

// profile starts what --cpuprofile and --trace ask for.
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
