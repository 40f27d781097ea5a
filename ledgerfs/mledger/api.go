// Package mledger is the managed ledger: one topic's single writer, its chain of ledgers, and its cursors.
//
// # Promises
//
// Appends complete in the order in which they were issued. An acknowledged entry is never lost and keeps its
// position and index for ever; indexes of messages count up without gaps over all ledgers of a topic. When an
// append fails, all that were issued and not completed fail too; which of them were stored after all, only readers
// will tell. Later ones are taken again as soon as the topic can: whose entries must not overtake one another puts
// them on one Line, which ends with its first failure.
//
// An acknowledgement of a durable cursor is lost only by a crash within Config.FlushInterval after it; after
// Close none is.
//
// # The stored entry
//
// Every entry begins with the broker's metadata, written here (see AppendPrefix), and goes on with the
// payload as the caller gave it.
//
// # Goroutines
//
// A Factory has two goroutines for all its topics: one flushes acknowledgements and looks for ledgers to
// roll, one deletes garbage. A Ledger has none; while it opens, rolls or recovers a ledger it has one for that
// time. Its core is a step machine, driven by callers and completions.
package mledger

import (
	"errors"
	"log/slog"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/raftmeta"
)

// Errors.
var (
	// ErrNotFound: there is no such topic, cursor or ledger.
	ErrNotFound = errors.New("not found")
	// ErrFenced: another owner has taken the topic over, or it was deleted; this Ledger is dead.
	ErrFenced = errors.New("topic was taken over by another owner")
	// ErrTerminated: the topic takes no more messages.
	ErrTerminated = errors.New("topic is terminated")
	// ErrClosed: the Ledger or Factory was closed.
	ErrClosed = errors.New("managed ledger is closed")
	// ErrNoSpace: the bookies are below their reserve of space. Nothing was written.
	ErrNoSpace = errors.New("no space to store messages")
	// ErrAppend: the append failed; whether the entry was stored is unknown. It wraps the cause.
	ErrAppend = errors.New("append failed")
	// ErrRejected: the append failed and nothing was written (too much in flight, or an earlier append failed).
	ErrRejected = errors.New("append rejected")
	// ErrExists: the cursor exists.
	ErrExists = errors.New("exists")
	// ErrLedgers: the topic has as many ledgers as its record may list. Wrapped by ErrRejected in the answer to appends.
	ErrLedgers = errors.New("too many ledgers")
	// ErrCursorClosed: the cursor was closed or deleted.
	ErrCursorClosed = errors.New("cursor is closed")
)

// Config is what all topics of a process share.
type Config struct {
	Client *ledger.Client
	Store  raftmeta.Store
	Logger *slog.Logger // slog.Default() if nil
	Clock  func() int64 // ms since 1970; the system's if nil
	// CacheBytes bounds the cache of entries just appended; 64 MiB if 0, none if negative.
	CacheBytes int64
	// FlushInterval is the longest an acknowledgement waits before it is written; 100 ms if 0.
	FlushInterval time.Duration
}

// Options of one topic, from its policies. Zero fields mean the defaults given.
type Options struct {
	// Ensemble >= WriteQuorum >= AckQuorum, of the topic's ledgers and of its cursors'; 1, 1, 1.
	Ensemble, WriteQuorum, AckQuorum int
	// A ledger is closed, and the next begun, when it is at least MinRollover (10 min) old and has MaxEntries
	// (50 000) entries or MaxBytes (2048 MiB), or when it is MaxRollover (240 min) old. Negative durations
	// turn their condition off. All four double with every 500 ledgers that the topic has.
	MaxEntries  int64
	MaxBytes    int64
	MinRollover time.Duration
	MaxRollover time.Duration
	// Trim keeps ledgers that all cursors have passed while they are younger than RetainTime and within the
	// last RetainBytes of such data; negative means without limit, zero of either means not at all.
	RetainTime  time.Duration
	RetainBytes int64
	// Properties of the topic if OpenOrCreate creates it, and the conditions on which it may: ErrNotFound if one of
	// them does not hold at that moment.
	Properties map[string]string
	CreateIf   []raftmeta.Cond
}

