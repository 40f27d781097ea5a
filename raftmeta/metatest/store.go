// Package metatest is for tests of whatever uses a metadata store: an in-memory Store with faults, and Suite,
// which every Store passes.
//
// The in-memory Store runs the real apply step, watch hub and leases over a sorted slice, so it behaves as the
// real one does, without disk and consensus.
package metatest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/command"
	"github.com/daybook/daybook/raftmeta/internal/lease"
	"github.com/daybook/daybook/raftmeta/internal/state"
	"github.com/daybook/daybook/raftmeta/internal/watch"
)

// A Store keeps metadata in memory. Whoever made it must Close it. Under testing/synctest it must be made and
// closed inside the bubble.
type Store struct {
	hub    *watch.Hub
	leases *lease.Table
	mu     struct {
		sync.RWMutex
		kv       memory
		machine  *state.Machine
		sessions map[raftmeta.SessionID]*lease.Session
		expiry   *time.Timer // nil while there is no session
		faults   []*Fault
		noSpace  bool
		mute     bool // keep-alives are not answered
		closed   bool
	}
}

var _ raftmeta.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	s := &Store{leases: lease.NewTable()}
	s.hub = watch.NewHub(source{s}, 0)
	s.mu.machine = state.New(state.Applied{})
	s.mu.sessions = make(map[raftmeta.SessionID]*lease.Session)
	return s
}

// A Fault is what happens to commits.
type Fault struct {
	// Match says which commits are hit; all if nil.
	Match func(raftmeta.Txn) bool
	// Count is how many are hit; 0 means one.
	Count int
	// Delay passes, or the commit's context ends, before anything else happens.
	Delay time.Duration
	// Err is the answer; if nil, the commit goes on after the delay.
	Err error
	// Applied says that the commit takes effect although the answer is Err: what a lost answer looks like.
	Applied bool
}

// Inject makes the next commits that f matches meet f. Faults are tried in the order of injection; the first
// that matches takes the commit.
func (s *Store) Inject(f Fault) {
	f.Count = max(f.Count, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.faults = append(s.mu.faults, &f)
}

// FailCommits makes the next n commits fail with err before they change anything.
func (s *Store) FailCommits(n int, err error) { s.Inject(Fault{Count: n, Err: err}) }

// DelayCommits makes the next n commits wait for d.
func (s *Store) DelayCommits(n int, d time.Duration) { s.Inject(Fault{Count: n, Delay: d}) }

// LoseAnswers makes the next n commits take effect and yet fail with ErrUnavailable.
func (s *Store) LoseAnswers(n int) {
	s.Inject(Fault{Count: n, Applied: true, Err: fmt.Errorf("%w: answer lost by the test", raftmeta.ErrUnavailable)})
}

// DropWatches makes all watchers fail with ErrUnavailable. New ones may be made.
func (s *Store) DropWatches() {
	s.hub.Fail(fmt.Errorf("%w: watch dropped by the test", raftmeta.ErrUnavailable))
}

// SetNoSpace makes all commits that put something fail with ErrNoSpace, until it is taken back.
func (s *Store) SetNoSpace(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.noSpace = v
}

// MuteKeepAlives lets no keep-alive through, so that sessions are lost and then expire, until it is taken
// back.
func (s *Store) MuteKeepAlives(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.mute = v
}

// Expire ends the session at once, as if it had been silent for its TTL.
func (s *Store) Expire(id raftmeta.SessionID) error {
	_, err := s.step(command.CloseSession{ID: id})
	return err
}

// Compact drops the events of revisions up to rev.
func (s *Store) Compact(_ context.Context, rev raftmeta.Revision) error {
	_, err := s.step(command.CompactEvents{Rev: rev})
	return err
}

// Close ends all sessions' keep-alives and all watches. The store's methods then fail with ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return nil
	}
	s.mu.closed = true
	sessions := s.mu.sessions
	s.mu.sessions = nil
	if s.mu.expiry != nil {
		s.mu.expiry.Stop()
	}
	s.mu.Unlock()
	for _, ses := range sessions {
		ses.End()
		<-ses.Done()
	}
	s.hub.Close(errClosed())
	return nil
}

