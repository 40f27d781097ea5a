package mledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/internal/entrycache"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
	"golang.org/x/sync/semaphore"
)

// A Factory opens topics. It may be used by any goroutine.
type Factory struct {
	cfg     Config
	log     *slog.Logger
	cache   *entrycache.Cache
	readers readerCache
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	wake    chan struct{} // there are dirty topics
	garbage chan struct{} // there is garbage

	mu struct {
		sync.Mutex
		closed bool
		open   map[*Ledger]struct{}
		names  map[topicname.Name]bool // open, or being opened or deleted
		dirty  []*Ledger               // acknowledgements to be flushed, see cursorSet.queued
		since  time.Time               // when dirty ceased to be empty
		urgent []*Ledger               // to be flushed at once
		kicked []*Ledger               // to be trimmed perhaps
	}
}

// rollEvery is how often topics without traffic are looked at for a ledger that is too old.
const rollEvery = 10 * time.Second

// New starts a factory. Close ends it.
func New(cfg Config) *Factory {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Clock == nil {
		cfg.Clock = func() int64 { return time.Now().UnixMilli() }
	}
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 64 << 20
	}
	if cfg.FlushInterval <= 0 {
		cfg.FlushInterval = 100 * time.Millisecond
	}
	f := &Factory{
		cfg: cfg, log: cfg.Logger, cache: entrycache.New(cfg.CacheBytes),
		wake: make(chan struct{}, 1), garbage: make(chan struct{}, 1),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.mu.open = map[*Ledger]struct{}{}
	f.mu.names = map[topicname.Name]bool{}
	f.wg.Go(f.flush)
	f.wg.Go(f.collect)
	f.collectSoon() // what a former process left
	return f
}

// Close closes all topics (as Ledger.Close does) and ends the factory.
func (f *Factory) Close(ctx context.Context) error {
	f.mu.Lock()
	if f.mu.closed {
		f.mu.Unlock()
		return nil
	}
	f.mu.closed = true
	var ls []*Ledger
	for l := range f.mu.open {
		ls = append(ls, l)
	}
	f.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(ls))
	slots := make(chan struct{}, 64)
	for i, l := range ls {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = l.Close(ctx)
			<-slots
		})
	}
	wg.Wait()
	f.cancel()
	f.wg.Wait()
	return errors.Join(errs...)
}

func (f *Factory) claim(n topicname.Name) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.closed {
		return ErrClosed
	}
	if f.mu.names[n] {
		return fmt.Errorf("%w: %v is open in this process", ErrExists, n)
	}
	f.mu.names[n] = true
	return nil
}

func (f *Factory) unclaim(n topicname.Name) {
	f.mu.Lock()
	delete(f.mu.names, n)
	f.mu.Unlock()
}

func (f *Factory) forget(l *Ledger) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.mu.open[l]; ok {
		delete(f.mu.open, l)
		delete(f.mu.names, l.name)
	}
}

// Open takes the topic over: its former owner, if it still writes, is fenced. ErrNotFound if it does not
// exist. A topic is open at most once in a process: the second Open fails with ErrExists.
func (f *Factory) Open(ctx context.Context, n topicname.Name, o Options) (*Ledger, error) {
	return f.open(ctx, n, o, false)
}

// OpenOrCreate is Open, and creates the topic if it does not exist.
func (f *Factory) OpenOrCreate(ctx context.Context, n topicname.Name, o Options) (*Ledger, error) {
	return f.open(ctx, n, o, true)
}

func (f *Factory) open(ctx context.Context, n topicname.Name, o Options, create bool) (*Ledger, error) {
	if err := f.claim(n); err != nil {
		return nil, fmt.Errorf("open %v: %w", n, err)
	}
	l, err := f.load(ctx, n, o, create)
	if err != nil {
		f.unclaim(n)
		return nil, fmt.Errorf("open %v: %w", n, err)
	}
	f.mu.Lock()
	if f.mu.closed {
		f.mu.Unlock()
		l.die(ErrClosed)
		return nil, fmt.Errorf("open %v: %w", n, ErrClosed)
	}
	f.mu.open[l] = struct{}{}
	f.mu.Unlock()
	return l, nil
}

