package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/ledgermeta"
	"github.com/daybook/daybook/ledgerfs/internal/placement"
	"github.com/daybook/daybook/ledgerfs/internal/quorum"
	"github.com/daybook/daybook/raftmeta"
)

// idBlock is how many ledger ids are taken from the sequence at once.
const idBlock = 10

// A Client creates, opens, recovers and deletes ledgers. It may be used by any goroutine.
type Client struct {
	cfg  Config
	stop chan struct{}
	done chan struct{}

	mu struct {
		sync.Mutex
		closed     bool
		writers    map[*Writer]struct{}
		recovering map[ledgerfs.LedgerID]chan struct{} // closed when the recovery of this process ends
	}
	ids struct {
		sync.Mutex
		next, end ledgerfs.LedgerID
	}
}

// New starts a client. Close ends it.
func New(cfg Config) *Client {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Clock == nil {
		cfg.Clock = func() int64 { return time.Now().UnixMilli() }
	}
	if cfg.AddTimeout <= 0 {
		cfg.AddTimeout = 10 * time.Second
	}
	if cfg.CallTimeout <= 0 {
		cfg.CallTimeout = 5 * time.Second
	}
	c := &Client{cfg: cfg, stop: make(chan struct{}), done: make(chan struct{})}
	c.mu.writers = map[*Writer]struct{}{}
	c.mu.recovering = map[ledgerfs.LedgerID]chan struct{}{}
	go c.watch()
	return c
}

// watch lets the writers notice members that do not answer.
func (c *Client) watch() {
	defer close(c.done)
	t := time.NewTicker(max(c.cfg.AddTimeout/ticksToTimeout, time.Millisecond))
	defer t.Stop()
	var ws []*Writer
	for {
		select {
		case <-c.stop:
			return
		case <-t.C:
		}
		c.mu.Lock()
		ws = ws[:0]
		for w := range c.mu.writers {
			ws = append(ws, w)
		}
		c.mu.Unlock()
		for _, w := range ws {
			w.apply(event{kind: evTick})
		}
		clear(ws)
	}
}

// Close kills the writers that are still open and waits for the client's goroutine.
func (c *Client) Close() {
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		<-c.done
		return
	}
	c.mu.closed = true
	var ws []*Writer
	for w := range c.mu.writers {
		ws = append(ws, w)
	}
	c.mu.Unlock()
	close(c.stop)
	<-c.done
	for _, w := range ws {
		w.Kill(ErrClosed)
	}
}

func (c *Client) forget(w *Writer) {
	c.mu.Lock()
	delete(c.mu.writers, w)
	c.mu.Unlock()
}

func (c *Client) id(ctx context.Context, after ledgerfs.LedgerID) (ledgerfs.LedgerID, error) {
	c.ids.Lock()
	defer c.ids.Unlock()
	for wait := time.Millisecond; c.ids.next >= c.ids.end || c.ids.next <= after; wait = min(2*wait, time.Second) {
		// Ids handed out and lost, because the answer did not come, are merely not used.
		r, err := c.cfg.Store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next(ledgermeta.SequenceKey, idBlock)}})
		switch {
		case err == nil:
			c.ids.next = ledgerfs.LedgerID(r.Results[0].N)
			c.ids.end = c.ids.next + idBlock
			if c.ids.next <= after {
				return 0, fmt.Errorf("take ledger ids: the sequence is at %d, but ledger %d exists", c.ids.next, after)
			}
			continue
		case !errors.Is(err, raftmeta.ErrUnavailable):
			return 0, fmt.Errorf("take ledger ids: %w", err)
		}
		if err := sleep(ctx, wait); err != nil {
			return 0, fmt.Errorf("take ledger ids: %w", err)
		}
	}
	c.ids.next++
	return c.ids.next - 1, nil
}

