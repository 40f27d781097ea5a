package mount

import (
	"context"
	"sync"

	"github.com/daybook/daybook/ledgerfs/filetree"
)

const (
	// A handle that reads sequentially has this much read for it at a time, twice: what it reads from, and
	// what comes next. The kernel reads ahead nothing with direct I/O.
	minWindow = 1 << 20
	maxWindow = filetree.MaxReadBytes
)

// A reader serves the reads of one handle, in turn. Text never changes, so what was fetched stays valid; where it
// ends is asked anew every time.
type reader struct {
	fs   *fileSystem
	path string
	gen  uint64
	turn chan struct{} // holds one token: whose it is owns the fields below

	next   int64  // where a sequential read would go on
	window int    // 0: not sequential
	buf    []byte // text at off; never written to again: replies alias it
	off    int64
	ahead  *fetch // under way

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// A fetch is a range that is read ahead.
type fetch struct {
	off  int64
	done chan struct{}
	buf  []byte
	err  error
}

func newReader(f *fileSystem, path string, gen uint64) *reader {
	r := &reader{fs: f, path: path, gen: gen, turn: make(chan struct{}, 1)}
	r.ctx, r.cancel = context.WithCancel(f.ctx)
	r.turn <- struct{}{}
	return r
}

func (r *reader) close() {
	r.cancel()
	r.wg.Wait()
}

// read returns n bytes of text at off, fewer only at its end.
func (r *reader) read(ctx context.Context, off int64, n int) ([]byte, error) {
	select {
	case <-r.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { r.turn <- struct{}{} }()

	if off == r.next && off > 0 || off == 0 && n >= blockSize/4 {
		r.window = min(max(2*r.window, minWindow), maxWindow)
	} else if !r.holds(off) {
		r.window = 0
	}
	if r.holds(off) && r.holds(off+int64(n)-1) {
		b := r.buf[off-r.off:][:n:n]
		r.served(off + int64(n))
		return b, nil
	}
	var out []byte
	for len(out) < n {
		at := off + int64(len(out))
		if !r.holds(at) {
			if err := r.fill(ctx, at, n-len(out)); err != nil {
				return nil, err
			}
			if !r.holds(at) {
				break // the end
			}
		}
		part := r.buf[at-r.off:]
		part = part[:min(len(part), n-len(out))]
		if out == nil && len(part) == n {
			out = part[:n:n]
			break
		}
		out = append(out, part...)
	}
	r.served(off + int64(len(out)))
	return out, nil
}

func (r *reader) holds(off int64) bool { return off >= r.off && off < r.off+int64(len(r.buf)) }

// fill makes the buffer begin with the text at off, at least n bytes if there are.
func (r *reader) fill(ctx context.Context, off int64, n int) error {
	if a := r.ahead; a != nil {
		r.ahead = nil
		if a.off == off {
			select {
			case <-a.done:
			case <-ctx.Done():
				r.ahead = a
				return ctx.Err()
			}
			if a.err == nil && len(a.buf) > 0 {
				r.buf, r.off = a.buf, a.off
				return nil
			}
		}
	}
	b, err := r.fetch(ctx, off, max(n, r.window))
	if err != nil {
		return err
	}
	r.buf, r.off = b, off
	return nil
}

func (r *reader) fetch(ctx context.Context, off int64, n int) (b []byte, err error) {
	err = r.fs.reach(ctx, func() error {
		b, _, err = r.fs.client.ReadAt(ctx, nil, r.path, r.gen, off, n)
		return err
	})
	return b, err
}

// served notes where the read ended, and has what follows the buffer read if the reads are sequential.
func (r *reader) served(next int64) {
	r.next = next
	end := r.off + int64(len(r.buf))
	if r.window == 0 || len(r.buf) < minWindow/2 || r.ahead != nil || end-next > int64(len(r.buf))/2 {
		return
	}
	a := &fetch{off: end, done: make(chan struct{})}
	r.ahead = a
	window := r.window
	r.wg.Go(func() {
		defer close(a.done)
		ctx, cancel := context.WithTimeout(r.ctx, r.fs.dl.read)
		defer cancel()
		a.buf, a.err = r.fetch(ctx, a.off, window)
	})
}
