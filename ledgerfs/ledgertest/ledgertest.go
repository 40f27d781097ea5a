// Package ledgertest provides in-memory bookies with faults, for tests of whatever talks to bookies, and the
// suite that every ledgerfs.Bookie passes.
//
// A Bookie here keeps the whole contract of ledgerfs.Bookie except durability: its storage is memory.
// Faults are set while it runs; Heal ends them.
//
// # Goroutines
//
// While adds wait for their completion, one goroutine per bookie delivers them in order; it ends by itself
// when none is left.
package ledgertest

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/daybook/daybook/ledgerfs"
)

// A Bookie is one bookie, in one life of its storage, held in memory. Its methods may be called by any
// goroutine.
type Bookie struct {
	member ledgerfs.Member

	mu struct {
		sync.Mutex
		ledgers map[ledgerfs.LedgerID]*ledger
		wiped   bool
		queue   []completion // adds decided and not yet completed, in order
		running bool         // deliver is running
		healed  chan struct{}
		fault   fault
		adds    int // adds that arrived, for Adds
	}
}

type ledger struct {
	entries map[ledgerfs.EntryID]ledgerfs.Entry
	last    ledgerfs.EntryID
	lac     ledgerfs.EntryID
	fenced  bool
	deleted bool
}

type fault struct {
	hang        bool
	fail        error
	failAdds    int // fail that many adds with failAddsErr, then go on
	failAddsErr error
	dropAdds    bool
	dropReplies bool
	delay       time.Duration
	readOnly    bool
	noSpace     bool
	corrupt     map[ledgerfs.Position]bool
}

type completion struct {
	add   *ledgerfs.Add
	err   error
	delay time.Duration
}

var _ ledgerfs.Bookie = (*Bookie)(nil)

// NewBookie returns an empty bookie with a fresh incarnation.
func NewBookie(id ledgerfs.BookieID) *Bookie {
	b := &Bookie{member: ledgerfs.Member{Bookie: id}}
	rand.Read(b.member.Incarnation[:])
	b.mu.ledgers = map[ledgerfs.LedgerID]*ledger{}
	b.mu.healed = make(chan struct{})
	return b
}

// Member is the bookie's name and incarnation.
func (b *Bookie) Member() ledgerfs.Member { return b.member }

// Hang makes the bookie take requests and answer none: adds that arrive are held, other calls wait, until
// Heal; then they are carried out in order.
func (b *Bookie) Hang() { b.set(func(f *fault) { f.hang = true }) }

// Fail makes every call fail with err, doing nothing, until Heal.
func (b *Bookie) Fail(err error) { b.set(func(f *fault) { f.fail = err }) }

// FailAdds makes the next n adds fail with err, storing nothing.
func (b *Bookie) FailAdds(n int, err error) {
	b.set(func(f *fault) { f.failAdds, f.failAddsErr = n, err })
}

// DropAdds loses adds on the way: nothing is stored and the completion never comes, not even after Heal.
func (b *Bookie) DropAdds() { b.set(func(f *fault) { f.dropAdds = true }) }

// DropReplies stores adds and loses the answers: completions never come, not even after Heal.
func (b *Bookie) DropReplies() { b.set(func(f *fault) { f.dropReplies = true }) }

// Slow delays each answer by d.
func (b *Bookie) Slow(d time.Duration) { b.set(func(f *fault) { f.delay = d }) }

// ReadOnly makes the bookie refuse installs and normal adds with ErrReadOnly; adds with AddHighPriority or
// AddRecovery, fences, reads and deletes go on.
func (b *Bookie) ReadOnly() { b.set(func(f *fault) { f.readOnly = true }) }

// Full makes the bookie refuse normal adds with ErrNoSpace; adds with AddHighPriority or AddRecovery,
// installs, fences, reads and deletes go on.
func (b *Bookie) Full() { b.set(func(f *fault) { f.noSpace = true }) }

