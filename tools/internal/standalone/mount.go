package standalone

import (
	"context"
	"errors"

	"github.com/daybook/daybook/ledgerfs/mount"
	"github.com/daybook/daybook/tools/internal/mountproc"
)

// mount has the topics mounted at o.Mount by a process of its own, which outlives a crash of this one. Where the
// machine cannot mount, that is noted and the rest runs on.
func (n *node) mount(ctx context.Context, o Options) error {
	_, err := mountproc.Ensure(ctx, n.endpoints.Mount, n.broker.HTTPURL(), o.DataDir)
	if errors.Is(err, mount.ErrUnavailable) {
		n.mountProblem = err
		n.log.Warn("topics are not mounted; daybook fs serves them without", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	n.started("mount", func(ctx context.Context) error { return mountproc.Stop(ctx, o.DataDir) })
	return nil
}
