package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/ledgermeta"
	"github.com/daybook/daybook/raftmeta"
)

// A Writer is the one writer of an open ledger. After a failure that is not a refusal it is dead: every append
// fails, and Client.Recover finds out what the ledger holds.
//
// Locks: mu guards the core; bookies are called, and completions made, without it.
type Writer struct {
	c       *Client
	id      ledgerfs.LedgerID
	meta    *ledgermeta.Ledger
	rev     raftmeta.Revision
	bookies []ledgerfs.Bookie
	lac     atomic.Int64

	mu struct {
		sync.Mutex
		core       core
		doneFirst  *Append // to be completed
		doneLast   *Append
		delivering bool          // one goroutine is at it
		drained    chan struct{} // closed when a closing core is empty; nil before Close
	}
}

// A slot is one member's share of an op.
type slot struct {
	ledgerfs.Add
	w      *Writer
	op     *op
	member int
}

// AddCompleted is the bookie's answer.
func (s *slot) AddCompleted(_ *ledgerfs.Add, err error) {
	s.w.apply(event{kind: evAnswer, op: s.op, member: s.member, err: err})
}

var ops = sync.Pool{New: func() any { return new(op) }}

func newWriter(c *Client, id ledgerfs.LedgerID, meta *ledgermeta.Ledger, rev raftmeta.Revision) (*Writer, error) {
	w := &Writer{c: c, id: id, meta: meta, rev: rev}
	for _, m := range meta.Last().Members {
		b, err := c.cfg.Bookies.Bookie(m)
		if err != nil {
			return nil, fmt.Errorf("ledger %d: member %v: %w", id, m, err)
		}
		w.bookies = append(w.bookies, b)
	}
	w.mu.core = core{id: id, quorum: meta.Quorum, confirmed: ledgerfs.NoEntry}
	w.lac.Store(int64(ledgerfs.NoEntry))
	return w, nil
}

// ID is the ledger's id.
func (w *Writer) ID() ledgerfs.LedgerID { return w.id }

// Revision is that of the transaction that created the ledger, and of what was joined to it.
func (w *Writer) Revision() raftmeta.Revision { return w.rev }

// LastConfirmed is the last acknowledged entry, NoEntry if there is none.
func (w *Writer) LastConfirmed() ledgerfs.EntryID { return ledgerfs.EntryID(w.lac.Load()) }

// Alive reports whether the writer takes appends.
func (w *Writer) Alive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.core.state <= coreRefusing
}

// Reader reads the writer's own ledger.
func (w *Writer) Reader() *Reader { return &Reader{c: w.c, id: w.id, meta: w.meta} }

// Install makes the ledger known to its members. It must have succeeded before the first Append, and may be
// tried again.
func (w *Writer) Install(ctx context.Context) error {
	errs := make([]error, len(w.bookies))
	var wg sync.WaitGroup
	for i, b := range w.bookies {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, w.c.cfg.CallTimeout)
			defer cancel()
			errs[i] = b.Install(ctx, w.id)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("install ledger %d: %w", w.id, err)
	}
	return nil
}

// Append adds an entry and sets a.Entry. It does not wait: a.Done is told, possibly before Append returns. It
// must be called by one goroutine at a time.
func (w *Writer) Append(a *Append) { w.AppendAt(a, ledgerfs.NoEntry) }

// AppendAt is Append for a caller who counts the entries: if a would not become entry at, it is refused. That is so
// when appends before it were refused, and their entries are used again, and the caller has not been told yet.
func (w *Writer) AppendAt(a *Append, at ledgerfs.EntryID) {
	o := ops.Get().(*op)
	slots := o.slots
	*o = op{a: a, slots: slots}
	// The answers may complete a, and its owner use it again, while we are still sending.
	payload, flags := a.Payload, a.Flags
	w.mu.Lock()
	fx := w.mu.core.step(event{kind: evAppend, op: o, at: at})
	wake := w.queueLocked(fx)
	w.mu.Unlock()
	if fx.send {
		w.send(o, payload, flags)
	}
	w.finish(fx, wake)
}

