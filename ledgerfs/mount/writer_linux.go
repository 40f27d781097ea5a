package mount

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/daybook/daybook/ledgerfs/filetree"
)

const (
	// What may wait to be sent by one handle. Beyond it writes block.
	maxPendingBytes   = 8 << 20
	maxPendingRecords = 64 << 10
	// What is sent at once.
	batchBytes   = 1 << 20
	batchRecords = 8 << 10
	// maxRecord is the longest record that is put together; the broker's own limit is lower.
	maxRecord = filetree.MaxAppendBytes - 4
)

// A writer publishes the records that one handle writes, in order. While records are under way a goroutine
// sends them, one batch after the other.
type writer struct {
	fs   *fileSystem
	path string
	sync bool // O_SYNC or O_DSYNC: every write waits

	mu struct {
		sync.Mutex
		rest     []byte // after the last newline
		owner    uint64 // who wrote last
		end      int64  // the end of the file as this handle knows it
		queue    [][]byte
		bytes    int
		accepted int64 // records ever taken in
		settled  int64 // of these: acknowledged or failed
		acked    bool  // some record of this handle was
		err      error // latched: reported once
		sending  bool
		// changed is closed and replaced whenever settled or the queue changes.
		changed chan struct{}
	}
}

func newWriter(f *fileSystem, path string, flags uint32, end int64) *writer {
	w := &writer{fs: f, path: path, sync: flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0}
	w.mu.end = end
	w.mu.changed = make(chan struct{})
	return w
}

// write takes in bytes. Without O_APPEND they must go to the end of the file.
func (w *writer) write(ctx context.Context, data []byte, off int64, flags uint32, owner uint64) (int, error) {
	w.mu.Lock()
	if err := w.takeErrorLocked(); err != nil {
		w.mu.Unlock()
		return 0, err
	}
	if flags&syscall.O_APPEND == 0 && off != w.mu.end {
		w.mu.Unlock()
		return 0, fmt.Errorf("write to %s at %d, the end is %d: %w", w.path, off, w.mu.end, filetree.EPERM)
	}
	// Room first, so that a write is taken in as a whole or not at all.
	for w.mu.bytes > maxPendingBytes || len(w.mu.queue) > maxPendingRecords {
		if flags&syscall.O_NONBLOCK != 0 {
			w.mu.Unlock()
			return 0, filetree.EAGAIN
		}
		if err := w.awaitLocked(ctx); err != nil {
			w.mu.Unlock()
			return 0, err
		}
		if err := w.takeErrorLocked(); err != nil {
			w.mu.Unlock()
			return 0, err
		}
	}
	if i := bytes.IndexByte(data, '\n'); len(w.mu.rest)+len(data) > maxRecord && (i < 0 || len(w.mu.rest)+i > maxRecord) {
		w.mu.rest = nil
		w.mu.Unlock()
		return 0, fmt.Errorf("record of more than %d bytes: %w", maxRecord, filetree.EMSGSIZE)
	}
	w.mu.owner = owner
	w.mu.end += int64(len(data))
	w.takeInLocked(data)
	wait := w.sync || !w.mu.acked
	w.mu.Unlock()
	if !wait {
		return len(data), nil
	}
	switch err := w.wait(ctx); {
	case err == nil, interrupted(err):
		// Interrupted: the records are on their way and must not be written again.
		return len(data), nil
	default:
		return 0, err
	}
}

// takeInLocked splits bytes into records. It does not keep data.
func (w *writer) takeInLocked(data []byte) {
	last := bytes.LastIndexByte(data, '\n')
	if last < 0 {
		w.mu.rest = append(w.mu.rest, data...)
		return
	}
	block := append(slices.Clip(w.mu.rest), data[:last+1]...)
	w.mu.rest = append([]byte(nil), data[last+1:]...)
	for len(block) > 0 {
		i := bytes.IndexByte(block, '\n')
		w.enqueueLocked(block[:i:i])
		block = block[i+1:]
	}
}

func (w *writer) enqueueLocked(record []byte) {
	w.mu.queue = append(w.mu.queue, record)
	w.mu.bytes += len(record)
	w.mu.accepted++
	if !w.mu.sending {
		w.mu.sending = true
		w.fs.wg.Go(w.send)
	}
}

// publishRest makes a record of what has no newline.
func (w *writer) publishRest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rest := w.mu.rest; len(rest) > 0 {
		w.mu.rest = nil
		w.enqueueLocked(rest)
	}
}

// ownedBy reports whether that process wrote last.
func (w *writer) ownedBy(owner uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.owner == owner
}

// wait waits until every record taken in before is acknowledged or has failed, and reports the error, once.
func (w *writer) wait(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for until := w.mu.accepted; w.mu.settled < until; {
		if err := w.awaitLocked(ctx); err != nil {
			return err
		}
	}
	return w.takeErrorLocked()
}

// awaitLocked waits for a change, without the lock.
func (w *writer) awaitLocked(ctx context.Context) error {
	changed := w.mu.changed
	w.mu.Unlock()
	defer w.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *writer) takeErrorLocked() error {
	err := w.mu.err
	w.mu.err = nil
	return err
}

// send sends records until there are none.
func (w *writer) send() {
	for {
		w.mu.Lock()
		n, size := 0, 0
		for n < len(w.mu.queue) && n < batchRecords && (n == 0 || size+len(w.mu.queue[n]) <= batchBytes) {
			size += len(w.mu.queue[n])
			n++
		}
		if n == 0 {
			w.mu.sending = false
			w.mu.queue = nil
			w.mu.Unlock()
			return
		}
		batch := w.mu.queue[:n]
		w.mu.Unlock()

		acked, err := w.append(batch)

		w.mu.Lock()
		if err == nil {
			w.mu.queue = w.mu.queue[n:]
			w.mu.bytes -= size
			w.mu.settled += int64(n)
		} else {
			// What comes after a record that failed must not overtake it: all of it fails.
			w.mu.err = err
			w.mu.settled += int64(len(w.mu.queue))
			w.mu.queue, w.mu.bytes = nil, 0
		}
		w.mu.acked = w.mu.acked || acked > 0
		close(w.mu.changed)
		w.mu.changed = make(chan struct{})
		w.mu.Unlock()
	}
}

func (w *writer) append(batch [][]byte) (acked int, err error) {
	ctx, cancel := context.WithTimeout(w.fs.ctx, w.fs.dl.write)
	defer cancel()
	// ENOTCONN says that nothing was sent: only then it is sent again.
	err = w.fs.reach(ctx, func() error {
		var n int
		n, err := w.fs.client.Append(ctx, w.path, batch[acked:])
		acked += n
		return err
	})
	return acked, err
}
