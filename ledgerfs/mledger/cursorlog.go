package mledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/ledger"
)

// A cursorLog writes what the cursors of a topic acknowledge into one ledger: first the whole state of each cursor,
// then what is added, all cursors together in one entry a flush. When the additions outgrow the state, or a
// write has failed, the next ledger is begun with the whole state, and replaces the one before in the topic's
// record once that is durable. Nothing is written for a topic until something is acknowledged.
//
// Its fields are guarded by cursorSet.mu.
type cursorLog struct {
	w       *ledger.Writer // nil until the first flush, and after a failed write
	busy    bool           // an entry is under way, or a ledger being begun
	overdue bool           // a flush was due while busy: the next one must not wait
	seq     uint64         // of the acknowledgements in the entry under way
	entry   ledger.Append
	written int64 // bytes of additions
	state   int64 // bytes of the state that the ledger began with
	retryAt int64 // ms: after a failure, not before then
	backoff int64
}

// Bounds of a cursor ledger.
const (
	// A new cursor ledger is begun after that many bytes of additions, and more if the state is large.
	cursorLogBytes = 256 << 10
	// An entry holds about that many ranges and batches at most; longer states are cut.
	cursorLogRanges = 50_000
	// maxBackoff, in ms, is the longest pause after failures.
	maxBackoff = 5000
)

// flush begins to write what is dirty. It is called by the factory only, for a topic of either of its lists.
func (s *cursorSet) flush(l *Ledger, urgent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if urgent {
		s.urged = false
	} else {
		s.queued = false
	}
	if s.log.busy {
		s.log.overdue = true // what is under way has the topic queued again when it is done
		return
	}
	if s.err != nil || !s.dirty() {
		return
	}
	now := l.f.cfg.Clock()
	if now < s.log.retryAt && now >= s.log.retryAt-s.log.backoff { // clocks may be set back
		s.requeue(l)
		return
	}
	s.log.busy = true
	if s.log.w == nil || s.log.written > max(cursorLogBytes, 4*s.log.state) {
		s.begin(l)
		return
	}
	entries, seq, err := s.additions()
	if err != nil || len(entries) != 1 {
		s.begin(l) // too much for one entry
		return
	}
	s.log.seq = seq
	s.log.written += int64(len(entries[0]))
	s.log.entry = ledger.Append{Payload: entries[0], Flags: ledgerfs.AddHighPriority, Done: (*flushDone)(l)}
	w := s.log.w
	// The writer's answers take s.mu, possibly before Append returns.
	s.mu.Unlock()
	w.Append(&s.log.entry)
	s.mu.Lock()
}

func (s *cursorSet) dirty() bool {
	return s.safe != s.seq
}

// requeue has the topic flushed within the interval, or at once if somebody waits for it or it is overdue. So is the
// first flush: it begins a ledger, which takes longer than the others, and what is acknowledged meanwhile is written
// next. s.mu is held.
func (s *cursorSet) requeue(l *Ledger) {
	if s.err != nil {
		return
	}
	if !s.log.busy && s.log.retryAt == 0 && (s.log.w == nil || s.log.overdue || len(s.waits) > 0) {
		if !s.urged {
			s.urged = true
			l.f.flushSoon(l, true)
		}
	} else if !s.queued {
		s.queued = true
		l.f.flushSoon(l, false)
	}
}

// flushDone is a Ledger as the one who is told about the entries of its cursor ledger.
type flushDone Ledger

// AppendCompleted is the ledger's answer.
func (d *flushDone) AppendCompleted(_ *ledger.Append, err error) {
	l := (*Ledger)(d)
	l.cursors.done(l, err, nil)
}

