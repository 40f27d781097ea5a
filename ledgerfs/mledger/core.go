package mledger

import (
	"errors"
	"fmt"
	"math"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/raftmeta"
)

// A core decides everything about a topic's appends: position and index of each, when ledgers begin and end,
// and what fails with what. It is a step machine: events and times in, effects out; no goroutine, clock or
// I/O. The Ledger drives it under its lock.
//
// Invariant: the pending list holds the appends that are not completed, in the order of the calls; those
// sent to the current ledger come first, and there are inflight of them.
type core struct {
	state coreState
	limit limits

	cur       current
	standby   ledgerfs.LedgerID // created ahead, to follow cur; 0 if none
	creating  bool              // an fxCreate has not been answered
	closing   bool              // an old ledger is being closed: until then no further one is created
	rollAsked bool

	nextIndex int64             // of the next append
	confirmed ledgerfs.Position // the last acknowledged entry
	confIndex int64             // the index after it

	head, tail *Append
	unsent     *Append // the first in the list that was not sent
	inflight   int

	stop    error // no append is taken any more
	cause   error // of the failing
	alive   bool  // failing: the writer has survived
	retryAt int64 // ms: not before then is a ledger created again
	lastErr error // why the last creation failed

	failures, added int64
}

// limits are the conditions of a roll, math.MaxInt64 where there is none.
type limits struct {
	entries, bytes, minAge, maxAge int64 // ages in ms
}

// current is the ledger that is written now. The sums with sent count what was sent, the others what is
// confirmed.
type current struct {
	id                  ledgerfs.LedgerID // 0 if there is none
	created             int64
	firstIndex          int64
	sent, entries       int64
	sentBytes, bytes    int64
	messages            int64 // only in current's result
	timesMissing        bool
	leastTime, mostTime int64
	timed               bool
}

type coreState uint8

const (
	// coreIdle: there is no current ledger. If something is unsent, one is being created.
	coreIdle coreState = iota
	coreOpen
	// coreDraining: the next ledger is there; appends wait until the current one is wholly confirmed.
	coreDraining
	// coreFailing: an append has failed. When all in flight have failed too, those behind them are rejected.
	coreFailing
	// coreRecovering: the current ledger's end is being found.
	coreRecovering
)

// retryDelay is how long, in ms, appends are rejected after a ledger could not be created.
const retryDelay = 100

// An event is one thing that happened to the topic.
type event struct {
	kind  eventKind
	now   int64 // ms since 1970
	a     *Append
	id    ledgerfs.LedgerID
	err   error
	alive bool  // evDone: the writer takes further appends
	index int64 // evRecovered: the index after the last message
	last  ledgerfs.Position
}

type eventKind uint8

const (
	evAppend    eventKind = iota + 1 // a was issued
	evSend                           // the driver can send the next unsent append
	evDone                           // a is stored, or failed
	evCreated                        // ledger id is ready, or could not be created
	evClosed                         // the old ledger is closed and recorded
	evRecovered                      // the ledger's end is known: index, last; or not yet: err
	evRoll                           // somebody wants the ledger closed
	evTick
	evStop // err: nothing more is taken
)

// Effects are what the driver has to do.
type effects struct {
	send    *Append           // to the current writer
	create  bool              // a ledger, asynchronously; answered by evCreated
	recover ledgerfs.LedgerID // close it by recovery; answered by evRecovered
	drain   bool              // there are appends to be sent: evSend until it sends none
	// switched: standby has become current; sealed is what the one before it holds. To be closed, and recorded;
	// answered by evClosed. The driver changes its writers before it does anything else.
	switched bool
	sealed   current
	adopted  bool // standby has become the first current ledger, or the one after a recovery
	grown    bool // confirmed has moved

	doneFirst, doneLast *Append
}

