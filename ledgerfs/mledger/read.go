package mledger

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/ledger"
)

// Fence is what a reader may see now: everything acknowledged before the call.
func (l *Ledger) Fence() chain.Fence {
	l.mu.Lock()
	defer l.mu.Unlock()
	return chain.Fence{Record: l.mu.view, Last: l.mu.core.confirmed}
}

// LastConfirmed is the position of the last acknowledged entry; of a topic without entries Position{-1, -1}.
func (l *Ledger) LastConfirmed() ledgerfs.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.core.confirmed
}

// First is the position of the first entry there is, or that the next one will have (as far as known:
// Position{-1, 0} where there is no ledger).
func (l *Ledger) First() ledgerfs.Position { return l.Fence().First() }

// NextIndex is the index that the next message will have.
func (l *Ledger) NextIndex() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.core.confIndex
}

// Entries is the number of entries.
func (l *Ledger) Entries() int64 { return l.Fence().Entries() }

// Bytes is the payload bytes of all entries, broker prefixes included.
func (l *Ledger) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.mu.core.cur.bytes
	for i := range l.mu.view.Ledgers {
		if c := &l.mu.view.Ledgers[i]; c.Closed {
			n += c.Bytes
		}
	}
	return n
}

// Next is the position of the first entry after p, or where it will be if there is none yet. Positions that do not
// exist (trimmed, beyond a ledger's end) are allowed.
func (l *Ledger) Next(p ledgerfs.Position) ledgerfs.Position { return l.Fence().Next(p) }

// Prev is the position of the last entry before p; entry -1 of the first ledger if there is none.
func (l *Ledger) Prev(p ledgerfs.Position) ledgerfs.Position { return l.Fence().Prev(p) }

// Exists reports whether the entry at p is stored and confirmed.
func (l *Ledger) Exists(p ledgerfs.Position) bool { return l.Fence().Exists(p) }

// Count is the number of confirmed entries e with after < e <= to.
func (l *Ledger) Count(after, to ledgerfs.Position) int64 { return l.Fence().Count(after, to) }

// Advance is the position of the n-th entry after p (n >= 1), at most LastConfirmed.
func (l *Ledger) Advance(p ledgerfs.Position, n int64) ledgerfs.Position {
	return l.Fence().Advance(p, n)
}

// Stats shows the topic's inner workings.
func (l *Ledger) Stats() Stats {
	l.mu.Lock()
	c := &l.mu.core
	s := Stats{
		EntriesAdded: c.added, Failures: c.failures, CurrentLedger: c.cur.id, CurrentEntries: c.cur.entries,
		CurrentBytes: c.cur.bytes, CurrentCreated: c.cur.created, LastConfirmed: c.confirmed,
		Properties: l.mu.view.Properties, CursorLedger: l.mu.view.CursorLedger,
	}
	for a := c.head; a != nil; a = a.p.next {
		s.Pending++
	}
	s.Ledgers = append(s.Ledgers, l.mu.view.Ledgers...)
	for i := range s.Ledgers {
		if s.Ledgers[i].ID == c.cur.id {
			cur := c.current()
			s.Ledgers[i].FirstIndex, s.Ledgers[i].Messages = cur.firstIndex, cur.messages
			s.Ledgers[i].Entries, s.Ledgers[i].Bytes = cur.entries, cur.bytes
		}
		s.Entries += s.Ledgers[i].Entries
		s.Bytes += s.Ledgers[i].Bytes
		s.Messages += s.Ledgers[i].Messages
	}
	switch {
	case errors.Is(l.mu.dead, ErrFenced):
		s.State = "Fenced"
	case l.mu.dead != nil:
		s.State = "Closed"
	case l.mu.view.State == chain.Terminated:
		s.State = "Terminated"
	case c.creating && c.cur.id == 0:
		s.State = "CreatingLedger"
	case c.state == coreDraining:
		s.State = "ClosingLedger"
	case c.state == coreFailing || c.state == coreRecovering:
		s.State = "ClosedLedger"
	default:
		s.State = "LedgerOpened" // also where the first append will open one
	}
	l.mu.Unlock()
	for _, c := range l.Cursors() {
		s.Cursors = append(s.Cursors, c.Stats())
	}
	return s
}

