package ledger

import (
	"errors"
	"fmt"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/quorum"
)

// A core decides everything about a writer: which entry an append becomes, when it is acknowledged, and when
// the writer is dead. It is a step machine: events in, effects out; no goroutine, clock or I/O. The Writer
// drives it under its lock.
//
// Invariant: the pending list holds the entries confirmed+1, confirmed+2, … next-1 in order, then, while the
// core refuses, appends that got no entry.
type core struct {
	id        ledgerfs.LedgerID
	quorum    quorum.Config
	state     coreState
	next      ledgerfs.EntryID // of the next append
	confirmed ledgerfs.EntryID
	length    int64 // of all entries sent
	confLen   int64 // of the confirmed ones
	head      *op
	tail      *op
	err       error // why the core refuses or is dead
	tick      uint32
}

type coreState uint8

const (
	coreOpen coreState = iota
	// coreRefusing: an entry was refused by all its members before anything was stored. Nothing more is sent
	// until all answers are in: then either everything unacknowledged was refused, and its entry ids are used
	// again, or the writer dies.
	coreRefusing
	// coreClosing: what is in flight is awaited, nothing more is taken.
	coreClosing
	coreDead
)

// ticksToTimeout is how many ticks an entry may be the oldest unacknowledged one.
const ticksToTimeout = 4

// An op is an append inside the writer. It lives until all its members have answered, so longer than the
// caller's Append if a member is slow or hung.
type op struct {
	next    *op
	a       *Append // nil once completed
	entry   ledgerfs.EntryID
	sent    bool
	stored  quorum.Set
	failed  quorum.Set // refused included
	refused quorum.Set
	waiting int // members that have not answered
	tick    uint32
	lac     ledgerfs.EntryID
	length  int64
	slots   []slot
	one     [1]slot
}

// An event is one thing that happened to the writer.
type event struct {
	kind   eventKind
	op     *op              // evAppend, evAnswer
	at     ledgerfs.EntryID // evAppend: what the entry must become, NoEntry for whatever comes next
	member int              // evAnswer
	err    error            // evAnswer, evKill
}

type eventKind uint8

const (
	evAppend eventKind = iota + 1
	evAnswer
	evTick
	evClose
	evKill
)

// Effects are what the driver has to do: send op to its write set, complete the appends of the list done in
// order, and put the free list back into the pool.
type effects struct {
	send      bool
	doneFirst *Append
	doneLast  *Append
	free      *op
	drained   bool // the core is closing or dead, and nothing is pending
}

func (fx *effects) done(a *Append, err error) {
	a.err, a.next = err, nil
	if fx.doneLast == nil {
		fx.doneFirst = a
	} else {
		fx.doneLast.next = a
	}
	fx.doneLast = a
}

func (fx *effects) release(o *op) {
	o.next = fx.free
	fx.free = o
}

func (c *core) step(e event) (fx effects) {
	switch e.kind {
	case evAppend:
		c.append(e.op, e.at, &fx)
	case evAnswer:
		c.answer(e.op, e.member, e.err, &fx)
	case evTick:
		c.tick++
		if c.head != nil && c.head.sent && c.tick-c.head.tick > ticksToTimeout {
			c.die(fmt.Errorf("%w: entry %d:%d", ErrTimeout, c.id, c.head.entry), &fx)
		}
	case evClose:
		if c.state == coreOpen || c.state == coreRefusing {
			c.err = ErrClosed
			c.state = coreClosing
		}
	case evKill:
		if c.state != coreDead {
			c.die(e.err, &fx)
		}
	}
	fx.drained = c.head == nil && c.state >= coreClosing
	return fx
}

func (c *core) append(o *op, at ledgerfs.EntryID, fx *effects) {
	switch c.state {
	case coreClosing, coreDead:
		if c.head == nil {
			fx.done(o.a, &failure{c.err, true})
			o.a = nil
			fx.release(o)
			return
		}
		c.push(o)
		return
	case coreRefusing:
		c.push(o)
		return
	}
	if at != ledgerfs.NoEntry && at != c.next {
		err := fmt.Errorf("%w: ledger %d is at entry %d, not %d", ErrRefused, c.id, c.next, at)
		if c.head == nil {
			fx.done(o.a, &failure{err, true})
			o.a = nil
			fx.release(o)
			return
		}
		c.state, c.err = coreRefusing, err // in its turn
		c.push(o)
		return
	}
	o.entry, o.lac, o.tick = c.next, c.confirmed, c.tick
	c.next++
	c.length += int64(len(o.a.Payload))
	o.length = c.length
	o.sent = true
	o.waiting = c.quorum.Write
	o.a.Entry = o.entry
	c.push(o)
	fx.send = true
}

