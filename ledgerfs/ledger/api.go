// Package ledger is the quorum ledger: an append-only sequence of entries kept on the bookies of its
// ensemble by one writer, readable by anyone, and closable by anyone after its writer died.
//
// # Promises
//
// An entry is acknowledged when AckQuorum distinct members of its write set have stored it and every entry
// before it is acknowledged; acknowledgements come in order. An acknowledged entry survives the permanent
// loss of AckQuorum-1 members and is never missing from the ledger as recovery closes it. Two recoverers, or a
// recoverer and a writer, agree on the same last entry. An entry whose append failed may or may not be in
// the closed ledger, unless the failure is definite (see IsDefinite).
//
// # Goroutines
//
// A Client has one goroutine, which finds appends that no bookie answers in time. A Writer has none: its
// core is a step machine, driven by the callers of Append and by the bookies' completions.
package ledger

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/ledgermeta"
	"github.com/daybook/daybook/raftmeta"
)

// Errors. Those of single bookies (ledgerfs.ErrNoSpace and so on) are wrapped where they are the cause.
var (
	// ErrNotFound: the ledger has no metadata; it never existed or was deleted.
	ErrNotFound = errors.New("no such ledger")
	// ErrFenced: another client has begun to recover the ledger, or has closed it.
	ErrFenced = errors.New("ledger was fenced by another client")
	// ErrClosed: the writer or client was closed, or the writer died of an earlier failure.
	ErrClosed = errors.New("ledger writer is closed")
	// ErrRefused: the members refused the entry before storing anything (no space, too much in flight), or
	// AppendAt was called for another entry than the next; the writer lives on.
	ErrRefused = errors.New("ledger append refused")
	// ErrTimeout: too few members answered in time.
	ErrTimeout = errors.New("ledger append timed out")
	// ErrNoBookies: there are fewer usable bookies than the ensemble needs.
	ErrNoBookies = errors.New("not enough bookies")
	// ErrRecovery: too few members answered to decide where the ledger ends; try again later.
	ErrRecovery = errors.New("ledger cannot be recovered now")
	// ErrConflict: a condition that the caller joined to a transaction did not hold.
	ErrConflict = errors.New("metadata changed meanwhile")
	// ErrUnreadable: no member could deliver the entry now.
	ErrUnreadable = errors.New("entry cannot be read")
	// ErrLost, always together with ErrUnreadable: every member has answered, and none has a sound copy of the entry. A
	// reader may go on behind it; where only ErrUnreadable is reported it should try again.
	ErrLost = errors.New("no member has a sound copy")
)

// A Candidate is a bookie that takes new ledgers.
type Candidate struct {
	Member ledgerfs.Member
	// Free is the free space in bytes; bookies with more are chosen more often.
	Free int64
}

// Bookies is how a client finds bookies. Its methods may be called by any goroutine.
type Bookies interface {
	// Candidates lists the bookies that take new ledgers now.
	Candidates(ctx context.Context) ([]Candidate, error)
	// Bookie is the bookie that is m. It does not wait for a connection; a bookie that cannot be reached
	// answers calls with errors.
	Bookie(m ledgerfs.Member) (ledgerfs.Bookie, error)
}

// Single is the Bookies of a cluster of one bookie in this process.
func Single(m ledgerfs.Member, b ledgerfs.Bookie) Bookies { return single{m, b} }

// Config is what a client needs. Zero durations take the defaults.
type Config struct {
	Store   raftmeta.Store
	Bookies Bookies
	Logger  *slog.Logger // slog.Default() if nil
	Clock   func() int64 // ms since 1970, for creation times; the system's if nil
	// AddTimeout is how long an append may be unanswered before its writer gives up; 10 s. It is
	// measured in quarters.
	AddTimeout time.Duration
	// CallTimeout bounds every other call of a bookie; 5 s.
	CallTimeout time.Duration
}

// Options describe a new ledger.
type Options struct {
	// Ensemble >= WriteQuorum >= AckQuorum >= 1; all zero means 1, 1, 1.
	Ensemble, WriteQuorum, AckQuorum int
	Properties                       map[string]string
	// After: the new ledger's id is greater than this one.
	After ledgerfs.LedgerID
	// Join, if not nil, is called with the new ledger's id and returns conditions and operations that are
	// committed in one transaction with the ledger's own metadata. If a condition does not hold, Create fails
	// with ErrConflict and the ledger does not exist.
	Join func(id ledgerfs.LedgerID) ([]raftmeta.Cond, []raftmeta.Op, error)
}

// An Info is what metadata says of a ledger.
type Info struct {
	ID                               ledgerfs.LedgerID
	State                            State
	Ensemble, WriteQuorum, AckQuorum int
	// LastEntry and Length (payload bytes) are final if State is StateClosed.
	LastEntry  ledgerfs.EntryID
	Length     int64
	Created    int64 // ms since 1970
	Properties map[string]string
	Fragments  []Fragment
}

// A Fragment is a run of entries with one ensemble.
type Fragment struct {
	First   ledgerfs.EntryID
	Members []ledgerfs.Member
}

// A State is the state of a ledger in metadata.
type State = ledgermeta.State

// The states of a ledger.
const (
	StateOpen       = ledgermeta.Open
	StateInRecovery = ledgermeta.InRecovery
	StateClosed     = ledgermeta.Closed
)

// An Appender is told about the end of appends, in the order of the entries, by one goroutine at a time. It
// must not block, and must not call Append.
type Appender interface {
	// AppendCompleted: err is nil if the entry is acknowledged.
	AppendCompleted(a *Append, err error)
}

// Append is one entry on its way. The caller owns it and leaves it alone until completion; then it may be used
// again. Payload must never change: bookies may still hold it after completion. An Append is meant to be part
// of the caller's own pending operation, so that appending allocates nothing.
type Append struct {
	Payload []byte
	Flags   ledgerfs.AddFlags
	Done    Appender
	// Entry is set by Writer.Append, and valid on success.
	Entry ledgerfs.EntryID

	next *Append // in the writer's list of those to be completed
	err  error
}
