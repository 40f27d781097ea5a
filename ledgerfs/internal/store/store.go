// Package store is the bookie's storage: a log of segments that is journal and entry store at once, an index
// over it, and what is known of each ledger. A Store implements ledgerfs.Bookie for callers in its process.
//
// # Promises
//
// What was acknowledged is there after any crash. Nothing is served before it is durable. "No entry" and "no
// ledger" are answered only if the whole log is indexed and nothing is in doubt; a failed read, a failed
// checksum and a hole left by damage answer an error. Any error of a write or sync to room already taken ends
// the store: Config.Fatal is called, every later call fails, nothing is acknowledged any more.
//
// # Space
//
// Room for the log's active segment and one more, and a reserve for the index and the metadata store, is taken
// when the store opens. When the file system has less free than Space.Reserve, or no further segment can be
// prepared, normal adds fail with ErrNoSpace before anything is written; adds of high priority and of
// recovery, fences, deletes and reads go on. Freed room brings writing back by itself. It is freed by whole segments: one
// that holds a single live entry stays, since nothing moves entries to another segment.
//
// # Goroutines and locks
//
// Callers' goroutines verify digests, encode records and read. The journal has two goroutines (see package
// journal). prepare makes segments ready. decide settles adds for which the index must be asked. tend seals
// segments, applies deletes to the index, gives files back and measures room. All of them, and the callers, go
// through the step machine core under Store.mu; nothing blocks while holding it. fds.mu comes after it.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/internal/index"
	"github.com/daybook/daybook/ledgerfs/internal/journal"
	"github.com/daybook/daybook/ledgerfs/internal/segment"
)

// Config configures a store. Only Dir must be set.
type Config struct {
	// Dir holds the store. It is created if it does not exist.
	Dir string
	// JournalDir holds the segments; Dir/segments if empty.
	JournalDir string
	// FS is the file system; if nil that of the operating system, as its self-test in Dir finds it.
	FS disk.FS
	// SegmentSize is the size in bytes of new segment files when the store is formatted; if 0, up to 64 MiB
	// by the size of the file system.
	SegmentSize int64
	// WriteCache bounds, in bytes, the memory that keeps the newest entries; 32 MiB if 0.
	WriteCache int64
	// MaxInFlight bounds the bytes of adds that wait for the disk; 64 MiB if 0. Adds beyond it fail with
	// ErrTooManyRequests.
	MaxInFlight int64
	// Fatal is called once, from a goroutine of the store, when the disk can no longer be trusted. It must not
	// call Close, which waits for that goroutine.
	Fatal func(error)
	// Log receives what an operator should know; nil discards it.
	Log *slog.Logger
}

// Errors of Open.
var (
	// ErrIdentity says that the directories do not belong together or parts of them are missing.
	ErrIdentity = errors.New("storage does not match its identity")
	// ErrNewer says that a newer version of the program wrote the store.
	ErrNewer = segment.ErrNewer
	// ErrLocked says that another process has the store open.
	ErrLocked = disk.ErrLocked
)

// A Store is an open store.
type Store struct {
	cfg   Config
	fs    disk.FS
	id    identity
	seed  segment.Seed
	index *index.Index
	lock  io.Closer
	log   *slog.Logger

	mu      sync.Mutex
	work    sync.Cond // the journal waits for batches
	slow    sync.Cond // decide waits for adds
	core    core
	ending  bool     // decide ends
	sealing []*seg   // rolled, to be sealed, in order
	reclaim bool     // a segment may have become empty
	space   Space    // as last measured
	free    []string // names of files to be used again

	journal   *journal.Journal
	wantSeg   chan struct{} // prepare: look whether a segment is wanted
	tendNow   chan struct{} // tend: look for work
	stop      chan struct{} // closed when background work ends
	bg        sync.WaitGroup
	fds       fdCache
	fatalOnce sync.Once
	ballast   int64  // bytes held; owned by tend
	nextSeg   uint64 // number of the next segment to prepare; owned by prepare
}

var _ ledgerfs.Bookie = (*Store)(nil)

// Incarnation names this life of the storage.
func (s *Store) Incarnation() ledgerfs.Incarnation { return s.id.Incarnation }