func (f *Factory) load(ctx context.Context, n topicname.Name, o Options, create bool) (*Ledger, error) {
	l := &Ledger{f: f, name: n, key: chain.Key(n), metaMu: semaphore.NewWeighted(1)}
	l.cursors.admin = semaphore.NewWeighted(1)
	rand.Read(l.owner[:])
	rec, err := f.takeOver(ctx, l, o, create)
	if err != nil {
		return nil, err
	}
	l.incarnation = rec.Incarnation
	l.stored = rec
	l.mu.view = rec
	l.mu.options = o
	l.ctx, l.cancel = context.WithCancel(context.Background())
	ok := false
	defer func() {
		if !ok {
			l.cancel()
		}
	}()

	// Fence and recover the last two ledgers. That is one more than a writer needs who closes each ledger before
	// he begins the next; ours begins the next one first.
	first := max(len(rec.Ledgers)-2, 0)
	for _, c := range slices.Clone(rec.Ledgers[first:]) {
		s, err := f.recover(ctx, l.stored, c.ID)
		if err != nil {
			return nil, err
		}
		if !c.Closed {
			err = l.recordSealed(ctx, c.ID, s)
		} else if s.entries != c.Entries {
			err = fmt.Errorf("%w: ledger %d was recorded with %d entries and has %d", chain.ErrCorrupt, c.ID, c.Entries, s.entries)
		}
		if err != nil {
			return nil, err
		}
	}
	rec = l.stored
	l.mu.core = core{
		limit: o.limits().beside(len(rec.Ledgers)), confirmed: ledgerfs.Position{Ledger: -1, Entry: -1},
		nextIndex: rec.NextIndex, confIndex: rec.NextIndex,
	}
	if k := len(rec.Ledgers); k > 0 {
		l.mu.core.confirmed = rec.Ledgers[k-1].Last()
	}
	if rec.State == chain.Terminated {
		l.mu.core.stop = ErrTerminated
	}
	if err := l.cursors.load(ctx, l); err != nil {
		return nil, err
	}
	ok = true
	return l, nil
}

// takeOver writes this owner's mark into the record, or makes the record. From then on no other owner's
// commit succeeds.
func (f *Factory) takeOver(ctx context.Context, l *Ledger, o Options, create bool) (*chain.Record, error) {
	refused := false
	for {
		it, err := f.cfg.Store.Get(ctx, l.key)
		var rec *chain.Record
		var conds []raftmeta.Cond
		switch {
		case err == nil:
			if rec, err = chain.Decode(it.Value); err != nil {
				return nil, err
			}
			rec.Rev = it.Mod
			if rec.State == chain.Deleted { // somebody died deleting it
				if err := f.remove(ctx, l.name, rec, l.owner); err != nil && !errors.Is(err, ErrFenced) {
					return nil, err
				}
				continue
			}
		case errors.Is(err, raftmeta.ErrNotFound) && create && !refused:
			conds = o.CreateIf
			rec = &chain.Record{Created: f.cfg.Clock(), Properties: o.Properties}
			rand.Read(rec.Incarnation[:])
		case errors.Is(err, raftmeta.ErrNotFound):
			return nil, ErrNotFound
		default:
			return nil, err
		}
		rec.Owner, rec.Seq = l.owner, 0
		rev, err := commitRecord(ctx, f.cfg.Store, l.key, rec, rec.Rev, nil, conds...)
		if errors.Is(err, ErrFenced) {
			refused = len(conds) > 0 // if there is no record now either, it was not for another one that ours failed
			continue                 // changed under our hands: again, from what it says now
		}
		if err != nil {
			return nil, err
		}
		rec.Rev = rev
		return rec, nil
	}
}

