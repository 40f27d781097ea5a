package mledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/raftmeta"
)

// record is the topic's record as readers see it; it must not be changed.
func (l *Ledger) record() *chain.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.view
}

// update commits a change of the topic's record, together with ops. It fails with ErrFenced if somebody else
// has changed the record. Edit may be called more than once, on different copies of the record.
func (l *Ledger) update(ctx context.Context, edit func(*chain.Record), ops ...raftmeta.Op) error {
	if err := l.metaMu.Acquire(ctx, 1); err != nil {
		return err
	}
	defer l.metaMu.Release(1)
	return l.updateLocked(ctx, edit, ops...)
}

// updateLocked is update, with metaMu held.
func (l *Ledger) updateLocked(ctx context.Context, edit func(*chain.Record), ops ...raftmeta.Op) error {
	next := l.stored.Clone()
	edit(next)
	rev, err := commitRecord(ctx, l.f.cfg.Store, l.key, next, l.stored.Rev, ops)
	if err != nil {
		return fmt.Errorf("record of %v: %w", l.name, err)
	}
	l.committed(next, rev, edit)
	return nil
}

// committed takes over what was stored; metaMu is held.
func (l *Ledger) committed(next *chain.Record, rev raftmeta.Revision, edit func(*chain.Record)) {
	next.Rev = rev
	l.stored = next
	l.mu.Lock()
	l.mu.view = edited(l.mu.view, edit)
	l.mu.view.Rev, l.mu.view.Seq = rev, next.Seq
	l.mu.core.limit = l.mu.options.limits().beside(len(l.mu.view.Ledgers))
	l.mu.Unlock()
}