// Corrupt damages one stored entry: reads that start at it fail with ErrCorrupt, others stop before it.
// Adding it again with AddRecovery repairs it. Heal does not.
func (b *Bookie) Corrupt(id ledgerfs.LedgerID, entry ledgerfs.EntryID) {
	b.set(func(f *fault) {
		if f.corrupt == nil {
			f.corrupt = map[ledgerfs.Position]bool{}
		}
		f.corrupt[ledgerfs.Position{Ledger: id, Entry: entry}] = true
	})
}

// Heal ends all faults but damage; what Hang held is carried out.
func (b *Bookie) Heal() {
	b.mu.Lock()
	corrupt := b.mu.fault.corrupt
	b.mu.fault = fault{corrupt: corrupt}
	close(b.mu.healed)
	b.mu.healed = make(chan struct{})
	b.startLocked()
	b.mu.Unlock()
}

// Wipe destroys the storage: every call on b, also one that Hang holds, fails with ErrIncarnation from now
// on. It returns the empty bookie that comes back under the same name.
func (b *Bookie) Wipe() *Bookie {
	b.mu.Lock()
	b.mu.wiped = true
	b.mu.ledgers = nil
	b.mu.Unlock()
	b.Heal()
	return NewBookie(b.member.Bookie)
}

// Adds is the number of adds that have arrived.
func (b *Bookie) Adds() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.adds
}

// Entries lists the entries that the bookie holds of one ledger, in no particular order.
func (b *Bookie) Entries(id ledgerfs.LedgerID) []ledgerfs.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var es []ledgerfs.Entry
	if l := b.mu.ledgers[id]; l != nil {
		for _, e := range l.entries {
			es = append(es, e)
		}
	}
	return es
}

// Lose forgets one stored entry without a trace, which a real bookie never does: for tests of checkers.
func (b *Bookie) Lose(id ledgerfs.LedgerID, entry ledgerfs.EntryID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.mu.ledgers[id]; l != nil {
		delete(l.entries, entry)
		l.last = ledgerfs.NoEntry
		for e := range l.entries {
			l.last = max(l.last, e)
		}
	}
}

func (b *Bookie) set(change func(*fault)) {
	b.mu.Lock()
	change(&b.mu.fault)
	b.mu.Unlock()
}

