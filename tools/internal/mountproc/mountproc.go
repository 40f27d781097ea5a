// Package mountproc runs the mount of a data directory as a process of its own: it outlives the server that
// started it, and the next server adopts it.
//
// The process holds a lock on <data-dir>/mount.lock as long as it lives, however it ends, and has its pid and
// mount point written there. Its log is <data-dir>/mount.log. It finds a server that has restarted elsewhere by
// itself, through the data directory's endpoints file: a server writes that before it calls Ensure.
package mountproc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/daybook/daybook/ledgerfs/mount"
)

const (
	lockFile = "mount.lock"
	logFile  = "mount.log"
	maxLog   = 1 << 20
	format   = 1

	// readyEnv names the descriptor on which a mount process tells its parent how mounting went.
	readyEnv  = "DAYBOOK_MOUNT_READY_FD"
	readyWait = 15 * time.Second
	stopWait  = 5 * time.Second
)

// ErrRunning: another mount process has the data directory.
var ErrRunning = errors.New("a mount process is running")

// Info describes a mount process.
type Info struct {
	Format int    `json:"format"`
	PID    int    `json:"pid"`
	Dir    string `json:"dir"` // absolute
	// Adopted says that Ensure found it running. It is not stored.
	Adopted bool `json:"-"`
}

// Ensure has the file system of the server at adminURL mounted on dir: by the mount process of dataDir if there is
// one that does so, else by a new one, which replaces any other of that data directory. It returns when the
// mount is there. Errors wrap mount.ErrUnavailable where this machine cannot mount.
func Ensure(ctx context.Context, dir, adminURL, dataDir string) (Info, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Info{}, fmt.Errorf("mount point: %w", err)
	}
	if dataDir, err = filepath.Abs(dataDir); err != nil {
		return Info{}, fmt.Errorf("data directory: %w", err)
	}
	info, err := running(dataDir)
	if err != nil {
		return Info{}, err
	}
	if info.PID != 0 {
		mounted, err := mount.Mounted(dir)
		if err != nil {
			return Info{}, err
		}
		if mounted && info.Dir == dir && info.Format == format {
			info.Adopted = true
			return info, nil
		}
		if err := Stop(ctx, dataDir); err != nil {
			return Info{}, err
		}
	}
	pid, err := Spawn(ctx, dataDir, "mount", "--foreground", "--admin-url", adminURL, "--data-dir", dataDir, dir)
	return Info{Format: format, PID: pid, Dir: dir}, err
}

// running tells about the living mount process of the data directory; its PID is 0 if there is none.
func running(dataDir string) (Info, error) {
	f, err := os.OpenFile(filepath.Join(dataDir, lockFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Info{}, nil
	}
	if err != nil {
		return Info{}, fmt.Errorf("mount process: %w", err)
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		return Info{}, nil // the lock goes with f
	}
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return Info{}, fmt.Errorf("%w, but %s cannot be read: %w", ErrRunning, f.Name(), err)
	}
	info, err := parseInfo(b)
	if err != nil {
		return Info{}, fmt.Errorf("%w, but %s does not say which: %w", ErrRunning, f.Name(), err)
	}
	return info, nil
}

// parseInfo reads what a mount process wrote into its lock file. The pid is one that a signal may be sent to.
func parseInfo(b []byte) (Info, error) {
	var info Info
	if err := json.Unmarshal(b, &info); err != nil {
		return Info{}, err
	}
	if info.PID <= 0 {
		return Info{}, errNoPID
	}
	return info, nil
}

var errNoPID = errors.New("no process id")

// Stop ends the mount process of the data directory and waits until it is gone: it unmounts, and detaches a busy
// mount. One that does not end within 5 s is killed and its mount detached. No process is no error.
func Stop(ctx context.Context, dataDir string) error {
	info, err := running(dataDir)
	if err != nil || info.PID == 0 {
		return err
	}
	// The lock says that the process that wrote its pid lives, so the pid is its own.
	if err := unix.Kill(info.PID, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop mount process %d: %w", info.PID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	if gone(ctx, dataDir, info.PID) {
		return nil
	}
	if err := unix.Kill(info.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill mount process %d: %w", info.PID, err)
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), stopWait)
	defer cancel()
	if !gone(ctx, dataDir, info.PID) {
		return fmt.Errorf("mount process %d does not end", info.PID)
	}
	if err := mount.Unmount(ctx, info.Dir); err != nil && !errors.Is(err, mount.ErrNotMounted) {
		return err
	}
	return nil
}

