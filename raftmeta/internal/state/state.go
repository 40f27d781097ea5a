// Package state is the apply step of the metadata store: the one place that decides what a command does.
//
// It is a step machine. Step takes a Raft entry's position and command, reads the state before it through a
// View, and returns the mutations that make the state after it and the effects that the driver passes on. It
// has no clock, I/O, goroutine or lock of its own; the same steps give the same state on every node.
//
// # Format
//
// The state is an ordered map whose keys start with 's' and whose values are metapb records:
//
//	sa                      Applied: the entry that the state is of
//	se <revision u64>       EventBatch: what the revision changed
//	sk <key>                Item
//	sn <node>               Node: the live session of a node
//	ss <session u64>        Session
//	sx <session u64> <key>  empty: the key belongs to the session
//
// Integers are big-endian.
package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/command"
	"github.com/daybook/daybook/raftmeta/internal/metapb"
)

const recordFormat = 1

// ErrCorrupt says that stored bytes are not what this package writes. The node must stop.
var ErrCorrupt = errors.New("corrupt metadata state")

// Applied says which entry a state is of.
type Applied struct {
	Index, Term uint64
	Rev         raftmeta.Revision
	EventsAfter raftmeta.Revision // events of revisions up to this one have been dropped
	Conf        *metapb.ConfState // nil before the first
}

// A Session is a live session.
type Session struct {
	ID          raftmeta.SessionID
	Node        string
	Incarnation int64
	TTL         time.Duration
}

func sessionOf(id raftmeta.SessionID, m *metapb.Session) Session {
	return Session{ID: id, Node: m.Node, Incarnation: m.Incarnation, TTL: time.Duration(m.TtlMs) * time.Millisecond}
}

// Effects is what a step has done besides changing the map.
type Effects struct {
	// Err is the command's own failure; the step then changed nothing but the applied index.
	Err error
	// Result is the outcome of a Commit.
	Result raftmeta.TxnResult
	// Events are the changes of Rev; nil if the step took no revision.
	Events []raftmeta.Event
	Rev    raftmeta.Revision
	// Opened is the session that an OpenSession started.
	Opened Session
	// Ended are the sessions that are gone.
	Ended []raftmeta.SessionID
}

// A Machine applies commands. It is owned by one goroutine.
type Machine struct {
	applied Applied
	tx      tx
}

// Load returns the machine of the state that v shows.
func Load(v View) (*Machine, error) {
	a, err := ReadApplied(v)
	if err != nil {
		return nil, err
	}
	return New(a), nil
}

// New returns the machine of the state that a describes.
func New(a Applied) *Machine { return &Machine{applied: a, tx: tx{writes: map[string]int{}}} }

// Applied returns the position of the last step.
func (m *Machine) Applied() Applied { return m.applied }

// Header returns the mutation that records Applied. The driver adds it to each batch of steps.
func (m *Machine) Header() (Mutation, error) {
	r := metapb.Applied{
		Format: recordFormat, Index: m.applied.Index, Term: m.applied.Term, Revision: int64(m.applied.Rev),
		EventsAfter: int64(m.applied.EventsAfter), Conf: m.applied.Conf,
	}
	b, err := r.MarshalVT()
	return Mutation{Kind: Set, Key: appliedKey, Value: b}, err
}

// SetConf applies an entry that changed the members.
func (m *Machine) SetConf(index, term uint64, conf *metapb.ConfState) {
	m.advance(index, term)
	m.applied.Conf = conf
}

// Skip applies an entry without a command.
func (m *Machine) Skip(index, term uint64) { m.advance(index, term) }

func (m *Machine) advance(index, term uint64) {
	if index != m.applied.Index+1 || term < m.applied.Term {
		panic(fmt.Sprintf("state: entry %d of term %d applied after entry %d of term %d", index, term, m.applied.Index, m.applied.Term))
	}
	m.applied.Index, m.applied.Term = index, term
}