// Create makes a new ledger by committing its metadata. The Writer must be installed before it is used.
func (c *Client) Create(ctx context.Context, o Options) (*Writer, error) {
	q := quorum.Config{Ensemble: o.Ensemble, Write: o.WriteQuorum, Ack: o.AckQuorum}
	if q == (quorum.Config{}) {
		q = quorum.Config{Ensemble: 1, Write: 1, Ack: 1}
	}
	if err := q.Validate(); err != nil {
		return nil, err
	}
	found, err := c.cfg.Bookies.Candidates(ctx)
	if err != nil {
		return nil, fmt.Errorf("find bookies: %w", err)
	}
	cands := make([]placement.Candidate, len(found))
	for i, f := range found {
		cands[i] = placement.Candidate(f)
	}
	members, err := placement.Choose(cands, q.Ensemble, rand.Int64N)
	if err != nil {
		return nil, fmt.Errorf("%w: %d usable, ensemble of %d", ErrNoBookies, len(found), q.Ensemble)
	}
	id, err := c.id(ctx, o.After)
	if err != nil {
		return nil, err
	}
	meta := &ledgermeta.Ledger{
		State: StateOpen, Quorum: q, LastEntry: ledgerfs.NoEntry, Created: c.cfg.Clock(), Properties: o.Properties,
		Fragments: []ledgermeta.Fragment{{Members: members}},
	}
	value, err := meta.Encode()
	if err != nil {
		return nil, err
	}
	key := ledgermeta.Key(id)
	txn := raftmeta.Txn{If: []raftmeta.Cond{raftmeta.Absent(key)}, Then: []raftmeta.Op{raftmeta.Put(key, value)}}
	if o.Join != nil {
		conds, ops, err := o.Join(id)
		if err != nil {
			return nil, err
		}
		txn.If, txn.Then = append(txn.If, conds...), append(txn.Then, ops...)
	}
	rev, err := c.create(ctx, key, txn)
	if err != nil {
		return nil, fmt.Errorf("create ledger %d: %w", id, err)
	}
	w, err := newWriter(c, id, meta, rev)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		w.mu.core.state, w.mu.core.err = coreDead, ErrClosed
	} else {
		c.mu.writers[w] = struct{}{}
	}
	return w, nil
}

