//go:build !linux

package mount

import (
	"context"
	"fmt"
	"runtime"
)

func run(context.Context, Config) error { return unsupported() }

func unmount(context.Context, string) error { return unsupported() }

func mounted(string) (bool, error) { return false, nil }

func unsupported() error {
	return fmt.Errorf("%w on %s: it needs Linux; 'daybook fs' shows the same tree without a mount", ErrUnavailable, runtime.GOOS)
}
