package store

import (
	"fmt"
	"slices"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/segment"
)

// core decides. It is a step machine: Step takes an event and returns what is to be done about it; there is no
// goroutine, clock or I/O inside. The driver serialises the steps.
//
// A record goes: admitted into the open batch; the batch closed, queued and taken by the journal, which fixes
// its place; written; published to the index and the ledgers, from when on readers see it; and completed, its
// caller told. Every answer to an add, also a refusal, travels with a batch if any batch is under way, so that
// answers keep the order of the calls.
type core struct {
	cfg    limits
	seed   segment.Seed
	ledger table
	// deleted holds the ledgers whose tombstone is durable but not yet in the index; see event.gen.
	deleted map[ledgerfs.LedgerID]uint64
	gen     uint64

	segs map[uint64]*seg
	// unsealed are those with an index in memory, newest first.
	unsealed []*seg
	active   *seg
	ready    []*seg // prepared, in the order of their numbers
	open     *batch
	queue    []*batch // closed, not yet taken
	taken    []*batch // taken, not yet completed, in order
	spare    []*batch // to be used again

	slab  []byte // memory for batches to come
	seq   uint64 // of the last batch opened
	chain segment.Chain

	bytes  int64 // of records admitted or waiting, not yet published
	slow   []*ledgerfs.Add
	slowIn map[ledgerfs.LedgerID]int // adds in slow, or being decided, by ledger

	cache cache

	noRoom bool  // the last attempt to prepare a segment found no room
	low    bool  // the file system has less free than the reserve
	failed error // set once; then nothing is accepted and nothing succeeds
	closed bool

	holes    map[ledgerfs.LedgerID][]hole
	doubtful ledgerfs.LedgerID // ledgers up to this id may have lost anything; 0 if none
}

// limits are the parts of the configuration that decisions depend on.
type limits struct {
	segmentSize int64
	maxBatch    int
	maxBytes    int64
	maxPayload  int
}

// seg is one segment file. Fields are guarded by the driver's lock unless they say otherwise.
type seg struct {
	number uint64
	size   int64
	end    int64          // where the next batch goes
	first  segment.Chain  // the batch before the first here
	last   segment.Chain  // the last batch here
	index  *segment.Index // nil once the segment is sealed and indexed
	fresh  int64          // the file was never written from here on; 0 if it was, all of it
	grow   int            // bound on what records taken but not published will add to the footer
	flying int            // batches taken, not yet completed
	rolled bool           // no batch goes here any more
	live   int64          // runs in the index that are not deleted
	bytes  int64          // of them
	pins   int            // readers
	files  files
}

// batch is a row of records, and answers, on their way.
type batch struct {
	segment.Batch
	len  int // once closed
	recs []pending
	seg  *seg
	off  int64
	data []byte
	size int64 // of its records, for core.bytes
	low  bool  // it holds adds that must leave room for those of high priority
}

// pending is a record in a batch, or, with off < 0, an answer that keeps its place there.
type pending struct {
	add *ledgerfs.Add
	op  *op
	err error
	off int
}

// op is anything but an add: it may be waited for.
type op struct {
	rec  segment.Record
	done chan error
	seg  uint64 // where the record went; valid after done
}

type hole struct {
	first ledgerfs.EntryID
	count int
}

type eventKind uint8

const (
	evAdd      eventKind = iota // add: it arrived
	evDecided                   // add: the slow path found it new (err nil), or what to answer; stored says it exists
	evOp                        // op: write its record; gen as for tombstone checks
	evTake                      // the journal is free
	evWritten                   // batch: it is durable, or err
	evDone                      // batch: its callers were told
	evReady                     // seg: it is prepared
	evRefill                    // there is time to fill a prepared segment that was made in haste
	evRefilled                  // seg: it is prepared again
	evNoRoom                    // a segment could not be prepared for want of room
	evSpace                     // low: the file system's room was measured
	evSealed                    // seg: it is in the index
	evApplied                   // ids: tombstones are in the index
	evFail                      // err: the disk cannot be trusted
	evClose
)

type event struct {
	kind   eventKind
	add    *ledgerfs.Add
	op     *op
	batch  *batch
	seg    *seg
	err    error
	stored bool
	low    bool
	gen    uint64 // of an op on an unknown ledger: core.gen when the index was asked for a tombstone
	ids    []ledgerfs.LedgerID
	live   int64
	bytes  int64
}

