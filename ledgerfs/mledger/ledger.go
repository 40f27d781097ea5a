package mledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"golang.org/x/sync/semaphore"
)

// A Ledger is a topic that this process owns. All methods may be called by any goroutine.
//
// Locks, in this order: cursors.admin and metaMu (held over metadata commits), sendMu (held over bookies' Add), cursors.mu, mu. A
// completion takes mu only.
type Ledger struct {
	f           *Factory
	name        topicname.Name
	key         string
	incarnation chain.Incarnation
	owner       [16]byte
	ctx         context.Context // of everything in the background; ends with Close
	cancel      context.CancelFunc
	background  sync.WaitGroup

	metaMu *semaphore.Weighted // of 1: a lock whose waiters can give up
	stored *chain.Record       // as committed last; guarded by metaMu

	sendMu sync.Mutex // the order of appends

	mu struct {
		sync.Mutex
		core       core
		options    Options
		view       *chain.Record // what readers see: stored, and what is known but not yet stored
		writer     *ledger.Writer
		standby    *ledger.Writer
		doneFirst  *Append
		doneLast   *Append
		delivering bool
		listeners  []Listener // replaced, never changed
		waiters    []chan struct{}
		dead       error // ErrFenced or ErrClosed: this Ledger is over
		closing    bool
	}

	cursors cursorSet
}

// pending is what an Append is while it is under way.
type pending struct {
	entry  ledger.Append
	a      *Append
	l      *Ledger
	next   *Append
	err    error
	prefix Prefix
	size   int64 // of the stored entry
	sent   bool
}

// Name is the topic's name.
func (l *Ledger) Name() topicname.Name { return l.name }

// Incarnation is the topic's identity, kept until it is deleted.
func (l *Ledger) Incarnation() chain.Incarnation { return l.incarnation }

// Err is nil while the Ledger lives, and wraps ErrFenced or ErrClosed afterwards: the topic must be opened anew.
func (l *Ledger) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.dead
}

// Append adds an entry. It does not wait: a.Done is told, possibly before Append returns. Entries are stored
// in the order of the calls.
func (l *Ledger) Append(a *Append) {
	a.p.a, a.p.l = a, l
	now := l.f.cfg.Clock()
	l.sendMu.Lock()
	l.mu.Lock()
	fx := l.stepLocked(event{kind: evAppend, a: a, now: now})
	w := l.mu.writer
	l.mu.Unlock()
	if fx.send != nil {
		l.send(w, fx.send)
	}
	l.sendMu.Unlock()
	l.act(fx)
}

// send writes the prefix before the payload and gives the entry to the writer; sendMu is held.
func (l *Ledger) send(w *ledger.Writer, a *Append) {
	n := a.p.prefix.size()
	var b []byte
	if n <= a.Headroom {
		b = a.Payload[a.Headroom-n:]
		AppendPrefix(b[:0], a.p.prefix)
	} else {
		b = make([]byte, 0, n+len(a.Payload)-a.Headroom)
		b = append(AppendPrefix(b, a.p.prefix), a.Payload[a.Headroom:]...)
	}
	a.p.entry = ledger.Append{Payload: b, Done: &a.p}
	w.AppendAt(&a.p.entry, a.Position.Entry)
}

// AppendCompleted is the ledger's answer.
func (p *pending) AppendCompleted(e *ledger.Append, err error) {
	l, a := p.l, p.a
	alive := true
	if err == nil {
		if e.Entry != a.Position.Entry {
			panic(fmt.Sprintf("mledger: entry %d was stored as %d", a.Position.Entry, e.Entry))
		}
		l.f.cache.Put(a.Position, e.Payload)
	} else {
		l.mu.Lock()
		w := l.mu.writer
		l.mu.Unlock()
		alive = w != nil && w.Alive()
	}
	// The time of the append will do for what may follow, and spares a look at the clock for each entry.
	l.apply(event{kind: evDone, a: a, err: err, alive: alive, now: a.p.prefix.Time})
}

