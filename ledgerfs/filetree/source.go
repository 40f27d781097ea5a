package filetree

import (
	"context"
	"errors"
	"io"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
)

// Topics is what the tree asks of the node it runs on: which topics there are, and how far they reach. Errors
// wrap an Errno (ENOENT for what does not exist); others count as EIO. All methods may be called by any goroutine.
type Topics interface {
	// Tenants lists the tenants.
	Tenants(ctx context.Context) ([]string, error)

	// Namespaces lists a tenant's namespaces (local names). ENOENT if there is no such tenant.
	Namespaces(ctx context.Context, tenant string) ([]string, error)

	// Topics lists a namespace's persistent topics that hold messages themselves (partitions, not the
	// partitioned topics above them), local names. ENOENT if there is no such namespace.
	Topics(ctx context.Context, tenant, namespace string) ([]string, error)

	// Open finds a topic. It never creates one; ENOENT if there is none.
	Open(ctx context.Context, name topicname.Name) (Topic, error)

	// Create makes the topic exist if its namespace allows topics to be created by use; it is no error if
	// the topic exists. EACCES or EPERM say that creation is not allowed.
	Create(ctx context.Context, name topicname.Name) error
}

// A Topic is one life of a topic, seen from its owner. After its deletion its methods fail with ESTALE or
// ENOENT. All methods may be called by any goroutine.
type Topic interface {
	// Incarnation tells this topic from any other that has or had its name.
	Incarnation() chain.Incarnation

	// Fence is what may be read now: every message acknowledged before the call is within it.
	Fence(ctx context.Context) (chain.Fence, error)

	// Notify arranges for fn to be called after the fence has moved or the topic was deleted, until stop is
	// called. fn does not block and may be called from any goroutine; calls may be coalesced and may come without
	// cause.
	Notify(fn func()) (stop func())

	// SetText stores where a sealed ledger's text lies, for the views that are Known, so that it is not counted
	// again after a restart. The tree calls it seldom, never while holding a lock, and only logs failures.
	SetText(ctx context.Context, ledger ledgerfs.LedgerID, renderVersion uint32, text [chain.NumViews]chain.Text) error

	// Close gives up what the Topic holds. No other method is called after it.
	Close()
}

// Entries reads stored entries. All methods may be called by any goroutine.
type Entries interface {
	// Read returns the entries at or after from in order, as far as the fence reaches: at least one if there
	// is one, then no more than about maxBytes of payload. None means that the fence ends before from.
	Read(ctx context.Context, f chain.Fence, from ledgerfs.Position, maxBytes int) ([]ledgerfs.Entry, error)

	// Scan reads the entries from from up to but without to, as far as the fence reaches, ahead of its caller.
	Scan(f chain.Fence, from, to ledgerfs.Position) Scan
}

// A Scan is a run of entries being read. It is for one goroutine, and must be closed.
type Scan interface {
	// Next returns the next entries, in order; io.EOF when there are no more.
	Next(ctx context.Context) ([]ledgerfs.Entry, error)
	Close()
}

// A Publisher appends messages to topics.
type Publisher interface {
	// Append publishes records as single messages, in order, with nothing but a payload, and returns how many
	// of them, from the first on, were acknowledged. If that is not all, err says why the next one was not,
	// wrapping an Errno: ETIMEDOUT if it is unknown whether it was stored, any other if it was not.
	// Append does not retain records.
	Append(ctx context.Context, name topicname.Name, records [][]byte) (acked int, err error)
}

// ReadBookies is Entries read straight from the bookies.
func ReadBookies(c *topicread.Client) Entries { return bookieEntries{c} }

type bookieEntries struct{ c *topicread.Client }

func (b bookieEntries) Scan(f chain.Fence, from, to ledgerfs.Position) Scan {
	return b.c.Read(f, topicread.Run{From: from, To: to}, topicread.Options{BatchBytes: countChunk})
}

func (b bookieEntries) Read(ctx context.Context, f chain.Fence, from ledgerfs.Position, maxBytes int) ([]ledgerfs.Entry, error) {
	if f.Last.Less(from) {
		return nil, nil
	}
	r := b.c.Read(f, topicread.Run{From: from, To: f.Last.Next()}, topicread.Options{BatchBytes: maxBytes, NoReadAhead: true})
	defer r.Close()
	es, err := r.Next(ctx)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return es, err
}