// ReadCached returns confirmed entries from the first one at or after from on, as far as they are in memory; it
// never waits. It appends at most maxEntries entries of maxBytes (the first however large) to dst. More says
// that there are further confirmed entries after those, in memory or not: with none returned, use Read. The payloads
// are stored entries: see CutPrefix. Only Ledger, Entry and Payload of an entry are set.
func (l *Ledger) ReadCached(dst []ledgerfs.Entry, from ledgerfs.Position, maxEntries, maxBytes int) (entries []ledgerfs.Entry, more bool) {
	f := l.Fence()
	n, size := 0, 0
	for n < max(maxEntries, 1) && (n == 0 || size < maxBytes) {
		at, i, ok := f.At(from)
		if !ok {
			return dst, false
		}
		had := len(dst)
		dst = l.f.cache.Read(dst, at.Ledger, at.Entry, f.LastEntry(i), maxEntries-n, maxBytes-size)
		if len(dst) == had {
			return dst, true
		}
		for _, e := range dst[had:] {
			n++
			size += len(e.Payload)
		}
		from = ledgerfs.Position{Ledger: at.Ledger, Entry: dst[len(dst)-1].Entry + 1}
		if n > 0 && size >= maxBytes {
			break
		}
	}
	_, _, more = f.At(from)
	return dst, more
}

// Read is ReadCached, but goes to the bookies for what is not in memory. It returns no entries, and no error, if
// there are no confirmed ones at or after from. If the first entry is lost (no bookie has a sound copy) it fails with an
// *EntryError, and the caller decides whether to go on behind it; after other errors it should try again.
func (l *Ledger) Read(ctx context.Context, dst []ledgerfs.Entry, from ledgerfs.Position, maxEntries, maxBytes int) ([]ledgerfs.Entry, error) {
	for {
		got, more := l.ReadCached(dst, from, maxEntries, maxBytes)
		if len(got) > len(dst) || !more {
			return got, nil
		}
		f := l.Fence()
		at, i, ok := f.At(from)
		if !ok {
			return dst, nil
		}
		r, err := l.f.readers.get(ctx, l.f.cfg.Client, at.Ledger)
		if err == nil {
			got, err = r.Read(ctx, dst, at.Entry, f.LastEntry(i), maxEntries, maxBytes)
		}
		if err == nil {
			return got, nil
		}
		if ctx.Err() != nil {
			return dst, ctx.Err()
		}
		if now := l.Fence(); now.Exists(at) {
			if errors.Is(err, ledger.ErrLost) {
				return dst, &EntryError{Position: at, Err: err}
			}
			return dst, fmt.Errorf("read %v: %w", at, err)
		}
		// Trimmed while we were reading: go on with what is left.
	}
}

// An EntryError says that one entry is lost.
type EntryError = chain.EntryError

// Find is the first entry for which reached is true, given that once true it stays true for all later entries: a
// search by publish time. Without one it is Next(LastConfirmed) and false. Reached sees stored entries. If the
// search is by publish time, at (ms since 1970; 0: it is not) leaves out ledgers whose times are known.
func (l *Ledger) Find(ctx context.Context, at int64, reached func(e ledgerfs.Entry) (bool, error)) (ledgerfs.Position, bool, error) {
	f := l.Fence()
	// The answer, if there is one, is among the n entries after lo.
	lo, n := chain.None, f.Entries()
	if at > 0 {
		for i := range f.Record.Ledgers {
			c := &f.Record.Ledgers[i]
			if !c.Closed || !c.TimesKnown || c.GreatestPublishTime >= at {
				break
			}
			lo = c.Last()
		}
		n = f.Count(lo, f.Last)
	}
	for n > 0 {
		mid := f.Advance(lo, (n+1)/2)
		es, err := l.Read(ctx, nil, mid, 1, 1)
		if err != nil {
			return ledgerfs.Position{}, false, fmt.Errorf("search %v: %w", l.name, err)
		}
		if len(es) == 0 || es[0].Ledger != mid.Ledger || es[0].Entry != mid.Entry {
			return ledgerfs.Position{}, false, fmt.Errorf("search %v: %w: the topic was trimmed", l.name, ErrNotFound)
		}
		ok, err := reached(es[0])
		if err != nil {
			return ledgerfs.Position{}, false, fmt.Errorf("search %v at %v: %w", l.name, mid, err)
		}
		switch {
		case ok && n == 1:
			return mid, true, nil
		case ok:
			n = (n + 1) / 2 // mid may be the answer: it stays in
		default:
			lo = mid
			n -= (n + 1) / 2
		}
	}
	return f.Next(lo), false, nil
}

// A readerCache keeps readers of ledgers, so that their metadata is not fetched for each read.
type readerCache struct {
	mu sync.Mutex
	m  map[ledgerfs.LedgerID]*ledger.Reader
}

const maxReaders = 4096

func (c *readerCache) get(ctx context.Context, cl *ledger.Client, id ledgerfs.LedgerID) (*ledger.Reader, error) {
	c.mu.Lock()
	r := c.m[id]
	c.mu.Unlock()
	if r != nil {
		return r, nil
	}
	r, err := cl.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[ledgerfs.LedgerID]*ledger.Reader)
	}
	for k := range c.m {
		if len(c.m) < maxReaders {
			break
		}
		delete(c.m, k)
	}
	c.m[id] = r
	return r, nil
}
