// Package ledgerfs is the vocabulary of storage: the identifiers of ledgers, entries, positions and
// bookies, what a ledger asks of a bookie (Bookie), and the errors with which a bookie answers.
//
// Everything here is a plain value. The packages below this one give the words their meaning: ledger
// writes and reads quorum ledgers, bookie serves them from disk, mledger chains them into topics.
package ledgerfs

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// A LedgerID names one ledger in a cluster for ever; ids are allocated from 1 upwards and never reused.
type LedgerID int64

// An EntryID is the index of an entry in its ledger: 0, 1, 2, …
type EntryID int64

// NoEntry is the entry before the first one: the last-add-confirmed of an empty ledger.
const NoEntry EntryID = -1

// A Position is a place in a topic: an entry of one of its ledgers. Positions of one topic are ordered,
// because a topic's ledger ids ascend.
type Position struct {
	Ledger LedgerID
	Entry  EntryID
}

// Compare is -1, 0 or +1 as p is before, at or after q.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Ledger, q.Ledger); c != 0 {
		return c
	}
	return cmp.Compare(p.Entry, q.Entry)
}

// Less reports whether p is before q.
func (p Position) Less(q Position) bool { return p.Compare(q) < 0 }

// Next is the position after p in the same ledger. It may not exist: ledgers end.
func (p Position) Next() Position { return Position{p.Ledger, p.Entry + 1} }

// Prev is the position before p in the same ledger; of entry 0 it is entry -1, "before the first".
func (p Position) Prev() Position { return Position{p.Ledger, p.Entry - 1} }

// String is "ledger:entry", the form that Pulsar's tools print and take.
func (p Position) String() string {
	return strconv.FormatInt(int64(p.Ledger), 10) + ":" + strconv.FormatInt(int64(p.Entry), 10)
}

// ParsePosition is the inverse of Position.String. It takes any signed numbers, so also "7:-1".
func ParsePosition(s string) (Position, error) {
	l, e, ok := strings.Cut(s, ":")
	lid, err1 := strconv.ParseInt(l, 10, 64)
	eid, err2 := strconv.ParseInt(e, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return Position{}, fmt.Errorf("position %q: want ledger:entry", s)
	}
	return Position{LedgerID(lid), EntryID(eid)}, nil
}

// A BookieID is the lasting name of a bookie in its cluster.
type BookieID string

// An Incarnation names one life of a bookie's storage: it is drawn at random when a bookie's directories
// are formatted. A bookie that was wiped and comes back under its old name is a different member.
type Incarnation [16]byte

// String is 32 hex digits.
func (i Incarnation) String() string { return hex.EncodeToString(i[:]) }

// ParseIncarnation is the inverse of Incarnation.String.
func ParseIncarnation(s string) (Incarnation, error) {
	var i Incarnation
	if len(s) != 2*len(i) {
		return i, fmt.Errorf("incarnation %q: want %d hex digits", s, 2*len(i))
	}
	if _, err := hex.Decode(i[:], []byte(s)); err != nil {
		return Incarnation{}, fmt.Errorf("incarnation %q: %w", s, err)
	}
	return i, nil
}

// A Member is one place of an ensemble: a bookie in one life of its storage.
type Member struct {
	Bookie      BookieID
	Incarnation Incarnation
}

// String is "bookie/incarnation".
func (m Member) String() string { return string(m.Bookie) + "/" + m.Incarnation.String() }
