package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/command"
)

// mapView is the plainest View.
type mapView map[string][]byte

func (v mapView) Get(key []byte) ([]byte, bool, error) {
	b, ok := v[string(key)]
	return b, ok, nil
}

func (v mapView) Scan(start, end []byte) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k >= string(start) && k < string(end) && !yield(Pair{[]byte(k), v[k]}, nil) {
				return
			}
		}
	}
}

func (v mapView) apply(muts []Mutation) {
	for _, m := range muts {
		switch m.Kind {
		case Set:
			v[string(m.Key)] = m.Value
		case Delete:
			delete(v, string(m.Key))
		case DeleteRange:
			maps.DeleteFunc(v, func(k string, _ []byte) bool { return k >= string(m.Key) && k < string(m.End) })
		}
	}
}

// A model is what the state machine must do, written down without any thought of speed or storage.
type model struct {
	rev      raftmeta.Revision
	items    map[string]raftmeta.Item
	sessions map[raftmeta.SessionID]command.OpenSession
	events   map[raftmeta.Revision][]raftmeta.Event
	floor    raftmeta.Revision
}

func (m *model) clone() *model {
	c := *m
	c.items, c.sessions, c.events = maps.Clone(m.items), maps.Clone(m.sessions), maps.Clone(m.events)
	return &c
}

func (m *model) sorted() []string { return slices.Sorted(maps.Keys(m.items)) }

func (m *model) remove(key string, events *[]raftmeta.Event) int64 {
	if _, ok := m.items[key]; !ok {
		return 0
	}
	delete(m.items, key)
	*events = append(*events, raftmeta.Event{Deleted: true, Item: raftmeta.Item{Key: key, Mod: m.rev + 1}})
	return 1
}

func (m *model) put(key string, value []byte, s raftmeta.SessionID, events *[]raftmeta.Event) {
	it, ok := m.items[key]
	if !ok {
		it = raftmeta.Item{Key: key, Created: m.rev + 1}
	}
	it.Value, it.Mod, it.Session = value, m.rev+1, s
	it.Version++
	m.items[key] = it
	*events = append(*events, raftmeta.Event{Item: it})
}

func (m *model) end(id raftmeta.SessionID, events *[]raftmeta.Event) {
	for _, key := range m.sorted() {
		if m.items[key].Session == id {
			m.remove(key, events)
		}
	}
	delete(m.sessions, id)
}

func (m *model) holds(c raftmeta.Cond) bool {
	it, ok := m.items[c.Key]
	switch c.Kind {
	case raftmeta.CondAbsent:
		return !ok
	case raftmeta.CondPresent:
		return ok
	case raftmeta.CondMod:
		return it.Mod == c.Rev
	case raftmeta.CondNoneUnder:
		for key := range m.items {
			if strings.HasPrefix(key, c.Key) {
				return false
			}
		}
		return true
	}
	return ok && it.Version == c.N
}