// Step applies the command of the entry at index, which must be the one after Applied. v shows the state
// with all former mutations. The error means that v cannot be read or is corrupt: the node must stop.
func (m *Machine) Step(v View, index, term uint64, c command.Command) (Effects, []Mutation, error) {
	m.advance(index, term)
	t := &m.tx
	t.begin(v, m.applied.Rev+1)
	var eff Effects
	var err error
	switch c := c.(type) {
	case command.Commit:
		eff.Result, err = t.commit(c.Txn)
	case command.OpenSession:
		eff.Opened, err = t.openSession(raftmeta.SessionID(index), c)
	case command.CloseSession:
		err = t.closeSession(c.ID)
	case command.ExpireSession:
		if c.Term != term {
			err = reject("%w: expiry of session %x was proposed in term %d, applied in %d", ErrStaleTerm, c.ID, c.Term, term)
			break
		}
		err = t.closeSession(c.ID)
	case command.CompactEvents:
		return m.compact(c.Rev)
	default:
		panic(fmt.Sprintf("state: unknown command %T", c))
	}
	if r, ok := errors.AsType[*rejection](err); ok {
		return Effects{Err: r.err}, nil, nil
	}
	if err != nil {
		return Effects{}, nil, err
	}
	eff.Ended = t.ended
	if len(t.events) > 0 {
		if err := t.recordEvents(); err != nil {
			return Effects{}, nil, err
		}
		m.applied.Rev++
		eff.Rev, eff.Events = m.applied.Rev, t.events
	}
	eff.Result.Rev = m.applied.Rev
	return eff, t.mutations(), nil
}

// compact drops events. A revision that does not exist yet stands for the newest one.
func (m *Machine) compact(rev raftmeta.Revision) (Effects, []Mutation, error) {
	rev = min(rev, m.applied.Rev)
	if rev <= m.applied.EventsAfter {
		return Effects{}, nil, nil
	}
	muts := []Mutation{{Kind: DeleteRange, Key: eventKey(m.applied.EventsAfter + 1), End: eventKey(rev + 1)}}
	m.applied.EventsAfter = rev
	return Effects{}, muts, nil
}

// ErrStaleTerm says that an expiry was proposed by a leader that no longer was one.
var ErrStaleTerm = errors.New("stale term")

// A rejection is an error of the command, not of the machine.
type rejection struct{ err error }

func (r *rejection) Error() string { return r.err.Error() }

func reject(format string, args ...any) error { return &rejection{fmt.Errorf(format, args...)} }

// A tx is one command in progress: the changes so far over the state before it.
type tx struct {
	v      View
	rev    raftmeta.Revision // that the command takes if it changes something
	log    []Mutation        // Set and Delete only, one for each key
	writes map[string]int    // key to its place in log
	events []raftmeta.Event
	ended  []raftmeta.SessionID
}

func (t *tx) begin(v View, rev raftmeta.Revision) {
	t.v, t.rev = v, rev
	clear(t.writes)
	t.log, t.events, t.ended = nil, nil, nil
}

func (t *tx) mutations() []Mutation { return t.log }

func (t *tx) write(m Mutation) {
	if i, ok := t.writes[string(m.Key)]; ok {
		t.log[i] = m
		return
	}
	t.writes[string(m.Key)] = len(t.log)
	t.log = append(t.log, m)
}

func (t *tx) delete(key []byte) { t.write(Mutation{Kind: Delete, Key: key}) }

type marshaler interface{ MarshalVT() ([]byte, error) }

func (t *tx) set(key []byte, r marshaler) error {
	b, err := r.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode %q: %w", key, err)
	}
	t.write(Mutation{Kind: Set, Key: key, Value: b})
	return nil
}

// Get reads through the changes so far.
func (t *tx) Get(key []byte) ([]byte, bool, error) {
	if i, ok := t.writes[string(key)]; ok {
		return t.log[i].Value, t.log[i].Kind == Set, nil
	}
	return t.v.Get(key)
}