// create commits the transaction that creates key, which nobody else ever creates: so where the answer to a
// commit is lost, the key's existence tells.
func (c *Client) create(ctx context.Context, key string, txn raftmeta.Txn) (raftmeta.Revision, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		r, err := c.cfg.Store.Commit(ctx, txn)
		switch {
		case err == nil && r.OK:
			return r.Rev, nil
		case err == nil:
			it, err := c.cfg.Store.Get(ctx, key)
			if err == nil {
				return it.Created, nil
			}
			if errors.Is(err, raftmeta.ErrNotFound) {
				return 0, ErrConflict
			}
		case !errors.Is(err, raftmeta.ErrUnavailable):
			return 0, err
		}
		if err := sleep(ctx, wait); err != nil {
			return 0, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Client) load(ctx context.Context, id ledgerfs.LedgerID) (*ledgermeta.Ledger, raftmeta.Revision, error) {
	it, err := c.cfg.Store.Get(ctx, ledgermeta.Key(id))
	if errors.Is(err, raftmeta.ErrNotFound) {
		return nil, 0, fmt.Errorf("%w: %d", ErrNotFound, id)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read metadata of ledger %d: %w", id, err)
	}
	m, err := ledgermeta.Decode(it.Value)
	if err != nil {
		return nil, 0, fmt.Errorf("ledger %d: %w", id, err)
	}
	return m, it.Mod, nil
}

// swap replaces the metadata of revision rev by next, which is closed, and returns what is stored then. A
// conflict with somebody who has closed the ledger at the same entry and length, or with our own commit whose
// answer was lost, is none.
func (c *Client) swap(ctx context.Context, id ledgerfs.LedgerID, rev raftmeta.Revision, next *ledgermeta.Ledger) (*ledgermeta.Ledger, error) {
	value, err := next.Encode()
	if err != nil {
		return nil, err
	}
	key := ledgermeta.Key(id)
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		r, err := c.cfg.Store.Commit(ctx, raftmeta.Txn{
			If:   []raftmeta.Cond{raftmeta.ModIs(key, rev)},
			Then: []raftmeta.Op{raftmeta.Put(key, value)},
		})
		switch {
		case err == nil && r.OK:
			return next, nil
		case err == nil:
			now, _, err := c.load(ctx, id)
			if err == nil {
				if now.State == next.State && now.LastEntry == next.LastEntry && now.Length == next.Length {
					return now, nil
				}
				return now, ErrFenced
			}
			if !errors.Is(err, raftmeta.ErrUnavailable) {
				return nil, err
			}
		case !errors.Is(err, raftmeta.ErrUnavailable):
			return nil, err
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// Info is what metadata says of the ledger now.
func (c *Client) Info(ctx context.Context, id ledgerfs.LedgerID) (Info, error) {
	m, _, err := c.load(ctx, id)
	if err != nil {
		return Info{}, err
	}
	return infoOf(id, m), nil
}

// Open is a reader of the ledger as metadata has it now; the ledger is left alone.
func (c *Client) Open(ctx context.Context, id ledgerfs.LedgerID) (*Reader, error) {
	m, _, err := c.load(ctx, id)
	if err != nil {
		return nil, err
	}
	return &Reader{c: c, id: id, meta: m}, nil
}

// Garbage is the operation that marks a ledger for deletion, to be joined to the transaction that removes
// the last reference to it: Collect deletes it then, whatever crashes.
func Garbage(id ledgerfs.LedgerID) raftmeta.Op { return raftmeta.Put(ledgermeta.GarbageKey(id), nil) }

// Collect deletes the ledgers that are marked as garbage. It goes on after a failure with the others, and
// returns how many are left.
func (c *Client) Collect(ctx context.Context) (left int, err error) {
	items, _, err := c.cfg.Store.Range(ctx, ledgermeta.GarbagePrefix, raftmeta.PrefixEnd(ledgermeta.GarbagePrefix), 0)
	if err != nil {
		return 0, fmt.Errorf("list garbage: %w", err)
	}
	var errs []error
	for _, it := range items {
		id, err := ledgermeta.ParseGarbageKey(it.Key)
		if err == nil {
			err = c.Delete(ctx, id)
		}
		if err != nil {
			left++
			if len(errs) < 8 {
				errs = append(errs, err)
			}
		}
	}
	return left, errors.Join(errs...)
}

// Delete removes the ledger from its members and then from metadata. Deleting a ledger that does not exist is
// no error; if a member cannot be reached it fails, and may be called again. A member whose storage has
// begun another life has nothing left to delete.
func (c *Client) Delete(ctx context.Context, id ledgerfs.LedgerID) error {
	m, _, err := c.load(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("delete: %w", err)
	}
	if err == nil {
		done := map[ledgerfs.Member]bool{}
		for _, f := range m.Fragments {
			for _, mem := range f.Members {
				if done[mem] {
					continue
				}
				done[mem] = true
				if err := c.deleteFrom(ctx, mem, id); err != nil {
					return fmt.Errorf("delete ledger %d from %v: %w", id, mem, err)
				}
			}
		}
	}
	_, err = c.cfg.Store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{
		raftmeta.Delete(ledgermeta.Key(id)), raftmeta.Delete(ledgermeta.GarbageKey(id)),
	}})
	if err != nil {
		return fmt.Errorf("delete metadata of ledger %d: %w", id, err)
	}
	return nil
}

func (c *Client) deleteFrom(ctx context.Context, m ledgerfs.Member, id ledgerfs.LedgerID) error {
	b, err := c.cfg.Bookies.Bookie(m)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
		defer cancel()
		err = b.Delete(ctx, id)
	}
	if errors.Is(err, ledgerfs.ErrIncarnation) || errors.Is(err, ledgerfs.ErrDeleted) || errors.Is(err, ledgerfs.ErrNoLedger) {
		return nil
	}
	return err
}

func infoOf(id ledgerfs.LedgerID, m *ledgermeta.Ledger) Info {
	i := Info{
		ID: id, State: m.State, Ensemble: m.Quorum.Ensemble, WriteQuorum: m.Quorum.Write, AckQuorum: m.Quorum.Ack,
		LastEntry: m.LastEntry, Length: m.Length, Created: m.Created, Properties: m.Properties,
	}
	for _, f := range m.Fragments {
		i.Fragments = append(i.Fragments, Fragment{f.First, f.Members})
	}
	return i
}

type single struct {
	m ledgerfs.Member
	b ledgerfs.Bookie
}

func (s single) Candidates(context.Context) ([]Candidate, error) {
	return []Candidate{{Member: s.m, Free: 1 << 40}}, nil
}

func (s single) Bookie(m ledgerfs.Member) (ledgerfs.Bookie, error) {
	switch {
	case m == s.m:
		return s.b, nil
	case m.Bookie == s.m.Bookie && !bytes.Equal(m.Incarnation[:], s.m.Incarnation[:]):
		return nil, fmt.Errorf("%v: %w", m, ledgerfs.ErrIncarnation)
	}
	return nil, fmt.Errorf("%v: %w", m, ErrNoBookies)
}
