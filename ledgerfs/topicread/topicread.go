// Package topicread is a topic's entries in order for anyone who only reads: SQL scans, the file tree,
// compaction. It reads straight from the bookies, up to a fence taken from the topic's owner, and never
// fences, recovers or changes anything.
//
// # Goroutines
//
// A Reader reads ahead by one batch, in a goroutine that ends with its batch; Close awaits it. So it holds two
// batches at most.
package topicread

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

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

type stored struct{ s raftmeta.Store }

func (s stored) Fence(ctx context.Context, n topicname.Name) (chain.Fence, error) {
	it, err := s.s.Get(ctx, chain.Key(n))
	if errors.Is(err, raftmeta.ErrNotFound) {
		return chain.Fence{}, fmt.Errorf("%w: %v", ErrNotFound, n)
	}
	if err != nil {
		return chain.Fence{}, fmt.Errorf("fence of %v: %w", n, err)
	}
	r, err := chain.Decode(it.Value)
	if err != nil {
		return chain.Fence{}, fmt.Errorf("fence of %v: %w", n, err)
	}
	if r.State == chain.Deleted {
		return chain.Fence{}, fmt.Errorf("%w: %v", ErrNotFound, n)
	}
	r.Rev = it.Mod
	f := chain.Fence{Record: r, Last: chain.None}
	for i := range r.Ledgers {
		if !r.Ledgers[i].Closed {
			break
		}
		f.Last = r.Ledgers[i].Last()
	}
	return f, nil
}

// A Run is the entries from From up to but without To, in the order of positions.
type Run struct {
	From, To ledgerfs.Position
}

// All is the run of everything in the fence.
func All(f chain.Fence) Run {
	return Run{f.First(), f.Last.Next()}
}

// bounds is the position before the run's first entry, and its last position.
func (r Run) bounds(f chain.Fence) (after, last ledgerfs.Position) {
	last = f.Last
	if end := r.To.Prev(); end.Less(last) {
		last = end
	}
	return r.From.Prev(), last
}

// Entries is the number of entries of the run within the fence.
func Entries(f chain.Fence, r Run) int64 {
	return f.Count(r.bounds(f))
}

// Splits cuts the run into at most n runs of about the same number of entries, in order, for parallel scans. Runs
// without entries are left out.
func Splits(f chain.Fence, r Run, n int) []Run {
	total := Entries(f, r)
	n = int(min(int64(max(n, 1)), total))
	after, _ := r.bounds(f)
	out := make([]Run, 0, n)
	from := r.From
	for i := range int64(n) {
		to := r.To
		if i+1 < int64(n) {
			to = f.Advance(after, total*(i+1)/int64(n)).Next()
		}
		out = append(out, Run{from, to})
		from = to
	}
	return out
}

// Options of a Reader. Zero fields mean the defaults given.
type Options struct {
	// BatchBytes and BatchEntries bound what is read at once: 1 MiB of payload, 1024 entries.
	BatchBytes, BatchEntries int
	// NoReadAhead: the next batch is read when it is asked for.
	NoReadAhead bool
}

func (o Options) withDefaults() Options {
	if o.BatchBytes <= 0 {
		o.BatchBytes = 1 << 20
	}
	if o.BatchEntries <= 0 {
		o.BatchEntries = 1024
	}
	return o
}

// Client opens readers. It may be used by any goroutine.
type Client struct {
	ledgers *ledger.Client
}

// New is a client that reads through c.
func New(c *ledger.Client) *Client { return &Client{c} }

// An EntryError says that one entry is lost.
type EntryError = chain.EntryError

// A Reader reads one run of a topic forwards. It is used by one goroutine at a time, and must be closed.
type Reader struct {
	c     *Client
	fence chain.Fence
	last  ledgerfs.Position
	o     Options
	next  ledgerfs.Position // nothing at or after it was returned
	open  *ledger.Reader    // of the ledger read last

	ahead  chan batch // the batch under way; nil if there is none
	cancel context.CancelFunc
}

type batch struct {
	from    ledgerfs.Position
	entries []ledgerfs.Entry
	open    *ledger.Reader
	err     error
}

// Read is a reader of the run's entries within the fence.
func (c *Client) Read(f chain.Fence, run Run, o Options) *Reader {
	_, last := run.bounds(f)
	return &Reader{c: c, fence: f, last: last, o: o.withDefaults(), next: run.From}
}