func (fx *effects) done(a *Append, err error) {
	a.p.err, a.p.next = err, nil
	if err != nil && a.Line != nil {
		a.Line.failed = true
	}
	if fx.doneLast == nil {
		fx.doneFirst = a
	} else {
		fx.doneLast.p.next = a
	}
	fx.doneLast = a
}

func (c *core) step(e event) (fx effects) {
	switch e.kind {
	case evAppend:
		c.append(e, &fx)
	case evSend:
		c.sendNext(e, &fx)
	case evDone:
		c.done(e, &fx)
	case evCreated:
		c.created(e, &fx)
	case evClosed:
		c.closing = false
		c.wantCreate(e.now, &fx)
	case evRecovered:
		c.recovered(e, &fx)
	case evRoll:
		if c.state == coreOpen && c.cur.sent > 0 {
			c.rollAsked = true
			c.roll(e.now, &fx)
		}
	case evTick:
		c.roll(e.now, &fx)
	case evStop:
		if c.stop == nil || errors.Is(e.err, ErrFenced) {
			c.stop = e.err
		}
		c.rejectUnsentIfStopped(&fx)
	}
	return fx
}

func (c *core) push(a *Append) {
	a.p.next, a.p.sent = nil, false
	if c.tail == nil {
		c.head = a
	} else {
		c.tail.p.next = a
	}
	c.tail = a
	if c.unsent == nil {
		c.unsent = a
	}
}

func (c *core) pop() *Append {
	a := c.head
	c.head = a.p.next
	if c.head == nil {
		c.tail = nil
	}
	if c.unsent == a {
		c.unsent = c.head
	}
	a.p.next = nil
	return a
}

func (c *core) append(e event, fx *effects) {
	// While failing it is rejected in its turn. Otherwise nothing of its line is pending: what was, failed before it.
	if e.a.Line != nil && e.a.Line.failed && c.state != coreFailing {
		err := c.stop
		if err == nil {
			err = fmt.Errorf("%w: an earlier append of its line failed", ErrRejected)
		}
		c.failures++
		fx.done(e.a, err)
		return
	}
	c.push(e.a)
	switch {
	case c.stop != nil:
		c.rejectUnsentIfStopped(fx)
	case c.state == coreIdle:
		if c.tooSoon(e.now) && !c.creating {
			c.failUnsent(c.lastErr, fx)
			return
		}
		c.wantCreate(e.now, fx)
	case c.state == coreOpen:
		c.roll(e.now, fx)
		if c.state == coreOpen {
			c.sendNext(e, fx)
		}
	}
}

// sendNext assigns position and index to the first unsent append and has it sent.
func (c *core) sendNext(e event, fx *effects) {
	a := c.unsent
	if a == nil || c.state != coreOpen || c.stop != nil {
		return
	}
	if c.rollDue(e.now) && c.standby != 0 {
		c.roll(e.now, fx)
		if c.state != coreOpen {
			return
		}
	}
	c.unsent = a.p.next
	c.inflight++
	a.p.sent = true
	a.Position = ledgerfs.Position{Ledger: c.cur.id, Entry: ledgerfs.EntryID(c.cur.sent)}
	c.nextIndex += int64(a.Messages)
	a.Index = c.nextIndex - 1
	a.p.prefix = Prefix{Time: e.now, Index: a.Index}
	a.p.size = int64(a.p.prefix.size() + len(a.Payload) - a.Headroom)
	c.cur.sent++
	c.cur.sentBytes += a.p.size
	fx.send = a
}

