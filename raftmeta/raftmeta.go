// Package raftmeta is the API of the metadata store: a replicated, ordered map of small values with
// revisions, atomic conditional transactions, sessions with ephemeral keys, sequences and watches.
//
// Store is implemented by metaserver (Raft on pebble), by metaclient (the same over the network) and by
// metatest (in memory, with faults); all three pass metatest's suite. Nothing in the product names anything
// but this interface.
//
// # Guarantees
//
// All operations are linearizable. Every transaction that changes something takes the next revision; a
// revision is never reused, and a result that was reported survives any crash. Watches deliver every
// change of their prefix exactly once, in revision order, all changes of one revision together.
//
// # Keys
//
// A key is valid UTF-8 of 1 to MaxKeyBytes bytes without NUL, by custom path-like ("topic/…"). Keys are
// ordered bytewise. A value has at most MaxValueBytes bytes and carries its own format version.
package raftmeta

import (
	"context"
	"errors"
	"time"
)

// Limits of the store.
const (
	MaxKeyBytes   = 4 << 10
	MaxValueBytes = 1 << 20
	// MaxTxnOps bounds the conditions and, separately, the operations of a transaction.
	MaxTxnOps = 1024
	// MaxTxnBytes bounds the keys and values of a transaction together.
	MaxTxnBytes = 8 << 20
	// MaxTxnDeletes bounds the keys that the DeleteRanges of one transaction may remove: whoever removes
	// more goes in steps.
	MaxTxnDeletes = 10_000
)

// Errors. A store wraps them with context.
var (
	// ErrNotFound: the key, or session, does not exist.
	ErrNotFound = errors.New("not found")
	// ErrCompacted: a watch asked for revisions that are no longer kept; read the range and watch anew.
	ErrCompacted = errors.New("revision compacted")
	// ErrSessionExpired: the session of a put or of a keep-alive is gone, and its keys with it.
	ErrSessionExpired = errors.New("session expired")
	// ErrInvalid: the request breaks a documented limit.
	ErrInvalid = errors.New("invalid request")
	// ErrUnavailable: no answer now (no leader, shutting down); nothing is known about the outcome of
	// a commit that fails with it.
	ErrUnavailable = errors.New("metadata store unavailable")
	// ErrClosed: the store was closed by this process.
	ErrClosed = errors.New("metadata store closed")
	// ErrNoSpace: the reserve for metadata is used up; only deletes are taken.
	ErrNoSpace = errors.New("metadata store out of space")
)

// A Revision numbers the states of the store: 0 is the empty store.
type Revision int64

// A SessionID names a session. 0 is no session: the key is persistent.
type SessionID int64

// An Item is one key with its value. Value is shared and must not be changed.
type Item struct {
	Key     string
	Value   []byte
	Created Revision // of the transaction that created the key
	Mod     Revision // of the transaction that last put it
	Version int64    // puts since creation: 1 after the first
	Session SessionID
}

// A Cond is a condition on one key, or on all that begin with it. Build it with Absent, Present, ModIs, VersionIs or
// NoneUnder.
type Cond struct {
	Key  string
	Kind CondKind
	Rev  Revision // for CondMod
	N    int64    // for CondVersion
}

// A CondKind says what a Cond compares.
type CondKind uint8

// The kinds of conditions.
const (
	CondAbsent CondKind = iota + 1
	CondPresent
	CondMod
	CondVersion
	CondNoneUnder
)

// Absent holds if the key does not exist.
func Absent(key string) Cond { return Cond{Key: key, Kind: CondAbsent} }

// Present holds if the key exists.
func Present(key string) Cond { return Cond{Key: key, Kind: CondPresent} }

// ModIs holds if the key exists and was last put at rev; ModIs(key, 0) is Absent(key).
func ModIs(key string, rev Revision) Cond {
	if rev == 0 {
		return Absent(key)
	}
	return Cond{Key: key, Kind: CondMod, Rev: rev}
}

// VersionIs holds if the key exists with that version.
func VersionIs(key string, n int64) Cond { return Cond{Key: key, Kind: CondVersion, N: n} }

// NoneUnder holds if no key begins with prefix.
func NoneUnder(prefix string) Cond { return Cond{Key: prefix, Kind: CondNoneUnder} }

// An Op is one step of a transaction. Build it with Put, PutEphemeral, Delete, DeleteRange or Next.
type Op struct {
	Kind    OpKind
	Key     string
	End     string // for OpDeleteRange: exclusive
	Value   []byte
	Session SessionID
	N       int64 // for OpNext
}

// An OpKind says what an Op does.
type OpKind uint8

// The kinds of operations.
const (
	OpPut OpKind = iota + 1
	OpDelete
	OpDeleteRange
	OpNext
)

