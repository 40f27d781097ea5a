// Package mount shows the file tree of a server as a file system of the kernel (FUSE), over filetree's client. It
// is meant to be a process of its own: it outlives the server, answers with errors while there is none, and
// shows the data again when the server is back, be it at another address.
//
// # Promises
//
// A file's size is exact, and reads go to the server every time but for what was read ahead: no page of a growing
// file is ever in the page cache (every mode that caches showed NUL bytes under growth). Attributes are cached for
// a second, and dropped by a notification as soon as a file has grown. While a program has a file open, its offsets
// stay what they were, whatever retention removes; what was removed reads as ESTALE.
//
// A record is the bytes up to a newline that one handle writes. The rest, without a newline, is published when the
// process that wrote it last closes its descriptor, or else when the last descriptor is closed. The first records of a handle are
// acknowledged before write returns, so that a shell, which ignores errors of close, sees them fail; later
// ones are sent in the background, in order, and awaited by fsync and close. After an error nothing that was
// written before it is sent any more; it is reported once.
//
// Every request ends within its deadline, and soon after its process is interrupted. The process never touches its own
// mount.
//
// # Goroutines
//
// Each request has one, from go-fuse, and one that waits for its interruption. A handle that writes has one while records are under way; a handle that
// reads sequentially has one while it reads ahead. One follows the server's stream of growth, one forgets watches
// that nobody needs.
package mount

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/daybook/daybook/ledgerfs/filetree"
)

// FSType is the type of our mounts, as /proc/self/mountinfo shows it.
const FSType = "fuse.daybook"

var (
	// ErrUnavailable: this machine or process cannot mount. The text says what is missing.
	ErrUnavailable = errors.New("mounting is not possible")
	// ErrMounted: a living file system of ours is mounted there.
	ErrMounted = errors.New("already mounted")
	// ErrNotMounted: nothing of ours is mounted there.
	ErrNotMounted = errors.New("not mounted")
)

// Config says what to mount where.
type Config struct {
	// Dir is the mount point, an empty directory. It is made if it does not exist. A dead mount of ours on it is
	// detached.
	Dir    string
	Client *filetree.Client
	Log    *slog.Logger // nil: slog.Default()
	// FSName is what df shows as the file system; "daybook" if empty.
	FSName string
	// Ready, if set, is called once when the mount is there.
	Ready func()
	// Debug has every request logged.
	Debug bool

	deadlines deadlines
}

// deadlines of requests.
type deadlines struct {
	lookup, read, write time.Duration
	// retry is how long a request waits for a server that has just gone to come back.
	retry time.Duration
}

func (d deadlines) orDefault() deadlines {
	if d == (deadlines{}) {
		return deadlines{lookup: 5 * time.Second, read: 30 * time.Second, write: 60 * time.Second, retry: 3 * time.Second}
	}
	return d
}

// Run mounts and serves until ctx ends or somebody unmounts. At the end of ctx it unmounts, and after 2 s
// detaches a mount that is busy; it returns within 5 s. ErrUnavailable and ErrMounted say why it did not mount.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.FSName == "" {
		cfg.FSName = "daybook"
	}
	cfg.deadlines = cfg.deadlines.orDefault()
	return run(ctx, cfg)
}

// Unmount unmounts dir, and detaches it if it is busy for 2 s. Dead mounts are detached at once. ErrNotMounted if nothing
// of ours is mounted there.
func Unmount(ctx context.Context, dir string) error { return unmount(ctx, dir) }

// Mounted reports whether a file system of ours, dead or alive, is mounted on dir. It does not touch it.
func Mounted(dir string) (bool, error) { return mounted(dir) }