func (l *Ledger) apply(e event) {
	l.mu.Lock()
	fx := l.stepLocked(e)
	l.mu.Unlock()
	l.act(fx)
}

// stepLocked drives the core and does what must happen in the same instant.
func (l *Ledger) stepLocked(e event) effects {
	fx := l.mu.core.step(e)
	if fx.doneFirst != nil {
		if l.mu.doneLast == nil {
			l.mu.doneFirst = fx.doneFirst
		} else {
			l.mu.doneLast.p.next = fx.doneFirst
		}
		l.mu.doneLast = fx.doneLast
	}
	switch {
	case fx.switched:
		old := l.mu.writer
		l.mu.writer, l.mu.standby = l.mu.standby, nil
		seal := sealer(fx.sealed, e.now)
		l.mu.view = edited(l.mu.view, seal)
		l.goLocked(func() { l.seal(old, seal) })
	case fx.adopted:
		l.mu.writer, l.mu.standby = l.mu.standby, nil
	}
	if fx.create {
		l.goLocked(l.create)
	}
	if id := fx.recover; id != 0 {
		l.mu.writer = nil
		l.goLocked(func() { l.recover(id) })
	}
	if fx.drain {
		l.goLocked(l.drain)
	}
	if len(l.mu.waiters) > 0 && l.mu.core.quiet() {
		for _, w := range l.mu.waiters {
			close(w)
		}
		l.mu.waiters = nil
	}
	return fx
}

// goLocked starts background work; after the end nothing starts.
func (l *Ledger) goLocked(f func()) {
	if l.mu.dead == nil {
		l.background.Go(f)
	}
}

// act does what may happen after the lock.
func (l *Ledger) act(fx effects) {
	if fx.doneFirst != nil {
		l.deliver()
	}
	if fx.grown {
		l.notify()
	}
}

// deliver completes appends in order. If another goroutine is at it, that one goes on with ours.
func (l *Ledger) deliver() {
	l.mu.Lock()
	if l.mu.delivering {
		l.mu.Unlock()
		return
	}
	l.mu.delivering = true
	for l.mu.doneFirst != nil {
		a := l.mu.doneFirst
		l.mu.doneFirst, l.mu.doneLast = nil, nil
		l.mu.Unlock()
		for a != nil {
			next, err := a.p.next, a.p.err
			a.p.next, a.p.err = nil, nil
			a.Done.AppendCompleted(a, err)
			a = next
		}
		l.mu.Lock()
	}
	l.mu.delivering = false
	l.mu.Unlock()
}

// drain sends what had to wait for a ledger.
func (l *Ledger) drain() {
	for {
		l.sendMu.Lock()
		l.mu.Lock()
		fx := l.stepLocked(event{kind: evSend, now: l.f.cfg.Clock()})
		w := l.mu.writer
		l.mu.Unlock()
		if fx.send != nil {
			l.send(w, fx.send)
		}
		l.sendMu.Unlock()
		l.act(fx)
		if fx.send == nil {
			return
		}
	}
}

// create makes the next ledger and has it ready for use.
func (l *Ledger) create() {
	w, err := l.createWriter(l.ctx)
	l.mu.Lock()
	now := l.f.cfg.Clock()
	if err != nil {
		fx := l.stepLocked(event{kind: evCreated, err: err, now: now})
		l.mu.Unlock()
		l.act(fx)
		if errors.Is(err, ErrFenced) {
			l.fence(err)
		}
		return
	}
	l.mu.standby = w
	fx := l.stepLocked(event{kind: evCreated, id: w.ID(), now: now})
	l.mu.Unlock()
	l.act(fx)
}