// step returns the model after the command, the expected effects, and the error, in which case the model is
// unchanged.
func (m *model) step(index, term uint64, c command.Command) (*model, Effects, error) {
	next := m.clone()
	var eff Effects
	var events []raftmeta.Event
	switch c := c.(type) {
	case command.Commit:
		eff.Result.OK = true
		ops := c.Txn.Then
		for _, cond := range c.Txn.If {
			if !m.holds(cond) {
				eff.Result.OK, ops = false, c.Txn.Else
			}
		}
		for _, op := range ops {
			var r raftmeta.OpResult
			switch op.Kind {
			case raftmeta.OpPut:
				if _, ok := next.sessions[op.Session]; op.Session != 0 && !ok {
					return m, Effects{}, raftmeta.ErrSessionExpired
				}
				next.put(op.Key, op.Value, op.Session, &events)
			case raftmeta.OpDelete:
				r.N = next.remove(op.Key, &events)
			case raftmeta.OpDeleteRange:
				for _, key := range next.sorted() {
					if key >= op.Key && key < op.End {
						r.N += next.remove(key, &events)
					}
				}
			case raftmeta.OpNext:
				last := int64(0)
				if it, ok := next.items[op.Key]; ok {
					if len(it.Value) != 8 {
						return m, Effects{}, raftmeta.ErrInvalid
					}
					last = int64(binary.BigEndian.Uint64(it.Value))
				}
				if op.N > math.MaxInt64-last {
					return m, Effects{}, raftmeta.ErrInvalid
				}
				r.N = last + 1
				next.put(op.Key, binary.BigEndian.AppendUint64(nil, uint64(last+op.N)), 0, &events)
			}
			eff.Result.Results = append(eff.Result.Results, r)
		}
	case command.OpenSession:
		for id, s := range m.sessions {
			if s.Node != c.Node {
				continue
			}
			if s.Incarnation >= c.Incarnation {
				return m, Effects{}, raftmeta.ErrSessionExpired
			}
			next.end(id, &events)
			eff.Ended = append(eff.Ended, id)
		}
		id := raftmeta.SessionID(index)
		next.sessions[id] = c
		eff.Opened = Session{ID: id, Node: c.Node, Incarnation: c.Incarnation, TTL: c.TTL}
	case command.CloseSession, command.ExpireSession:
		id := raftmeta.SessionID(0)
		if cl, ok := c.(command.CloseSession); ok {
			id = cl.ID
		} else {
			ex := c.(command.ExpireSession)
			if id = ex.ID; ex.Term != term {
				return m, Effects{}, ErrStaleTerm
			}
		}
		if _, ok := m.sessions[id]; !ok {
			return m, Effects{}, raftmeta.ErrSessionExpired
		}
		next.end(id, &events)
		eff.Ended = []raftmeta.SessionID{id}
	case command.CompactEvents:
		next.floor = max(m.floor, min(c.Rev, m.rev))
		maps.DeleteFunc(next.events, func(r raftmeta.Revision, _ []raftmeta.Event) bool { return r <= next.floor })
		return next, Effects{}, nil
	}
	if len(events) > 0 {
		next.rev++
		next.events[next.rev] = events
		eff.Rev, eff.Events = next.rev, events
	}
	eff.Result.Rev = next.rev
	return next, eff, nil
}

// normal makes nil and empty slices equal.
func normal(events []raftmeta.Event) []raftmeta.Event {
	out := make([]raftmeta.Event, len(events))
	for i, e := range events {
		e.Item.Value = append([]byte{}, e.Item.Value...)
		out[i] = e
	}
	return out
}

func genCommand(sessions []raftmeta.SessionID, rev raftmeta.Revision) *rapid.Generator[command.Command] {
	key := rapid.SampledFrom([]string{"a", "a/1", "a/2", "b", "b/1", "c", "n"})
	session := rapid.SampledFrom(append([]raftmeta.SessionID{0, 0, 99999}, sessions...))
	op := rapid.Custom(func(t *rapid.T) raftmeta.Op {
		k := key.Draw(t, "key")
		switch rapid.IntRange(0, 6).Draw(t, "op") {
		case 0, 1:
			return raftmeta.Put(k, rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "value"))
		case 2, 3:
			return raftmeta.PutEphemeral(k, []byte("e"), session.Draw(t, "session"))
		case 4:
			return raftmeta.Delete(k)
		case 5:
			return raftmeta.DeleteRange(k, rapid.SampledFrom([]string{"a", "a/\xff", "b/", "z", raftmeta.PrefixEnd(k)}).Draw(t, "end"))
		}
		return raftmeta.Next(rapid.SampledFrom([]string{"n", "n", "m", k}).Draw(t, "sequence"), rapid.SampledFrom([]int64{1, 2, 1000, math.MaxInt64}).Draw(t, "by"))
	})
	cond := rapid.Custom(func(t *rapid.T) raftmeta.Cond {
		k := key.Draw(t, "key")
		switch rapid.IntRange(0, 4).Draw(t, "cond") {
		case 0:
			return raftmeta.Absent(k)
		case 1:
			return raftmeta.Present(k)
		case 3:
			return raftmeta.NoneUnder(k)
		case 2:
			return raftmeta.ModIs(k, raftmeta.Revision(rapid.Int64Range(0, int64(rev)).Draw(t, "rev")))
		}
		return raftmeta.VersionIs(k, rapid.Int64Range(0, 3).Draw(t, "version"))
	})
	return rapid.Custom(func(t *rapid.T) command.Command {
		switch rapid.IntRange(0, 9).Draw(t, "command") {
		case 0:
			return command.OpenSession{
				Node: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "node"), Incarnation: rapid.Int64Range(0, 20).Draw(t, "incarnation"), TTL: time.Second,
			}
		case 1:
			return command.CloseSession{ID: session.Draw(t, "session")}
		case 2:
			return command.ExpireSession{ID: session.Draw(t, "session"), Term: rapid.SampledFrom([]uint64{4, 5}).Draw(t, "term")}
		case 3:
			return command.CompactEvents{Rev: raftmeta.Revision(rapid.Int64Range(0, int64(rev)+2).Draw(t, "rev"))}
		}
		return command.Commit{Txn: raftmeta.Txn{
			If: rapid.SliceOfN(cond, 0, 2).Draw(t, "if"), Then: rapid.SliceOfN(op, 0, 5).Draw(t, "then"), Else: rapid.SliceOfN(op, 0, 3).Draw(t, "else"),
		}}
	})
}

