package ledgerfs

import (
	"context"
	"errors"
	"fmt"
)

// A Bookie is what a ledger asks of one bookie (one Member: calls that reach another incarnation of its
// storage fail with ErrIncarnation). The bookie's store implements it for callers in the same process, the
// bookie client for callers across the network; both pass ledgertest's suite.
//
// Answers come in three kinds, and recovery depends on telling them apart: success; an explicit negative
// (ErrNoLedger, ErrNoEntry: a promise by this bookie that it does not hold the entry); and everything
// else, which says nothing about what is stored. A failed read, a failed checksum, a hole left by damage or
// an unfinished index is never answered with a negative.
//
// All methods may be called by any goroutine.
type Bookie interface {
	// Install makes the ledger known to this bookie, durably; adds to a ledger that was not installed
	// fail with ErrNoLedger. Installing an installed ledger is no error. A deleted ledger answers
	// ErrDeleted for ever.
	Install(ctx context.Context, id LedgerID) error

	// Add stores one entry and calls a.Done.AddCompleted(a, err) exactly once, when the entry is durable
	// at the configured level or has failed; possibly before Add returns. Completions of one ledger come in
	// the order of the calls. Adds of one ledger must be called by one goroutine at a time. Adding an entry
	// that exists succeeds if it is identical and fails with ErrBadRequest if it is not.
	//
	// Add never blocks for the disk: beyond the bookie's bound on bytes in flight it completes the add
	// with ErrTooManyRequests.
	Add(a *Add)

	// Read returns entries from req.First on: the longest run of consecutive entries present here within
	// the request's limits, at least one. If the first cannot be returned the error says why.
	Read(ctx context.Context, req ReadRequest) (ReadResponse, error)

	// LastAdd reports what this bookie knows of the ledger's end. With fence it first fences the
	// ledger, durably (a ledger it did not know is created fenced): from then on only adds with
	// AddRecovery are taken, and all adds accepted earlier are durable.
	LastAdd(ctx context.Context, id LedgerID, fence bool) (LastAdd, error)

	// Delete forgets the ledger's entries, durably, and leaves a tombstone. Deleting twice is no error.
	Delete(ctx context.Context, id LedgerID) error
}

// AddFlags say how a bookie treats an Add.
type AddFlags uint8

const (
	// AddRecovery lets an add through on a fenced ledger: recovery copies what the dead writer left.
	AddRecovery AddFlags = 1 << iota
	// AddHighPriority lets an add use the space held in reserve: acknowledgements and recovery go on
	// where new messages are refused.
	AddHighPriority
)

// An Add is one entry on its way to one bookie. The caller keeps it, and Payload, unchanged until
// completion; it is usually part of the caller's own pending operation, so that an add allocates nothing.
type Add struct {
	Ledger LedgerID
	Entry  EntryID
	// LAC is the last-add-confirmed of the ledger when this entry was sent: at most Entry-1.
	LAC EntryID
	// Length is the ledger's payload bytes up to and including this entry.
	Length int64
	// Digest is EntryDigest of the fields above and Payload. The bookie verifies it on arrival.
	Digest  uint32
	Flags   AddFlags
	Payload []byte
	Done    AddCompleter
}

// An AddCompleter is told about the end of adds. It must not block: bookies call it from the goroutine
// that commits.
type AddCompleter interface {
	AddCompleted(a *Add, err error)
}

// A ReadRequest asks for a run of entries of one ledger.
type ReadRequest struct {
	Ledger LedgerID
	First  EntryID
	// MaxEntries and MaxBytes bound the answer (payload bytes); the first entry is returned however
	// large it is. Values below 1 mean 1.
	MaxEntries int
	MaxBytes   int
	// Fence fences the ledger before reading: the reads of a recovery do, so that a negative answer stays
	// true.
	Fence bool
}

// An Entry is a stored entry. Payload is shared and must not be changed.
type Entry struct {
	Ledger  LedgerID
	Entry   EntryID
	LAC     EntryID
	Length  int64
	Digest  uint32
	Payload []byte
}

