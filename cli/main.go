// Package cli is the command line of spt, which tunes pretrained vision transformers for image
// tasks by tuning under one percent of their weights. [Main] runs it. A program that registers a
// structured module, an architecture or an objective and then calls Main has it in every command.
//
// Each command is one file here: it turns flags into calls of the library, github.com/sptune/spt,
// and prints the result. All flags are rows of one table, in flags.go; flag.go, values.go, check.go
// and help.go read it. The files output.go and progress.go print.
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

// The exit codes. The help of the root command documents them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInput       = 3
	exitInterrupted = 130 // 128 + SIGINT, as in shells
)

const description = `spt makes an image classifier from a pretrained vision transformer. It tunes under one percent
of the weights, those that matter most for the task (Sensitivity-aware visual
Parameter-efficient Tuning, He et al., ICCV 2023).

Begin with 'spt demo', which needs no files, or with

  spt tune --model hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k --data photos

where photos is a folder with one folder of images for each class. 'spt tune' runs all
stages; 'spt score', 'spt plan' and 'spt train' run one each. The result is a delta, a file
of one to two megabytes for a ViT-B, which 'spt predict', 'spt eval' and 'spt merge' use.
'spt completion SHELL' prints a script that completes commands and flags in your shell.

Exit codes:
  0    done
  1    failed
  2    wrong usage: an unknown command, flag or value
  3    bad input: a file or folder is missing or damaged, or does not fit the other inputs
  130  interrupted; the command that continues the run is printed, if there is one`

// app holds the state of one call of the program.
type app struct {
	stdout, stderr io.Writer
	terminal       bool // stderr is a terminal

	json, quiet, showHelp, showAll bool
	cpuprofile, trace              string

	entered   bool   // the command has begun: its flags and arguments were parsed
	helpError error  // --help was given together with a wrong command
	resume    string // the command line that continues the run after an interrupt
}

// Main runs the command line with args, which lack the program's name, and returns the exit code of
// the process. Structured modules, backbones and objectives that the caller has registered are
// available in every command.
func Main(args []string) int {
	// Weights and activations are nearly all of the heap and stay. With Go's default of 100,
	// garbage would double the heap before a collection.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
	a := &app{stdout: os.Stdout, stderr: os.Stderr, terminal: term.IsTerminal(int(os.Stderr.Fd()))}
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup makes programs ignore it
		ends = append(ends, syscall.SIGHUP) // a closed terminal
		// A shell and the kernel send one each. The second must not end the program while it saves.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	// After the first signal, the next one ends the program.
	context.AfterFunc(ctx, stop)

	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	err = errors.Join(err, a.helpError)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintf(a.stderr, "spt: %s\n", describeInterrupt(err))
		if a.resume != "" {
			fmt.Fprintf(a.stderr, "spt: to continue: %s\n", a.resume)
		}
		return exitInterrupted
	}
	fmt.Fprintf(a.stderr, "spt: %s\n", describeError(cmd, err))
	var option *run.OptionError
	var input *run.InputError
	var bad *dataset.ImageError
	if errors.As(err, &bad) && canSkip(cmd.Flags()) {
		fmt.Fprintln(a.stderr, "spt: with --skip-bad-images the command skips and lists images that are missing or broken")
	}
	switch {
	case errors.As(err, &option):
		return exitUsage
	case !a.entered:
		fmt.Fprintf(a.stderr, "spt: '%s --help' describes the usage\n", cmd.CommandPath())
		return exitUsage
	case errors.As(err, &input), errors.As(err, &bad):
		return exitInput
	}
	if a.resume != "" {
		fmt.Fprintf(a.stderr, "spt: to continue after the problem is solved: %s\n", a.resume)
	}
	return exitFailed
}

// root returns the root command with all commands below it.
func (a *app) root() *cobra.Command {
	cobra.EnableCommandSorting = false // commands are listed in the order of the work
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
		predictCommand, mergeCommand, dataCommand, inspectCommand, devicesCommand, demoCommand, pretrainCommand, benchCommand, versionCommand} {
		c := verb(a)
		c.DisableFlagsInUseLine = true
		root.AddCommand(c)
	}
	return root
}

// verb makes f the function of a command. Errors before f are wrong usage. Profiles cover f alone.
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

// profile starts the CPU profile and the execution trace, if their flags are given.
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
