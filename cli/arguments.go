package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/internal/wording"
)

// This file checks the names of commands and flags and the number of arguments, and proposes the
// nearest name for one that does not exist.

// arguments returns a check that a command gets at least min and at most max arguments. A negative
// max means any number. usage describes the arguments in words, such as "one path".
func arguments(min, max int, usage string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= min && (max < 0 || len(args) <= max) {
			return nil
		}
		found := "none was given"
		if len(args) > 0 {
			found = fmt.Sprintf("found %s: %s", wording.Plural(len(args), "argument"), quotedList(args))
		}
		return fmt.Errorf("'%s' takes %s: %s", cmd.CommandPath(), usage, found)
	}
}

// noArguments returns an error if a command gets arguments.
func noArguments(cmd *cobra.Command, args []string) error {
	return arguments(0, 0, "flags only")(cmd, args)
}

// quotedList returns the first five texts, quoted, and "…" if there are more.
func quotedList(texts []string) string {
	quoted := make([]string, 0, 6)
	for i, text := range texts {
		if i == 5 {
			quoted = append(quoted, "…")
			break
		}
		quoted = append(quoted, fmt.Sprintf("%q", text))
	}
	return strings.Join(quoted, ", ")
}

// noSuchCommand returns an error if args is not empty. Cobra calls it for a command with
// sub-commands if the first argument names none of them.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() || c.Name() == "help" {
			names = append(names, c.Name())
		}
	}
	return option.Unknown("", "command", args[0], names)
}

// helpCommand returns the command "help", which prints the help of another command.
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]...", Short: "Describe a command",
		Long:    "Prints the description, the flags and examples of a command, as 'spt COMMAND --help' does.",
		Example: "  spt help tune\n  spt help data verify",
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return noSuchCommand(target, rest)
			}
			return target.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			target, _, err := cmd.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, c := range target.Commands() {
				if c.IsAvailableCommand() && strings.HasPrefix(c.Name(), typed) {
					names = append(names, c.Name())
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// unknownFlag returns the error for a flag that the command does not have.
func unknownFlag(cmd *cobra.Command, bad *pflag.NotExistError) error {
	if letters := bad.GetSpecifiedShortnames(); letters != "" {
		return fmt.Errorf("flag -%s is unknown", bad.GetSpecifiedName())
	}
	name := bad.GetSpecifiedName()
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := option.Nearest(name, names); near != "" {
		return fmt.Errorf("flag --%s is unknown; did you mean --%s?", name, near)
	}
	return fmt.Errorf("flag --%s is unknown; '%s --help --all' lists the flags", name, cmd.CommandPath())
}

// describeInterrupt returns the text for a command that was interrupted. It names the work, without
// the words "context canceled".
func describeInterrupt(err error) string {
	text := strings.TrimSpace(strings.ReplaceAll(err.Error(), context.Canceled.Error(), ""))
	if text = strings.TrimRight(text, ": \n"); text == "" {
		return "interrupted"
	}
	return "interrupted: " + text
}