// effects is what a step asks the driver to do.
type effects struct {
	write   *batch    // to the journal
	wake    bool      // there may be something to take
	done    []pending // tell their callers, then evDone
	one     pending   // tell its caller, if there is one
	seal    *seg
	prepare bool // another segment is wanted
	refill  *seg // taken back to be filled; answered by evRefilled
	slow    bool // core.slow has grown
	deleted bool // core.deleted has grown
	retry   bool // evOp: gen is outdated
	fatal   error
}

const slabSize = 1 << 20

// errStopped fails what was under way when the disk failed.
func (c *core) errStopped() error {
	if c.closed {
		return ledgerfs.ErrClosed
	}
	return fmt.Errorf("%w: %w", ledgerfs.ErrIO, c.failed)
}

func (c *core) Step(e event) (fx effects) {
	switch e.kind {
	case evAdd:
		c.arrive(e.add, &fx)
	case evDecided:
		c.decided(e.add, e.err, e.stored, &fx)
	case evOp:
		c.control(e.op, e.gen, &fx)
	case evTake:
		c.take(&fx)
	case evWritten:
		c.written(e.batch, e.err, &fx)
	case evDone:
		c.completed(e.batch, &fx)
	case evReady:
		c.noRoom = false
		c.segs[e.seg.number] = e.seg
		c.unsealed = slices.Insert(c.unsealed, 0, e.seg)
		if c.active == nil {
			c.active = e.seg
		} else {
			c.ready = append(c.ready, e.seg)
		}
		fx.wake = true
		fx.prepare = len(c.ready) == 0
	case evRefill:
		c.takeBack(&fx)
	case evRefilled:
		c.ready = slices.Insert(c.ready, 0, e.seg)
		fx.wake = true
	case evNoRoom:
		c.noRoom = true
		fx.wake = true
	case evSpace:
		c.low = e.low
		fx.prepare = !e.low && len(c.ready) == 0
	case evSealed:
		e.seg.index = nil
		c.unsealed = slices.DeleteFunc(c.unsealed, func(g *seg) bool { return g == e.seg })
		e.seg.live, e.seg.bytes = e.live, e.bytes
	case evApplied:
		for _, id := range e.ids {
			delete(c.deleted, id)
		}
		c.gen++
	case evFail:
		c.fail(e.err, &fx)
	case evClose:
		c.closed = true
		fx.wake = true
	}
	return fx
}

func (c *core) fail(err error, fx *effects) {
	if c.failed == nil {
		c.failed = err
		fx.fatal = err
		fx.wake = true
	}
}

// arrive admits an add, or hands it to the slow path: where the index must be asked, and behind others of its
// ledger that wait there.
func (c *core) arrive(a *ledgerfs.Add, fx *effects) {
	l := c.ledger.get(a.Ledger)
	if c.failed == nil && !c.closed && (l == nil || a.Entry <= l.tail || c.slowIn[a.Ledger] > 0) {
		if l != nil && l.flags&ledgerDeleting != 0 {
			c.answer(pending{add: a, err: ledgerfs.ErrDeleted}, fx)
			return
		}
		if c.bytes > 0 && c.bytes+int64(len(a.Payload)) > c.cfg.maxBytes {
			c.answer(pending{add: a, err: ledgerfs.ErrTooManyRequests}, fx)
			return
		}
		c.bytes += int64(len(a.Payload))
		c.slow = append(c.slow, a)
		c.slowIn[a.Ledger]++
		fx.slow = true
		return
	}
	c.admit(a, l, fx)
}

// decided goes on with an add of the slow path.
func (c *core) decided(a *ledgerfs.Add, err error, stored bool, fx *effects) {
	c.bytes -= int64(len(a.Payload))
	if c.slowIn[a.Ledger]--; c.slowIn[a.Ledger] == 0 {
		delete(c.slowIn, a.Ledger)
	}
	l := c.ledger.get(a.Ledger)
	switch {
	case err == nil && l == nil:
		err = ledgerfs.ErrDeleted // it was there when the index was asked
	case l != nil && l.flags&ledgerFenced != 0 && a.Flags&ledgerfs.AddRecovery == 0:
		err = ledgerfs.ErrFenced
	case err == nil && !stored:
		c.admit(a, l, fx)
		return
	}
	c.answer(pending{add: a, err: err}, fx)
}