func (c *core) done(e event, fx *effects) {
	a := c.pop()
	if a != e.a || !a.p.sent {
		panic("mledger: appends completed out of order")
	}
	c.inflight--
	if e.err == nil {
		c.added++
		c.confirmed = a.Position
		c.confIndex = a.Index + 1
		c.cur.entries++
		c.cur.bytes += a.p.size
		if a.Messages > 0 {
			if a.LeastPublishTime > 0 && a.GreatestPublishTime > 0 {
				if !c.cur.timed {
					c.cur.leastTime, c.cur.mostTime, c.cur.timed = a.LeastPublishTime, a.GreatestPublishTime, true
				}
				c.cur.leastTime = min(c.cur.leastTime, a.LeastPublishTime)
				c.cur.mostTime = max(c.cur.mostTime, a.GreatestPublishTime)
			} else {
				c.cur.timesMissing = true
			}
		}
		fx.grown = true
		fx.done(a, nil)
	} else {
		err := mapError(e.err)
		if c.state != coreFailing {
			c.state, c.cause = coreFailing, e.err
		} else if ledger.IsDefinite(e.err) {
			err = c.behind() // the cause says more
		}
		c.alive = e.alive
		c.failures++
		fx.done(a, err)
	}
	if c.inflight > 0 {
		return
	}
	switch {
	case c.state == coreFailing:
		c.endFailing(fx)
	case c.stop != nil:
		c.rejectUnsentIfStopped(fx)
	case c.state == coreDraining:
		c.switchOver(e.now, fx)
	}
}

