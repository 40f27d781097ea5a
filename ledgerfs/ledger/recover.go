package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/ledgermeta"
	"github.com/daybook/daybook/ledgerfs/internal/quorum"
	"github.com/daybook/daybook/raftmeta"
)

// Bounds of what recovery reads and copies at once.
const (
	recoverEntries = 128
	recoverBytes   = 4 << 20
)

// Recover closes the ledger: it fences it, finds its last entry, and copies what too few members hold. A
// closed ledger is only opened. It fails with ErrRecovery, having closed nothing, if the members that answer
// cannot tell where the ledger ends. Any number of clients may recover a ledger at once: they agree.
func (c *Client) Recover(ctx context.Context, id ledgerfs.LedgerID) (*Reader, error) {
	// In one process one at a time, because the adds of a ledger come from one goroutine at a time.
	for {
		c.mu.Lock()
		other, busy := c.mu.recovering[id]
		if !busy {
			mine := make(chan struct{})
			c.mu.recovering[id] = mine
			c.mu.Unlock()
			defer func() {
				c.mu.Lock()
				delete(c.mu.recovering, id)
				c.mu.Unlock()
				close(mine)
			}()
			break
		}
		c.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	meta, rev, err := c.load(ctx, id)
	for err == nil && meta.State == StateOpen {
		next := *meta
		next.State = StateInRecovery
		rev, err = c.markRecovering(ctx, id, rev, &next)
		if errors.Is(err, ErrConflict) {
			meta, rev, err = c.load(ctx, id)
			continue
		}
		meta = &next
	}
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	for meta.State != StateClosed {
		r := recovery{c: c, id: id, meta: meta}
		last, length, err := r.run(ctx)
		if err != nil {
			// Another client may have been faster; then its answer is ours.
			if now, _, lerr := c.load(ctx, id); lerr == nil && now.State == StateClosed {
				meta = now
				break
			}
			return nil, fmt.Errorf("recover ledger %d: %w", id, err)
		}
		next := *meta
		next.State, next.LastEntry, next.Length = StateClosed, last, length
		now, err := c.swap(ctx, id, rev, &next)
		switch {
		case errors.Is(err, ErrFenced) && now.State != StateClosed:
			// The metadata changed under a running recovery: begin again from what it says now.
			if meta, rev, err = c.load(ctx, id); err != nil {
				return nil, fmt.Errorf("recover: %w", err)
			}
			continue
		case errors.Is(err, ErrFenced), err == nil:
			meta = now
		default:
			return nil, fmt.Errorf("recover ledger %d: %w", id, err)
		}
	}
	return &Reader{c: c, id: id, meta: meta}, nil
}

func (c *Client) markRecovering(ctx context.Context, id ledgerfs.LedgerID, rev raftmeta.Revision, next *ledgermeta.Ledger) (raftmeta.Revision, error) {
	value, err := next.Encode()
	if err != nil {
		return 0, err
	}
	key := ledgermeta.Key(id)
	r, err := c.cfg.Store.Commit(ctx, raftmeta.Txn{
		If:   []raftmeta.Cond{raftmeta.ModIs(key, rev)},
		Then: []raftmeta.Op{raftmeta.Put(key, value)},
	})
	switch {
	case err != nil:
		return 0, err
	case !r.OK:
		return 0, ErrConflict
	}
	return r.Rev, nil
}

// A recovery is one attempt to find a ledger's end. The ensemble is that of its start, throughout.
type recovery struct {
	c    *Client
	id   ledgerfs.LedgerID
	meta *ledgermeta.Ledger
}

func (r *recovery) run(ctx context.Context) (last ledgerfs.EntryID, length int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // members that are no longer waited for are given up
	frag := r.meta.Last()
	lac, err := r.fence(ctx, frag)
	if err != nil {
		return 0, 0, err
	}
	last, length = frag.First-1, frag.LengthBefore
	// Everything up to lac is acknowledged. Its last entry is read like the ones after it, since it carries the
	// length, but may not be absent.
	next := max(lac, frag.First)
	for {
		run, verdict, err := r.read(ctx, frag, next)
		switch {
		case err != nil:
			return 0, 0, err
		case verdict == quorum.Unknown:
			return 0, 0, fmt.Errorf("%w: too few members answer for entry %d", ErrRecovery, next)
		case verdict == quorum.Absent && next <= lac:
			return 0, 0, fmt.Errorf("%w: entry %d was acknowledged, but no member has it", ErrRecovery, next)
		case verdict == quorum.Absent:
			return last, length, nil
		}
		if err := r.copy(ctx, run); err != nil {
			return 0, 0, err
		}
		end := &run[len(run)-1]
		last, length = end.Entry, end.Length
		next = last + 1
	}
}

// fence keeps the old writer from ever acknowledging anything more, and returns the highest
// last-add-confirmed that a member knows, at least the entry before the fragment.
func (r *recovery) fence(ctx context.Context, f *ledgermeta.Fragment) (ledgerfs.EntryID, error) {
	type answer struct {
		member int
		last   ledgerfs.LastAdd
		err    error
	}
	answers := make(chan answer, len(f.Members))
	for i, m := range f.Members {
		go func() {
			a := answer{member: i}
			a.err = r.c.call(ctx, m, func(ctx context.Context, b ledgerfs.Bookie) error {
				var err error
				a.last, err = b.LastAdd(ctx, r.id, true)
				return err
			})
			answers <- a
		}()
	}
	var known quorum.Set
	var errs []error
	lac := f.First - 1
	for range f.Members {
		select {
		case a := <-answers:
			switch {
			case a.err == nil:
				known.Add(a.member)
				lac = max(lac, a.last.MaxLAC)
			case ledgerfs.IsNegative(a.err):
				known.Add(a.member)
			default:
				errs = append(errs, fmt.Errorf("%s: %w", f.Members[a.member].Bookie, a.err))
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if r.meta.Quorum.Covered(known) {
			return lac, nil
		}
	}
	return 0, fmt.Errorf("%w: too few members can be fenced: %w", ErrRecovery, errors.Join(errs...))
}

// read asks the write set of an entry for it, fencing again, and weighs the answers. If the entry is present
// it comes with the run of entries behind it that the same member has.
func (r *recovery) read(ctx context.Context, f *ledgermeta.Fragment, e ledgerfs.EntryID) ([]ledgerfs.Entry, quorum.Verdict, error) {
	q := r.meta.Quorum
	req := ledgerfs.ReadRequest{Ledger: r.id, First: e, MaxEntries: recoverEntries, MaxBytes: recoverBytes, Fence: true}
	type answer struct {
		run []ledgerfs.Entry
		err error
	}
	answers := make(chan answer, q.Write)
	for i := range q.Write {
		go func() {
			var a answer
			a.err = r.c.call(ctx, f.Members[q.Member(e, i)], func(ctx context.Context, b ledgerfs.Bookie) error {
				resp, err := b.Read(ctx, req)
				if err == nil {
					a.run, err = verified(resp.Entries, req)
				}
				return err
			})
			answers <- a
		}()
	}
	var t quorum.Tally
	for {
		select {
		case a := <-answers:
			switch {
			case a.err == nil:
				return a.run, quorum.Present, nil
			case ledgerfs.IsNegative(a.err):
				t.Negative++
			default:
				t.Failed++
			}
		case <-ctx.Done():
			return nil, quorum.Unknown, ctx.Err()
		}
		if v := q.Verdict(t); v != quorum.Pending {
			return nil, v, nil
		}
	}
}

// copy stores the entries again on their write sets, and waits until each is on enough members.
func (r *recovery) copy(ctx context.Context, run []ledgerfs.Entry) error {
	q := r.meta.Quorum
	f := r.meta.Last()
	cp := &copying{q: q, left: len(run), done: make(chan struct{}), entries: make([]copied, len(run))}
	adds := make([]copyAdd, len(run)*q.Write)
	bookies := make([]ledgerfs.Bookie, len(f.Members))
	failed := make([]error, len(f.Members))
	for i, m := range f.Members {
		bookies[i], failed[i] = r.c.cfg.Bookies.Bookie(m)
	}
	n := 0
	for i := range run {
		e := &run[i]
		for j := range q.Write {
			a := &adds[n]
			n++
			*a = copyAdd{c: cp, entry: i, member: q.Member(e.Entry, j), Add: ledgerfs.Add{
				Ledger: r.id, Entry: e.Entry, LAC: e.LAC, Length: e.Length, Digest: e.Digest, Payload: e.Payload,
				Flags: ledgerfs.AddRecovery | ledgerfs.AddHighPriority,
			}}
			a.Done = a
			if err := failed[a.member]; err != nil {
				a.AddCompleted(&a.Add, err)
			} else {
				bookies[a.member].Add(&a.Add)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.c.cfg.AddTimeout)
	defer cancel()
	select {
	case <-cp.done:
	case <-ctx.Done():
		return fmt.Errorf("%w: copy entries %d to %d: %w", ErrRecovery, run[0].Entry, run[len(run)-1].Entry, ctx.Err())
	}
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if cp.err != nil {
		return fmt.Errorf("%w: copy entries: %w", ErrRecovery, cp.err)
	}
	return nil
}

// A copying is a run of entries on its way.
type copying struct {
	q    quorum.Config
	done chan struct{} // closed when all are stored, or one cannot be

	mu      sync.Mutex
	left    int
	err     error
	entries []copied
}

type copied struct{ stored, failed quorum.Set }

type copyAdd struct {
	ledgerfs.Add
	c             *copying
	entry, member int
}

// AddCompleted is a bookie's answer.
func (a *copyAdd) AddCompleted(_ *ledgerfs.Add, err error) {
	c := a.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 || c.err != nil {
		return
	}
	e := &c.entries[a.entry]
	if err == nil {
		if c.q.Acknowledged(e.stored) {
			return
		}
		e.stored.Add(a.member)
		if c.q.Acknowledged(e.stored) {
			c.left--
		}
	} else if e.failed.Add(a.member); c.q.Hopeless(e.failed) {
		c.err = err
	}
	if c.left == 0 || c.err != nil {
		close(c.done)
	}
}

// call calls one member, within the time for a call.
func (c *Client) call(ctx context.Context, m ledgerfs.Member, f func(context.Context, ledgerfs.Bookie) error) error {
	b, err := c.cfg.Bookies.Bookie(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	return f(ctx, b)
}