func (l *Ledger) createWriter(ctx context.Context) (*ledger.Writer, error) {
	l.mu.Lock()
	o, n := l.mu.options, len(l.mu.view.Ledgers)
	l.mu.Unlock()
	if n >= maxLedgers {
		return nil, fmt.Errorf("%w: %v has %d, the most there may be: a shorter retention makes room", ErrLedgers, l.name, n)
	}
	w, err := l.link(ctx, ledger.Options{
		Ensemble: o.Ensemble, WriteQuorum: o.WriteQuorum, AckQuorum: o.AckQuorum,
		Properties: map[string]string{"topic": l.name.String()},
	}, func(r *chain.Record, id ledgerfs.LedgerID, now int64) {
		if i, ok := r.Find(id); !ok {
			r.Ledgers = slices.Insert(r.Ledgers, i, chain.Ledger{ID: id, Created: now})
		}
	})
	if err != nil {
		return nil, err
	}
	if err := w.Install(ctx); err != nil {
		// Nothing was ever sent to it: it can be forgotten without asking its members.
		w.Kill(err)
		id := w.ID()
		if uerr := l.retry(func(ctx context.Context) error { return l.unlink(ctx, id) }); uerr != nil {
			return nil, errors.Join(err, uerr)
		}
		return nil, err
	}
	return w, nil
}

// seal closes a ledger that is wholly confirmed and not written any more, and records it.
func (l *Ledger) seal(w *ledger.Writer, seal func(*chain.Record)) {
	err := l.retry(func(ctx context.Context) error {
		if _, err := w.Close(ctx); err != nil {
			if _, err := l.f.cfg.Client.Recover(ctx, w.ID()); err != nil {
				return err
			}
		}
		return l.update(ctx, seal)
	})
	if err != nil {
		return // fenced or closed: whoever opens the topic next recovers the ledger
	}
	l.apply(event{kind: evClosed, now: l.f.cfg.Clock()})
	l.f.kick(l)
}

// sealer is the change of the record that closes a ledger.
func sealer(s current, now int64) func(*chain.Record) {
	return func(r *chain.Record) {
		i, ok := r.Find(s.id)
		if !ok {
			return
		}
		c := &r.Ledgers[i]
		c.Closed, c.FirstIndex, c.Entries, c.Bytes, c.ClosedAt = true, s.firstIndex, s.entries, s.bytes, now
		c.Messages = s.messages
		if s.timed && !s.timesMissing {
			c.TimesKnown, c.LeastPublishTime, c.GreatestPublishTime = true, s.leastTime, s.mostTime
		}
		r.NextIndex = max(r.NextIndex, s.firstIndex+s.messages)
		if i+1 < len(r.Ledgers) && !r.Ledgers[i+1].Closed {
			r.Ledgers[i+1].FirstIndex = s.firstIndex + s.messages
		}
	}
}

// edited is a changed copy of the record.
func edited(r *chain.Record, edit func(*chain.Record)) *chain.Record {
	c := r.Clone()
	edit(c)
	return c
}

// recover finds out what a ledger whose writer died holds, records it, and tells the core. It tries until it
// succeeds or the Ledger is over.
func (l *Ledger) recover(id ledgerfs.LedgerID) {
	l.sendMu.Lock()   // whoever was still handing adds of the dead writer to a bookie is through
	l.sendMu.Unlock() //nolint:staticcheck // an empty critical section is the point
	var end sealed
	err := l.retry(func(ctx context.Context) error {
		var err error
		end, err = l.f.recover(ctx, l.record(), id)
		if err == nil {
			err = l.recordSealed(ctx, id, end)
		}
		if err != nil && !errors.Is(err, ErrFenced) {
			l.f.log.Warn("ledger cannot be recovered yet", "topic", l.name, "ledger", id, "err", err)
			l.apply(event{kind: evRecovered, err: err, now: l.f.cfg.Clock()})
		}
		return err
	})
	if err != nil {
		return
	}
	last := ledgerfs.Position{Ledger: id, Entry: ledgerfs.EntryID(end.entries - 1)}
	if end.entries == 0 {
		last = ledgerfs.Position{Ledger: -1, Entry: -1}
	}
	l.apply(event{kind: evRecovered, index: end.firstIndex + end.messages, last: last, now: l.f.cfg.Clock()})
}