// done ends the writing of an entry, or the beginning of a ledger, that holds the acknowledgements up to log.seq.
func (s *cursorSet) done(l *Ledger, err error, begun *ledger.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.busy = false
	switch {
	case err != nil:
		// What was under way is known only to the cursors: the next ledger has it.
		if s.log.w != nil {
			s.log.w.Kill(err)
			s.log.w = nil
		}
		s.log.backoff = min(max(2*s.log.backoff, 100), maxBackoff)
		s.log.retryAt = l.f.cfg.Clock() + s.log.backoff
		if s.err == nil {
			l.f.log.Warn("acknowledgements cannot be written yet", "topic", l.name, "err", err)
		}
	default:
		s.log.backoff, s.log.retryAt = 0, 0
		s.safe = s.log.seq
		if begun != nil {
			if s.log.w != nil {
				s.log.w.Kill(ErrClosed)
			}
			s.log.w = begun
		}
		keep := s.waits[:0]
		for _, w := range s.waits {
			if w.seq <= s.safe {
				close(w.done)
			} else {
				keep = append(keep, w)
			}
		}
		s.waits = keep
	}
	if s.dirty() {
		s.requeue(l)
	}
	s.log.overdue = false
}

// additions is what is dirty, as entries, and takes it for written; s.mu is held.
func (s *cursorSet) additions() ([][]byte, uint64, error) {
	var states []chain.CursorState
	for _, c := range s.byName {
		d := c.dirty
		if d == nil {
			continue
		}
		c.dirty = nil
		if d.reset {
			states = append(states, c.acks.state(c.id))
			continue
		}
		st := chain.CursorState{ID: c.id, MarkDelete: c.acks.markDelete}
		for _, r := range d.acked {
			if c.acks.markDelete.Less(end(r)) {
				st.Acked = append(st.Acked, r)
			}
		}
		for _, p := range slices.SortedFunc(maps.Keys(d.batches), ledgerfs.Position.Compare) {
			if rem, ok := c.acks.batches[p]; ok {
				st.Batches = append(st.Batches, chain.BatchAck{Position: p, Remaining: rem})
			}
		}
		states = append(states, st)
	}
	es, err := encodeStates(states)
	return es, s.seq, err
}