// Put sets the key. A put of an ephemeral key without a session makes it persistent.
func Put(key string, value []byte) Op { return Op{Kind: OpPut, Key: key, Value: value} }

// PutEphemeral sets a key that vanishes, atomically with all others of its session, when the session ends.
// The transaction fails with ErrSessionExpired if the session does not exist.
func PutEphemeral(key string, value []byte, s SessionID) Op {
	return Op{Kind: OpPut, Key: key, Value: value, Session: s}
}

// Delete removes the key; a missing key is no error.
func Delete(key string) Op { return Op{Kind: OpDelete, Key: key} }

// DeleteRange removes the keys in [start, end).
func DeleteRange(start, end string) Op { return Op{Kind: OpDeleteRange, Key: start, End: end} }

// Next advances the sequence kept under key by n >= 1 and answers, in OpResult.N, the first of the n
// numbers it has handed out. A sequence starts at 1. The key's value is the last number handed out, as
// 8 bytes big-endian; a transaction must not also Put it. A key with any other value is ErrInvalid.
func Next(key string, n int64) Op { return Op{Kind: OpNext, Key: key, N: n} }

// A Txn is applied atomically: if all conditions hold, Then, otherwise Else. Operations see the effects of
// those before them.
type Txn struct {
	If   []Cond
	Then []Op
	Else []Op
}

// An OpResult is the outcome of one operation.
type OpResult struct {
	// N is the first number for OpNext, and the number of removed keys for OpDelete and OpDeleteRange.
	N int64
}

// A TxnResult is the outcome of a transaction.
type TxnResult struct {
	// OK says that the conditions held and Then was applied.
	OK bool
	// Rev is the revision of the transaction if it changed anything, else that of the state it saw.
	Rev     Revision
	Results []OpResult
}

// An Event is one change of a key.
type Event struct {
	// Item is the key after the change; after a deletion only Key and Mod (the revision of the deletion)
	// are set.
	Item    Item
	Deleted bool
}

// A WatchBatch is all changes of one revision under a watch's prefix, in the order of the operations, or,
// without events, a bookmark: nothing under the prefix has changed up to Rev.
type WatchBatch struct {
	Rev    Revision
	Events []Event
}

// A Watcher is a running watch. Its owner must Close it.
type Watcher interface {
	// Next waits for the next batch. It fails with ErrCompacted if the watcher fell behind what is kept,
	// with ErrClosed after Close, with ErrUnavailable if the store went away, and with ctx's error; only
	// after the last of these may Next be called again.
	Next(ctx context.Context) (WatchBatch, error)
	Close()
}

// SessionOptions describe a session.
type SessionOptions struct {
	// Node is the lasting name of the node that owns the session. At most one session of a node is
	// alive: opening a session with a higher Incarnation ends the node's earlier one at once, with its
	// ephemeral keys; one with the same or a lower Incarnation than the live one fails with
	// ErrSessionExpired. It follows the rules of a key.
	Node string
	// Incarnation grows with every start of the node.
	Incarnation int64
	// TTL is how long the session outlives the last keep-alive; 10 s if zero, at least 1 s, at most 1 h.
	TTL time.Duration
}

// A Session keeps itself alive until it is closed or lost.
type Session interface {
	ID() SessionID
	// Lost is closed when the session must no longer be relied on: it was ended, or no keep-alive was
	// confirmed for two thirds of its TTL. The owner stops serving what its ephemeral keys gave it.
	Lost() <-chan struct{}
	// Close ends the session and removes its keys.
	Close(ctx context.Context) error
}

// A Store is the metadata of a cluster. All methods may be called by any goroutine and give up when ctx
// ends.
type Store interface {
	// Get returns the key or ErrNotFound.
	Get(ctx context.Context, key string) (Item, error)
	// Range returns the items with start <= key < end in key order, at most limit of them if limit > 0
	// (the caller goes on from the last key + "\x00"), and the revision of the state it saw.
	Range(ctx context.Context, start, end string, limit int) ([]Item, Revision, error)
	// Commit applies a transaction. A false condition is no error: see TxnResult.OK.
	Commit(ctx context.Context, txn Txn) (TxnResult, error)
	// Watch delivers all changes under prefix with revisions > after. To miss nothing, read with Range
	// and watch from the revision it returned.
	Watch(ctx context.Context, prefix string, after Revision) (Watcher, error)
	// OpenSession starts a session. After a failure that leaves the outcome unknown the session may live
	// for its TTL without an owner: try again with a higher Incarnation.
	OpenSession(ctx context.Context, o SessionOptions) (Session, error)
}

// PrefixEnd is the end of the range of all keys that start with prefix: Range(ctx, p, PrefixEnd(p), 0).
func PrefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return "\xff\xff\xff\xff" // above every valid UTF-8 key
}
