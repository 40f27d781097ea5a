// Package topicread is a topic's entries in order for anyone who only reads: SQL scans, the file tree,
// compaction. It reads straight from the bookies, up to a fence taken from the topic's owner, and never
// fences, recovers or changes anything.
//
// A reader reads ahead by one batch in a goroutine that ends with its batch; it holds two batches at most.
package topicread

import (
	"context"
	"errors"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

// ErrNotFound: there is no such topic.
var ErrNotFound = errors.New("no such topic")

// A FenceSource knows how far topics may be read now. The broker answers from the topics' live writers;
// Stored answers from metadata.
type FenceSource interface {
	// Fence is the topic's fence: everything acknowledged before the call is within it. A topic that does
	// not exist is ErrNotFound.
	Fence(ctx context.Context, n topicname.Name) (chain.Fence, error)
}

// Stored answers from the topics' records alone: up to the end of the last closed ledger. It is the answer
// for topics that have no writer.
func Stored(s raftmeta.Store) FenceSource { return stored{s} }

// Options of a Reader. Zero fields mean the defaults given.
type Options struct {
	// BatchBytes and BatchEntries bound what is read at once: 1 MiB of payload, 1024 entries.
	BatchBytes, BatchEntries int
	// NoReadAhead: the next batch is read when it is asked for.
	NoReadAhead bool
}

// A Run is the entries from From up to but without To, in the order of positions.
type Run struct {
	From, To ledgerfs.Position
}

// Client opens readers. It may be used by any goroutine.
type Client struct {
	ledgers *ledger.Client
}

// New is a client that reads through c.
func New(c *ledger.Client) *Client { return &Client{c} }