// recover closes a ledger and finds out what it holds, given the record before that is entered.
func (f *Factory) recover(ctx context.Context, rec *chain.Record, id ledgerfs.LedgerID) (sealed, error) {
	i, ok := rec.Find(id)
	if !ok {
		return sealed{}, fmt.Errorf("recover ledger %d: %w", id, ErrNotFound)
	}
	r, err := f.cfg.Client.Recover(ctx, id)
	if err != nil {
		return sealed{}, err
	}
	info := r.Info()
	s := sealed{firstIndex: rec.NextIndex, entries: int64(info.LastEntry) + 1, bytes: info.Length}
	if c := &rec.Ledgers[i]; c.Closed {
		s.firstIndex, s.messages = c.FirstIndex, c.Messages
		return s, nil
	}
	if s.entries == 0 {
		return s, nil
	}
	es, err := r.Read(ctx, nil, info.LastEntry, info.LastEntry, 1, 1)
	if err != nil {
		return s, err
	}
	p, _, err := CutPrefix(es[0].Payload)
	if err != nil {
		return s, fmt.Errorf("last entry of ledger %d: %w", id, err)
	}
	s.messages = p.Index + 1 - s.firstIndex
	if s.messages < 0 {
		return s, fmt.Errorf("%w: ledger %d begins with index %d and ends with %d", chain.ErrCorrupt, id, s.firstIndex, p.Index)
	}
	return s, nil
}