// Scan reads through the changes so far. The caller must not write meanwhile.
func (t *tx) Scan(start, end []byte) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		var own []Mutation
		for _, m := range t.log {
			if bytes.Compare(m.Key, start) >= 0 && bytes.Compare(m.Key, end) < 0 {
				own = append(own, m)
			}
		}
		slices.SortFunc(own, func(a, b Mutation) int { return bytes.Compare(a.Key, b.Key) })
		emit := func(m Mutation) bool {
			return m.Kind == Delete || yield(Pair{Key: m.Key, Value: m.Value}, nil)
		}
		for p, err := range t.v.Scan(start, end) {
			if err != nil {
				yield(Pair{}, err)
				return
			}
			for len(own) > 0 && bytes.Compare(own[0].Key, p.Key) < 0 {
				if !emit(own[0]) {
					return
				}
				own = own[1:]
			}
			if len(own) > 0 && bytes.Equal(own[0].Key, p.Key) {
				if !emit(own[0]) {
					return
				}
				own = own[1:]
				continue
			}
			if !yield(p, nil) {
				return
			}
		}
		for _, m := range own {
			if !emit(m) {
				return
			}
		}
	}
}

func (t *tx) recordEvents() error {
	b := &metapb.EventBatch{Format: recordFormat, Events: make([]*metapb.Event, len(t.events))}
	for i, e := range t.events {
		b.Events[i] = &metapb.Event{
			Key: []byte(e.Item.Key), Deleted: e.Deleted, Created: int64(e.Item.Created), Version: e.Item.Version,
			Session: int64(e.Item.Session), Value: e.Item.Value,
		}
	}
	return t.set(eventKey(t.rev), b)
}

func (t *tx) commit(txn raftmeta.Txn) (raftmeta.TxnResult, error) {
	res := raftmeta.TxnResult{OK: true}
	for _, c := range txn.If {
		ok, err := t.holds(c)
		if err != nil {
			return res, err
		}
		if !ok {
			res.OK = false
			break
		}
	}
	ops := txn.Then
	if !res.OK {
		ops = txn.Else
	}
	if len(ops) > 0 {
		res.Results = make([]raftmeta.OpResult, len(ops))
	}
	rangeDeletes := 0
	for i, op := range ops {
		var err error
		switch op.Kind {
		case raftmeta.OpPut:
			err = t.put(op.Key, op.Value, op.Session)
		case raftmeta.OpDelete:
			var found bool
			if found, err = t.remove(op.Key); found {
				res.Results[i].N = 1
			}
		case raftmeta.OpDeleteRange:
			var n int
			n, err = t.removeRange(op.Key, op.End, raftmeta.MaxTxnDeletes-rangeDeletes)
			rangeDeletes += n
			res.Results[i].N = int64(n)
		case raftmeta.OpNext:
			res.Results[i].N, err = t.next(op.Key, op.N)
		}
		if err != nil {
			return raftmeta.TxnResult{}, err
		}
	}
	return res, nil
}

func (t *tx) holds(c raftmeta.Cond) (bool, error) {
	if c.Kind == raftmeta.CondNoneUnder {
		items, err := Range(t, c.Key, raftmeta.PrefixEnd(c.Key), 1)
		return len(items) == 0, err
	}
	it, ok, err := Get(t, c.Key)
	if err != nil {
		return false, err
	}
	switch c.Kind {
	case raftmeta.CondAbsent:
		return !ok, nil
	case raftmeta.CondPresent:
		return ok, nil
	case raftmeta.CondMod:
		if c.Rev == 0 {
			return !ok, nil
		}
		return ok && it.Mod == c.Rev, nil
	default: // CondVersion: command.Check knows no other
		return ok && it.Version == c.N, nil
	}
}

func (t *tx) put(key string, value []byte, s raftmeta.SessionID) error {
	if s != 0 {
		if _, ok, err := t.Get(sessionKey(s)); err != nil {
			return err
		} else if !ok {
			return reject("put %q: %w: %x", key, raftmeta.ErrSessionExpired, s)
		}
	}
	old, ok, err := Get(t, key)
	if err != nil {
		return err
	}
	m := metapb.Item{Format: recordFormat, Created: int64(t.rev), Mod: int64(t.rev), Version: 1, Session: int64(s), Value: value}
	if ok {
		m.Created, m.Version = int64(old.Created), old.Version+1
		if old.Session != 0 && old.Session != s {
			t.delete(ownedKey(old.Session, key))
		}
	}
	if s != 0 && (!ok || old.Session != s) {
		t.write(Mutation{Kind: Set, Key: ownedKey(s, key), Value: []byte{}})
	}
	t.events = append(t.events, raftmeta.Event{Item: itemOf(key, &m)})
	return t.set(itemKey(key), &m)
}

