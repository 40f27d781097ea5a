// Command bench measures Daybook, the machine below it and the peers beside it.
//
// Every figure is meant to be read next to a limit that was measured in the same run: a device sync, the
// cost of the client against a broker that stores nothing, a real Apache Pulsar under the same load.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// A command is one of the bench's measurements.
type command struct {
	name, short string
	run         func(ctx context.Context, args []string) error
}

var commands = []command{
	{"device", "time O_DIRECT|O_DSYNC writes to an already written file", runDevice},
	{"publish", "publish, and with -mode tail consume, with the official Go client; print rate and latency", runPublish},
	{"null", "serve the Pulsar protocol and store nothing: the client's ceiling", runNull},
	{"compare", "the null broker, Daybook and a real Pulsar under the same load, in turns", runCompare},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 {
		for _, c := range commands {
			if c.name == os.Args[1] {
				if err := c.run(ctx, os.Args[2:]); err != nil && !errors.Is(err, flag.ErrHelp) {
					fmt.Fprintln(os.Stderr, "bench:", err)
					os.Exit(1)
				}
				return
			}
		}
	}
	fmt.Fprintln(os.Stderr, "usage: bench COMMAND [flags]; -h after a command lists its flags")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-8s  %s\n", c.name, c.short)
	}
	os.Exit(2)
}

// quantile is the q-quantile of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func median[T int64 | float64 | time.Duration](v []T) T {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