// Delete removes a topic that is not open in this process, with its cursors; another owner is fenced. Deleting
// what does not exist is ErrNotFound.
func (f *Factory) Delete(ctx context.Context, n topicname.Name) error {
	if err := f.claim(n); err != nil {
		return fmt.Errorf("delete %v: %w", n, err)
	}
	defer f.unclaim(n)
	var owner [16]byte
	rand.Read(owner[:])
	for {
		it, err := f.cfg.Store.Get(ctx, chain.Key(n))
		if errors.Is(err, raftmeta.ErrNotFound) {
			return fmt.Errorf("delete %v: %w", n, ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("delete %v: %w", n, err)
		}
		rec, err := chain.Decode(it.Value)
		if err != nil {
			return fmt.Errorf("delete %v: %w", n, err)
		}
		rec.Rev = it.Mod
		err = f.remove(ctx, n, rec, owner)
		f.collectSoon()
		if errors.Is(err, ErrFenced) {
			continue
		}
		if err != nil {
			return fmt.Errorf("delete %v: %w", n, err)
		}
		return nil
	}
}

// remove deletes the record and turns all that it refers to into garbage. A long record goes in steps: first
// it is marked as deleted, so that nobody opens it, then it loses its ledgers, at last it vanishes with the
// cursors. Whoever meets a record that is marked goes on with this.
func (f *Factory) remove(ctx context.Context, n topicname.Name, rec *chain.Record, owner [16]byte) error {
	key := chain.Key(n)
	rec.Owner, rec.Seq = owner, rec.Seq+1
	for len(rec.Ledgers) > maxDrop {
		var ops []raftmeta.Op
		for _, c := range rec.Ledgers[:maxDrop] {
			ops = append(ops, ledger.Garbage(c.ID))
		}
		rec.Ledgers = rec.Ledgers[maxDrop:]
		if rec.State != chain.Deleted {
			rec.State, rec.StateSince = chain.Deleted, f.cfg.Clock()
		}
		rev, err := commitRecord(ctx, f.cfg.Store, key, rec, rec.Rev, ops)
		if err != nil {
			return err
		}
		rec.Rev = rev
	}
	prefix := chain.CursorPrefix(n)
	ops := []raftmeta.Op{raftmeta.Delete(key), raftmeta.DeleteRange(prefix, raftmeta.PrefixEnd(prefix))}
	for _, c := range rec.Ledgers {
		ops = append(ops, ledger.Garbage(c.ID))
	}
	for _, id := range []ledgerfs.LedgerID{rec.CursorLedger, rec.NextCursorLedger} {
		if id != 0 {
			ops = append(ops, ledger.Garbage(id))
		}
	}
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		r, err := f.cfg.Store.Commit(ctx, raftmeta.Txn{If: []raftmeta.Cond{raftmeta.ModIs(key, rec.Rev)}, Then: ops})
		switch {
		case err == nil && r.OK:
			return nil
		case err == nil:
			_, err := f.cfg.Store.Get(ctx, key)
			switch {
			case errors.Is(err, raftmeta.ErrNotFound):
				return nil // an earlier attempt, whose answer was lost
			case err == nil:
				return ErrFenced
			case !errors.Is(err, raftmeta.ErrUnavailable):
				return err
			}
		case !errors.Is(err, raftmeta.ErrUnavailable):
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// collectSoon has garbage deleted.
func (f *Factory) collectSoon() {
	select {
	case f.garbage <- struct{}{}:
	default:
	}
}

// collect deletes garbage whenever there is some, and tries again later what it could not delete.
func (f *Factory) collect() {
	var again <-chan time.Time
	for {
		select {
		case <-f.garbage:
		case <-again:
		case <-f.ctx.Done():
			return
		}
		again = nil
		left, err := f.cfg.Client.Collect(f.ctx)
		if f.ctx.Err() != nil {
			return
		}
		if err != nil {
			f.log.Warn("ledgers are not deleted yet", "left", left, "err", err)
			again = time.After(10 * time.Second)
		}
	}
}

// kick has the topic looked at for ledgers to trim.
func (f *Factory) kick(l *Ledger) {
	f.mu.Lock()
	f.mu.kicked = append(f.mu.kicked, l)
	f.mu.Unlock()
	f.wakeUp()
}

func (f *Factory) wakeUp() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// flush writes acknowledgements, at most FlushInterval after they were made; trims topics that ask for it;
// and rolls ledgers that are too old.
func (f *Factory) flush() {
	tick := time.NewTicker(rollEvery)
	defer tick.Stop()
	due := time.NewTimer(time.Hour)
	due.Stop()
	armed := false
	for {
		now := false // it is time to flush
		select {
		case <-f.ctx.Done():
			return
		case <-tick.C:
			f.rollOld()
			continue
		case <-f.wake:
		case <-due.C:
			armed, now = false, true
		}
		f.mu.Lock()
		kicked := f.mu.kicked
		f.mu.kicked = nil
		urgent := f.mu.urgent
		f.mu.urgent = nil
		var dirty []*Ledger
		if now {
			dirty = f.mu.dirty
			f.mu.dirty = nil
		}
		if len(f.mu.dirty) > 0 && !armed {
			due.Reset(f.cfg.FlushInterval - time.Since(f.mu.since))
			armed = true
		}
		f.mu.Unlock()
		for _, l := range urgent {
			l.cursors.flush(l, true)
		}
		for _, l := range dirty {
			l.cursors.flush(l, false)
		}
		for _, l := range kicked {
			l.trimSoon()
		}
	}
}

// flushSoon has the topic's acknowledgements written: at once, or within FlushInterval.
func (f *Factory) flushSoon(l *Ledger, urgent bool) {
	f.mu.Lock()
	switch {
	case urgent:
		f.mu.urgent = append(f.mu.urgent, l)
	default:
		if len(f.mu.dirty) == 0 {
			f.mu.since = time.Now()
		}
		f.mu.dirty = append(f.mu.dirty, l)
	}
	f.mu.Unlock()
	f.wakeUp()
}

// rollOld looks for ledgers that are too old, and for ledgers that retention keeps no longer.
func (f *Factory) rollOld() {
	f.mu.Lock()
	ls := make([]*Ledger, 0, len(f.mu.open))
	for l := range f.mu.open {
		ls = append(ls, l)
	}
	f.mu.Unlock()
	for _, l := range ls {
		l.apply(event{kind: evTick, now: f.cfg.Clock()})
		l.trimSoon()
	}
}

// trimSoon trims the topic, in the background, if there is something to trim.
func (l *Ledger) trimSoon() {
	if _, ok := l.trimmable(); !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closing {
		return
	}
	l.goLocked(func() {
		err := l.Trim(l.ctx)
		if errors.Is(err, ErrFenced) {
			l.fence(err)
		} else if err != nil && l.ctx.Err() == nil {
			l.f.log.Warn("topic cannot be trimmed yet", "topic", l.name, "err", err)
		}
	})
}
