package mledger

import (
	"maps"
	"slices"
	"sort"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
)

// acks is what a cursor has acknowledged: values only, no lock, no I/O. The fence that the methods take tells
// which entries there are.
//
// Invariant, after each method: ranges are ascending, disjoint, after markDelete, not adjacent within a ledger, and
// the first of them does not begin with the entry after markDelete; count is the number of entries in them; batches
// are entries after markDelete in no range.
type acks struct {
	markDelete ledgerfs.Position
	ranges     []Range
	count      int64
	batches    map[ledgerfs.Position][]int64 // what remains of them; nil until needed
}

func start(r Range) ledgerfs.Position { return ledgerfs.Position{Ledger: r.Ledger, Entry: r.First} }
func end(r Range) ledgerfs.Position   { return ledgerfs.Position{Ledger: r.Ledger, Entry: r.Last} }

// place is the first range that does not end before p.
func place(rs []Range, p ledgerfs.Position) int {
	return sort.Search(len(rs), func(i int) bool { return !end(rs[i]).Less(p) })
}

func inRanges(rs []Range, p ledgerfs.Position) bool {
	i := place(rs, p)
	return i < len(rs) && !p.Less(start(rs[i]))
}

// addEntry puts one entry into sorted ranges; false if it was there.
func addEntry(rs []Range, p ledgerfs.Position) ([]Range, bool) {
	i := place(rs, p)
	if i < len(rs) && !p.Less(start(rs[i])) {
		return rs, false
	}
	left := i > 0 && rs[i-1].Ledger == p.Ledger && rs[i-1].Last+1 == p.Entry
	right := i < len(rs) && rs[i].Ledger == p.Ledger && rs[i].First == p.Entry+1
	switch {
	case left && right:
		rs[i-1].Last = rs[i].Last
		rs = slices.Delete(rs, i, i+1)
	case left:
		rs[i-1].Last = p.Entry
	case right:
		rs[i].First = p.Entry
	default:
		rs = slices.Insert(rs, i, Range{Ledger: p.Ledger, First: p.Entry, Last: p.Entry})
	}
	return rs, true
}

// has reports whether the entry at p is wholly acknowledged.
func (a *acks) has(p ledgerfs.Position) bool {
	return !a.markDelete.Less(p) || inRanges(a.ranges, p)
}

// ack acknowledges a readable entry; false if it was acknowledged before, or does not exist.
func (a *acks) ack(f chain.Fence, p ledgerfs.Position) bool {
	if !a.markDelete.Less(p) || !f.Exists(p) {
		return false
	}
	delete(a.batches, p)
	if f.Next(a.markDelete) == p {
		a.markDelete = p
		a.absorb(f)
		return true
	}
	rs, fresh := addEntry(a.ranges, p)
	a.ranges = rs
	if fresh {
		a.count++
	}
	return fresh
}

// ackBatch acknowledges all but the remaining indexes of an entry. Whole says that the entry is acknowledged as a
// whole now and was not before; changed that anything is new.
func (a *acks) ackBatch(f chain.Fence, p ledgerfs.Position, remaining []int64) (whole, changed bool) {
	if a.has(p) || !f.Exists(p) {
		return false, false
	}
	now, known := a.batches[p]
	next := trimWords(remaining)
	if known {
		next = slices.Clone(next[:min(len(next), len(now))])
		for i := range next {
			next[i] &= now[i]
		}
		next = trimWords(next)
		if slices.Equal(next, now) {
			return false, false
		}
	} else {
		next = slices.Clone(next)
	}
	if len(next) == 0 {
		return a.ack(f, p), true
	}
	if a.batches == nil {
		a.batches = make(map[ledgerfs.Position][]int64)
	}
	a.batches[p] = next
	return false, true
}

// trimWords cuts zero words off the end, which mean nothing.
func trimWords(w []int64) []int64 {
	for len(w) > 0 && w[len(w)-1] == 0 {
		w = w[:len(w)-1]
	}
	return w
}

// ackAll acknowledges everything up to and including p; false if that is nothing new.
func (a *acks) ackAll(f chain.Fence, p ledgerfs.Position) bool {
	if f.Last.Less(p) {
		p = f.Last
	}
	if !a.markDelete.Less(p) {
		return false
	}
	a.markDelete = p
	a.cut()
	a.absorb(f)
	return true
}