func errClosed() error { return fmt.Errorf("in-memory store: %w", raftmeta.ErrClosed) }

// step applies a command.
func (s *Store) step(c command.Command) (state.Effects, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stepLocked(c)
}

func (s *Store) stepLocked(c command.Command) (state.Effects, error) {
	if s.mu.closed {
		return state.Effects{}, errClosed()
	}
	// Over the encoded form, as the real store does: what a caller does to its slices later is no concern.
	b, err := command.Encode(c)
	if err != nil {
		return state.Effects{}, err
	}
	if c, err = command.Decode(b); err != nil {
		return state.Effects{}, err
	}
	eff, muts, err := s.mu.machine.Step(&s.mu.kv, s.mu.machine.Applied().Index+1, 1, c)
	if err != nil {
		panic(fmt.Sprintf("metatest: %v", err))
	}
	header, err := s.mu.machine.Header()
	if err != nil {
		panic(fmt.Sprintf("metatest: %v", err))
	}
	for _, m := range append(muts, header) {
		s.mu.kv.apply(m)
	}
	now := time.Now()
	for _, id := range eff.Ended {
		s.leases.Remove(id)
		if ses := s.mu.sessions[id]; ses != nil {
			delete(s.mu.sessions, id)
			ses.End()
		}
	}
	if eff.Opened.ID != 0 {
		s.leases.Grant(eff.Opened.ID, eff.Opened.TTL, now)
		s.armLocked(now)
	}
	if len(eff.Events) > 0 {
		s.hub.Publish(eff.Rev, eff.Events)
	}
	return eff, eff.Err
}

func (s *Store) armLocked(now time.Time) {
	next, ok := s.leases.Next()
	switch {
	case !ok:
	case s.mu.expiry == nil:
		s.mu.expiry = time.AfterFunc(next.Sub(now), s.expire)
	default:
		s.mu.expiry.Reset(next.Sub(now))
	}
}

func (s *Store) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, id := range s.leases.Expired(now) {
		if _, err := s.stepLocked(command.ExpireSession{ID: id, Term: 1}); err != nil {
			return // closed
		}
	}
	s.armLocked(now)
}

// Get implements raftmeta.Store.
func (s *Store) Get(ctx context.Context, key string) (raftmeta.Item, error) {
	if err := ctx.Err(); err != nil {
		return raftmeta.Item{}, err
	}
	if err := command.CheckKey(key); err != nil {
		return raftmeta.Item{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mu.closed {
		return raftmeta.Item{}, errClosed()
	}
	it, ok, err := state.Get(&s.mu.kv, key)
	if err == nil && !ok {
		err = fmt.Errorf("key %q: %w", key, raftmeta.ErrNotFound)
	}
	return it, err
}

// Range implements raftmeta.Store.
func (s *Store) Range(ctx context.Context, start, end string, limit int) ([]raftmeta.Item, raftmeta.Revision, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mu.closed {
		return nil, 0, errClosed()
	}
	items, err := state.Range(&s.mu.kv, start, end, limit)
	return items, s.mu.machine.Applied().Rev, err
}

// Commit implements raftmeta.Store.
func (s *Store) Commit(ctx context.Context, txn raftmeta.Txn) (raftmeta.TxnResult, error) {
	if err := ctx.Err(); err != nil {
		return raftmeta.TxnResult{}, err
	}
	c := command.Commit{Txn: txn}
	if err := c.Check(); err != nil {
		return raftmeta.TxnResult{}, err
	}
	f := s.fault(txn)
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return raftmeta.TxnResult{}, ctx.Err()
		}
	}
	if f.Err != nil && !f.Applied {
		return raftmeta.TxnResult{}, f.Err
	}
	eff, err := s.commit(c)
	if f.Err != nil {
		return raftmeta.TxnResult{}, f.Err
	}
	return eff.Result, err
}

func (s *Store) commit(c command.Commit) (state.Effects, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.noSpace && !c.OnlyDeletes() {
		return state.Effects{}, raftmeta.ErrNoSpace
	}
	return s.stepLocked(c)
}