// enter waits out a hang and a delay and answers the fault, if any, that a call other than Add meets.
func (b *Bookie) enter(ctx context.Context) error {
	b.mu.Lock()
	if d := b.mu.fault.delay; d > 0 {
		b.mu.Unlock()
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.mu.Lock()
	}
	for b.mu.fault.hang {
		healed := b.mu.healed
		b.mu.Unlock()
		select {
		case <-healed:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if b.mu.wiped {
		return ledgerfs.ErrIncarnation
	}
	return b.mu.fault.fail
}

// Install is ledgerfs.Bookie's.
func (b *Bookie) Install(ctx context.Context, id ledgerfs.LedgerID) error {
	if err := b.enter(ctx); err != nil {
		return fmt.Errorf("install ledger %d: %w", id, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.fault.readOnly {
		return fmt.Errorf("install ledger %d: %w", id, ledgerfs.ErrReadOnly)
	}
	if _, err := b.ledgerLocked(id, true); err != nil {
		return fmt.Errorf("install ledger %d: %w", id, err)
	}
	return nil
}

func (b *Bookie) ledgerLocked(id ledgerfs.LedgerID, create bool) (*ledger, error) {
	if b.mu.wiped {
		return nil, ledgerfs.ErrIncarnation
	}
	if id < 0 {
		return nil, ledgerfs.ErrBadRequest
	}
	l := b.mu.ledgers[id]
	switch {
	case l == nil && !create:
		return nil, ledgerfs.ErrNoLedger
	case l == nil:
		l = &ledger{entries: map[ledgerfs.EntryID]ledgerfs.Entry{}, last: ledgerfs.NoEntry, lac: ledgerfs.NoEntry}
		b.mu.ledgers[id] = l
	case l.deleted:
		return nil, ledgerfs.ErrDeleted
	}
	return l, nil
}

// Add is ledgerfs.Bookie's. Completions come from another goroutine.
func (b *Bookie) Add(a *ledgerfs.Add) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.adds++
	f := &b.mu.fault
	if f.dropAdds {
		return
	}
	c := completion{add: a, delay: f.delay}
	if !f.hang {
		c.err = b.storeLocked(a)
		if f.dropReplies {
			return
		}
	} else {
		c.err = errHeld
	}
	b.mu.queue = append(b.mu.queue, c)
	b.startLocked()
}

// errHeld marks an add that Hang holds: it is decided when the hang ends.
var errHeld = fmt.Errorf("held by a hanging bookie")

func (b *Bookie) startLocked() {
	if !b.mu.running && len(b.mu.queue) > 0 && !b.mu.fault.hang {
		b.mu.running = true
		go b.deliver()
	}
}

// deliver completes the queue in order and ends when it is empty or the bookie hangs.
func (b *Bookie) deliver() {
	for {
		b.mu.Lock()
		if len(b.mu.queue) == 0 || b.mu.fault.hang {
			b.mu.running = false
			b.mu.Unlock()
			return
		}
		c := b.mu.queue[0]
		b.mu.queue = b.mu.queue[1:]
		if c.err == errHeld {
			c.err = b.storeLocked(c.add)
		}
		b.mu.Unlock()
		if c.delay > 0 {
			time.Sleep(c.delay)
		}
		c.add.Done.AddCompleted(c.add, c.err)
	}
}

func (b *Bookie) storeLocked(a *ledgerfs.Add) error {
	if err := b.store(a); err != nil {
		return fmt.Errorf("add %d:%d: %w", a.Ledger, a.Entry, err)
	}
	return nil
}

func (b *Bookie) store(a *ledgerfs.Add) error {
	f := &b.mu.fault
	if f.fail != nil {
		return f.fail
	}
	if f.failAdds > 0 {
		f.failAdds--
		return f.failAddsErr
	}
	if a.Entry < 0 || a.LAC < ledgerfs.NoEntry || a.LAC >= a.Entry {
		return ledgerfs.ErrBadRequest
	}
	if ledgerfs.EntryDigest(a.Ledger, a.Entry, a.LAC, a.Length, a.Payload) != a.Digest {
		return ledgerfs.ErrCorrupt
	}
	l, err := b.ledgerLocked(a.Ledger, false)
	if err != nil {
		return err
	}
	if l.fenced && a.Flags&ledgerfs.AddRecovery == 0 {
		return ledgerfs.ErrFenced
	}
	pos := ledgerfs.Position{Ledger: a.Ledger, Entry: a.Entry}
	if old, ok := l.entries[a.Entry]; ok {
		if f.corrupt[pos] && a.Flags&ledgerfs.AddRecovery != 0 {
			delete(f.corrupt, pos)
		} else if f.corrupt[pos] {
			return ledgerfs.ErrCorrupt
		}
		if old.Length != a.Length || string(old.Payload) != string(a.Payload) {
			return ledgerfs.ErrBadRequest
		}
		return nil
	}
	if a.Flags&(ledgerfs.AddRecovery|ledgerfs.AddHighPriority) == 0 {
		if f.readOnly {
			return ledgerfs.ErrReadOnly
		}
		if f.noSpace {
			return ledgerfs.ErrNoSpace
		}
	}
	l.entries[a.Entry] = ledgerfs.Entry{
		Ledger: a.Ledger, Entry: a.Entry, LAC: a.LAC, Length: a.Length, Digest: a.Digest,
		Payload: append([]byte(nil), a.Payload...),
	}
	l.last = max(l.last, a.Entry)
	l.lac = max(l.lac, a.LAC)
	return nil
}

// Read is ledgerfs.Bookie's.
func (b *Bookie) Read(ctx context.Context, req ledgerfs.ReadRequest) (ledgerfs.ReadResponse, error) {
	resp, err := b.read(ctx, req)
	if err != nil {
		return ledgerfs.ReadResponse{}, fmt.Errorf("read %d:%d: %w", req.Ledger, req.First, err)
	}
	return resp, nil
}

func (b *Bookie) read(ctx context.Context, req ledgerfs.ReadRequest) (resp ledgerfs.ReadResponse, err error) {
	if err := b.enter(ctx); err != nil {
		return resp, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if req.First < 0 {
		return resp, ledgerfs.ErrBadRequest
	}
	l, err := b.ledgerLocked(req.Ledger, req.Fence)
	if err != nil {
		return resp, err
	}
	if req.Fence {
		l.fenced = true
	}
	resp.MaxLAC = l.lac
	bytes := 0
	for id := req.First; len(resp.Entries) < max(req.MaxEntries, 1); id++ {
		e, ok := l.entries[id]
		bad := b.mu.fault.corrupt[ledgerfs.Position{Ledger: req.Ledger, Entry: id}]
		if first := id == req.First; first && bad {
			return resp, ledgerfs.ErrCorrupt
		} else if first && !ok {
			return resp, ledgerfs.ErrNoEntry
		} else if !ok || bad || !first && bytes+len(e.Payload) > max(req.MaxBytes, 1) {
			break
		}
		bytes += len(e.Payload)
		resp.Entries = append(resp.Entries, e)
	}
	return resp, nil
}

// LastAdd is ledgerfs.Bookie's.
func (b *Bookie) LastAdd(ctx context.Context, id ledgerfs.LedgerID, fence bool) (ledgerfs.LastAdd, error) {
	if err := b.enter(ctx); err != nil {
		return ledgerfs.LastAdd{}, fmt.Errorf("last add of ledger %d: %w", id, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l, err := b.ledgerLocked(id, fence)
	if err != nil {
		return ledgerfs.LastAdd{}, fmt.Errorf("last add of ledger %d: %w", id, err)
	}
	if fence {
		l.fenced = true
	}
	return ledgerfs.LastAdd{LastEntry: l.last, MaxLAC: l.lac, Length: l.entries[l.last].Length, Fenced: l.fenced}, nil
}

// Delete is ledgerfs.Bookie's. A ledger that was never known here gets its tombstone, too.
func (b *Bookie) Delete(ctx context.Context, id ledgerfs.LedgerID) error {
	if err := b.enter(ctx); err != nil {
		return fmt.Errorf("delete ledger %d: %w", id, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if id < 0 {
		return fmt.Errorf("delete ledger %d: %w", id, ledgerfs.ErrBadRequest)
	}
	b.mu.ledgers[id] = &ledger{deleted: true}
	return nil
}

// A Cluster is a set of bookies, found by Member as a ledger finds them.
type Cluster struct {
	mu      sync.Mutex
	bookies []*Bookie
}

// NewCluster returns n empty bookies, called bookie-0, bookie-1, …
func NewCluster(n int) *Cluster {
	c := &Cluster{}
	for i := range n {
		c.bookies = append(c.bookies, NewBookie(ledgerfs.BookieID(fmt.Sprintf("bookie-%d", i))))
	}
	return c
}

// At is the i-th bookie, in its present life.
func (c *Cluster) At(i int) *Bookie {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bookies[i]
}

// Members lists the bookies in their present lives.
func (c *Cluster) Members() []ledgerfs.Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ms []ledgerfs.Member
	for _, b := range c.bookies {
		ms = append(ms, b.Member())
	}
	return ms
}

// Wipe destroys the i-th bookie's storage and brings it back empty, as Bookie.Wipe.
func (c *Cluster) Wipe(i int) *Bookie {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bookies[i] = c.bookies[i].Wipe()
	return c.bookies[i]
}

// Dial finds a bookie. If the bookie lives on in another incarnation, or is not in the cluster, every call
// on the result fails with ErrIncarnation.
func (c *Cluster) Dial(m ledgerfs.Member) ledgerfs.Bookie {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.bookies {
		if b.Member() == m {
			return b
		}
	}
	gone := NewBookie(m.Bookie)
	gone.Wipe()
	return gone
}