func (c *core) push(o *op) {
	if c.tail == nil {
		c.head = o
	} else {
		c.tail.next = o
	}
	c.tail = o
}

func (c *core) pop() *op {
	o := c.head
	c.head = o.next
	if c.head == nil {
		c.tail = nil
	}
	o.next = nil
	return o
}

// isRefusal reports whether a bookie's answer says that it stored nothing and is fit to go on.
func isRefusal(err error) bool {
	return errors.Is(err, ledgerfs.ErrNoSpace) || errors.Is(err, ledgerfs.ErrTooManyRequests) || errors.Is(err, ledgerfs.ErrReadOnly)
}

func (c *core) answer(o *op, member int, err error, fx *effects) {
	o.waiting--
	switch {
	case err == nil:
		o.stored.Add(member)
	case isRefusal(err):
		o.refused.Add(member)
		o.failed.Add(member)
	default:
		o.failed.Add(member)
	}
	if o.a == nil { // acknowledged already, or failed
		if o.waiting == 0 {
			fx.release(o)
		}
		return
	}
	if err != nil && c.state != coreDead {
		switch {
		case errors.Is(err, ledgerfs.ErrFenced), errors.Is(err, ledgerfs.ErrDeleted):
			c.die(fmt.Errorf("%w: entry %d:%d: %w", ErrFenced, c.id, o.entry, err), fx)
			return
		case !c.quorum.Hopeless(o.failed):
		case o.stored == 0 && o.failed == o.refused:
			// Until all members have answered it may still turn out that one of them stored it.
			if c.state == coreOpen {
				c.state, c.err = coreRefusing, fmt.Errorf("%w: entry %d:%d: %w", ErrRefused, c.id, o.entry, err)
			}
		default:
			c.die(fmt.Errorf("append entry %d:%d: %w", c.id, o.entry, err), fx)
			return
		}
	}
	c.advance(fx)
	c.settle(fx)
}

// advance acknowledges from the front what its members have stored.
func (c *core) advance(fx *effects) {
	for c.head != nil && c.head.sent && c.quorum.Acknowledged(c.head.stored) {
		o := c.pop()
		c.confirmed, c.confLen = o.entry, o.length
		fx.done(o.a, nil)
		o.a = nil
		if o.waiting == 0 {
			fx.release(o)
		}
	}
}

// settle ends a refusal once all answers are in.
func (c *core) settle(fx *effects) {
	if c.state != coreRefusing && c.state != coreClosing {
		return
	}
	clean, refused := true, false
	for o := c.head; o != nil && o.sent; o = o.next {
		if o.waiting > 0 {
			return
		}
		refused = refused || o.refused != 0
		clean = clean && o.stored == 0 && o.failed == o.refused
	}
	if c.head == nil || !c.head.sent && c.state == coreClosing {
		return
	}
	err := c.err
	if !clean {
		c.die(err, fx)
		return
	}
	if c.state == coreClosing && refused {
		err = fmt.Errorf("%w: ledger %d is closing", ErrRefused, c.id)
	}
	f := &failure{err, true}
	for c.head != nil {
		o := c.pop()
		fx.done(o.a, f)
		o.a = nil // not pooled: a refusal is rare
	}
	c.next, c.length = c.confirmed+1, c.confLen
	if c.state == coreRefusing {
		c.state, c.err = coreOpen, nil
	}
}

// die fails everything that is pending.
func (c *core) die(err error, fx *effects) {
	c.state = coreDead
	c.err = err
	unknown, definite := &failure{err, false}, &failure{err, true}
	for c.head != nil {
		o := c.pop()
		if o.sent {
			fx.done(o.a, unknown)
		} else {
			fx.done(o.a, definite)
		}
		o.a = nil
	}
}

// A failure is the error of an append.
type failure struct {
	err      error
	definite bool
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// IsDefinite reports that err, from AppendCompleted, means that nothing was stored and nothing will appear.
func IsDefinite(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.definite
}