// mapError says in this package's words what became of an append.
func mapError(err error) error {
	switch {
	case errors.Is(err, ledgerfs.ErrNoSpace) && ledger.IsDefinite(err):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case ledger.IsDefinite(err):
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return fmt.Errorf("%w: %w", ErrAppend, err)
}

// failUnsent completes everything unsent with the error; nothing may be in flight.
func (c *core) failUnsent(err error, fx *effects) {
	for c.head != nil {
		a := c.pop()
		c.failures++
		fx.done(a, err)
	}
}

func (c *core) rejectUnsentIfStopped(fx *effects) {
	if c.stop != nil && c.inflight == 0 && c.state != coreFailing {
		c.failUnsent(c.stop, fx)
	}
}

// behind is the error of an append of which nothing was written because one before it failed.
func (c *core) behind() error {
	if errors.Is(c.cause, ledgerfs.ErrNoSpace) && ledger.IsDefinite(c.cause) {
		return fmt.Errorf("%w: %w", ErrNoSpace, c.cause)
	}
	return fmt.Errorf("%w: an earlier append failed: %w", ErrRejected, c.cause)
}

// endFailing leaves the failing state, once nothing is in flight: what was issued behind the failed ones is rejected,
// what comes later may be taken again.
func (c *core) endFailing(fx *effects) {
	err := c.stop
	if err == nil {
		err = c.behind()
	}
	c.failUnsent(err, fx)
	c.nextIndex = c.confIndex
	if c.alive {
		c.state = coreOpen
		c.cur.sent, c.cur.sentBytes = c.cur.entries, c.cur.bytes
		return
	}
	c.state = coreRecovering
	fx.recover = c.cur.id
	c.cur = current{}
}

func (c *core) recovered(e event, fx *effects) {
	if c.state != coreRecovering {
		return
	}
	if e.err != nil {
		// The recovery goes on; those who wait are told.
		if c.head != nil {
			c.failUnsent(fmt.Errorf("%w: %w", ErrRejected, e.err), fx)
		}
		return
	}
	c.state = coreIdle
	c.nextIndex, c.confIndex = e.index, e.index
	if c.confirmed.Less(e.last) {
		c.confirmed = e.last
		fx.grown = true
	}
	if c.standby != 0 {
		c.adopt(e.now, fx)
		return
	}
	if c.head != nil {
		c.wantCreate(e.now, fx)
	}
}

func (c *core) created(e event, fx *effects) {
	c.creating = false
	if e.err != nil {
		c.retryAt = e.now + retryDelay
		c.lastErr = createError(e.err)
		if c.state == coreIdle {
			c.failUnsent(c.lastErr, fx)
		}
		return
	}
	c.standby = e.id
	switch c.state {
	case coreIdle:
		c.adopt(e.now, fx)
	case coreOpen:
		c.roll(e.now, fx)
	}
}

// tooSoon reports whether the last attempt to create a ledger has failed a moment ago. Clocks may be set back.
func (c *core) tooSoon(now int64) bool {
	return now < c.retryAt && now >= c.retryAt-retryDelay
}

func createError(err error) error {
	if errors.Is(err, ledgerfs.ErrNoSpace) || errors.Is(err, raftmeta.ErrNoSpace) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return fmt.Errorf("%w: no ledger to write to: %w", ErrRejected, err)
}

// adopt makes the standby current where there is no other.
func (c *core) adopt(now int64, fx *effects) {
	c.cur = current{id: c.standby, created: now, firstIndex: c.nextIndex}
	c.standby = 0
	c.state = coreOpen
	fx.adopted = true
	fx.drain = c.unsent != nil
}

// wantCreate has a ledger created if one is needed and none is on its way.
func (c *core) wantCreate(now int64, fx *effects) {
	if c.creating || c.closing || c.standby != 0 || c.stop != nil {
		return
	}
	if c.state == coreIdle && c.unsent != nil || c.state == coreOpen && c.rollDue(now) && !c.tooSoon(now) {
		c.creating = true
		fx.create = true
	}
}

func (c *core) rollDue(now int64) bool {
	if c.cur.sent == 0 {
		return false
	}
	age := now - c.cur.created
	return c.rollAsked || age >= c.limit.maxAge ||
		age >= c.limit.minAge && (c.cur.sent >= c.limit.entries || c.cur.sentBytes >= c.limit.bytes)
}

// roll goes one step towards the next ledger, if it is time: have it created, while the current one is written
// on; then let the current one drain; then switch.
func (c *core) roll(now int64, fx *effects) {
	if c.state != coreOpen || !c.rollDue(now) || c.stop != nil {
		return
	}
	if c.standby == 0 {
		c.wantCreate(now, fx)
		return
	}
	if c.inflight > 0 {
		c.state = coreDraining
		return
	}
	c.switchOver(now, fx)
}

func (c *core) switchOver(now int64, fx *effects) {
	fx.switched, fx.sealed = true, c.current()
	c.closing = true
	c.rollAsked = false
	c.adopt(now, fx)
	fx.adopted = false
}

// quiet reports whether nothing is under way.
func (c *core) quiet() bool {
	return c.head == nil && !c.creating && !c.closing && c.state != coreFailing && c.state != coreRecovering
}

// current is the current ledger with the messages it holds.
func (c *core) current() current {
	s := c.cur
	s.messages = c.confIndex - s.firstIndex
	return s
}

// maxLedgers is how many ledgers a topic may have: more might not fit into its record, which is one value in metadata,
// with all that is entered for each of them in the end. doubleEvery keeps it out of reach: with each so many ledgers that a
// topic has, the next ones become twice as large and as old, so that full ones take decades to get there.
const (
	maxLedgers  = 6000
	doubleEvery = 500
)

// beside are the limits of the ledgers that follow n others.
func (l limits) beside(n int) limits {
	grown := func(v int64) int64 {
		for range n / doubleEvery {
			v += min(v, math.MaxInt64-v)
		}
		return v
	}
	return limits{entries: grown(l.entries), bytes: grown(l.bytes), minAge: grown(l.minAge), maxAge: grown(l.maxAge)}
}

func (o *Options) limits() limits {
	or := func(v, def int64) int64 {
		switch {
		case v == 0:
			return def
		case v < 0:
			return math.MaxInt64
		}
		return v
	}
	l := limits{
		entries: or(o.MaxEntries, 50_000),
		bytes:   or(o.MaxBytes, 2048<<20),
		minAge:  or(int64(o.MinRollover), 600e9) / 1e6,
		maxAge:  or(int64(o.MaxRollover), 14_400e9) / 1e6,
	}
	if o.MinRollover < 0 {
		l.minAge = 0 // no least age
	}
	return l
}