// commitRecord replaces the record of revision rev. Where the answer to a commit is lost, the owner's mark in
// the record tells whether it was applied. ErrFenced also if one of the further conditions does not hold.
func commitRecord(ctx context.Context, s raftmeta.Store, key string, next *chain.Record, rev raftmeta.Revision, ops []raftmeta.Op, conds ...raftmeta.Cond) (raftmeta.Revision, error) {
	next.Seq++
	value, err := next.Encode()
	if err != nil {
		return 0, err
	}
	txn := raftmeta.Txn{
		If:   append([]raftmeta.Cond{raftmeta.ModIs(key, rev)}, conds...),
		Then: append([]raftmeta.Op{raftmeta.Put(key, value)}, ops...),
	}
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		r, err := s.Commit(ctx, txn)
		switch {
		case err == nil && r.OK:
			return r.Rev, nil
		case err == nil:
			it, err := s.Get(ctx, key)
			switch {
			case err == nil:
				now, err := chain.Decode(it.Value)
				if err != nil {
					return 0, err
				}
				if now.Owner == next.Owner && now.Seq == next.Seq {
					return it.Mod, nil
				}
				return 0, ErrFenced
			case errors.Is(err, raftmeta.ErrNotFound):
				return 0, ErrFenced
			case !errors.Is(err, raftmeta.ErrUnavailable):
				return 0, err
			}
		case !errors.Is(err, raftmeta.ErrUnavailable):
			return 0, err
		}
		if err := pause(ctx, wait); err != nil {
			return 0, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// link creates a ledger and enters it into the record, in one transaction.
func (l *Ledger) link(ctx context.Context, o ledger.Options, edit func(r *chain.Record, id ledgerfs.LedgerID, now int64), ops ...raftmeta.Op) (*ledger.Writer, error) {
	if err := l.metaMu.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer l.metaMu.Release(1)
	now := l.f.cfg.Clock()
	o.After = l.stored.CursorLedger
	if n := len(l.stored.Ledgers); n > 0 {
		o.After = max(o.After, l.stored.Ledgers[n-1].ID)
	}
	// Positions that were handed out lie before the new ledger, also if their ledger is gone.
	o.After = max(o.After, l.LastConfirmed().Ledger)
	var next *chain.Record
	o.Join = func(id ledgerfs.LedgerID) ([]raftmeta.Cond, []raftmeta.Op, error) {
		next = l.stored.Clone()
		edit(next, id, now)
		next.Seq++
		value, err := next.Encode()
		if err != nil {
			return nil, nil, err
		}
		return []raftmeta.Cond{raftmeta.ModIs(l.key, l.stored.Rev)}, append([]raftmeta.Op{raftmeta.Put(l.key, value)}, ops...), nil
	}
	w, err := l.f.cfg.Client.Create(ctx, o)
	if errors.Is(err, ledger.ErrConflict) {
		return nil, fmt.Errorf("record of %v: %w", l.name, ErrFenced)
	}
	if err != nil {
		return nil, err
	}
	l.committed(next, w.Revision(), func(r *chain.Record) { edit(r, w.ID(), now) })
	return w, nil
}

// unlink takes a ledger that was never written out of the record.
func (l *Ledger) unlink(ctx context.Context, id ledgerfs.LedgerID) error {
	err := l.update(ctx, dropper(id), ledger.Garbage(id))
	l.f.collectSoon()
	return err
}

func dropper(id ledgerfs.LedgerID) func(*chain.Record) {
	return func(r *chain.Record) {
		if i, ok := r.Find(id); ok {
			r.Ledgers = slices.Delete(r.Ledgers, i, i+1)
		}
	}
}

// guarded commits ops if the record is still the one this owner wrote: how cursors' records are changed. The
// operations must be such that applying them twice does no harm.
func (l *Ledger) guarded(ctx context.Context, ops ...raftmeta.Op) error {
	if err := l.metaMu.Acquire(ctx, 1); err != nil {
		return err
	}
	defer l.metaMu.Release(1)
	txn := raftmeta.Txn{If: []raftmeta.Cond{raftmeta.ModIs(l.key, l.stored.Rev)}, Then: ops}
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		r, err := l.f.cfg.Store.Commit(ctx, txn)
		switch {
		case err == nil && r.OK:
			return nil
		case err == nil:
			return fmt.Errorf("record of %v: %w", l.name, ErrFenced)
		case !errors.Is(err, raftmeta.ErrUnavailable):
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// recordSealed enters what recovery found out about a ledger; one that holds nothing leaves the record.
func (l *Ledger) recordSealed(ctx context.Context, id ledgerfs.LedgerID, s sealed) error {
	if s.entries == 0 {
		return l.unlink(ctx, id)
	}
	return l.update(ctx, s.apply(id, l.f.cfg.Clock()))
}

// sealed is what a recovered ledger holds.
type sealed struct {
	firstIndex, messages, entries, bytes int64
}

func (s sealed) apply(id ledgerfs.LedgerID, now int64) func(*chain.Record) {
	return sealer(current{id: id, firstIndex: s.firstIndex, entries: s.entries, bytes: s.bytes, messages: s.messages}, now)
}

// Properties are the topic's properties; the map must not be changed.
func (l *Ledger) Properties() map[string]string { return l.record().Properties }

// UpdateProperties changes the properties in one transaction: change is given a copy to edit, and may be called
// more than once.
func (l *Ledger) UpdateProperties(ctx context.Context, change func(map[string]string)) error {
	return l.update(ctx, func(r *chain.Record) {
		m := maps.Clone(r.Properties)
		if m == nil {
			m = map[string]string{}
		}
		change(m)
		r.Properties = m
	})
}

// Epoch is the topic's epoch of exclusive producers; false if there never was one.
func (l *Ledger) Epoch() (uint64, bool) {
	r := l.record()
	return r.Epoch, r.EpochSet
}

// SetEpoch stores the topic's epoch, durably.
func (l *Ledger) SetEpoch(ctx context.Context, epoch uint64) error {
	return l.update(ctx, func(r *chain.Record) { r.Epoch, r.EpochSet = epoch, true })
}

// SetText records where a closed ledger's text lies; only views with Known set are changed. It is no error if the
// ledger is gone; an open one is ErrNotFound.
func (l *Ledger) SetText(ctx context.Context, id ledgerfs.LedgerID, renderVersion uint32, text [chain.NumViews]chain.Text) error {
	r := l.record()
	i, ok := r.Find(id)
	if !ok {
		return nil
	}
	if !r.Ledgers[i].Closed {
		return fmt.Errorf("%w: ledger %d of %v is not closed", ErrNotFound, id, l.name)
	}
	now := r.Ledgers[i]
	same := now.RenderVersion == renderVersion
	for v, t := range text {
		same = same && (!t.Known || now.Text[v] == t)
	}
	if same {
		return nil
	}
	return l.update(ctx, func(r *chain.Record) {
		i, ok := r.Find(id)
		if !ok {
			return
		}
		c := &r.Ledgers[i]
		if c.RenderVersion != renderVersion {
			c.Text, c.RenderVersion = [chain.NumViews]chain.Text{}, renderVersion
		}
		for v, t := range text {
			if t.Known {
				c.Text[v] = t
			}
		}
	})
}

// SetPublishTimes records the least and greatest publish time (ms since 1970) of a closed ledger that does not
// have them, because its writer died; for whoever has read it through.
func (l *Ledger) SetPublishTimes(ctx context.Context, id ledgerfs.LedgerID, least, greatest int64) error {
	r := l.record()
	if i, ok := r.Find(id); !ok || !r.Ledgers[i].Closed || r.Ledgers[i].TimesKnown {
		return nil
	}
	return l.update(ctx, func(r *chain.Record) {
		if i, ok := r.Find(id); ok {
			c := &r.Ledgers[i]
			c.TimesKnown, c.LeastPublishTime, c.GreatestPublishTime = true, least, greatest
		}
	})
}

// Trim removes, from the front, closed ledgers that all durable cursors have passed and retention does not keep.
// The last ledger is always kept.
func (l *Ledger) Trim(ctx context.Context) error {
	last, ok := l.trimmable()
	if !ok {
		return nil
	}
	return l.dropUpTo(ctx, last)
}

// trimmable is the last ledger that Trim may remove; false if there is none.
func (l *Ledger) trimmable() (last ledgerfs.LedgerID, ok bool) {
	l.mu.Lock()
	view, o := l.mu.view, l.mu.options
	l.mu.Unlock()
	if len(view.Ledgers) < 2 {
		return 0, false
	}
	passed := l.cursors.leastMarkDelete()
	free := func(c *chain.Ledger) bool { return c.Closed && (passed == nil || !passed.Less(c.Last())) }
	now := l.f.cfg.Clock()
	var kept int64 // bytes of free ledgers from c on
	for i := range view.Ledgers {
		if c := &view.Ledgers[i]; free(c) {
			kept += c.Bytes
		}
	}
	for i := range view.Ledgers[:len(view.Ledgers)-1] {
		c := &view.Ledgers[i]
		young := o.RetainTime < 0 || now-c.ClosedAt < o.RetainTime.Milliseconds()
		fits := o.RetainBytes < 0 || kept <= o.RetainBytes
		if !free(c) || young && fits {
			break
		}
		kept -= c.Bytes
		last, ok = c.ID, true
	}
	return last, ok
}

// Truncate removes, from the front, all closed ledgers but the last; cursors move to the first entry left.
func (l *Ledger) Truncate(ctx context.Context) error {
	view := l.record()
	n := 0
	for n < len(view.Ledgers)-1 && view.Ledgers[n].Closed {
		n++
	}
	if n == 0 {
		return nil
	}
	to := view.Ledgers[n-1].Last()
	for _, c := range l.Cursors() {
		c.AckAll(to, nil)
	}
	return l.dropUpTo(ctx, to.Ledger)
}

// maxDrop is how many ledgers leave a record in one transaction.
const maxDrop = 500

// dropUpTo removes closed ledgers from the front of the record, up to and including the last one named, but never the
// only one. What is removed, and so becomes garbage, is decided on the stored record: the one that readers see may be ahead of
// it, and lists change while one waits for the lock.
func (l *Ledger) dropUpTo(ctx context.Context, last ledgerfs.LedgerID) error {
	if err := l.metaMu.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("trim %v: %w", l.name, err)
	}
	defer l.metaMu.Release(1)
	for {
		var ops []raftmeta.Op
		var upTo ledgerfs.LedgerID
		for i := range l.stored.Ledgers {
			c := &l.stored.Ledgers[i]
			if !c.Closed || c.ID > last || i == len(l.stored.Ledgers)-1 || len(ops) == maxDrop {
				break
			}
			ops = append(ops, ledger.Garbage(c.ID))
			upTo = c.ID
		}
		if len(ops) == 0 {
			return nil
		}
		err := l.updateLocked(ctx, func(r *chain.Record) {
			i, ok := r.Find(upTo)
			if ok {
				i++
			}
			r.Ledgers = r.Ledgers[i:]
		}, ops...)
		if err != nil {
			return fmt.Errorf("trim %v: %w", l.name, err)
		}
		l.f.collectSoon()
		l.notify()
	}
}
