package mledger

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/raftmeta"
	"golang.org/x/sync/semaphore"
)

// A Cursor is how far one subscription has acknowledged a topic: everything up to the mark-delete position, and
// single entries, or batch indexes of entries, after it. All methods may be called by any goroutine; none of them
// waits, but for those with a context.
type Cursor struct {
	l       *Ledger
	name    string
	durable bool
	id      uint64
	created int64

	// Guarded by l.cursors.mu.
	acks   acks
	dirty  *delta // what is not in the cursor ledger yet, nor on its way there; nil if there is nothing
	seq    uint64 // of the last acknowledgement; see cursorSet
	props  map[string]string
	active int64
	closed bool
}

// A delta is what has changed since the last flush.
type delta struct {
	reset   bool // everything
	acked   []Range
	batches map[ledgerfs.Position]struct{}
}

// cursorSet is the durable cursors of a topic, and their ledger.
type cursorSet struct {
	admin *semaphore.Weighted // of 1, a lock: creation, deletion and properties: held over metadata commits, before metaMu

	mu     sync.Mutex
	byName []*Cursor // sorted
	queued bool      // the topic is in the factory's list of dirty ones
	urged  bool      // the topic is in the factory's list of urgent ones
	err    error     // the Ledger is over
	seq    uint64    // acknowledgements made
	safe   uint64    // acknowledgements that are durable
	waits  []flushWait
	log    cursorLog
}

type flushWait struct {
	seq  uint64
	done chan struct{}
}

func (s *cursorSet) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.byName, name, func(c *Cursor, n string) int { return strings.Compare(c.name, n) })
}

// load reads the cursors' records and ledger.
func (s *cursorSet) load(ctx context.Context, l *Ledger) error {
	prefix := chain.CursorPrefix(l.name)
	items, _, err := l.f.cfg.Store.Range(ctx, prefix, raftmeta.PrefixEnd(prefix), 0)
	if err != nil {
		return err
	}
	byID := make(map[uint64]*Cursor, len(items))
	for _, it := range items {
		name, err := chain.ParseCursorKey(l.name, it.Key)
		if err != nil {
			return err
		}
		rec, err := chain.DecodeCursor(it.Value)
		if err != nil {
			return fmt.Errorf("cursor %q: %w", name, err)
		}
		c := &Cursor{l: l, name: name, durable: true, id: rec.ID, created: rec.Created, props: rec.Properties}
		c.acks.markDelete = rec.MarkDelete
		s.byName = append(s.byName, c)
		byID[c.id] = c
	}
	slices.SortFunc(s.byName, func(a, b *Cursor) int { return strings.Compare(a.name, b.name) })
	if err := s.log.load(ctx, l, byID); err != nil {
		return fmt.Errorf("cursor ledger: %w", err)
	}
	f := l.Fence()
	for _, c := range s.byName {
		if f.Last.Less(c.acks.markDelete) && c.acks.markDelete.Entry >= 0 && f.Last.Entry >= 0 {
			// Only confirmed entries are ever acknowledged.
			return fmt.Errorf("%w: cursor %q is at %v, the topic ends at %v", chain.ErrCorrupt, c.name, c.acks.markDelete, f.Last)
		}
		c.acks.absorb(f)
	}
	return nil
}

// leastMarkDelete is the mark-delete position furthest back, nil if there is no durable cursor.
func (s *cursorSet) leastMarkDelete() *ledgerfs.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	var least *ledgerfs.Position
	for _, c := range s.byName {
		if p := c.acks.markDelete; least == nil || p.Less(*least) {
			least = &p
		}
	}
	return least
}

// fail tells those who wait that the Ledger is over.
func (s *cursorSet) fail(err error) {
	s.mu.Lock()
	s.err = err
	for _, w := range s.waits {
		close(w.done)
	}
	s.waits = nil
	w := s.log.w
	s.mu.Unlock()
	if w != nil {
		w.Kill(err) // its completions take s.mu
	}
}

// close writes what is not written yet.
func (s *cursorSet) close(ctx context.Context, l *Ledger) error {
	if err := s.wait(ctx, l); err != nil {
		return fmt.Errorf("write acknowledgements: %w", err)
	}
	s.mu.Lock()
	w := s.log.w
	s.mu.Unlock()
	if w == nil {
		return nil
	}
	_, err := w.Close(ctx)
	return err
}

