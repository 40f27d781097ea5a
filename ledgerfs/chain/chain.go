// Package chain is the stored record of a topic: which ledgers hold it, in order, and what is known of each.
//
// The record is one metadata key, changed only by compare-and-set on its revision: whoever commits the next
// version of it owns the topic's tail, and a former owner's commit fails. Ledgers enter the record in the same
// transaction that creates their own metadata and leave it in the same transaction that marks them as
// garbage, so no crash leaks one.
//
// A *Record that was handed out is never changed: an update makes a new one. Decoding checks everything that
// readers rely on; a record that breaks a rule is refused with ErrCorrupt.
package chain

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

// Errors.
var (
	// ErrNotFound: there is no record of that name.
	ErrNotFound = errors.New("topic has no record")
	// ErrConflict: somebody else has changed the record since it was read.
	ErrConflict = errors.New("topic record was changed by another owner")
	// ErrCorrupt: the stored bytes are not a record.
	ErrCorrupt = errors.New("topic record is damaged")
)

// Key is the metadata key of the topic's record.
func Key(n topicname.Name) string { return "chains/" + n.Key() }

// ParseKey is the inverse of Key.
func ParseKey(key string) (topicname.Name, error) {
	rest, ok := strings.CutPrefix(key, "chains/")
	if !ok {
		return topicname.Name{}, fmt.Errorf("metadata key %q is not of a chain", key)
	}
	return topicname.ParseKey(rest)
}

// NamespacePrefix is what the keys of the records of all topics of a namespace start with.
func NamespacePrefix(ns topicname.Namespace) string { return "chains/" + ns.String() + "/" }

// CursorPrefix is what the keys of all the topic's durable cursors start with.
func CursorPrefix(n topicname.Name) string { return "cursors/" + n.Key() + "/" }

// CursorKey is the metadata key of one durable cursor.
func CursorKey(n topicname.Name, cursor string) string {
	return CursorPrefix(n) + topicname.EscapeKey(cursor)
}

// ParseCursorKey is the name of the cursor whose key CursorKey made.
func ParseCursorKey(n topicname.Name, key string) (string, error) {
	rest, ok := strings.CutPrefix(key, CursorPrefix(n))
	if !ok {
		return "", fmt.Errorf("metadata key %q is not of a cursor of %v", key, n)
	}
	return topicname.UnescapeKey(rest)
}

// An Incarnation names one life of a topic: a topic that was deleted and made anew has another.
type Incarnation [16]byte

// A State says what may happen to a topic.
type State uint8

// The states of a topic.
const (
	// Active topics take messages.
	Active State = iota
	// Terminated topics take no more messages; what they hold stays readable.
	Terminated
	// Deleted topics are being removed; nobody opens them.
	Deleted
)

// String is the state's name.
func (s State) String() string {
	switch s {
	case Active:
		return "active"
	case Terminated:
		return "terminated"
	case Deleted:
		return "deleted"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// A View is a form of a topic's text whose lengths a record carries.
type View uint8

// The views.
const (
	ViewLine   View = iota // the topic's file: one message a line
	ViewNDJSON             // one JSON object a message
	NumViews
)

// A Text is where a closed ledger's text lies in one view of its topic.
type Text struct {
	Known  bool  // the other fields are valid
	Base   int64 // bytes of text before the ledger
	Length int64 // bytes of the ledger's own text
}

// An Offload says where a copy of a closed ledger lies outside the bookies.
type Offload struct {
	Driver   string            // the name of the offloader
	UUID     [16]byte          // of this copy
	Location map[string]string // what the driver needs to find it
	Complete bool              // the copy is whole
	// BookieDeleted: the bookies' own copy is gone, readers must use this one.
	BookieDeleted bool
}

// A Ledger is one ledger of a topic.
type Ledger struct {
	ID ledgerfs.LedgerID
	// Closed says that Messages, Entries, Bytes and ClosedAt are final. Of the last ledger, and for a moment of
	// the one before it, they are zero while it is open.
	Closed bool
	// FirstIndex is the index of the ledger's first message; an open ledger that is not the last but whose
	// predecessor is still open carries the value it will have.
	FirstIndex int64
	Messages   int64
	Entries    int64
	Bytes      int64 // of payload, the broker's prefix included
	Created    int64 // ms since 1970
	ClosedAt   int64 // ms since 1970
	// Text is per View; RenderVersion is that of the rules by which it was counted.
	Text          [NumViews]Text
	RenderVersion uint32
	// TimesKnown says that LeastPublishTime and GreatestPublishTime (ms since 1970) are valid; they are not for
	// a ledger whose writer died, until somebody has read it through.
	TimesKnown          bool
	LeastPublishTime    int64
	GreatestPublishTime int64
	Offload             *Offload
}

// Last is the position of the ledger's last entry; only for closed ledgers. Of an empty one it is entry -1.
func (l *Ledger) Last() ledgerfs.Position {
	return ledgerfs.Position{Ledger: l.ID, Entry: ledgerfs.EntryID(l.Entries - 1)}
}

// A KeyRange is the part of the key hash space that a chain holds, with the chains it was split or merged
// from and into (PIP-460).
type KeyRange struct {
	Start, End        uint32 // inclusive
	Parents, Children []uint64
	Segment           uint64 // this chain's own number
}

// A Record is the stored record of a topic.
type Record struct {
	Incarnation Incarnation
	Created     int64 // ms since 1970
	State       State
	// StateSince is when State was entered, ms since 1970; 0 for Active.
	StateSince int64
	// TerminatedAt is the last position of a terminated topic.
	TerminatedAt ledgerfs.Position
	// Ledgers, oldest first, by ascending id. Only the last two may be open.
	Ledgers []Ledger
	// CursorLedger holds the acknowledgements of the topic's durable cursors; 0 if there is none.
	CursorLedger ledgerfs.LedgerID
	// NextCursorLedger is to replace CursorLedger; until it does, nothing in it counts. 0 if there is none.
	NextCursorLedger ledgerfs.LedgerID
	// NextIndex is the index after the last message of the closed ledgers, also of those already trimmed.
	NextIndex  int64
	Properties map[string]string
	// ReplicatedFrom is the cluster that the topic is copied from; empty if none.
	ReplicatedFrom string
	// Range is nil where the chain is a whole topic.
	Range *KeyRange
	// Epoch counts the exclusive producers of the topic; it is valid if EpochSet.
	Epoch    uint64
	EpochSet bool

	// Owner and Seq say who wrote this version of the record and how many he has written: by them a writer
	// that lost the answer to a commit finds out whether it was his.
	Owner [16]byte
	Seq   uint64

	// Rev is the revision of the key that was read; it is not stored. 0: the key does not exist yet.
	Rev raftmeta.Revision
}

// Clone is a copy of r that may be changed.
func (r *Record) Clone() *Record {
	c := *r
	c.Ledgers = slices.Clone(r.Ledgers)
	c.Properties = maps.Clone(r.Properties)
	return &c
}

// Find is the place of the ledger in r.Ledgers, and whether it is there; if not, the place of the first one
// after it.
func (r *Record) Find(id ledgerfs.LedgerID) (int, bool) {
	return slices.BinarySearchFunc(r.Ledgers, id, func(l Ledger, id ledgerfs.LedgerID) int {
		switch {
		case l.ID < id:
			return -1
		case l.ID > id:
			return 1
		}
		return 0
	})
}