func (t *tx) remove(key string) (bool, error) {
	old, ok, err := Get(t, key)
	if err != nil || !ok {
		return false, err
	}
	t.removeItem(old)
	return true, nil
}

func (t *tx) removeItem(old raftmeta.Item) {
	t.delete(itemKey(old.Key))
	if old.Session != 0 {
		t.delete(ownedKey(old.Session, old.Key))
	}
	t.events = append(t.events, raftmeta.Event{Deleted: true, Item: raftmeta.Item{Key: old.Key, Mod: t.rev}})
}

func (t *tx) removeRange(start, end string, limit int) (int, error) {
	items, err := Range(t, start, end, limit+1)
	if err != nil {
		return 0, err
	}
	if len(items) > limit {
		return 0, reject("%w: delete of [%q, %q) is of more than %d keys", raftmeta.ErrInvalid, start, end, raftmeta.MaxTxnDeletes)
	}
	for _, it := range items {
		t.removeItem(it)
	}
	return len(items), nil
}

func (t *tx) next(key string, n int64) (int64, error) {
	old, ok, err := Get(t, key)
	if err != nil {
		return 0, err
	}
	last := int64(0)
	if ok {
		if len(old.Value) != 8 {
			return 0, reject("%w: %q holds no sequence", raftmeta.ErrInvalid, key)
		}
		last = int64(binary.BigEndian.Uint64(old.Value))
	}
	if last < 0 || n > math.MaxInt64-last {
		return 0, reject("%w: sequence %q is at %d and cannot advance by %d", raftmeta.ErrInvalid, key, last, n)
	}
	return last + 1, t.put(key, binary.BigEndian.AppendUint64(nil, uint64(last+n)), 0)
}

func (t *tx) openSession(id raftmeta.SessionID, c command.OpenSession) (Session, error) {
	var node metapb.Node
	found, err := get(t, "node", nodeKey(c.Node), &node)
	if err != nil {
		return Session{}, err
	}
	if found {
		if c.Incarnation <= node.Incarnation {
			return Session{}, reject("%w: node %q has a session of incarnation %d, not superseded by %d",
				raftmeta.ErrSessionExpired, c.Node, node.Incarnation, c.Incarnation)
		}
		err := t.closeSession(raftmeta.SessionID(node.Session))
		if _, ok := errors.AsType[*rejection](err); ok {
			return Session{}, corrupt("node", nodeKey(c.Node), err)
		}
		if err != nil {
			return Session{}, err
		}
	}
	m := metapb.Session{Format: recordFormat, Node: c.Node, Incarnation: c.Incarnation, TtlMs: c.TTL.Milliseconds()}
	if err := t.set(sessionKey(id), &m); err != nil {
		return Session{}, err
	}
	err = t.set(nodeKey(c.Node), &metapb.Node{Format: recordFormat, Session: int64(id), Incarnation: c.Incarnation})
	return sessionOf(id, &m), err
}

// closeSession removes the session with all its keys.
func (t *tx) closeSession(id raftmeta.SessionID) error {
	var m metapb.Session
	ok, err := get(t, "session", sessionKey(id), &m)
	if err != nil {
		return err
	}
	if !ok {
		return reject("%w: %x", raftmeta.ErrSessionExpired, id)
	}
	var keys []string
	for p, err := range t.Scan(ownedKey(id, ""), ownedKey(id+1, "")) {
		if err != nil {
			return err
		}
		keys = append(keys, string(p.Key[10:]))
	}
	for _, key := range keys {
		if found, err := t.remove(key); err != nil {
			return err
		} else if !found {
			return corrupt("owned key", ownedKey(id, key), errors.New("no such item"))
		}
	}
	t.delete(sessionKey(id))
	t.delete(nodeKey(m.Node))
	t.ended = append(t.ended, id)
	return nil
}