// An Appender is told about the end of appends, in order, by one goroutine at a time. It must not block and
// must not call Append of the same topic.
type Appender interface {
	// AppendCompleted: if err is nil, the entry is durable and a.Position and a.Index are set. Otherwise err
	// wraps one of ErrNoSpace, ErrAppend, ErrRejected, ErrFenced, ErrTerminated, ErrClosed.
	AppendCompleted(a *Append, err error)
}

// An Append is one entry on its way to a topic. The caller owns it and keeps it unchanged until completion;
// Payload must stay unchanged for ever, since caches and readers share it. It is meant to be part of the
// caller's own pending operation, and may be used again after completion.
type Append struct {
	// Payload is stored behind the broker's prefix. If its first Headroom bytes are free to be overwritten
	// (they are not part of the entry) and the prefix fits there (MaxPrefix always does), nothing is copied.
	Payload  []byte
	Headroom int
	// Messages in the entry; 0 for markers, which no reader sees.
	Messages int
	// LeastPublishTime and GreatestPublishTime of its messages, ms since 1970; 0 if unknown.
	LeastPublishTime, GreatestPublishTime int64
	// Line, if not nil, is the sequence of appends that this one belongs to.
	Line *Line
	Done Appender

	// Position of the entry, and Index of its last message; set before completion.
	Position ledgerfs.Position
	Index    int64

	p pending
}

// A Line is a sequence of appends to one Ledger, say of one producer: once one of them has failed every later one is
// rejected, ErrRejected, whether or not the caller has been told of the failure yet. So none is stored or acknowledged
// that an earlier one is missing before. Whoever sends again what has failed begins a new Line, after all appends of
// the old one have completed. The zero Line is ready for use.
type Line struct {
	failed bool // guarded by the lock of the Ledger
}

// A Listener is told that a topic has grown (or was trimmed, terminated or closed). Calls are coalesced: one
// for any number of entries. It must not block.
type Listener interface {
	Grown(l *Ledger)
}

// A Start says where a new cursor begins.
type Start struct {
	kind startKind
	pos  ledgerfs.Position
}

type startKind uint8

const (
	startEarliest startKind = iota
	startLatest
	startAt
)

// Where cursors begin: with the first entry there is, or after the last one.
var (
	Earliest = Start{kind: startEarliest}
	Latest   = Start{kind: startLatest}
)

// At starts a cursor with the entry at p, or the first one after it if p does not exist.
func At(p ledgerfs.Position) Start { return Start{startAt, p} }

// A Range is a run of individually acknowledged entries of one ledger, both ends inclusive.
type Range = chain.Range

// Stats are the inner workings of a topic, as admin's internalStats shows them.
type Stats struct {
	Entries        int64             // in all ledgers
	Bytes          int64             // of payload in all ledgers, broker prefixes included
	Messages       int64             // in all ledgers
	EntriesAdded   int64             // since this Ledger was opened
	CurrentLedger  ledgerfs.LedgerID // 0 if none is open
	CurrentEntries int64
	CurrentBytes   int64
	CurrentCreated int64 // ms since 1970
	LastConfirmed  ledgerfs.Position
	State          string         // LedgerOpened, ClosedLedger, CreatingLedger, ClosingLedger, Fenced, Terminated, Closed
	Pending        int            // appends not yet completed
	Failures       int64          // appends failed since this Ledger was opened
	Ledgers        []chain.Ledger // the open one with its numbers so far
	CursorLedger   ledgerfs.LedgerID
	Properties     map[string]string
	Cursors        []CursorStats // by name
}

// CursorStats are the inner workings of a cursor.
type CursorStats struct {
	Name       string
	Durable    bool
	MarkDelete ledgerfs.Position
	Acked      []Range // individually, after MarkDelete
	BatchAcks  int     // entries of which some batch indexes are acknowledged
	Backlog    int64   // entries
	Dirty      bool    // something is not flushed yet
	Created    int64   // ms since 1970
	LastActive int64   // ms since 1970 of the last acknowledgement in this process, 0 if none
	Properties map[string]string
}
