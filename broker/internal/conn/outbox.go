package conn

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

const (
	// copyBelow is the size from which a payload is sent from where it is, not copied into the arena.
	copyBelow = 4 << 10
	// keepArena is the largest arena that is used again.
	keepArena = 2 << 20
)

// outgoings are those not in use: a connection that has nothing to send holds none.
var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// An outbox is what waits to be written to one connection. Any goroutine appends frames; the writer takes
// all of them at a time and writes them together, while the next ones gather: so receipts and messages that
// come close together share a write, and one that comes alone does not wait.
//
// Appending never blocks. Who produces much asks full first: dispatch stops when it is, and so does reading
// commands.
type outbox struct {
	limit int // of what gathers, in bytes; full beyond

	mu struct {
		sync.Mutex
		gather  *outgoing // nil if nothing gathers
		closed  bool      // what is appended goes to waste
		waste   outgoing
		blocked []*consumer // to be resumed when the writer has taken what gathers
		asleep  bool        // the writer waits for cond
	}
	cond *sync.Cond
	size atomic.Int64 // of mu.gather
}

// outgoing is frames in order: pieces of an arena and payloads between them.
type outgoing struct {
	arena []byte
	segs  []segment // in order; what of the arena is beyond the last segment follows it
	size  int       // of the external parts
}

// A segment is the arena up to end, then ext.
type segment struct {
	end int
	ext []byte
}

// len is the bytes of all frames; 0 for nil.
func (o *outgoing) len() int {
	if o == nil {
		return 0
	}
	return len(o.arena) + o.size
}

// external appends b, which must not change any more, without copying it.
func (o *outgoing) external(b []byte) {
	o.segs = append(o.segs, segment{len(o.arena), b})
	o.size += len(b)
}

// payload appends b, which must not change any more.
func (o *outgoing) payload(b []byte) {
	if len(b) < copyBelow {
		o.arena = append(o.arena, b...)
	} else {
		o.external(b)
	}
}

// reset empties o for the next round.
func (o *outgoing) reset() {
	clear(o.segs) // lets go of the payloads
	o.segs, o.arena, o.size = o.segs[:0], o.arena[:0], 0
	if cap(o.arena) > keepArena {
		o.arena = nil
	}
	if cap(o.segs) > 1024 {
		o.segs = nil
	}
}

func newOutbox(limit int) *outbox {
	o := &outbox{limit: limit}
	o.cond = sync.NewCond(&o.mu)
	return o
}

// lock gives the caller what gathers, to append frames to until unlock.
func (o *outbox) lock() *outgoing {
	o.mu.Lock()
	if o.mu.closed {
		return &o.mu.waste
	}
	if o.mu.gather == nil {
		o.mu.gather = outgoings.Get().(*outgoing)
	}
	return o.mu.gather
}

// unlock wakes the writer.
func (o *outbox) unlock() {
	if o.mu.closed {
		o.mu.waste.reset()
	}
	o.size.Store(int64(o.mu.gather.len()))
	wake := o.mu.asleep && o.mu.gather.len() > 0
	o.mu.asleep = o.mu.asleep && !wake
	o.mu.Unlock()
	if wake {
		o.cond.Signal()
	}
}

// full reports whether more gathers than the limit.
func (o *outbox) full() bool { return o.size.Load() >= int64(o.limit) }

// unlockOrBlock is unlock; if the outbox is full, c is resumed later and the answer is false.
func (o *outbox) unlockOrBlock(c *consumer) (writable bool) {
	writable = o.mu.closed || o.mu.gather.len() < o.limit
	if !writable {
		o.mu.blocked = append(o.mu.blocked, c)
	}
	o.unlock()
	return writable
}

// close lets the writer end once it has written what is there. What is appended from now on is thrown away.
func (o *outbox) close() {
	o.mu.Lock()
	o.mu.closed, o.mu.asleep = true, false
	o.mu.Unlock()
	o.cond.Signal()
}

// abandon is close for a writer that has failed: nobody takes what gathers any more.
func (o *outbox) abandon() {
	o.mu.Lock()
	o.mu.closed = true
	o.mu.gather = nil
	o.size.Store(0)
	o.mu.Unlock()
}

// write writes to w until the outbox is closed and empty, or writing fails. It calls taken, without a lock,
// each time that it has taken what gathered.
func (o *outbox) write(w io.Writer, taken func()) error {
	var iov net.Buffers
	var blocked []*consumer
	for {
		o.mu.Lock()
		for o.mu.gather.len() == 0 && !o.mu.closed {
			o.mu.asleep = true
			o.cond.Wait()
		}
		if o.mu.gather.len() == 0 {
			o.mu.Unlock()
			return nil
		}
		out := o.mu.gather
		o.mu.gather = nil
		blocked, o.mu.blocked = o.mu.blocked, blocked[:0]
		o.size.Store(0)
		o.mu.Unlock()

		for _, c := range blocked {
			c.consumer.Resume()
		}
		clear(blocked)
		taken()

		var err error
		if len(out.segs) == 0 {
			_, err = w.Write(out.arena)
		} else {
			iov = iov[:0]
			start := 0
			for _, s := range out.segs {
				if s.end > start {
					iov = append(iov, out.arena[start:s.end])
				}
				if len(s.ext) > 0 {
					iov = append(iov, s.ext)
				}
				start = s.end
			}
			if start < len(out.arena) {
				iov = append(iov, out.arena[start:])
			}
			rest := iov // WriteTo moves along it
			_, err = rest.WriteTo(w)
			clear(iov)
		}
		out.reset()
		outgoings.Put(out)
		if err != nil {
			return err
		}
	}
}