// encodeStates makes entries of states. A state that is cut goes on in the next entry as an addition.
func encodeStates(states []chain.CursorState) ([][]byte, error) {
	var out [][]byte
	var log chain.CursorLog
	n := 0
	emit := func() error {
		b, err := log.Encode()
		out = append(out, b)
		log, n = chain.CursorLog{}, 0
		return err
	}
	for _, st := range states {
		for {
			part := st
			k := min(len(st.Acked), max(cursorLogRanges-n, 0))
			part.Acked = st.Acked[:k]
			st.Acked = st.Acked[k:]
			n += k + 1
			k = min(len(st.Batches), max(cursorLogRanges-n, 0))
			part.Batches = st.Batches[:k]
			st.Batches = st.Batches[k:]
			n += k
			log.Cursors = append(log.Cursors, part)
			if n >= cursorLogRanges {
				if err := emit(); err != nil {
					return nil, err
				}
			}
			if len(st.Acked) == 0 && len(st.Batches) == 0 {
				break
			}
			st.Reset = false
		}
	}
	if len(log.Cursors) > 0 || len(out) == 0 {
		if err := emit(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// begin starts the next cursor ledger with all that the cursors hold now; s.mu is held, and log.busy set.
func (s *cursorSet) begin(l *Ledger) {
	var states []chain.CursorState
	for _, c := range s.byName {
		states = append(states, c.acks.state(c.id))
		c.dirty = nil
	}
	s.log.seq = s.seq
	entries, err := encodeStates(states)
	var size int64
	for _, e := range entries {
		size += int64(len(e))
	}
	s.log.state, s.log.written = size, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.dead != nil {
		s.log.busy = false
		return
	}
	l.background.Go(func() {
		var w *ledger.Writer
		if err == nil {
			w, err = l.beginCursorLedger(l.ctx, entries)
		}
		if errors.Is(err, ErrFenced) {
			l.fence(err)
		}
		s.done(l, err, w)
	})
}

// beginCursorLedger creates a ledger, writes the entries, and makes it the topic's cursor ledger.
func (l *Ledger) beginCursorLedger(ctx context.Context, entries [][]byte) (*ledger.Writer, error) {
	l.mu.Lock()
	o := l.mu.options
	left := l.mu.view.NextCursorLedger // of an attempt that failed
	l.mu.Unlock()
	if left != 0 {
		if err := l.dropNextCursorLedger(ctx, left); err != nil {
			return nil, err
		}
	}
	w, err := l.link(ctx, ledger.Options{
		Ensemble: o.Ensemble, WriteQuorum: o.WriteQuorum, AckQuorum: o.AckQuorum,
		Properties: map[string]string{"topic": l.name.String(), "use": "cursors"},
	}, func(r *chain.Record, id ledgerfs.LedgerID, _ int64) { r.NextCursorLedger = id })
	if err != nil {
		return nil, err
	}
	id := w.ID()
	if err = w.Install(ctx); err == nil {
		err = appendAll(ctx, w, entries)
	}
	if err == nil {
		old := l.record().CursorLedger
		edit := func(r *chain.Record) {
			r.CursorLedger = id
			if r.NextCursorLedger == id {
				r.NextCursorLedger = 0
			}
		}
		if old != 0 {
			err = l.update(ctx, edit, ledger.Garbage(old))
			l.f.collectSoon()
		} else {
			err = l.update(ctx, edit)
		}
	}
	if err != nil {
		w.Kill(err)
		return nil, err
	}
	return w, nil
}

func (l *Ledger) dropNextCursorLedger(ctx context.Context, id ledgerfs.LedgerID) error {
	err := l.update(ctx, func(r *chain.Record) {
		if r.NextCursorLedger == id {
			r.NextCursorLedger = 0
		}
	}, ledger.Garbage(id))
	l.f.collectSoon()
	return err
}

// appendAll appends the entries and waits for all of them.
func appendAll(ctx context.Context, w *ledger.Writer, entries [][]byte) error {
	a := &awaited{left: len(entries), done: make(chan struct{})}
	as := make([]ledger.Append, len(entries))
	for i, e := range entries {
		as[i] = ledger.Append{Payload: e, Flags: ledgerfs.AddHighPriority, Done: a}
		w.Append(&as[i])
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

type awaited struct {
	mu   sync.Mutex
	left int
	err  error
	done chan struct{}
}

// AppendCompleted is the ledger's answer.
func (a *awaited) AppendCompleted(_ *ledger.Append, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left--
	a.err = errors.Join(a.err, err)
	if a.left == 0 {
		close(a.done)
	}
}

// load replays the topic's cursor ledger.
func (g *cursorLog) load(ctx context.Context, l *Ledger, byID map[uint64]*Cursor) error {
	if id := l.stored.NextCursorLedger; id != 0 {
		if err := l.dropNextCursorLedger(ctx, id); err != nil {
			return err
		}
	}
	id := l.stored.CursorLedger
	if id == 0 {
		return nil
	}
	r, err := l.f.cfg.Client.Recover(ctx, id)
	if err != nil {
		return err
	}
	last := r.Info().LastEntry
	for next := ledgerfs.EntryID(0); next <= last; {
		es, err := r.Read(ctx, nil, next, last, 1000, 1<<20)
		if err != nil {
			return err
		}
		for _, e := range es {
			log, err := chain.DecodeCursorLog(e.Payload)
			if err != nil {
				return fmt.Errorf("%d:%d: %w", id, e.Entry, err)
			}
			for i := range log.Cursors {
				// Those that are unknown were deleted since.
				if c := byID[log.Cursors[i].ID]; c != nil {
					c.acks.merge(&log.Cursors[i])
				}
			}
		}
		next += ledgerfs.EntryID(len(es))
	}
	return nil
}
