package topicread

import (
	"context"
	"iter"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

type stored struct{ s raftmeta.Store }

func (s stored) Fence(ctx context.Context, n topicname.Name) (chain.Fence, error) { panic("soon") }

// All is the run of everything in the fence.
func All(f chain.Fence) Run { panic("soon") }

// Splits cuts run into at most n runs of about the same number of entries, in order, for parallel scans. Runs
// without entries are left out.
func Splits(f chain.Fence, run Run, n int) []Run { panic("soon") }

// Entries is the number of entries of the run within the fence.
func Entries(f chain.Fence, run Run) int64 { panic("soon") }

// A Reader reads one run of a topic forwards. It is used by one goroutine at a time, and must be closed.
type Reader struct{}

// Read is a reader of the run's entries within the fence.
func (c *Client) Read(f chain.Fence, run Run, o Options) *Reader { panic("soon") }

// Next is the next batch of entries, never empty; io.EOF at the end of the run. Payloads are the stored entries, the
// broker's prefix included. An entry that no bookie can deliver fails with an *EntryError; the call after that goes
// on behind it.
func (r *Reader) Next(ctx context.Context) ([]ledgerfs.Entry, error) { panic("soon") }

// Position is where the next batch begins: everything before it was returned, or failed.
func (r *Reader) Position() ledgerfs.Position { panic("soon") }

// Close gives up what is read ahead.
func (r *Reader) Close() { panic("soon") }

// Entries ranges over the entries of a run. After an error other than *EntryError it ends.
func (c *Client) Entries(ctx context.Context, f chain.Fence, run Run, o Options) iter.Seq2[ledgerfs.Entry, error] {
	panic("soon")
}

// Backwards ranges over the entries of a run from the last to the first.
func (c *Client) Backwards(ctx context.Context, f chain.Fence, run Run, o Options) iter.Seq2[ledgerfs.Entry, error] {
	panic("soon")
}

// An EntryError says that one entry cannot be read.
type EntryError struct {
	Position ledgerfs.Position
	Err      error
}

func (e *EntryError) Error() string { return "read " + e.Position.String() + ": " + e.Err.Error() }
func (e *EntryError) Unwrap() error { return e.Err }