func (s *Store) fault(txn raftmeta.Txn) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.mu.faults {
		if f.Match != nil && !f.Match(txn) {
			continue
		}
		if f.Count--; f.Count == 0 {
			s.mu.faults = append(s.mu.faults[:i:i], s.mu.faults[i+1:]...)
		}
		return *f
	}
	return Fault{}
}

// Watch implements raftmeta.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after raftmeta.Revision) (raftmeta.Watcher, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := command.CheckBound(prefix); err != nil {
		return nil, err
	}
	return s.hub.Watch(prefix, after)
}

// OpenSession implements raftmeta.Store.
func (s *Store) OpenSession(ctx context.Context, o raftmeta.SessionOptions) (raftmeta.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := command.NewOpenSession(o)
	if err != nil {
		return nil, err
	}
	opened := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	eff, err := s.stepLocked(c)
	if err != nil {
		return nil, err
	}
	ses := lease.NewSession(backend{s}, eff.Opened.ID, eff.Opened.TTL, opened)
	s.mu.sessions[eff.Opened.ID] = ses
	return ses, nil
}

type backend struct{ s *Store }

func (b backend) KeepAlive(_ context.Context, id raftmeta.SessionID) error {
	b.s.mu.RLock()
	defer b.s.mu.RUnlock()
	switch {
	case b.s.mu.closed:
		return errClosed()
	case b.s.mu.mute:
		return fmt.Errorf("keep-alive: %w: muted by the test", raftmeta.ErrUnavailable)
	}
	return b.s.leases.Renew(id, time.Now())
}

func (b backend) EndSession(ctx context.Context, id raftmeta.SessionID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := b.s.step(command.CloseSession{ID: id})
	return err
}

type source struct{ s *Store }

func (src source) Events(after, upTo raftmeta.Revision, yield func(raftmeta.Revision, []raftmeta.Event) bool) error {
	src.s.mu.RLock()
	defer src.s.mu.RUnlock()
	return state.Events(&src.s.mu.kv, after, upTo, yield)
}

// A memory is a state.View. It keeps each key space (the keys with the same second byte) in a slice of its own,
// so that an event, which is the last of its space, is appended without moving all the items.
type memory struct{ spaces [256]sortedSlice }

func (m *memory) Get(key []byte) ([]byte, bool, error) { return m.spaces[key[1]].get(key) }

// Scan yields a range within one key space: state asks for no other.
func (m *memory) Scan(start, end []byte) iter.Seq2[state.Pair, error] {
	return m.spaces[start[1]].scan(start, end)
}

func (m *memory) apply(mut state.Mutation) { m.spaces[mut.Key[1]].apply(mut) }

// A sortedSlice is pairs in the order of their keys. Values are never changed in place.
type sortedSlice []state.Pair

// find returns the place of the first key >= key.
func (s sortedSlice) find(key []byte) int {
	return sort.Search(len(s), func(i int) bool { return string(s[i].Key) >= string(key) })
}

func (s sortedSlice) get(key []byte) ([]byte, bool, error) {
	if i := s.find(key); i < len(s) && string(s[i].Key) == string(key) {
		return s[i].Value, true, nil
	}
	return nil, false, nil
}

func (s sortedSlice) scan(start, end []byte) iter.Seq2[state.Pair, error] {
	return func(yield func(state.Pair, error) bool) {
		for i := s.find(start); i < len(s) && string(s[i].Key) < string(end); i++ {
			if !yield(s[i], nil) {
				return
			}
		}
	}
}

func (s *sortedSlice) apply(mut state.Mutation) {
	i := s.find(mut.Key)
	found := i < len(*s) && string((*s)[i].Key) == string(mut.Key)
	switch mut.Kind {
	case state.Set:
		p := state.Pair{Key: mut.Key, Value: mut.Value}
		if found {
			(*s)[i] = p
		} else {
			*s = slices.Insert(*s, i, p)
		}
	case state.Delete:
		if found {
			*s = slices.Delete(*s, i, i+1)
		}
	case state.DeleteRange:
		if j := s.find(mut.End); j > i {
			*s = slices.Delete(*s, i, j)
		}
	}
}