// gone waits until the mount process with that pid lives no more.
func gone(ctx context.Context, dataDir string, pid int) bool {
	for {
		if now, err := running(dataDir); err == nil && now.PID != pid {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A Held is the claim of a mount process on its data directory.
type Held struct{ f *os.File }

// Hold claims a data directory for this process, which mounts dir. ErrRunning if another has it. The claim ends
// with the process or with Release.
func Hold(dataDir, dir string) (*Held, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dataDir, lockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("claim the mount of a data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w for %s", ErrRunning, dataDir)
	}
	b, err := json.Marshal(Info{Format: format, PID: os.Getpid(), Dir: dir})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(b, '\n'), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("claim the mount of a data directory: %w", err)
	}
	return &Held{f}, nil
}

// Release ends the claim.
func (h *Held) Release() { h.f.Close() }

// ready is what a mount process tells its parent.
type ready struct {
	OK          bool   `json:"ok,omitempty"`
	Error       string `json:"error,omitempty"`
	Unavailable bool   `json:"unavailable,omitempty"`
}

// Report tells the parent, if one waits (see Spawn), that the mount is there, or why it is not.
func Report(err error) {
	fd, perr := strconv.Atoi(os.Getenv(readyEnv))
	if perr != nil || fd < 3 {
		return
	}
	os.Unsetenv(readyEnv)
	r := ready{OK: err == nil}
	if err != nil {
		r.Error, r.Unavailable = err.Error(), errors.Is(err, mount.ErrUnavailable)
	}
	f := os.NewFile(uintptr(fd), "ready")
	defer f.Close()
	_ = json.NewEncoder(f).Encode(r) // a parent that has gone does not want to know
}

// Spawn starts this program again in the background, with those arguments, which make it mount, and returns its pid once it
// has reported that the mount is there. The process has a session of its own and survives this one. Its output goes to
// the data directory's mount.log, or nowhere if dataDir is empty.
func Spawn(ctx context.Context, dataDir string, args ...string) (pid int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("start the mount process: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start the mount process: %w", err)
	}
	defer r.Close()
	defer w.Close()
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Dir = "/" // keeps no other file system busy
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if dataDir != "" {
		l, err := openLog(filepath.Join(dataDir, logFile))
		if err != nil {
			return 0, err
		}
		defer l.Close()
		cmd.Stdout, cmd.Stderr = l, l
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the mount process: %w", err)
	}
	w.Close()
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }() // reaps it, should it end while we live
	answer := make(chan ready, 1)
	go func() {
		var a ready
		if json.NewDecoder(bufio.NewReader(r)).Decode(&a) != nil {
			a = ready{Error: "mount process ended without a word"}
			if dataDir != "" {
				a.Error += ": see " + filepath.Join(dataDir, logFile)
			}
		}
		answer <- a
	}()
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	select {
	case a := <-answer:
		switch {
		case a.OK:
			return cmd.Process.Pid, nil
		case a.Unavailable:
			return 0, &childError{a.Error, mount.ErrUnavailable}
		}
		return 0, &childError{a.Error, nil}
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-exited
		return 0, fmt.Errorf("start the mount process: %w", ctx.Err())
	}
}

// A childError is what a mount process has reported.
type childError struct {
	text string
	kind error
}

func (e *childError) Error() string { return e.text }
func (e *childError) Unwrap() error { return e.kind }

// openLog opens the log to be appended to, emptied when it has grown large.
func openLog(name string) (*os.File, error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if st, err := os.Stat(name); err == nil && st.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(name, flags, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log of the mount process: %w", err)
	}
	return f, nil
}