func (c *core) admit(a *ledgerfs.Add, l *ledger, fx *effects) {
	size := int64(segment.Size(len(a.Payload)))
	var err error
	switch {
	case c.failed != nil || c.closed:
		err = c.errStopped()
	case l.flags&ledgerDeleting != 0:
		err = ledgerfs.ErrDeleted
	case l.flags&ledgerFenced != 0 && a.Flags&ledgerfs.AddRecovery == 0:
		err = ledgerfs.ErrFenced
	case len(a.Payload) > c.cfg.maxPayload:
		err = fmt.Errorf("%w: entry of %d bytes, limit %d", ledgerfs.ErrBadRequest, len(a.Payload), c.cfg.maxPayload)
	case c.bytes > 0 && c.bytes+size > c.cfg.maxBytes:
		err = ledgerfs.ErrTooManyRequests
	case !c.room(size, a.Flags):
		err = ledgerfs.ErrNoSpace
	}
	if err != nil {
		c.answer(pending{add: a, err: err}, fx)
		return
	}
	l.tail = max(l.tail, a.Entry)
	rec := segment.Record{Type: segment.Add, Ledger: a.Ledger, Entry: a.Entry, LAC: a.LAC, Length: a.Length,
		Digest: a.Digest, Payload: a.Payload}
	c.append(&rec, pending{add: a}, fx)
	c.open.low = c.open.low || !high(a.Flags)
}

func high(f ledgerfs.AddFlags) bool { return f&(ledgerfs.AddHighPriority|ledgerfs.AddRecovery) != 0 }

// reserve is the room in prepared segments that normal adds leave for those of high priority, which leave an
// eighth of it for fences and deletes.
func (c *core) reserve() int64 { return c.cfg.segmentSize / 2 }

// room reports whether an add of that size may be taken.
func (c *core) room(size int64, f ledgerfs.AddFlags) bool {
	if !high(f) && c.low {
		return false
	}
	if !c.noRoom {
		return true
	}
	left := c.left() - size - segment.BlockSize
	if high(f) {
		return left >= c.reserve()/8
	}
	return left >= c.reserve()
}

// left is the room in prepared segments that nothing has claimed.
func (c *core) left() int64 {
	left := c.active.left()
	for _, s := range c.ready {
		left += s.left()
	}
	for _, b := range c.queue {
		left -= int64(b.len)
	}
	if c.open != nil && c.open.Records() > 0 {
		left -= int64(c.open.Len())
	}
	return left
}

// left is the room for batches, the footer's and a margin for padding taken off.
func (s *seg) left() int64 {
	return s.size - s.end - segment.FooterRoom(s.index.Size()+s.grow)
}

// control writes the record of an op, or answers at once if nothing is to be done.
func (c *core) control(o *op, gen uint64, fx *effects) {
	id := o.rec.Ledger
	if c.failed != nil || c.closed {
		c.answer(pending{op: o, err: c.errStopped()}, fx)
		return
	}
	if c.noRoom && c.left() < segment.BlockSize*2 {
		c.answer(pending{op: o, err: ledgerfs.ErrNoSpace}, fx)
		return
	}
	l := c.ledger.get(id)
	_, gone := c.deleted[id]
	gone = gone || l != nil && l.flags&ledgerDeleting != 0
	switch o.rec.Type {
	case segment.Install, segment.Fence:
		if gone {
			c.answer(pending{op: o, err: ledgerfs.ErrDeleted}, fx)
			return
		}
		if l == nil {
			if gen != c.gen {
				fx.retry = true
				return
			}
			l = c.ledger.add(id)
		} else if o.rec.Type == segment.Install || l.flags&ledgerFenced != 0 {
			c.answer(pending{op: o}, fx) // behind the record that did it
			return
		}
		if o.rec.Type == segment.Fence {
			l.flags |= ledgerFenced
		}
	case segment.Delete:
		if gone {
			c.answer(pending{op: o}, fx)
			return
		}
		if l == nil {
			if gen != c.gen {
				fx.retry = true
				return
			}
			l = c.ledger.add(id)
		}
		l.flags |= ledgerDeleting
	}
	c.append(&o.rec, pending{op: o}, fx)
}

// idle reports whether nothing is under way, so that an answer overtakes nothing.
func (c *core) idle() bool { return len(c.taken) == 0 && len(c.queue) == 0 && c.open == nil }

// answer gives an answer that needs no record, in its place.
func (c *core) answer(p pending, fx *effects) {
	if c.idle() {
		fx.one = p
		return
	}
	if c.open == nil {
		c.open = c.newBatch()
	}
	p.off = -1
	c.open.recs = append(c.open.recs, p)
	fx.wake = true
}

func (c *core) newBatch() *batch {
	if n := len(c.spare); n > 0 {
		b := c.spare[n-1]
		c.spare = c.spare[:n-1]
		return b
	}
	return &batch{}
}

