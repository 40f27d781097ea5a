package state

import (
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/metapb"
)

// A View is an ordered map at one moment. The bytes it returns are the caller's to keep.
type View interface {
	// Get returns the value of key, or false.
	Get(key []byte) ([]byte, bool, error)
	// Scan yields the pairs with start <= key < end in order, until the caller stops or an error, which
	// comes last.
	Scan(start, end []byte) iter.Seq2[Pair, error]
}

// A Pair is one key of a View with its value.
type Pair struct{ Key, Value []byte }

// A Mutation is one change of the map that a View shows.
type Mutation struct {
	Kind  MutationKind
	Key   []byte
	Value []byte // of Set
	End   []byte // of DeleteRange, exclusive
}

// A MutationKind says what a Mutation does.
type MutationKind uint8

// The kinds of mutations.
const (
	Set MutationKind = iota + 1
	Delete
	DeleteRange
)

// Start and End enclose all keys of the state.
var (
	Start = []byte{'s'}
	End   = []byte{'s' + 1}
)

var appliedKey = []byte("sa")

func itemKey(key string) []byte { return append([]byte("sk"), key...) }

func eventKey(rev raftmeta.Revision) []byte {
	return binary.BigEndian.AppendUint64([]byte("se"), uint64(rev))
}

func sessionKey(id raftmeta.SessionID) []byte {
	return binary.BigEndian.AppendUint64([]byte("ss"), uint64(id))
}

func nodeKey(node string) []byte { return append([]byte("sn"), node...) }

func ownedKey(id raftmeta.SessionID, key string) []byte {
	return append(binary.BigEndian.AppendUint64([]byte("sx"), uint64(id)), key...)
}

// The upper bounds of whole key spaces.
var (
	sessionsStart = []byte("ss")
	sessionsEnd   = []byte("st")
)

func corrupt(what string, key []byte, err error) error {
	return fmt.Errorf("%w: %s %q: %v", ErrCorrupt, what, key, err) // %v: the cause must not pass for a command's error
}

func checkFormat(format uint32) error {
	if format != recordFormat {
		return fmt.Errorf("format %d, this version knows %d", format, recordFormat)
	}
	return nil
}

type record interface {
	UnmarshalVT([]byte) error
	GetFormat() uint32
}

func decode(what string, key, value []byte, r record) error {
	if err := r.UnmarshalVT(value); err != nil {
		return corrupt(what, key, err)
	}
	if err := checkFormat(r.GetFormat()); err != nil {
		return corrupt(what, key, err)
	}
	return nil
}

// get reads a record; false if there is none.
func get(v View, what string, key []byte, r record) (bool, error) {
	b, ok, err := v.Get(key)
	if err != nil || !ok {
		return false, err
	}
	return true, decode(what, key, b, r)
}

func itemOf(key string, m *metapb.Item) raftmeta.Item {
	return raftmeta.Item{
		Key: key, Value: m.Value, Created: raftmeta.Revision(m.Created), Mod: raftmeta.Revision(m.Mod),
		Version: m.Version, Session: raftmeta.SessionID(m.Session),
	}
}

// Get returns the item at key, or false.
func Get(v View, key string) (raftmeta.Item, bool, error) {
	var m metapb.Item
	ok, err := get(v, "item", itemKey(key), &m)
	if err != nil || !ok {
		return raftmeta.Item{}, false, err
	}
	return itemOf(key, &m), true, nil
}

// Range returns the items with start <= key < end, at most limit if limit > 0.
func Range(v View, start, end string, limit int) ([]raftmeta.Item, error) {
	var items []raftmeta.Item
	if start >= end {
		return nil, nil
	}
	for p, err := range v.Scan(itemKey(start), itemKey(end)) {
		if err != nil {
			return nil, err
		}
		var m metapb.Item
		if err := decode("item", p.Key, p.Value, &m); err != nil {
			return nil, err
		}
		items = append(items, itemOf(string(p.Key[2:]), &m))
		if limit > 0 && len(items) == limit {
			break
		}
	}
	return items, nil
}

// ReadApplied returns the stored Applied record, or the zero one of an empty store.
func ReadApplied(v View) (Applied, error) {
	var m metapb.Applied
	if _, err := get(v, "applied", appliedKey, &m); err != nil {
		return Applied{}, err
	}
	return AppliedOf(&m), nil
}

// AppliedOf returns what a record says.
func AppliedOf(m *metapb.Applied) Applied {
	return Applied{
		Index: m.Index, Term: m.Term, Rev: raftmeta.Revision(m.Revision),
		EventsAfter: raftmeta.Revision(m.EventsAfter), Conf: m.Conf,
	}
}

// Events calls yield for the changes of each revision in (after, upTo], in order, until yield returns false.
// It fails with raftmeta.ErrCompacted if some of them have been dropped.
func Events(v View, after, upTo raftmeta.Revision, yield func(raftmeta.Revision, []raftmeta.Event) bool) error {
	a, err := ReadApplied(v)
	if err != nil {
		return err
	}
	if after < a.EventsAfter {
		return fmt.Errorf("%w: events after revision %d, kept are those after %d", raftmeta.ErrCompacted, after, a.EventsAfter)
	}
	if after >= upTo {
		return nil
	}
	for p, err := range v.Scan(eventKey(after+1), eventKey(upTo+1)) {
		if err != nil {
			return err
		}
		var m metapb.EventBatch
		if err := decode("events", p.Key, p.Value, &m); err != nil {
			return err
		}
		if len(p.Key) != 10 {
			return corrupt("events", p.Key, fmt.Errorf("key of %d bytes", len(p.Key)))
		}
		rev := raftmeta.Revision(binary.BigEndian.Uint64(p.Key[2:]))
		if !yield(rev, eventsOf(rev, &m)) {
			return nil
		}
	}
	return nil
}

func eventsOf(rev raftmeta.Revision, m *metapb.EventBatch) []raftmeta.Event {
	events := make([]raftmeta.Event, len(m.Events))
	for i, e := range m.Events {
		events[i] = raftmeta.Event{Deleted: e.Deleted, Item: raftmeta.Item{
			Key: string(e.Key), Value: e.Value, Created: raftmeta.Revision(e.Created), Mod: rev,
			Version: e.Version, Session: raftmeta.SessionID(e.Session),
		}}
	}
	return events
}

// HasSession says whether a session is alive.
func HasSession(v View, id raftmeta.SessionID) (bool, error) {
	_, ok, err := v.Get(sessionKey(id))
	return ok, err
}

// Sessions returns all live sessions.
func Sessions(v View) ([]Session, error) {
	var all []Session
	for p, err := range v.Scan(sessionsStart, sessionsEnd) {
		if err != nil {
			return nil, err
		}
		var m metapb.Session
		if err := decode("session", p.Key, p.Value, &m); err != nil {
			return nil, err
		}
		if len(p.Key) != 10 {
			return nil, corrupt("session", p.Key, fmt.Errorf("key of %d bytes", len(p.Key)))
		}
		all = append(all, sessionOf(raftmeta.SessionID(binary.BigEndian.Uint64(p.Key[2:])), &m))
	}
	return all, nil
}