// step runs one step of the core and carries out its effects except write and done, which are the caller's.
func (s *Store) step(e event) effects {
	s.mu.Lock()
	fx := s.core.Step(e)
	s.effectsLocked(&fx)
	s.mu.Unlock()
	s.after(&fx)
	return fx
}

func (s *Store) effectsLocked(fx *effects) {
	if fx.wake {
		s.work.Signal()
	}
	if fx.slow {
		s.slow.Signal()
	}
	if fx.seal != nil {
		s.sealing = append(s.sealing, fx.seal)
	}
}

// after carries out what must not be done under the lock.
func (s *Store) after(fx *effects) {
	if fx.prepare {
		notify(s.wantSeg)
	}
	if fx.seal != nil || fx.deleted {
		notify(s.tendNow)
	}
	if fx.fatal != nil {
		s.fatalOnce.Do(func() {
			s.log.Error("storage failed: nothing is acknowledged any more", "err", fx.fatal)
			if s.cfg.Fatal != nil {
				s.cfg.Fatal(fx.fatal)
			}
		})
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fail ends the store.
func (s *Store) fail(err error) { s.step(event{kind: evFail, err: err}) }

// tell completes what a step answered.
func (fx *effects) tell() {
	fx.one.tell()
	for i := range fx.done {
		fx.done[i].tell()
	}
}

func (p *pending) tell() {
	switch {
	case p.add != nil:
		p.add.Done.AddCompleted(p.add, p.err)
	case p.op != nil:
		p.op.done <- p.err
	}
}

// Next gives the journal its next batch.
func (s *Store) Next() (journal.Write[*batch], bool) {
	s.mu.Lock()
	for {
		fx := s.core.Step(event{kind: evTake})
		s.effectsLocked(&fx)
		if b := fx.write; b != nil {
			w := journal.Write[*batch]{Tag: b}
			if b.seg != nil {
				w.File, w.Data, w.Off = b.seg.files.w, b.data, b.off
			}
			s.mu.Unlock()
			s.after(&fx)
			return w, true
		}
		if s.core.closed && s.core.idle() {
			s.mu.Unlock()
			return journal.Write[*batch]{}, false
		}
		if fx.prepare {
			notify(s.wantSeg)
		}
		s.work.Wait()
	}
}

// Written publishes a durable batch and tells its callers.
func (s *Store) Written(w journal.Write[*batch], err error) {
	if err != nil {
		err = fmt.Errorf("write segment: %w", err)
	}
	fx := s.step(event{kind: evWritten, batch: w.Tag, err: err})
	fx.tell()
	s.step(event{kind: evDone, batch: w.Tag})
}

// Add is ledgerfs.Bookie's.
func (s *Store) Add(a *ledgerfs.Add) {
	var err error
	switch {
	case a.Entry < 0 || a.LAC < ledgerfs.NoEntry || a.LAC >= a.Entry || a.Ledger < 0:
		err = ledgerfs.ErrBadRequest
	case ledgerfs.EntryDigest(a.Ledger, a.Entry, a.LAC, a.Length, a.Payload) != a.Digest:
		err = ledgerfs.ErrCorrupt
	}
	if err != nil {
		s.mu.Lock()
		var fx effects
		s.core.answer(pending{add: a, err: fmt.Errorf("add %d:%d: %w", a.Ledger, a.Entry, err)}, &fx)
		s.effectsLocked(&fx)
		s.mu.Unlock()
		fx.tell()
		return
	}
	fx := s.step(event{kind: evAdd, add: a})
	fx.tell()
}

// do writes the record of an op and waits for it. A ledger that is not known is first looked up among the
// deleted.
func (s *Store) do(ctx context.Context, t segment.Type, id ledgerfs.LedgerID) error {
	if id < 0 {
		return ledgerfs.ErrBadRequest
	}
	o := &op{rec: controlRecord(t, id, 0), done: make(chan error, 1)}
	for {
		s.mu.Lock()
		gen, known := s.core.gen, s.core.ledger.get(id) != nil
		s.mu.Unlock()
		if !known {
			gone, err := s.index.Deleted(id)
			if err != nil {
				return fmt.Errorf("%w: %w", ledgerfs.ErrIO, err)
			}
			if gone && t == segment.Delete {
				return nil
			} else if gone {
				return ledgerfs.ErrDeleted
			}
		}
		fx := s.step(event{kind: evOp, op: o, gen: gen})
		if !fx.retry {
			fx.tell()
			break
		}
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func controlRecord(t segment.Type, id ledgerfs.LedgerID, flags ledgerfs.EntryID) segment.Record {
	r := segment.Record{Type: t, Ledger: id, Entry: flags, LAC: ledgerfs.NoEntry}
	r.Digest = ledgerfs.EntryDigest(r.Ledger, r.Entry, r.LAC, r.Length, nil)
	return r
}

// Install is ledgerfs.Bookie's.
func (s *Store) Install(ctx context.Context, id ledgerfs.LedgerID) error {
	err := s.do(ctx, segment.Install, id)
	if err == nil {
		err = s.confirm(id, ledgerKnown)
	}
	if err != nil {
		return fmt.Errorf("install ledger %d: %w", id, err)
	}
	return nil
}

// confirm checks that a record that an earlier call was to write has indeed been written: the answer of a later
// call travels behind it and does not know.
func (s *Store) confirm(id ledgerfs.LedgerID, flag uint8) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.core.ledger.get(id)
	switch {
	case l == nil:
		return ledgerfs.ErrDeleted
	case l.flags&flag == 0:
		return ledgerfs.ErrNoSpace
	}
	return nil
}

func (s *Store) fence(ctx context.Context, id ledgerfs.LedgerID) error {
	if err := s.do(ctx, segment.Fence, id); err != nil {
		return err
	}
	return s.confirm(id, ledgerFencedDurably)
}

// Delete is ledgerfs.Bookie's. The entries' room is given back in the background.
func (s *Store) Delete(ctx context.Context, id ledgerfs.LedgerID) error {
	err := s.do(ctx, segment.Delete, id)
	if err == nil {
		s.mu.Lock()
		if s.core.ledger.get(id) != nil {
			err = ledgerfs.ErrNoSpace
		}
		s.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("delete ledger %d: %w", id, err)
	}
	return nil
}

// LastAdd is ledgerfs.Bookie's.
func (s *Store) LastAdd(ctx context.Context, id ledgerfs.LedgerID, fence bool) (ledgerfs.LastAdd, error) {
	la, err := s.lastAdd(ctx, id, fence)
	if err != nil {
		return ledgerfs.LastAdd{}, fmt.Errorf("last add of ledger %d: %w", id, err)
	}
	return la, nil
}

func (s *Store) lastAdd(ctx context.Context, id ledgerfs.LedgerID, fence bool) (la ledgerfs.LastAdd, err error) {
	if err := ctx.Err(); err != nil {
		return la, err
	}
	if fence {
		if err := s.fence(ctx, id); err != nil {
			return la, err
		}
	}
	s.mu.Lock()
	l := s.core.ledger.get(id)
	if l == nil || l.flags&(ledgerKnown|ledgerDeleting) != ledgerKnown {
		s.mu.Unlock()
		return la, s.absent(id)
	}
	defer s.mu.Unlock()
	if err := s.downLocked(); err != nil {
		return la, err
	}
	if id <= s.core.doubtful {
		return la, ledgerfs.ErrUnknownState
	}
	return ledgerfs.LastAdd{LastEntry: l.last, MaxLAC: l.lac, Length: l.length, Fenced: l.flags&ledgerFencedDurably != 0}, nil
}

// downLocked is the error of every call after the store closed or failed.
func (s *Store) downLocked() error {
	if s.core.closed || s.core.failed != nil {
		return s.core.errStopped()
	}
	return nil
}

// absent says why a ledger is not among the known ones.
func (s *Store) absent(id ledgerfs.LedgerID) error {
	s.mu.Lock()
	l := s.core.ledger.get(id)
	_, gone := s.core.deleted[id]
	gone = gone || l != nil && l.flags&ledgerDeleting != 0
	doubt := id <= s.core.doubtful
	err := s.downLocked()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if !gone {
		if gone, err = s.index.Deleted(id); err != nil {
			return fmt.Errorf("%w: %w", ledgerfs.ErrIO, err)
		}
	}
	switch {
	case gone:
		return ledgerfs.ErrDeleted
	case doubt:
		return ledgerfs.ErrUnknownState
	}
	return ledgerfs.ErrNoLedger
}

// decide settles, one by one, the adds that need a look into the index: those to unknown ledgers and those that
// may be there already.
func (s *Store) decide() {
	s.mu.Lock()
	for {
		for len(s.core.slow) == 0 && !s.ending {
			s.slow.Wait()
		}
		if len(s.core.slow) == 0 {
			s.mu.Unlock()
			return
		}
		a := s.core.slow[0]
		s.core.slow[0] = nil
		if s.core.slow = s.core.slow[1:]; len(s.core.slow) == 0 {
			s.core.slow = nil
		}
		s.mu.Unlock()
		stored, err := s.existing(a)
		if err != nil {
			err = fmt.Errorf("add %d:%d: %w", a.Ledger, a.Entry, err)
		}
		fx := s.step(event{kind: evDecided, add: a, err: err, stored: stored})
		fx.tell()
		s.mu.Lock()
	}
}

// existing reports whether the add's entry is already here, identical, and fails if it is here and not
// identical, or the add cannot be taken. The last-add-confirmed may differ: recovery sends an entry with its own.
func (s *Store) existing(a *ledgerfs.Add) (bool, error) {
	s.mu.Lock()
	if err := s.downLocked(); err != nil {
		s.mu.Unlock()
		return false, err
	}
	l := s.core.ledger.get(a.Ledger)
	if l == nil {
		s.mu.Unlock()
		return false, s.absent(a.Ledger)
	}
	other := s.core.inFlight(a.Ledger, a.Entry)
	isNew := other == nil && a.Entry > l.last
	same := other != nil && other.Length == a.Length && string(other.Payload) == string(a.Payload)
	s.mu.Unlock()
	switch {
	case other != nil && !same:
		return false, ledgerfs.ErrBadRequest
	case other != nil:
		return true, nil
	case isNew:
		return false, nil
	}
	locs, err := s.locate(a.Ledger, a.Entry, 1, 1)
	if err != nil {
		return false, err
	}
	if len(locs) == 0 {
		return false, nil // a gap, or a hole that this add mends
	}
	es, err := s.fetch(a.Ledger, a.Entry, locs)
	if err != nil {
		return false, err
	}
	if es[0].Length != a.Length || string(es[0].Payload) != string(a.Payload) {
		return false, ledgerfs.ErrBadRequest
	}
	return true, nil
}

// Space is how much room there is, as of at most a second ago.
type Space struct {
	Total, Free int64 // of the file system, in bytes
	// Reserve is what normal adds must leave free.
	Reserve int64
	// Held is the size of the reserve file, given up when less than half of Reserve is free.
	Held int64
	// Segments is the size of all segment files.
	Segments int64
	// Writable says whether normal adds are taken.
	Writable bool
}

// Space reports the room.
func (s *Store) Space() Space {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp := s.space
	for _, g := range s.core.segs {
		sp.Segments += g.size
	}
	sp.Writable = s.downLocked() == nil && s.core.room(s.id.SegmentSize/64, 0)
	return sp
}

// Close waits for what is under way, makes the index durable and releases the directories.
//
// The log gets one more record: it says that everything before it was durable, so that damage to what came last
// is not taken for the torn end of a crash.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.core.closed {
		s.mu.Unlock()
		return nil
	}
	last := &op{rec: controlRecord(segment.Checkpoint, 0, 0), done: make(chan error, 1)}
	fx := s.core.Step(event{kind: evOp, op: last})
	s.effectsLocked(&fx)
	fx.tell()
	fx = s.core.Step(event{kind: evClose})
	s.effectsLocked(&fx)
	failed := s.core.failed
	s.mu.Unlock()
	s.journal.Wait()
	s.mu.Lock()
	s.ending = true
	s.slow.Broadcast()
	s.mu.Unlock()
	close(s.stop)
	ended := make(chan struct{})
	go func() {
		s.bg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-s.index.Failed(): // whoever is in the index stays there
	}
	var err error
	if failed == nil {
		err = s.index.Flush()
	}
	return errors.Join(err, s.release())
}

// release closes files and the lock.
func (s *Store) release() error {
	var errs []error
	for _, g := range s.core.segs {
		if g.files.w != nil {
			errs = append(errs, g.files.w.Close())
		}
	}
	errs = append(errs, s.fds.closeAll())
	if s.index != nil {
		errs = append(errs, s.index.Close())
	}
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}