// TestStepAgreesWithModel runs random commands against the machine and the model.
func TestStepAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := mapView{}
		machine := New(Applied{})
		m := &model{items: map[string]raftmeta.Item{}, sessions: map[raftmeta.SessionID]command.OpenSession{}, events: map[raftmeta.Revision][]raftmeta.Event{}}
		const term = 5
		for index := uint64(1); index <= 40; index++ {
			c := genCommand(slices.Sorted(maps.Keys(m.sessions)), m.rev).Draw(t, "c")
			if commit, ok := c.(command.Commit); ok && commit.Check() != nil {
				machine.Skip(index, term)
				continue
			}
			next, want, wantErr := m.step(index, term, c)
			got, muts, err := machine.Step(v, index, term, c)
			if err != nil {
				t.Fatalf("Step(%+v): %v", c, err)
			}
			if !errors.Is(got.Err, wantErr) || got.Err != nil && len(muts) > 0 {
				t.Fatalf("Step(%+v): error %v with %d mutations, want %v", c, got.Err, len(muts), wantErr)
			}
			m = next
			v.apply(muts)
			got.Err = nil
			got.Events, want.Events = normal(got.Events), normal(want.Events)
			if _, ok := c.(command.CompactEvents); !ok && wantErr == nil && !reflect.DeepEqual(got, want) {
				t.Fatalf("Step(%+v):\ngot  %+v\nwant %+v", c, got, want)
			}
			compare(t, machine, v, m)
		}
	})
}