// Next is the next batch of entries, never empty; io.EOF at the end of the run. Payloads are the stored entries, the
// broker's prefix included. An entry of which no bookie has a sound copy fails with an *EntryError; the call after that
// goes on behind it. After another error the call may be repeated, and begins at the same entry.
func (r *Reader) Next(ctx context.Context) ([]ledgerfs.Entry, error) {
	var b batch
	if r.ahead != nil {
		select {
		case b = <-r.ahead:
			r.stop()
		case <-ctx.Done():
			return nil, ctx.Err() // what is under way serves the next call
		}
	} else {
		b = r.fetch(ctx, r.next, r.open)
	}
	r.open = b.open
	if b.err != nil {
		if e, ok := errors.AsType[*EntryError](b.err); ok {
			r.next = e.Position.Next()
		}
		return nil, b.err
	}
	r.next = ledgerfs.Position{Ledger: b.entries[len(b.entries)-1].Ledger, Entry: b.entries[len(b.entries)-1].Entry + 1}
	if !r.o.NoReadAhead {
		r.start()
	}
	return b.entries, nil
}

// start reads the next batch in the background.
func (r *Reader) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ahead := make(chan batch, 1)
	r.ahead, r.cancel = ahead, cancel
	from, open := r.next, r.open
	go func() { ahead <- r.fetch(ctx, from, open) }()
}

func (r *Reader) stop() {
	r.cancel()
	r.ahead, r.cancel = nil, nil
}

// fetch reads one batch; it changes nothing in r.
func (r *Reader) fetch(ctx context.Context, from ledgerfs.Position, open *ledger.Reader) batch {
	b := batch{from: from, open: open}
	at, i, ok := r.fence.At(from)
	if !ok || r.last.Less(at) {
		b.err = io.EOF
		return b
	}
	if open == nil || open.ID() != at.Ledger {
		if b.open, b.err = r.c.ledgers.Open(ctx, at.Ledger); b.err != nil {
			b.open = nil
			b.err = fmt.Errorf("read %v: %w", at, b.err)
			return b
		}
	}
	last := r.fence.LastEntry(i)
	if at.Ledger == r.last.Ledger {
		last = min(last, r.last.Entry)
	}
	b.entries, b.err = b.open.Read(ctx, nil, at.Entry, last, r.o.BatchEntries, r.o.BatchBytes)
	if errors.Is(b.err, ledger.ErrLost) {
		b.err = &EntryError{Position: at, Err: b.err}
	}
	return b
}

// Position is where the next batch begins: everything before it was returned, or failed.
func (r *Reader) Position() ledgerfs.Position { return r.next }

// Close gives up what is read ahead.
func (r *Reader) Close() {
	if r.ahead != nil {
		r.cancel()
		<-r.ahead
		r.stop()
	}
}

// Entries ranges over the entries of a run. After an error other than *EntryError it ends.
func (c *Client) Entries(ctx context.Context, f chain.Fence, run Run, o Options) iter.Seq2[ledgerfs.Entry, error] {
	return func(yield func(ledgerfs.Entry, error) bool) {
		r := c.Read(f, run, o)
		defer r.Close()
		for {
			es, err := r.Next(ctx)
			if err != nil {
				if err == io.EOF || !yield(ledgerfs.Entry{}, err) || !isEntryError(err) {
					return
				}
				continue
			}
			for _, e := range es {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

func isEntryError(err error) bool {
	_, ok := errors.AsType[*EntryError](err)
	return ok
}

// Backwards ranges over the entries of a run from the last to the first. After an error other than *EntryError it
// ends.
func (c *Client) Backwards(ctx context.Context, f chain.Fence, run Run, o Options) iter.Seq2[ledgerfs.Entry, error] {
	return func(yield func(ledgerfs.Entry, error) bool) {
		o = o.withDefaults()
		o.NoReadAhead = true
		after, last := run.bounds(f)
		type item struct {
			e   ledgerfs.Entry
			err error
		}
		// Batches of bounded bytes can only be read forwards: read the last stretch, then the one before it.
		stretch := int64(min(o.BatchEntries, 64))
		for n := f.Count(after, last); n > 0; n -= min(n, stretch) {
			from := f.Advance(after, max(n-stretch, 0)+1)
			to := f.Advance(after, n).Next()
			var items []item
			for e, err := range c.Entries(ctx, f, Run{from, to}, o) {
				items = append(items, item{e, err})
			}
			for _, it := range slices.Backward(items) {
				if !yield(it.e, it.err) || it.err != nil && !isEntryError(it.err) {
					return
				}
			}
		}
	}
}
