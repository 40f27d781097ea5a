package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/ledgermeta"
)

// A Reader reads a ledger. It may be used by any goroutine.
type Reader struct {
	c    *Client
	id   ledgerfs.LedgerID
	meta *ledgermeta.Ledger
}

// Info is the metadata with which the reader was opened.
func (r *Reader) Info() Info { return infoOf(r.id, r.meta) }

// ID is the ledger's id.
func (r *Reader) ID() ledgerfs.LedgerID { return r.id }

// Read appends to dst entries from first on, in order, at least one, at most maxEntries of maxBytes payload
// bytes (the first one however large), none after last. The caller knows that last is confirmed: of a closed
// ledger its last entry, of an open one what its writer told. Every entry is verified; if a member fails,
// the others are asked. If none can deliver the first entry it fails with ErrUnreadable, wrapping what each
// of them said, and with ErrLost too if that is final.
func (r *Reader) Read(ctx context.Context, dst []ledgerfs.Entry, first, last ledgerfs.EntryID, maxEntries, maxBytes int) ([]ledgerfs.Entry, error) {
	if r.meta.State == StateClosed {
		last = min(last, r.meta.LastEntry)
	}
	if first < 0 || first > last {
		return dst, fmt.Errorf("read %d:%d: %w: the last readable entry is %d", r.id, first, ledgerfs.ErrNoEntry, last)
	}
	maxEntries, maxBytes = max(maxEntries, 1), max(maxBytes, 1)
	n, size := 0, 0
	for first <= last && n < maxEntries && size < maxBytes {
		got, err := r.run(ctx, first, last, maxEntries-n, maxBytes-size)
		if err != nil {
			if n > 0 {
				return dst, nil
			}
			return dst, err
		}
		for i := range got {
			if l := len(got[i].Payload); n > 0 && size+l > maxBytes {
				return dst, nil
			}
			n++
			size += len(got[i].Payload)
			dst = append(dst, got[i])
		}
		first += ledgerfs.EntryID(len(got))
	}
	return dst, nil
}

// run is one member's answer: a verified run of entries from first on, not empty.
func (r *Reader) run(ctx context.Context, first, last ledgerfs.EntryID, maxEntries, maxBytes int) ([]ledgerfs.Entry, error) {
	f, end := r.meta.FragmentOf(first)
	if end >= 0 {
		last = min(last, end-1)
	}
	req := ledgerfs.ReadRequest{
		Ledger: r.id, First: first, MaxBytes: maxBytes,
		MaxEntries: int(min(int64(maxEntries), int64(last-first)+1)),
	}
	q := r.meta.Quorum
	// Where all members hold all entries, one ledger sticks to one member, whose read-ahead pays.
	turn := 0
	if q.Ensemble == q.Write {
		turn = int(int64(r.id) % int64(q.Write))
	}
	at := func(i int) ledgerfs.Member {
		if q.Ensemble != q.Write {
			return f.Members[q.Member(first, i)]
		}
		return f.Members[(turn+i)%q.Write]
	}
	if q.Write == 1 {
		got, err := r.ask(ctx, at(0), req)
		if err == nil || ctx.Err() != nil {
			return got, err
		}
		return nil, unreadable(r.id, first, []error{fmt.Errorf("%s: %w", at(0).Bookie, err)})
	}

	// One after the other; the next one also if those before take long.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		got []ledgerfs.Entry
		err error
	}
	answers := make(chan answer, q.Write)
	asked := 0
	ask := func() {
		m := at(asked)
		asked++
		go func() {
			got, err := r.ask(ctx, m, req)
			if err != nil {
				err = fmt.Errorf("%s: %w", m.Bookie, err)
			}
			answers <- answer{got, err}
		}()
	}
	ask()
	slow := time.NewTicker(hedgeDelay)
	defer slow.Stop()
	var errs []error
	for len(errs) < q.Write {
		select {
		case a := <-answers:
			if a.err == nil {
				return a.got, nil
			}
			errs = append(errs, a.err)
			if asked < q.Write && asked == len(errs) {
				ask()
			}
		case <-slow.C:
			if asked < q.Write {
				ask()
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, unreadable(r.id, first, errs)
}

// hedgeDelay is how long a member may take to answer a read before another one is asked as well.
const hedgeDelay = 250 * time.Millisecond

// unreadable is the failure of a read to which the members have answered with errs, all of them.
func unreadable(id ledgerfs.LedgerID, e ledgerfs.EntryID, errs []error) error {
	lost := true
	for _, err := range errs {
		lost = lost && isLoss(err)
	}
	if lost {
		errs = append(errs, ErrLost)
	}
	return fmt.Errorf("%w: %d:%d: %w", ErrUnreadable, id, e, errors.Join(errs...))
}

// isLoss reports whether a member's answer says that it has no sound copy of the entry, and will have none.
func isLoss(err error) bool {
	for _, e := range []error{
		ledgerfs.ErrCorrupt, ledgerfs.ErrIO, ledgerfs.ErrNoEntry, ledgerfs.ErrNoLedger, ledgerfs.ErrDeleted, ledgerfs.ErrIncarnation,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (r *Reader) ask(ctx context.Context, m ledgerfs.Member, req ledgerfs.ReadRequest) ([]ledgerfs.Entry, error) {
	b, err := r.c.cfg.Bookies.Bookie(m)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.c.cfg.CallTimeout)
	defer cancel()
	resp, err := b.Read(ctx, req)
	if err != nil {
		return nil, err
	}
	return verified(resp.Entries, req)
}

// verified is the longest run of sound entries that the request asked for; an error if there is none.
func verified(es []ledgerfs.Entry, req ledgerfs.ReadRequest) ([]ledgerfs.Entry, error) {
	if len(es) == 0 {
		return nil, fmt.Errorf("%w: empty answer", ledgerfs.ErrIO)
	}
	es = es[:min(len(es), max(req.MaxEntries, 1))]
	for i := range es {
		if err := es[i].Verify(req.Ledger, req.First+ledgerfs.EntryID(i)); err != nil {
			if i == 0 {
				return nil, err
			}
			return es[:i], nil
		}
	}
	return es, nil
}