// send gives o to the members of its write set. Until the last of them is called o cannot be freed, because
// that one's answer is still to come; the loop touches nothing of it afterwards.
func (w *Writer) send(o *op, payload []byte, flags ledgerfs.AddFlags) {
	q := w.meta.Quorum
	if q.Write == 1 {
		o.slots = o.one[:]
	} else if len(o.slots) != q.Write {
		o.slots = make([]slot, q.Write)
	}
	add := ledgerfs.Add{
		Ledger: w.id, Entry: o.entry, LAC: o.lac, Length: o.length, Payload: payload, Flags: flags,
		Digest: ledgerfs.EntryDigest(w.id, o.entry, o.lac, o.length, payload),
	}
	slots, entry := o.slots, o.entry
	for i := range slots {
		s := &slots[i]
		s.Add, s.w, s.op, s.member = add, w, o, q.Member(entry, i)
		s.Done = s
	}
	for i := range q.Write {
		w.bookies[q.Member(entry, i)].Add(&slots[i].Add)
	}
}

// apply drives the core with an event that is not an append.
func (w *Writer) apply(e event) {
	w.mu.Lock()
	fx := w.mu.core.step(e)
	wake := w.queueLocked(fx)
	w.mu.Unlock()
	w.finish(fx, wake)
}

// queueLocked takes over the effects that need order, and returns the channel to be closed, if any.
func (w *Writer) queueLocked(fx effects) chan struct{} {
	if fx.doneFirst != nil {
		if w.mu.doneLast == nil {
			w.mu.doneFirst = fx.doneFirst
		} else {
			w.mu.doneLast.next = fx.doneFirst
		}
		w.mu.doneLast = fx.doneLast
		w.lac.Store(int64(w.mu.core.confirmed))
	}
	if fx.drained && w.mu.drained != nil {
		wake := w.mu.drained
		w.mu.drained = nil
		return wake
	}
	return nil
}

func (w *Writer) finish(fx effects, wake chan struct{}) {
	for o := fx.free; o != nil; {
		next := o.next
		slots := o.slots
		if len(slots) == 1 {
			slots = nil
		}
		*o = op{slots: slots}
		clear(slots)
		ops.Put(o)
		o = next
	}
	if fx.doneFirst != nil {
		w.deliver()
	}
	if wake != nil {
		close(wake)
	}
}

// deliver completes appends in order. If another goroutine is at it, that one goes on with ours.
func (w *Writer) deliver() {
	w.mu.Lock()
	if w.mu.delivering {
		w.mu.Unlock()
		return
	}
	w.mu.delivering = true
	for w.mu.doneFirst != nil {
		a := w.mu.doneFirst
		w.mu.doneFirst, w.mu.doneLast = nil, nil
		w.mu.Unlock()
		for a != nil {
			next, err := a.next, a.err
			a.next, a.err = nil, nil
			a.Done.AppendCompleted(a, err)
			a = next
		}
		w.mu.Lock()
	}
	w.mu.delivering = false
	w.mu.Unlock()
}

// Kill makes the writer dead: what is in flight fails with an unknown outcome. The ledger stays open in
// metadata until somebody recovers it.
func (w *Writer) Kill(err error) {
	w.apply(event{kind: evKill, err: err})
	w.c.forget(w)
}

// Close waits for the appends in flight and closes the ledger after the last acknowledged entry. It fails
// with ErrFenced if another client has closed it elsewhere. If it fails, Recover closes the ledger.
func (w *Writer) Close(ctx context.Context) (Info, error) {
	defer w.c.forget(w)
	w.mu.Lock()
	if w.mu.core.state == coreDead {
		err := w.mu.core.err
		w.mu.Unlock()
		return Info{}, fmt.Errorf("close ledger %d: %w", w.id, err)
	}
	wait := w.mu.drained
	if wait == nil {
		wait = make(chan struct{})
		w.mu.drained = wait
	}
	w.mu.Unlock()
	w.apply(event{kind: evClose})
	select {
	case <-wait:
	case <-ctx.Done():
		w.Kill(fmt.Errorf("%w: %w", ErrClosed, ctx.Err()))
		return Info{}, fmt.Errorf("close ledger %d: %w", w.id, ctx.Err())
	}
	w.mu.Lock()
	state, cause := w.mu.core.state, w.mu.core.err
	last, length := w.mu.core.confirmed, w.mu.core.confLen
	w.mu.Unlock()
	if state == coreDead {
		return Info{}, fmt.Errorf("close ledger %d: %w", w.id, cause)
	}
	closed := *w.meta
	closed.State, closed.LastEntry, closed.Length = StateClosed, last, length
	meta, err := w.c.swap(ctx, w.id, w.rev, &closed)
	if err != nil {
		return Info{}, fmt.Errorf("close ledger %d: %w", w.id, err)
	}
	return infoOf(w.id, meta), nil
}