func compare(t *rapid.T, machine *Machine, v mapView, m *model) {
	header, err := machine.Header()
	if err != nil {
		t.Fatal(err)
	}
	v.apply([]Mutation{header})
	items, err := Range(v, "", raftmeta.PrefixEnd(""), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(items) != len(m.items) {
		t.Fatalf("%d items, want %d", len(items), len(m.items))
	}
	for _, it := range items {
		want := m.items[it.Key]
		if !bytes.Equal(it.Value, want.Value) {
			t.Fatalf("value of %q is %q, want %q", it.Key, it.Value, want.Value)
		}
		it.Value, want.Value = nil, nil
		if !reflect.DeepEqual(it, want) {
			t.Fatalf("item %+v, want %+v", it, want)
		}
	}
	if a := machine.Applied(); a.Rev != m.rev || a.EventsAfter != m.floor {
		t.Fatalf("applied %+v, want revision %d, events after %d", a, m.rev, m.floor)
	}
	seen := m.floor
	err = Events(v, m.floor, m.rev, func(rev raftmeta.Revision, events []raftmeta.Event) bool {
		if seen++; rev != seen || !reflect.DeepEqual(normal(events), normal(m.events[rev])) {
			t.Fatalf("events of %d: %+v, want those of %d: %+v", rev, events, seen, m.events[seen])
		}
		return true
	})
	if err != nil || seen != m.rev {
		t.Fatalf("events up to %d, %v, want %d", seen, err, m.rev)
	}
	if m.floor > 0 {
		if err := Events(v, m.floor-1, m.rev, nil); !errors.Is(err, raftmeta.ErrCompacted) {
			t.Fatalf("events that were dropped: %v", err)
		}
	}
	sessions, err := Sessions(v)
	if err != nil || len(sessions) != len(m.sessions) {
		t.Fatalf("sessions %+v, %v, want %+v", sessions, err, m.sessions)
	}
	// Every key of the map is accounted for: nothing is left behind.
	owned, nodes := 0, map[string]bool{}
	for _, it := range m.items {
		if it.Session != 0 {
			owned++
		}
	}
	for _, s := range m.sessions {
		nodes[s.Node] = true
	}
	if want := 1 + len(m.items) + owned + len(m.events) + len(m.sessions) + len(nodes); len(v) != want {
		t.Fatalf("%d stored keys, want %d: %q", len(v), want, slices.Sorted(maps.Keys(v)))
	}
}

func TestDeleteRangeIsBounded(t *testing.T) {
	v := mapView{}
	machine := New(Applied{})
	index := uint64(0)
	step := func(txn raftmeta.Txn) Effects {
		t.Helper()
		index++
		eff, muts, err := machine.Step(v, index, 1, command.Commit{Txn: txn})
		if err != nil {
			t.Fatal(err)
		}
		v.apply(muts)
		return eff
	}
	var ops []raftmeta.Op
	for i := range raftmeta.MaxTxnDeletes + 1 {
		ops = append(ops, raftmeta.Put("k/"+strings.Repeat("x", i%7)+string(rune(0x4e00+i)), nil))
		if len(ops) == raftmeta.MaxTxnOps || i == raftmeta.MaxTxnDeletes {
			step(raftmeta.Txn{Then: ops})
			ops = nil
		}
	}
	all := raftmeta.Txn{Then: []raftmeta.Op{raftmeta.DeleteRange("k/", "k0")}}
	if eff := step(all); !errors.Is(eff.Err, raftmeta.ErrInvalid) {
		t.Fatalf("delete of too many: %v", eff.Err)
	}
	items, err := Range(v, "", "z", 1)
	if err != nil {
		t.Fatal(err)
	}
	step(raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Delete(items[0].Key)}})
	if eff := step(all); eff.Err != nil || eff.Result.Results[0].N != raftmeta.MaxTxnDeletes {
		t.Fatalf("delete of as many as may be: %+v", eff.Result)
	}
}

func TestCorruptRecordsAreErrors(t *testing.T) {
	v := mapView{}
	machine := New(Applied{})
	_, muts, err := machine.Step(v, 1, 1, command.Commit{Txn: raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("a", []byte("value"))}}})
	if err != nil {
		t.Fatal(err)
	}
	v.apply(muts)
	for name, bad := range map[string][]byte{"cut": v["ska"][:5], "garbage": []byte("\xff\xff"), "newer format": {8, 2}, "empty": {}} {
		v["ska"] = bad
		if _, _, err := Get(v, "a"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Get: %v, want ErrCorrupt", name, err)
		}
		if _, err := Range(v, "a", "b", 0); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Range: %v, want ErrCorrupt", name, err)
		}
		put := command.Commit{Txn: raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("a", nil)}}}
		if _, _, err := New(machine.Applied()).Step(v, 2, 1, put); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Step: %v, want ErrCorrupt", name, err)
		}
	}
}

// FuzzRecords reads arbitrary bytes as each of the records.
func FuzzRecords(f *testing.F) {
	v := mapView{}
	m := New(Applied{})
	for i, c := range []command.Command{
		command.OpenSession{Node: "n", Incarnation: 1, TTL: time.Second},
		command.Commit{Txn: raftmeta.Txn{Then: []raftmeta.Op{raftmeta.PutEphemeral("k", []byte("v"), 1), raftmeta.Delete("none")}}},
	} {
		_, muts, err := m.Step(v, uint64(i+1), 1, c)
		if err != nil {
			f.Fatal(err)
		}
		v.apply(muts)
	}
	for _, b := range v {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := mapView{"ska": b, string(sessionKey(1)): b, "snn": b, string(eventKey(1)): b}
		_, _, err1 := Get(v, "a")
		_, err2 := Sessions(v)
		err3 := Events(v, 0, 1, func(raftmeta.Revision, []raftmeta.Event) bool { return true })
		_, err4 := ReadApplied(mapView{"sa": b})
		_, _, err5 := New(Applied{}).Step(v, 1, 1, command.OpenSession{Node: "n", Incarnation: 9, TTL: time.Second})
		for _, err := range []error{err1, err2, err3, err4, err5} {
			if err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error %v is no ErrCorrupt", err)
			}
		}
	})
}