// wait returns when all acknowledgements made before it are durable.
func (s *cursorSet) wait(ctx context.Context, l *Ledger) error {
	s.mu.Lock()
	if s.safe == s.seq {
		s.mu.Unlock()
		return nil
	}
	if s.err != nil {
		defer s.mu.Unlock()
		return s.err
	}
	done := make(chan struct{})
	s.waits = append(s.waits, flushWait{s.seq, done})
	s.mu.Unlock()
	l.f.flushSoon(l, true)
	select {
	case <-done:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// OpenCursor is the durable cursor of that name, created at start with the properties if it does not exist.
func (l *Ledger) OpenCursor(ctx context.Context, name string, from Start, props map[string]string) (c *Cursor, created bool, err error) {
	if err := l.cursors.admin.Acquire(ctx, 1); err != nil {
		return nil, false, err
	}
	defer l.cursors.admin.Release(1)
	if c := l.Cursor(name); c != nil {
		return c, false, nil
	}
	if err := l.Err(); err != nil {
		return nil, false, err
	}
	var id [8]byte
	rand.Read(id[:])
	c = &Cursor{l: l, name: name, durable: true, id: binary.BigEndian.Uint64(id[:]), created: l.f.cfg.Clock(), props: props}
	c.acks.markDelete = from.before(l.Fence())
	if err := l.putCursor(ctx, c); err != nil {
		return nil, false, fmt.Errorf("create cursor %q of %v: %w", name, l.name, err)
	}
	l.cursors.mu.Lock()
	defer l.cursors.mu.Unlock()
	i, _ := l.cursors.find(name)
	l.cursors.byName = slices.Insert(l.cursors.byName, i, c)
	return c, true, nil
}

// putCursor stores the cursor's record; cursors.admin is held.
func (l *Ledger) putCursor(ctx context.Context, c *Cursor) error {
	rec := chain.Cursor{ID: c.id, Created: c.created, MarkDelete: c.acks.markDelete, Properties: c.props}
	value, err := rec.Encode()
	if err != nil {
		return err
	}
	err = l.guarded(ctx, raftmeta.Put(chain.CursorKey(l.name, c.name), value))
	if errors.Is(err, ErrFenced) {
		l.fence(err)
	}
	return err
}

// before is the position after which a cursor that starts so stands.
func (s Start) before(f chain.Fence) ledgerfs.Position {
	switch s.kind {
	case startLatest:
		return f.Last
	case startAt:
		if p := s.pos.Prev(); f.Last.Less(p) {
			return f.Last
		}
		if s.pos.Entry > 0 {
			return s.pos.Prev()
		}
		return ledgerfs.Position{Ledger: s.pos.Ledger, Entry: ledgerfs.NoEntry}
	}
	if len(f.Record.Ledgers) > 0 {
		return ledgerfs.Position{Ledger: f.Record.Ledgers[0].ID, Entry: ledgerfs.NoEntry}
	}
	return chain.None
}

// Cursor is the durable cursor of that name, nil if there is none.
func (l *Ledger) Cursor(name string) *Cursor {
	l.cursors.mu.Lock()
	defer l.cursors.mu.Unlock()
	if i, ok := l.cursors.find(name); ok {
		return l.cursors.byName[i]
	}
	return nil
}

// Cursors lists the durable cursors by name.
func (l *Ledger) Cursors() []*Cursor {
	l.cursors.mu.Lock()
	defer l.cursors.mu.Unlock()
	return slices.Clone(l.cursors.byName)
}

// NewReaderCursor makes a cursor that is not stored and keeps no data from being trimmed.
func (l *Ledger) NewReaderCursor(name string, from Start) *Cursor {
	c := &Cursor{l: l, name: name, created: l.f.cfg.Clock()}
	c.acks.markDelete = from.before(l.Fence())
	return c
}

// DeleteCursor removes a durable cursor, at once and for good. ErrNotFound if there is none.
func (l *Ledger) DeleteCursor(ctx context.Context, name string) error {
	if err := l.cursors.admin.Acquire(ctx, 1); err != nil {
		return err
	}
	defer l.cursors.admin.Release(1)
	if l.Cursor(name) == nil {
		return fmt.Errorf("delete cursor %q of %v: %w", name, l.name, ErrNotFound)
	}
	if err := l.guarded(ctx, raftmeta.Delete(chain.CursorKey(l.name, name))); err != nil {
		if errors.Is(err, ErrFenced) {
			l.fence(err)
		}
		return fmt.Errorf("delete cursor %q of %v: %w", name, l.name, err)
	}
	l.cursors.mu.Lock()
	if i, ok := l.cursors.find(name); ok {
		c := l.cursors.byName[i]
		c.closed, c.dirty = true, nil
		l.cursors.byName = slices.Delete(l.cursors.byName, i, i+1)
	}
	l.cursors.mu.Unlock()
	l.f.kick(l)
	return nil
}

// Name is the cursor's name.
func (c *Cursor) Name() string { return c.name }

// Durable reports whether the cursor is stored.
func (c *Cursor) Durable() bool { return c.durable }

// lock locks the cursor and returns the fence by which it may be changed and read.
func (c *Cursor) lock() chain.Fence {
	c.l.cursors.mu.Lock()
	f := c.l.Fence()
	if !c.durable {
		c.acks.follow(f)
	}
	return f
}

func (c *Cursor) unlock() { c.l.cursors.mu.Unlock() }

// changed notes an acknowledgement for the next flush; the cursor is locked. It returns the delta to be filled in, nil
// for a cursor that is not stored.
func (c *Cursor) changed() *delta {
	c.active = c.l.f.cfg.Clock()
	if !c.durable || c.closed {
		return nil
	}
	if c.dirty == nil {
		c.dirty = &delta{}
	}
	s := &c.l.cursors
	s.seq++
	c.seq = s.seq
	s.requeue(c.l)
	return c.dirty
}

// moved is to be called, without the lock, after the mark-delete position went from one position to another.
func (c *Cursor) moved(from, to ledgerfs.Position) {
	if c.durable && from.Ledger != to.Ledger {
		c.l.f.kick(c.l)
	}
}

// MarkDelete is the position up to which everything is acknowledged.
func (c *Cursor) MarkDelete() ledgerfs.Position {
	c.lock()
	defer c.unlock()
	return c.acks.markDelete
}

// FirstUnacked is the position of the first entry not (wholly) acknowledged, or where the next entry will be: where
// dispatch begins.
func (c *Cursor) FirstUnacked() ledgerfs.Position {
	f := c.lock()
	defer c.unlock()
	return f.Next(c.acks.markDelete)
}

// AckAll acknowledges everything up to and including p: a cumulative acknowledgement. Positions before the
// mark-delete position change nothing; positions after the last confirmed entry count as that. If remaining is not
// nil, the entry at p itself is acknowledged only but for those batch indexes (see Ack).
func (c *Cursor) AckAll(p ledgerfs.Position, remaining []int64) {
	f := c.lock()
	from := c.acks.markDelete
	if len(trimWords(remaining)) > 0 && f.Exists(p) {
		c.ackAllLocked(f, f.Prev(p))
		c.ackLocked(f, p, remaining)
	} else {
		c.ackAllLocked(f, p)
	}
	to := c.acks.markDelete
	c.unlock()
	c.moved(from, to)
}

func (c *Cursor) ackAllLocked(f chain.Fence, p ledgerfs.Position) {
	if c.acks.ackAll(f, p) {
		c.changed()
	}
}

func (c *Cursor) ackLocked(f chain.Fence, p ledgerfs.Position, remaining []int64) bool {
	whole := false
	if len(trimWords(remaining)) == 0 {
		whole = c.acks.ack(f, p)
		if !whole {
			return false
		}
	} else {
		var changed bool
		if whole, changed = c.acks.ackBatch(f, p, remaining); !changed {
			return false
		}
	}
	d := c.changed()
	switch {
	case d == nil || d.reset:
	case !whole:
		if d.batches == nil {
			d.batches = make(map[ledgerfs.Position]struct{})
		}
		d.batches[p] = struct{}{}
	case c.acks.markDelete.Less(p):
		d.acked, _ = addEntry(d.acked, p)
	}
	return whole
}

// Ack acknowledges the entry at p. If remaining is not nil it is the protocol's ack_set: bit i%64 of word i/64 is set if
// batch index i is not acknowledged by this call; words that are missing are zero. Acknowledgements of one entry
// add up, and when nothing remains the entry is acknowledged. It reports whether the entry as a whole became
// acknowledged by this call.
func (c *Cursor) Ack(p ledgerfs.Position, remaining []int64) bool {
	f := c.lock()
	from := c.acks.markDelete
	whole := c.ackLocked(f, p, remaining)
	to := c.acks.markDelete
	c.unlock()
	c.moved(from, to)
	return whole
}

// AckMany is Ack of whole entries; it returns how many became acknowledged by this call.
func (c *Cursor) AckMany(ps []ledgerfs.Position) int {
	f := c.lock()
	from := c.acks.markDelete
	n := 0
	for _, p := range ps {
		if c.ackLocked(f, p, nil) {
			n++
		}
	}
	to := c.acks.markDelete
	c.unlock()
	c.moved(from, to)
	return n
}

// IsAcked reports whether the entry at p is wholly acknowledged.
func (c *Cursor) IsAcked(p ledgerfs.Position) bool {
	c.lock()
	defer c.unlock()
	return c.acks.has(p)
}

// Remaining is the ack_set of an entry of which some batch indexes are acknowledged, nil for all others. It must not be
// changed.
func (c *Cursor) Remaining(p ledgerfs.Position) []int64 {
	c.lock()
	defer c.unlock()
	return c.acks.batches[p]
}

// NextUnacked is the first position >= p that is not acknowledged.
func (c *Cursor) NextUnacked(p ledgerfs.Position) ledgerfs.Position {
	f := c.lock()
	defer c.unlock()
	return c.acks.next(f, p)
}

// Backlog is the number of confirmed entries that are not acknowledged.
func (c *Cursor) Backlog() int64 {
	f := c.lock()
	defer c.unlock()
	return c.acks.backlog(f)
}

// Reset moves the cursor to start, durably; all single acknowledgements are dropped.
func (c *Cursor) Reset(ctx context.Context, to Start) error {
	f := c.lock()
	if c.closed {
		c.unlock()
		return ErrCursorClosed
	}
	c.acks = acks{markDelete: to.before(f)}
	if d := c.changed(); d != nil {
		*d = delta{reset: true}
	}
	c.unlock()
	if c.durable {
		c.l.f.kick(c.l)
	}
	return c.Flush(ctx)
}

// Flush waits until all acknowledgements made before it are durable.
func (c *Cursor) Flush(ctx context.Context) error {
	if !c.durable {
		return nil
	}
	if err := c.l.cursors.wait(ctx, c.l); err != nil {
		return fmt.Errorf("flush cursor %q of %v: %w", c.name, c.l.name, err)
	}
	return nil
}

// Properties are the cursor's properties; the map must not be changed.
func (c *Cursor) Properties() map[string]string {
	c.lock()
	defer c.unlock()
	return c.props
}

// SetProperties replaces the properties, durably; props must not be changed afterwards.
func (c *Cursor) SetProperties(ctx context.Context, props map[string]string) error {
	if !c.durable {
		c.lock()
		c.props = props
		c.unlock()
		return nil
	}
	if err := c.l.cursors.admin.Acquire(ctx, 1); err != nil {
		return err
	}
	defer c.l.cursors.admin.Release(1)
	c.lock()
	next := Cursor{name: c.name, id: c.id, created: c.created, props: props}
	next.acks.markDelete = c.acks.markDelete
	closed := c.closed
	c.unlock()
	if closed {
		return ErrCursorClosed
	}
	if err := c.l.putCursor(ctx, &next); err != nil {
		return fmt.Errorf("properties of cursor %q of %v: %w", c.name, c.l.name, err)
	}
	c.lock()
	c.props = props
	c.unlock()
	return nil
}

// Stats shows the cursor's inner workings.
func (c *Cursor) Stats() CursorStats {
	f := c.lock()
	defer c.unlock()
	return CursorStats{
		Name: c.name, Durable: c.durable, MarkDelete: c.acks.markDelete, Acked: slices.Clone(c.acks.ranges),
		BatchAcks: len(c.acks.batches), Backlog: c.acks.backlog(f), Dirty: c.seq > c.l.cursors.safe,
		Created: c.created, LastActive: c.active, Properties: c.props,
	}
}

// Close forgets a reader's cursor; on durable cursors it does nothing.
func (c *Cursor) Close() {
	if !c.durable {
		c.lock()
		c.closed = true
		c.unlock()
	}
}
