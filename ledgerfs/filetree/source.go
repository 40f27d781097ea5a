package filetree

import (
	"context"
	"time"

	"github.com/daybook/daybook/ledgerfs"
)

// Topics is what the tree asks of the node it runs on: which topics there are, and their messages. Errors
// wrap an Errno (ENOENT for what does not exist); others count as EIO. All methods may be called by any goroutine.
type Topics interface {
	// Tenants lists the tenants, in ascending order.
	Tenants(ctx context.Context) ([]string, error)

	// Namespaces lists a tenant's namespaces (local names), in ascending order.
	Namespaces(ctx context.Context, tenant string) ([]string, error)

	// Topics lists a namespace's persistent topics that hold messages themselves (partitions, not the
	// partitioned topics above them), local names in ascending order.
	Topics(ctx context.Context, tenant, namespace string) ([]string, error)

	// Open finds a topic for reading. It never creates one.
	Open(ctx context.Context, name Name) (Topic, error)

	// Create makes the topic exist if its namespace allows topics to be created by use; it is no error if
	// the topic exists. EACCES or EPERM say that creation is not allowed.
	Create(ctx context.Context, name Name) error
}

// A Topic is one incarnation of a topic, open for reading. After its deletion every method fails with ESTALE
// (or ENOENT).
type Topic interface {
	// Incarnation tells this topic from any other that has or had its name.
	Incarnation() [16]byte

	// Created is when the topic was created; zero if unknown.
	Created() time.Time

	// Fence is the topic's present extent: every message acknowledged before the call is within it.
	Fence(ctx context.Context) (Fence, error)

	// Read returns entries in order, beginning with the first readable one at or after from and none
	// beyond last: at least one if there is one, and no more than about maxBytes of payload after it. Entries
	// that no reader may see (markers, aborted transactions) are left out. Next in the result is where to
	// go on; the end is reached when it is beyond last.
	Read(ctx context.Context, from, last ledgerfs.Position, maxBytes int) (Chunk, error)

	// Notify arranges for fn to be called after the fence has moved, until stop is called. fn does not
	// block and may be called from any goroutine; calls may be coalesced and may come without cause.
	Notify(fn func()) (stop func())

	// Close gives up what the Topic holds. No other method is called after it.
	Close()
}

// A Fence is a topic's extent at one moment.
type Fence struct {
	// Last is the last readable entry: confirmed, and before the first open transaction. Entry -1 of some
	// ledger, or the zero Position, if there is none.
	Last ledgerfs.Position
	// Ledgers are the topic's ledgers that still exist, in order, up to the one of Last.
	Ledgers []Ledger
	// Terminated says that nothing will ever be appended.
	Terminated bool
}

// A Ledger is one link of a topic's chain.
type Ledger struct {
	ID ledgerfs.LedgerID
	// Sealed says that the ledger is closed: its entries are final.
	Sealed bool
	// Text is what the chain has recorded of each face (indexed by View). Only of a sealed ledger.
	Text [viewCount]LedgerText
	// MaxPublish is the greatest publish time in a sealed ledger, in ms since the epoch; 0 if unknown.
	MaxPublish int64
}

// LedgerText is where one face of a ledger lies in the topic's text.
type LedgerText struct {
	Known  bool
	Base   int64 // text offset of the ledger's first byte, counted from the topic's first message ever
	Length int64 // its bytes
}

// A Chunk is a run of a topic's entries.
type Chunk struct {
	Entries []Entry
	Next    ledgerfs.Position
}

// An Entry is a stored entry of a topic with its stored payload, broker metadata included. Payload is shared and
// must not be changed.
type Entry struct {
	Pos     ledgerfs.Position
	Payload []byte
}

// A TextRecorder is a Topic that can keep the text lengths of sealed ledgers in its chain.
type TextRecorder interface {
	// RecordText stores the lengths of a sealed ledger's faces (those that are Known). Storing what is stored
	// already is no error. The tree calls it seldom, never while holding a lock, and ignores failures but for a
	// log line: the lengths are counted again after a restart.
	RecordText(ctx context.Context, ledger ledgerfs.LedgerID, text [viewCount]LedgerText) error
}

// A Publisher appends messages to topics.
type Publisher interface {
	// Append publishes records as single messages, in order, with nothing but a payload, and returns how many
	// of them, from the first on, were acknowledged. If that is not all of them, err says why the next one was not, wrapping
	// an Errno: ETIMEDOUT if it is unknown whether it was stored, any other if it was not; none after it is stored.
	// Append does not retain records.
	Append(ctx context.Context, name Name, records [][]byte) (acked int, err error)
}