// append copies a record into the open batch.
func (c *core) append(r *segment.Record, p pending, fx *effects) {
	if b := c.open; b != nil && b.Records() > 0 && (!b.Fits(len(r.Payload)) || b.Len() >= c.cfg.maxBatch) {
		c.close()
	}
	if c.open == nil {
		c.open = c.newBatch()
	}
	b := c.open
	if b.Records() == 0 {
		room := segment.Room(len(r.Payload))
		if len(c.slab) < max(room, 64<<10) {
			c.slab = newSlab(max(room, slabSize))
		}
		c.seq++
		b.Reset(c.seed, c.seq, c.slab)
	}
	p.off = b.Append(r)
	b.recs = append(b.recs, p)
	size := int64(segment.Size(len(r.Payload)))
	b.size += size
	c.bytes += size
	fx.wake = true
}

// close moves the open batch to the queue.
func (c *core) close() {
	b := c.open
	c.open = nil
	if b.Records() > 0 {
		b.len = b.Len()
		c.slab = c.slab[b.len:]
	}
	c.queue = append(c.queue, b)
}

// take gives the journal its next batch, if there is one that has a place.
func (c *core) take(fx *effects) {
	if len(c.queue) == 0 {
		if c.open == nil {
			return
		}
		c.close()
	}
	b := c.queue[0]
	if b.Records() > 0 && c.failed == nil {
		if !c.place(b, fx) {
			if !c.noRoom {
				return // until a segment is ready
			}
			c.refuse(b)
		}
	}
	c.queue = slices.Delete(c.queue, 0, 1)
	c.taken = append(c.taken, b)
	fx.write = b
}

// refuse turns a batch that found no place into answers. Admission makes this all but impossible.
func (c *core) refuse(b *batch) {
	for i := range b.recs {
		if p := &b.recs[i]; p.off >= 0 {
			p.off, p.err = -1, ledgerfs.ErrNoSpace
			if p.op != nil {
				c.undo(p.op)
			}
		}
	}
	c.bytes -= b.size
	b.size = 0
	b.Reset(c.seed, b.Seq(), nil)
}

// undo takes back what control noted for an op whose record was refused.
func (c *core) undo(o *op) {
	l := c.ledger.get(o.rec.Ledger)
	if l == nil {
		return
	}
	switch o.rec.Type {
	case segment.Fence:
		l.flags &^= ledgerFenced
	case segment.Delete:
		l.flags &^= ledgerDeleting
	}
	if l.flags&ledgerKnown == 0 {
		c.ledger.remove(o.rec.Ledger)
	}
}

// place gives a batch its place in the active segment, or the next one.
func (c *core) place(b *batch, fx *effects) bool {
	grow := b.Records() * segment.Grow
	rest := c.active.left() - int64(b.len+grow)
	// Until it is known that there is room for another segment, the reserve in this one stays untouched.
	if len(c.ready) == 0 && (rest < 0 || b.low && rest < c.reserve()) {
		fx.prepare = true
		return false
	}
	if rest < 0 {
		c.roll(fx)
	}
	s := c.active
	b.seg, b.off = s, s.end
	data, head := b.Seal(s.number, s.end, s.end, c.chain.CRC, false)
	b.data = data
	if s.end == segment.FileHeaderSize {
		s.first = c.chain
	}
	c.chain = segment.Chain{Seq: head.Seq, CRC: head.CRC}
	s.last = c.chain
	s.end += int64(b.len)
	s.grow += grow
	s.flying++
	return true
}

// takeBack takes the prepared segment back if it is not filled and will not be needed soon. Until it is back a batch
// that finds the active one full waits, which the filler notices.
func (c *core) takeBack(fx *effects) {
	if len(c.ready) != 1 || c.ready[0].fresh == 0 || c.busy() || c.noRoom || c.low || c.failed != nil || c.closed {
		return
	}
	fx.refill = c.ready[0]
	c.ready = c.ready[:0]
}

// busy reports whether the next segment will be needed soon.
func (c *core) busy() bool {
	return c.active == nil || c.active.left() < c.active.size/2 || len(c.queue) > 0
}

// roll ends the active segment.
func (c *core) roll(fx *effects) {
	old := c.active
	old.rolled = true
	c.active = c.ready[0]
	c.ready = slices.Delete(c.ready, 0, 1)
	c.active.first, c.active.last = c.chain, c.chain
	if old.flying == 0 {
		fx.seal = old
	}
	fx.prepare = len(c.ready) == 0
}

// written publishes a batch: from now on readers see its records.
func (c *core) written(b *batch, err error, fx *effects) {
	if err != nil {
		c.fail(err, fx)
	}
	if c.failed != nil {
		for i := range b.recs {
			b.recs[i].err = c.errStopped()
		}
	} else if b.Records() > 0 {
		c.publish(b, fx)
	}
	c.bytes -= b.size
	fx.done = b.recs
}

