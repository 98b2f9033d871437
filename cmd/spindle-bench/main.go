// Command spindle-bench measures iSCSI targets: it loads one, or runs several
// side by side, counts what they cost and reports it. "spindle-bench help" says how.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"spindle/bench/load"
)

// version is this tool's; results carry it.
const version = "spindle-bench-0.1"

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
	name, args, short, long string
	// flags declares the flags and returns what runs the command with its arguments.
	flags func(*flag.FlagSet) func(context.Context, streams, []string) error
}

func commands() []command {
	return []command{runCommand(), compareCommand(), reportCommand(), profileCommand(), limitCommand()}
}

// usageError is an error in how the program was called.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:], streams{os.Stdout, os.Stderr}))
}

func execute(ctx context.Context, args []string, s streams) int {
	err := dispatch(ctx, s, args)
	var usage usageError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &usage) || errors.Is(err, load.ErrOption):
		fmt.Fprintf(s.err, "spindle-bench: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(s.err, "spindle-bench: %v\n", err)
	return exitError
}

func dispatch(ctx context.Context, s streams, args []string) error {
	if len(args) == 0 {
		help(s.err)
		return usagef("no command given")
	}
	name, rest := args[0], args[1:]
	switch name {
	case "help", "-h", "--help", "-help":
		if len(rest) == 0 {
			help(s.out)
			return nil
		}
		name, rest = rest[0], []string{"--help"}
	case "version", "--version", "-version":
		_, err := fmt.Fprintln(s.out, version)
		return err
	}
	for _, c := range commands() {
		if c.name == name {
			return c.run(ctx, s, rest)
		}
	}
	return usagef("there is no command %q; \"spindle-bench help\" lists them", name)
}

// run parses flags and arguments in any order.
func (c command) run(ctx context.Context, s streams, args []string) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	run := c.flags(fs)
	var rest []string
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			c.help(s.out, fs)
			return err
		}
		if err != nil {
			return usagef("%s: %w; \"spindle-bench %s --help\" explains the flags", c.name, err, c.name)
		}
		if args = fs.Args(); len(args) == 0 {
			return run(ctx, s, rest)
		}
		rest, args = append(rest, args[0]), args[1:]
	}
}

func help(w io.Writer) {
	fmt.Fprintf(w, "spindle-bench measures iSCSI targets.\n\nUsage: spindle-bench COMMAND [flags] [arguments]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-10s %s\n", c.name, c.short)
	}
	fmt.Fprintf(w, "  %-10s %s\n  %-10s %s\n", "version", "print the version", "help", "explain a command")
	fmt.Fprint(w, `
Load a target with 4 KiB random reads, 32 at a time, and show what the machine allows:
  spindle-bench run iscsi://127.0.0.1:3260/iqn.2026-11.dev.spindle:disk/0 --rw randread --bs 4k --iodepth 32 --limit
Compare Spindle with STGT and write a page about it:
  spindle-bench compare --peers spindle,stgt,limit --workloads quick --out result
"spindle-bench help COMMAND" says more.
`)
}

func (c command) help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprintf(w, "%s\n\nUsage: spindle-bench %s [flags]\n", c.long, strings.TrimSpace(c.name+" "+c.args))
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
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" && f.DefValue != "-1" {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		text = strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 24))
		fmt.Fprintf(w, "  %-21s %s\n", name, text)
	})
}