// retry calls f until it succeeds or the Ledger is over. A topic that was taken over is fenced here.
func (l *Ledger) retry(f func(ctx context.Context) error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := f(l.ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrFenced):
			l.fence(err)
			return err
		case l.ctx.Err() != nil:
			return l.ctx.Err()
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-l.ctx.Done():
			t.Stop()
			return l.ctx.Err()
		}
	}
}

// fence ends the Ledger because somebody else owns the topic now. It does not wait for background work, of
// which it may be called.
func (l *Ledger) fence(err error) {
	l.die(fmt.Errorf("%w: %v", ErrFenced, err))
	l.f.forget(l)
}

// die fails what is under way and keeps anything from starting.
func (l *Ledger) die(err error) {
	l.mu.Lock()
	if l.mu.dead != nil {
		l.mu.Unlock()
		return
	}
	w, s := l.mu.writer, l.mu.standby
	fx := l.stepLocked(event{kind: evStop, err: err})
	l.mu.dead = err
	l.mu.Unlock()
	l.cancel()
	if w != nil {
		w.Kill(err)
	}
	if s != nil {
		s.Kill(err)
	}
	l.act(fx)
	l.cursors.fail(err)
	l.notify()
}

// quiesce takes no more appends and waits for those under way.
func (l *Ledger) quiesce(ctx context.Context, stop error) error {
	l.mu.Lock()
	if l.mu.dead != nil {
		defer l.mu.Unlock()
		return l.mu.dead
	}
	wait := make(chan struct{})
	l.mu.waiters = append(l.mu.waiters, wait)
	fx := l.stepLocked(event{kind: evStop, err: stop})
	l.mu.Unlock()
	l.act(fx)
	select {
	case <-wait:
		return nil
	case <-l.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close waits for the appends in flight, writes the acknowledgements, and closes the topic's ledgers. Then the
// topic may be opened again, here or elsewhere. If ctx ends, or something cannot be written, the Ledger is
// closed nevertheless, as if the process had crashed, and the error says what was not done.
func (l *Ledger) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.mu.dead != nil || l.mu.closing {
		l.mu.Unlock()
		return nil
	}
	l.mu.closing = true
	l.mu.Unlock()
	err := l.quiesce(ctx, ErrClosed)
	if err == nil {
		err = errors.Join(l.cursors.close(ctx, l), l.closeWriters(ctx))
	}
	l.die(ErrClosed)
	l.background.Wait()
	l.f.forget(l)
	if err != nil {
		return fmt.Errorf("close %v: %w", l.name, err)
	}
	return nil
}

// closeWriters closes the current ledger and forgets one that was never used. No append is under way.
func (l *Ledger) closeWriters(ctx context.Context) error {
	l.mu.Lock()
	w, s, cur := l.mu.writer, l.mu.standby, l.mu.core.current()
	l.mu.writer, l.mu.standby = nil, nil
	l.mu.core.cur, l.mu.core.standby = current{}, 0
	if l.mu.core.state == coreOpen || l.mu.core.state == coreDraining {
		l.mu.core.state = coreIdle
	}
	l.mu.Unlock()
	var errs []error
	if w != nil {
		_, err := w.Close(ctx)
		if err == nil {
			if cur.entries == 0 {
				err = l.unlink(ctx, w.ID())
			} else {
				err = l.update(ctx, sealer(cur, l.f.cfg.Clock()))
			}
		}
		errs = append(errs, err)
	}
	if s != nil {
		s.Kill(ErrClosed)
		errs = append(errs, l.unlink(ctx, s.ID()))
	}
	return errors.Join(errs...)
}

// Terminate ends the topic for writing and returns its last position. Terminating twice is no error. If it fails
// the Ledger is over, as if the process had crashed, and the topic must be opened anew.
func (l *Ledger) Terminate(ctx context.Context) (ledgerfs.Position, error) {
	if l.Terminated() {
		return l.record().TerminatedAt, nil
	}
	err := l.quiesce(ctx, ErrTerminated)
	if err == nil {
		err = l.closeWriters(ctx)
	}
	last := l.LastConfirmed()
	if err == nil {
		now := l.f.cfg.Clock()
		err = l.update(ctx, func(r *chain.Record) {
			r.State, r.StateSince, r.TerminatedAt = chain.Terminated, now, last
		})
	}
	if err != nil {
		// It takes no more appends, and its last ledger may be closed but not recorded: the next owner finds out.
		l.fence(fmt.Errorf("termination failed: %w", err))
		return ledgerfs.Position{}, fmt.Errorf("terminate %v: %w", l.name, err)
	}
	l.notify()
	return last, nil
}

// Terminated reports whether the topic is terminated.
func (l *Ledger) Terminated() bool { return l.record().State == chain.Terminated }

// Delete removes the topic with its cursors and entries and closes it. If it fails the Ledger is over all the same,
// as if the process had crashed: the topic can be opened anew, or is found to be deleted.
func (l *Ledger) Delete(ctx context.Context) error {
	err := l.quiesce(ctx, fmt.Errorf("%w: topic is being deleted", ErrFenced))
	if err == nil {
		err = l.metaMu.Acquire(ctx, 1)
	}
	if err == nil {
		err = l.f.remove(ctx, l.name, l.stored.Clone(), l.owner)
		l.metaMu.Release(1)
	}
	l.die(fmt.Errorf("%w: topic was deleted", ErrFenced))
	l.background.Wait()
	l.f.forget(l)
	if err != nil {
		return fmt.Errorf("delete %v: %w", l.name, err)
	}
	l.f.collectSoon()
	return nil
}

// SetOptions changes the options; they hold from now on (quorums: from the next ledger on).
func (l *Ledger) SetOptions(o Options) {
	l.mu.Lock()
	l.mu.options = o
	l.mu.core.limit = o.limits().beside(len(l.mu.view.Ledgers))
	l.mu.Unlock()
	l.f.kick(l)
}

// Roll closes the current ledger, if it holds anything, and begins another.
func (l *Ledger) Roll(ctx context.Context) error {
	l.mu.Lock()
	id := l.mu.core.cur.id
	l.mu.Unlock()
	if id == 0 {
		return nil
	}
	l.apply(event{kind: evRoll, now: l.f.cfg.Clock()})
	for {
		l.mu.Lock()
		busy := l.mu.dead == nil && l.mu.core.cur.id == id && l.mu.core.rollAsked || l.mu.core.closing
		dead := l.mu.dead
		l.mu.Unlock()
		switch {
		case dead != nil:
			return dead
		case !busy:
			return nil
		}
		t := time.NewTimer(time.Millisecond)
		select {
		case <-t.C:
			l.apply(event{kind: evTick, now: l.f.cfg.Clock()})
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// Listen has li told about growth from now on, until Unlisten. An entry that is confirmed before Listen returns
// may be told about or not.
func (l *Ledger) Listen(li Listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.listeners = append(slices.Clone(l.mu.listeners), li)
}

// Unlisten ends Listen; one call may still be under way when it returns.
func (l *Ledger) Unlisten(li Listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.mu.listeners, li); i >= 0 {
		l.mu.listeners = slices.Delete(slices.Clone(l.mu.listeners), i, i+1)
	}
}

func (l *Ledger) notify() {
	l.mu.Lock()
	ls := l.mu.listeners
	l.mu.Unlock()
	for _, li := range ls {
		li.Grown(l)
	}
}
