package mount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// busyWait is how long an unmount waits for a busy mount before it detaches it.
	busyWait = 2 * time.Second
	// drainWait is how long the end of a mount waits for records that are under way.
	drainWait = 2 * time.Second
	// probeWait is how long a mount may take to prove that it is alive.
	probeWait = 2 * time.Second
	maxIO     = 1 << 20
)

func run(ctx context.Context, cfg Config) error {
	dir, err := prepare(cfg.Dir, cfg.Log)
	if err != nil {
		return err
	}
	root := os.Geteuid() == 0
	fsys := newFS(cfg)
	opts := &fuse.MountOptions{
		FsName:            cfg.FSName,
		Name:              strings.TrimPrefix(FSType, "fuse."),
		AllowOther:        root,
		Options:           []string{"default_permissions"},
		DirectMountStrict: root, // without root, fusermount3 mounts for us
		MaxWrite:          maxIO,
		MaxBackground:     64,
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		// A cache that writes back reads pages of a topic and writes them again: never.
		DisabledCapabilities: fuse.CAP_WRITEBACK_CACHE,
		DisableSplice:        true,
		Debug:                cfg.Debug,
		Logger:               log.New(logWriter{cfg.Log}, "", 0),
		PanicHandler: func(v any) fuse.Status {
			cfg.Log.Error("panic in a file system request", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
	server, err := fuse.NewServer(fsys, dir, opts)
	if err != nil {
		fsys.close(0)
		return unavailable(dir, root, err)
	}
	fsys.start(server)
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve()
	}()
	cfg.Log.Info("mounted", "dir", dir, "server", cfg.Client.URL())
	if cfg.Ready != nil {
		cfg.Ready()
	}
	select {
	case <-served: // somebody has unmounted
		fsys.close(drainWait)
		return nil
	case <-ctx.Done():
	}
	err = detach(context.WithoutCancel(ctx), dir, func() error {
		if root {
			return unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		}
		return server.Unmount()
	})
	fsys.close(drainWait)
	select {
	case <-served:
	case <-time.After(time.Second / 2):
		// Still in use, but detached: it ends with this process.
	}
	cfg.Log.Info("unmounted", "dir", dir, "err", err)
	return err
}

// unavailable says in one line what a failed mount lacks.
func unavailable(dir string, root bool, err error) error {
	f, openErr := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if openErr == nil {
		f.Close()
	}
	switch {
	case errors.Is(openErr, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no /dev/fuse (load the kernel's fuse module; in a container add --device /dev/fuse)", ErrUnavailable)
	case errors.Is(openErr, unix.ENXIO), errors.Is(openErr, unix.ENODEV):
		return fmt.Errorf("%w: the kernel has no FUSE", ErrUnavailable)
	case errors.Is(openErr, fs.ErrPermission) && !root:
		return fmt.Errorf("%w: no right to open /dev/fuse (run as root)", ErrUnavailable)
	case openErr != nil:
		return fmt.Errorf("%w: /dev/fuse cannot be opened: %w (in a container add --device /dev/fuse)", ErrUnavailable, openErr)
	case root && errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: no right to mount (in a container add --cap-add SYS_ADMIN)", ErrUnavailable)
	case !root && strings.Contains(err.Error(), "executable file not found"):
		return fmt.Errorf("%w: not root, and there is no fusermount3 (install the package fuse3, or run as root)", ErrUnavailable)
	}
	return fmt.Errorf("mount %s: %w", dir, err)
}

// prepare makes the mount point usable and returns its absolute path.
func prepare(dir string, l *slog.Logger) (string, error) {
	dir, err := resolve(dir)
	if err != nil {
		return "", err
	}
	ours, err := mounted(dir)
	if err != nil {
		return "", err
	}
	if ours {
		switch alive, err := probe(dir); {
		case err != nil:
			return "", fmt.Errorf("%s: %w, but does not answer (%w): try 'daybook umount'", dir, ErrMounted, err)
		case alive:
			return "", fmt.Errorf("%s: %w", dir, ErrMounted)
		}
		l.Info("detaching a dead mount", "dir", dir)
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return "", fmt.Errorf("detach the dead mount on %s: %w", dir, err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); err == nil {
		return "", fmt.Errorf("mount point %s is not empty, and its files would be hidden: choose an empty directory, or one that does not exist", dir)
	} else if err != io.EOF {
		return "", fmt.Errorf("mount point: %w", err)
	}
	return dir, nil
}

// resolve makes dir absolute without touching what is mounted on it.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	parent, base := filepath.Split(dir)
	if p, err := filepath.EvalSymlinks(parent); err == nil {
		dir = filepath.Join(p, base)
	}
	if dest, err := os.Readlink(dir); err == nil {
		if !filepath.IsAbs(dest) {
			dest = filepath.Join(filepath.Dir(dir), dest)
		}
		return filepath.Clean(dest), nil
	}
	return dir, nil
}

// probe asks the file system on dir whether it lives. It is not to be asked by the process that serves it.
func probe(dir string) (alive bool, err error) {
	answer := make(chan error, 1)
	go func() { // may stay behind in the kernel if the mount hangs
		var st unix.Statfs_t
		answer <- unix.Statfs(dir, &st)
	}()
	select {
	case err := <-answer:
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
			return false, nil
		}
		return false, err
	case <-time.After(probeWait):
		return false, unix.ETIMEDOUT
	}
}

func mounted(dir string) (bool, error) {
	dir, err := resolve(dir)
	if err != nil {
		return false, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	ours := false
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if point, typ, ok := parseMountInfo(sc.Text()); ok && point == dir {
			ours = typ == FSType // the last one is on top
		}
	}
	if err := sc.Err(); err != nil {
		return false, fmt.Errorf("list mounts: %w", err)
	}
	return ours, nil
}

// parseMountInfo takes the mount point and the type from a line of /proc/self/mountinfo (proc(5)).
func parseMountInfo(line string) (point, typ string, ok bool) {
	head, tail, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(head), strings.Fields(tail)
	if !ok || len(fields) < 5 || len(rest) < 1 {
		return "", "", false
	}
	return unescapeOctal(fields[4]), rest[0], true
}

// unescapeOctal undoes the \ooo of mountinfo.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1]) && isOctal(s[i+2]) && isOctal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(c byte) bool { return c >= '0' && c <= '7' }

func unmount(ctx context.Context, dir string) error {
	dir, err := resolve(dir)
	if err != nil {
		return err
	}
	ours, err := mounted(dir)
	if err != nil {
		return err
	}
	if !ours {
		return fmt.Errorf("%s: %w", dir, ErrNotMounted)
	}
	return detach(ctx, dir, func() error { return unix.Unmount(dir, unix.UMOUNT_NOFOLLOW) })
}

// detach unmounts, and detaches what stays busy.
func detach(ctx context.Context, dir string, umount func() error) error {
	ctx, cancel := context.WithTimeout(ctx, busyWait)
	defer cancel()
	for {
		err := umount()
		switch {
		case err == nil, errors.Is(err, unix.EINVAL): // not a mount point (any more)
			return nil
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("detach %s: %w", dir, err)
			}
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// logWriter takes go-fuse's log lines.
type logWriter struct{ l *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.l.Debug("fuse", "line", strings.TrimSpace(string(b)))
	return len(b), nil
}
