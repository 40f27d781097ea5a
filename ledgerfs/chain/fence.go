package chain

import "github.com/daybook/daybook/ledgerfs"

// A Fence is what a reader of a topic may see: the record, and the last position that is confirmed and
// readable. A fence never changes; reading up to it needs nothing more from the topic's owner.
//
// The methods do the arithmetic of positions. They take any position: one that was trimmed, that lies beyond a
// ledger's end, or entry -1.
type Fence struct {
	Record *Record
	// Last is the last readable position; entry -1 of some ledger, or Position{-1, -1}, if there is none.
	Last ledgerfs.Position
}

// None is before every position.
var None = ledgerfs.Position{Ledger: -1, Entry: -1}

// LastEntry is the last readable entry of the i-th ledger of the record, NoEntry if there is none.
func (f Fence) LastEntry(i int) ledgerfs.EntryID {
	l := &f.Record.Ledgers[i]
	switch {
	case l.ID > f.Last.Ledger:
		return ledgerfs.NoEntry
	case l.ID == f.Last.Ledger:
		return f.Last.Entry
	case l.Closed:
		return ledgerfs.EntryID(l.Entries - 1)
	}
	return ledgerfs.NoEntry
}

// At is the first readable entry at or after p, and the place of its ledger in the record; false if there is none.
func (f Fence) At(p ledgerfs.Position) (ledgerfs.Position, int, bool) {
	i, same := f.Record.Find(p.Ledger)
	for ; i < len(f.Record.Ledgers); i++ {
		e := ledgerfs.EntryID(0)
		if same {
			e, same = max(p.Entry, 0), false
		}
		if e <= f.LastEntry(i) {
			return ledgerfs.Position{Ledger: f.Record.Ledgers[i].ID, Entry: e}, i, true
		}
	}
	return ledgerfs.Position{}, 0, false
}

// First is the first readable entry, or, without one, where the first one will be.
func (f Fence) First() ledgerfs.Position { return f.Next(None) }

// Next is the first readable entry after p. If there is none yet, it is the best guess of where it will be: in any case a
// position after p and not after that entry.
func (f Fence) Next(p ledgerfs.Position) ledgerfs.Position {
	if at, _, ok := f.At(p.Next()); ok {
		return at
	}
	i, same := f.Record.Find(p.Ledger)
	if same && f.Record.Ledgers[i].Closed {
		i, same = i+1, false
	}
	if !same && i < len(f.Record.Ledgers) {
		return ledgerfs.Position{Ledger: f.Record.Ledgers[i].ID, Entry: 0}
	}
	return p.Next()
}

// Prev is the last readable entry before p; without one, entry -1 of the first ledger, or None.
func (f Fence) Prev(p ledgerfs.Position) ledgerfs.Position {
	i, same := f.Record.Find(p.Ledger)
	if same {
		if e := min(p.Entry-1, f.LastEntry(i)); e >= 0 {
			return ledgerfs.Position{Ledger: p.Ledger, Entry: e}
		}
	}
	for i--; i >= 0; i-- {
		if e := f.LastEntry(i); e >= 0 {
			return ledgerfs.Position{Ledger: f.Record.Ledgers[i].ID, Entry: e}
		}
	}
	if len(f.Record.Ledgers) > 0 {
		return ledgerfs.Position{Ledger: f.Record.Ledgers[0].ID, Entry: ledgerfs.NoEntry}
	}
	return None
}

// Exists reports whether the entry at p is readable.
func (f Fence) Exists(p ledgerfs.Position) bool {
	i, ok := f.Record.Find(p.Ledger)
	return ok && p.Entry >= 0 && p.Entry <= f.LastEntry(i)
}

// Count is the number of readable entries e with after < e <= to.
func (f Fence) Count(after, to ledgerfs.Position) int64 {
	if !after.Less(to) {
		return 0
	}
	i, _ := f.Record.Find(after.Ledger)
	var n int64
	for ; i < len(f.Record.Ledgers) && f.Record.Ledgers[i].ID <= to.Ledger; i++ {
		first, last := ledgerfs.EntryID(0), f.LastEntry(i)
		if id := f.Record.Ledgers[i].ID; id == after.Ledger {
			first = max(after.Entry+1, 0)
		}
		if f.Record.Ledgers[i].ID == to.Ledger {
			last = min(last, to.Entry)
		}
		n += max(int64(last-first)+1, 0)
	}
	return n
}

// Entries is the number of readable entries.
func (f Fence) Entries() int64 { return f.Count(None, f.Last) }

// Advance is the n-th readable entry after p (n >= 1), at most the last one; p itself if there is none after it.
func (f Fence) Advance(p ledgerfs.Position, n int64) ledgerfs.Position {
	i, same := f.Record.Find(p.Ledger)
	out := p
	for ; n > 0 && i < len(f.Record.Ledgers); i++ {
		first, last := ledgerfs.EntryID(0), f.LastEntry(i)
		if same {
			first, same = max(p.Entry+1, 0), false
		}
		if k := min(n, int64(last-first)+1); k > 0 {
			n -= k
			out = ledgerfs.Position{Ledger: f.Record.Ledgers[i].ID, Entry: first + ledgerfs.EntryID(k-1)}
		}
	}
	return out
}

// An EntryError says that one entry of a topic is lost: every bookie that should have it has answered, and none has
// a sound copy. The entries around it are not concerned.
type EntryError struct {
	Position ledgerfs.Position
	Err      error
}

// Error names the entry, and says why.
func (e *EntryError) Error() string { return "read " + e.Position.String() + ": " + e.Err.Error() }

// Unwrap is what the bookies said.
func (e *EntryError) Unwrap() error { return e.Err }