// Verify recomputes the digest and reports ErrCorrupt if the entry is not what its writer sent, or not the
// entry that was asked for.
func (e *Entry) Verify(id LedgerID, entry EntryID) error {
	if e.Ledger != id || e.Entry != entry {
		return fmt.Errorf("%w: asked for %d:%d, got %d:%d", ErrCorrupt, id, entry, e.Ledger, e.Entry)
	}
	if d := EntryDigest(e.Ledger, e.Entry, e.LAC, e.Length, e.Payload); d != e.Digest {
		return fmt.Errorf("%w: entry %d:%d has digest %08x, want %08x", ErrCorrupt, id, entry, d, e.Digest)
	}
	return nil
}

// A ReadResponse carries consecutive entries, the first being ReadRequest.First.
type ReadResponse struct {
	Entries []Entry
	// MaxLAC is the highest last-add-confirmed this bookie has seen for the ledger.
	MaxLAC EntryID
}

// LastAdd is what one bookie knows of a ledger's end.
type LastAdd struct {
	// LastEntry is the highest entry stored here, NoEntry if none.
	LastEntry EntryID
	// MaxLAC is the highest last-add-confirmed seen here, NoEntry if none.
	MaxLAC EntryID
	// Length is the payload length carried by LastEntry, 0 if none.
	Length int64
	Fenced bool
}

// A Code is BookKeeper's number for a bookie's answer; the bookie protocol carries it.
type Code int32

// The codes of BookkeeperProtocol.proto, and above 600 our own.
const (
	CodeOK              Code = 0
	CodeNoLedger        Code = 402
	CodeNoEntry         Code = 403
	CodeBadRequest      Code = 404
	CodeIO              Code = 501
	CodeUnauthorized    Code = 502
	CodeBadVersion      Code = 503
	CodeFenced          Code = 504
	CodeReadOnly        Code = 505
	CodeTooManyRequests Code = 506
	CodeUnknownState    Code = 507
	CodeIncarnation     Code = 601
	CodeDeleted         Code = 602
	CodeNoSpace         Code = 603
	CodeCorrupt         Code = 604
	CodeClosed          Code = 605
)

// An Error is a bookie's answer other than success. Compare with errors.Is against the values below.
type Error struct {
	Code Code
	Text string
}

// Error is the text.
func (e *Error) Error() string { return e.Text }

// The answers of a bookie.
var (
	ErrNoLedger        = &Error{CodeNoLedger, "no such ledger on this bookie"}
	ErrNoEntry         = &Error{CodeNoEntry, "no such entry on this bookie"}
	ErrBadRequest      = &Error{CodeBadRequest, "bad request"}
	ErrIO              = &Error{CodeIO, "I/O error"}
	ErrFenced          = &Error{CodeFenced, "ledger is fenced"}
	ErrReadOnly        = &Error{CodeReadOnly, "bookie is read-only"}
	ErrTooManyRequests = &Error{CodeTooManyRequests, "too many requests in flight"}
	ErrUnknownState    = &Error{CodeUnknownState, "ledger state unknown"}
	ErrIncarnation     = &Error{CodeIncarnation, "bookie has another storage incarnation"}
	ErrDeleted         = &Error{CodeDeleted, "ledger was deleted"}
	ErrNoSpace         = &Error{CodeNoSpace, "bookie is out of space"}
	ErrCorrupt         = &Error{CodeCorrupt, "entry is damaged"}
	ErrClosed          = &Error{CodeClosed, "bookie is closed"}
)

// IsNegative reports whether err is a bookie's promise that it does not hold the entry.
func IsNegative(err error) bool {
	return errors.Is(err, ErrNoEntry) || errors.Is(err, ErrNoLedger)
}

// CodeOf is the code that the bookie protocol sends for err: CodeOK for nil, CodeIO for errors of no kind.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeIO
}