// cut drops what lies at or before the mark-delete position.
func (a *acks) cut() {
	n := 0
	for n < len(a.ranges) && !a.markDelete.Less(end(a.ranges[n])) {
		a.count -= int64(a.ranges[n].Last-a.ranges[n].First) + 1
		n++
	}
	if n > 0 {
		a.ranges = slices.Delete(a.ranges, 0, n)
	}
	if len(a.ranges) > 0 {
		if r := &a.ranges[0]; !a.markDelete.Less(start(*r)) {
			a.count -= int64(a.markDelete.Entry-r.First) + 1
			r.First = a.markDelete.Entry + 1
		}
	}
	for p := range a.batches {
		if !a.markDelete.Less(p) {
			delete(a.batches, p)
		}
	}
	if len(a.batches) == 0 {
		a.batches = nil
	}
	if len(a.ranges) == 0 {
		a.ranges = nil
	}
}

// absorb moves the mark-delete position over the ranges that follow it without a gap. Ranges of ledgers that were
// trimmed lie in that gap (the cursor had passed them, and a crash has set it back) and are dropped.
func (a *acks) absorb(f chain.Fence) {
	n := 0
	for ; n < len(a.ranges); n++ {
		r, next := a.ranges[n], f.Next(a.markDelete)
		if next == start(r) {
			a.markDelete = end(r)
		} else if !end(r).Less(next) {
			break
		}
		a.count -= int64(r.Last-r.First) + 1
	}
	if n > 0 {
		a.ranges = slices.Delete(a.ranges, 0, n)
		if len(a.ranges) == 0 {
			a.ranges = nil
		}
	}
	if len(a.batches) > 0 && n > 0 {
		a.cut()
	}
}

// follow moves over entries that no longer exist: those of ledgers that were trimmed under a reader's cursor.
func (a *acks) follow(f chain.Fence) {
	if len(f.Record.Ledgers) == 0 {
		return
	}
	first := f.Record.Ledgers[0].ID
	if a.markDelete.Ledger < first && (len(a.ranges) > 0 || len(a.batches) > 0) {
		p := ledgerfs.Position{Ledger: first, Entry: ledgerfs.NoEntry}
		if a.markDelete.Less(p) {
			a.markDelete = p
			a.cut()
			a.absorb(f)
		}
	}
}

// backlog is the number of readable entries that are not acknowledged.
func (a *acks) backlog(f chain.Fence) int64 {
	return f.Count(a.markDelete, f.Last) - a.count
}

// next is the first position at or after p that is not acknowledged.
func (a *acks) next(f chain.Fence, p ledgerfs.Position) ledgerfs.Position {
	if !a.markDelete.Less(p) {
		p = f.Next(a.markDelete)
	} else if at, _, ok := f.At(p); ok {
		p = at
	}
	for i := place(a.ranges, p); i < len(a.ranges) && !p.Less(start(a.ranges[i])); i++ {
		p = f.Next(end(a.ranges[i]))
	}
	return p
}

// merge adds what a cursor ledger says.
func (a *acks) merge(s *chain.CursorState) {
	if s.Reset {
		*a = acks{markDelete: s.MarkDelete}
	}
	if a.markDelete.Less(s.MarkDelete) {
		a.markDelete = s.MarkDelete
	}
	if len(a.ranges) == 0 {
		a.ranges = slices.Clone(s.Acked)
	} else if len(s.Acked) > 0 {
		a.ranges = union(a.ranges, s.Acked)
	}
	a.count = 0
	for _, r := range a.ranges {
		a.count += int64(r.Last-r.First) + 1
	}
	for _, b := range s.Batches {
		if a.batches == nil {
			a.batches = make(map[ledgerfs.Position][]int64)
		}
		a.batches[b.Position] = b.Remaining
	}
	for p := range a.batches {
		if a.has(p) {
			delete(a.batches, p)
		}
	}
	a.cut()
}

// union is the union of two ascending lists of ranges, adjacent ones joined.
func union(x, y []Range) []Range {
	all := append(slices.Clone(x), y...)
	slices.SortFunc(all, func(a, b Range) int { return start(a).Compare(start(b)) })
	out := all[:0]
	for _, r := range all {
		if n := len(out); n > 0 && out[n-1].Ledger == r.Ledger && out[n-1].Last+1 >= r.First {
			out[n-1].Last = max(out[n-1].Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// state is all of the acks as a cursor ledger stores them.
func (a *acks) state(id uint64) chain.CursorState {
	s := chain.CursorState{ID: id, Reset: true, MarkDelete: a.markDelete, Acked: slices.Clone(a.ranges)}
	for _, p := range slices.SortedFunc(maps.Keys(a.batches), ledgerfs.Position.Compare) {
		s.Batches = append(s.Batches, chain.BatchAck{Position: p, Remaining: slices.Clone(a.batches[p])})
	}
	return s
}
