// Package cli is the command line of spindle: a table of commands, their flags
// and their help.
//
// Threading: one goroutine, and what the commands start. Memory: none held.
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"spindle/cmd/spindle/internal/daemon"
	"spindle/control/rpc"
)

// Exit statuses.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// streams are where a command writes.
type streams struct{ out, err io.Writer }

// command is one word after the program's name.
type command struct {
	name  string
	args  string // how its arguments are written
	short string
	long  string
	// flags declares the command's flags and returns what runs it with its
	// arguments.
	flags func(*flag.FlagSet) func(streams, []string) error
}

func commands() []command {
	return []command{serveCommand(), rpcCommand(), topCommand(), rdmaCommand(), completionCommand(), versionCommand()}
}

// usageError is an error in how the program was called.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Run runs the command line and returns the exit status.
func Run(args []string, out, errOut io.Writer) int {
	s := streams{out, errOut}
	err := dispatch(s, args)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(errOut, "spindle: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(errOut, "spindle: %v\n", err)
	return exitError
}

func dispatch(s streams, args []string) error {
	if len(args) == 0 {
		help(s.err)
		return usagef("no command given")
	}
	switch args[0] {
	case "help", "-h", "--help", "-help":
		return helpCommand(s, args[1:])
	case "--version", "-version":
		args = []string{"version"}
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(s, args[1:])
		}
	}
	return usagef("there is no command %q; \"spindle help\" lists them", args[0])
}

func (c command) run(s streams, args []string) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	run := c.flags(fs)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		c.help(s.out, fs)
		return err
	}
	if err != nil {
		return usagef("%s: %w; \"spindle %s --help\" explains the flags", c.name, err, c.name)
	}
	return run(s, fs.Args())
}

func helpCommand(s streams, args []string) error {
	if len(args) == 0 {
		help(s.out)
		return nil
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(s, append([]string{"--help"}, args[1:]...))
		}
	}
	return usagef("there is no command %q; \"spindle help\" lists them", args[0])
}

func help(w io.Writer) {
	fmt.Fprintf(w, "Spindle is a poll-mode iSCSI and iSER target.\n\nUsage: spindle COMMAND [flags] [arguments]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-12s %s\n", c.name, c.short)
	}
	fmt.Fprintf(w, "  %-12s %s\n", "help", "explain a command")
	fmt.Fprintf(w, `
Serve a disk in memory, now:
  spindle serve --malloc 1G --listen 127.0.0.1:3260
Serve what was saved:
  spindle rpc save_config filename=/etc/spindle.json
  spindle serve --config /etc/spindle.json
"spindle help COMMAND" says more.
`)
}

func (c command) help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprintf(w, "%s\n\nUsage: spindle %s\n", c.long, strings.TrimSpace(c.name+" [flags] "+c.args))
	first := true
	fs.VisitAll(func(f *flag.Flag) {
		if first {
			fmt.Fprintf(w, "\nFlags:\n")
			first = false
		}
		value, text := flag.UnquoteUsage(f)
		name := "--" + f.Name
		if value != "" {
			name += " " + value
			text = strings.TrimPrefix(text, value+" ")
		}
		if f.DefValue != "" && f.DefValue != "false" {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(w, "  %-26s %s\n", name, text)
	})
	if c.name == "rpc" {
		fmt.Fprintf(w, "\nMethods:\n%s", strings.TrimPrefix(rpc.HelpAll(), "\n"))
	}
}

func versionCommand() command {
	return command{
		name: "version", short: "print the version", long: "Print the version.",
		flags: func(*flag.FlagSet) func(streams, []string) error {
			return func(s streams, args []string) error {
				if len(args) > 0 {
					return usagef("version takes no arguments")
				}
				_, err := fmt.Fprintln(s.out, daemon.Version)
				return err
			}
		},
	}
}

func completionCommand() command {
	return command{
		name: "completion", args: "bash|zsh", short: "print a completion script",
		long: "Print a completion script for a shell. For this session of bash:\n  source <(spindle completion bash)",
		flags: func(*flag.FlagSet) func(streams, []string) error {
			return func(s streams, args []string) error {
				if len(args) != 1 {
					return usagef("completion: name one shell, bash or zsh")
				}
				flags, order := map[string][]string{"help": nil}, []string{"help"}
				for _, c := range commands() {
					order = append(order, c.name)
					fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
					if c.name != "completion" {
						c.flags(fs)
					}
					fs.VisitAll(func(f *flag.Flag) { flags[c.name] = append(flags[c.name], "--"+f.Name) })
				}
				flags["completion"] = []string{"bash", "zsh"}
				script, err := rpc.Completion(args[0], flags, order)
				if err != nil {
					return usageError{err}
				}
				_, err = io.WriteString(s.out, script)
				return err
			}
		},
	}
}