func (c *core) publish(b *batch, fx *effects) {
	s := b.seg
	c.cache.put(s.number, b.off, b.data)
	for i := range b.recs {
		p := &b.recs[i]
		if p.off < 0 {
			continue
		}
		var rec segment.Record
		if a := p.add; a != nil {
			rec = segment.Record{Type: segment.Add, Ledger: a.Ledger, Entry: a.Entry, LAC: a.LAC, Length: a.Length, Payload: a.Payload}
		} else {
			rec = p.op.rec
			p.op.seg = s.number
		}
		c.apply(&rec, s, b.off+int64(p.off))
		fx.deleted = fx.deleted || rec.Type == segment.Delete
	}
	s.grow -= b.Records() * segment.Grow
}

// apply notes a durable record. Recovery calls it, too.
func (c *core) apply(r *segment.Record, s *seg, off int64) {
	switch r.Type {
	case segment.Add:
		l := c.ledger.get(r.Ledger)
		if l == nil {
			return // deleted while the add was under way, or before recovery
		}
		if r.Entry > l.last {
			l.last, l.length = r.Entry, r.Length
		}
		l.lac = max(l.lac, r.LAC)
		if len(c.holes) > 0 {
			c.fill(r.Ledger, r.Entry)
		}
	case segment.Install, segment.Fence, segment.State, segment.ExplicitLAC:
		l := c.ledger.get(r.Ledger)
		if l == nil {
			return
		}
		l.flags |= ledgerKnown
		if r.Type == segment.Fence || r.Type == segment.State && r.Entry&segment.FlagFenced != 0 {
			l.flags |= ledgerFenced | ledgerFencedDurably
		}
		if r.Type != segment.Install && r.Type != segment.Fence {
			l.lac = max(l.lac, r.LAC)
		}
	case segment.Delete:
		c.ledger.remove(r.Ledger)
		c.deleted[r.Ledger] = s.number
		delete(c.holes, r.Ledger)
		for _, o := range c.unsealed {
			o.index.Drop(r.Ledger)
		}
	}
	// The only error is of a malformed Tombstones record, which the store itself has written.
	if err := s.index.Record(r, off); err != nil {
		panic(fmt.Sprintf("store: record at %d of segment %d: %v", off, s.number, err))
	}
}

// fill takes an entry that was written again out of the holes.
func (c *core) fill(id ledgerfs.LedgerID, e ledgerfs.EntryID) {
	hs := c.holes[id]
	for i, h := range hs {
		if e < h.first || e >= h.first+ledgerfs.EntryID(h.count) {
			continue
		}
		hs = slices.Delete(hs, i, i+1)
		if n := int(e - h.first); n > 0 {
			hs = append(hs, hole{h.first, n})
		}
		if n := int(h.first) + h.count - int(e) - 1; n > 0 {
			hs = append(hs, hole{e + 1, n})
		}
		break
	}
	if c.holes[id] = hs; len(hs) == 0 {
		delete(c.holes, id)
	}
}

func (c *core) inHole(id ledgerfs.LedgerID, e ledgerfs.EntryID) bool {
	for _, h := range c.holes[id] {
		if e >= h.first && e < h.first+ledgerfs.EntryID(h.count) {
			return true
		}
	}
	return false
}

// completed takes a batch back after its callers were told.
func (c *core) completed(b *batch, fx *effects) {
	c.taken = slices.Delete(c.taken, 0, 1)
	fx.wake = c.closed // the journal ends after the last
	if s := b.seg; s != nil {
		if s.flying--; s.flying == 0 && s.rolled {
			fx.seal = s
		}
	}
	clear(b.recs)
	recs := b.recs[:0]
	if cap(recs) > 4096 {
		recs = nil
	}
	*b = batch{Batch: b.Batch, recs: recs}
	b.Reset(c.seed, 0, nil)
	if len(c.spare) < 8 {
		c.spare = append(c.spare, b)
	}
}

// inFlight finds an add of the entry that is admitted and not yet published.
func (c *core) inFlight(id ledgerfs.LedgerID, e ledgerfs.EntryID) *ledgerfs.Add {
	find := func(b *batch) *ledgerfs.Add {
		for i := range b.recs {
			if a := b.recs[i].add; a != nil && b.recs[i].off >= 0 && a.Ledger == id && a.Entry == e {
				return a
			}
		}
		return nil
	}
	for _, bs := range [][]*batch{c.taken, c.queue, {c.open}} {
		for _, b := range bs {
			if b != nil {
				if a := find(b); a != nil {
					return a
				}
			}
		}
	}
	return nil
}
