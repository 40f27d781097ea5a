package dispatch

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/ledgerfs"
)

// The hashes were read off a Pulsar client's own Murmur3 and from the published vectors of MurmurHash3_x86_32.
func TestHashIsMurmur3(t *testing.T) {
	for _, c := range []struct {
		key  string
		want uint32
	}{
		{"", 0}, {"hello", 0x248bfa47}, {"hello, world", 0x149bbb7f},
		{"The quick brown fox jumps over the lazy dog", 0x2e4ff723},
	} {
		if got := murmur3([]byte(c.key)); got != c.want {
			t.Errorf("murmur3(%q) = %#x, want %#x", c.key, got, c.want)
		}
	}
	for key, want := range map[string]int32{
		"key-shared-0": 30051, "key-shared-1": 9321, "key-shared-2": 34195, "key1": 293, "key2": 14772, "key3": 60248, "": 1,
	} {
		if got := Hash([]byte(key)); got != want {
			t.Errorf("Hash(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestActiveIsByPriorityThenNameThenPartition(t *testing.T) {
	cs := func(s ...any) (out []Candidate) {
		for i := 0; i < len(s); i += 2 {
			out = append(out, Candidate{int32(s[i].(int)), s[i+1].(string)})
		}
		return out
	}
	for _, c := range []struct {
		cs        []Candidate
		partition int
		want      int
	}{
		{nil, 0, -1},
		{cs(0, "b"), -1, 0},
		{cs(0, "b", 0, "a"), -1, 1},
		{cs(0, "b", 0, "a"), 0, 1},
		{cs(0, "b", 0, "a"), 1, 0},
		{cs(0, "b", 0, "a"), 2, 1},
		{cs(1, "a", 0, "b", 0, "c"), 0, 1},
		{cs(1, "a", 0, "b", 0, "c"), 1, 2},
		{cs(1, "a", 0, "b", 0, "c"), 2, 1},
		{cs(0, "a", 0, "a"), 0, 0},
		{cs(0, "a", 0, "a"), 1, 1},
	} {
		if got := Active(c.cs, c.partition); got != c.want {
			t.Errorf("Active(%v, %d) = %d, want %d", c.cs, c.partition, got, c.want)
		}
	}
}

// Whoever comes and goes, every hash has one owner, and owners only change where they must.
func TestAutoSplitCoversEveryHash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var k Keys
		var in []*Consumer
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if len(in) == 0 || rapid.Bool().Draw(t, "join") {
				c := &Consumer{}
				if err := k.Add(c, nil); err != nil {
					t.Fatal(err)
				}
				in = append(in, c)
			} else {
				i := rapid.IntRange(0, len(in)-1).Draw(t, "leaves")
				k.Remove(in[i])
				in = slices.Delete(in, i, i+1)
			}
			next := int32(0)
			for _, s := range k.spans {
				if s.Start != next || s.End < s.Start || !slices.Contains(in, s.c) {
					t.Fatalf("spans %v do not tile the hashes", k.spans)
				}
				next = s.End + 1
			}
			if len(in) > 0 && next != HashRange {
				t.Fatalf("hashes from %d on have no owner", next)
			}
			for _, c := range in {
				if len(k.Ranges(c)) == 0 {
					t.Fatal("a consumer has no hashes")
				}
			}
			h := rapid.Int32Range(0, HashRange-1).Draw(t, "hash")
			if len(in) > 0 && k.Owner(h) == nil {
				t.Fatalf("hash %d has no owner", h)
			}
		}
	})
}

func TestTwoConsumersHaveHalves(t *testing.T) {
	var k Keys
	a, b := &Consumer{}, &Consumer{}
	k.Add(a, nil)
	k.Add(b, nil)
	if k.Owner(32767) != b || k.Owner(32768) != a || k.Owner(0) != b || k.Owner(HashRange-1) != a {
		t.Fatalf("spans %v", k.spans)
	}
}

func TestStickyRanges(t *testing.T) {
	k := Keys{Sticky: true}
	a, b := &Consumer{}, &Consumer{}
	if err := k.Add(a, []Range{{100, 199}, {300, 399}}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]Range{nil, {{-1, 5}}, {{5, 4}}, {{0, HashRange}}, {{199, 250}}, {{0, 100}}, {{0, 1000}}, {{150, 160}}, {{0, 9}, {5, 20}}} {
		if err := k.Add(b, bad); !errors.Is(err, ErrRanges) {
			t.Errorf("ranges %v: %v, want ErrRanges", bad, err)
		}
	}
	if err := k.Add(b, []Range{{200, 299}}); err != nil {
		t.Fatal(err)
	}
	for h, want := range map[int32]*Consumer{99: nil, 100: a, 199: a, 200: b, 299: b, 300: a, 399: a, 400: nil} {
		if k.Owner(h) != want {
			t.Errorf("hash %d has the wrong owner", h)
		}
	}
	if k.Conflict([]Range{{250, 260}}) != b || k.Conflict([]Range{{0, 50}}) != nil {
		t.Error("conflicts are wrong")
	}
	k.Remove(a)
	if k.Owner(150) != nil || k.Owner(250) != b {
		t.Error("hashes of the one who left are still owned, or others are lost")
	}
}

func pos(i int) ledgerfs.Position {
	return ledgerfs.Position{Ledger: ledgerfs.LedgerID(1 + i/10), Entry: ledgerfs.EntryID(i % 10)}
}

func add(t testing.TB, q *Queue, priority int32, permits int64) *Consumer {
	c, err := q.Add(priority, nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Flow(c, permits)
	return c
}

func TestSharedTakesTurns(t *testing.T) {
	q := &Queue{}
	a, b := add(t, q, 0, 1000), add(t, q, 0, 1000)
	q.Round()
	var got []*Consumer
	for i := range 3 * RoundRobin {
		c, out := q.Deal(Entry{Position: pos(i), Messages: 1})
		if out != Dealt {
			t.Fatalf("entry %d: outcome %v", i, out)
		}
		got = append(got, c)
	}
	for i, c := range got {
		if want := got[i/RoundRobin*RoundRobin]; c != want {
			t.Fatalf("entry %d went to another consumer in the middle of a turn", i)
		}
	}
	if got[0] == got[RoundRobin] || a.Unacked() == 0 || b.Unacked() == 0 {
		t.Fatal("the second turn went to the same consumer")
	}
}

func TestSharedServesPriorityFirst(t *testing.T) {
	q := &Queue{}
	low, high := add(t, q, 5, 10), add(t, q, 1, 3)
	for i := range 6 {
		c, out := q.Deal(Entry{Position: pos(i), Messages: 1})
		want := high
		if i >= 3 {
			want = low
		}
		if out != Dealt || c != want {
			t.Fatalf("entry %d: outcome %v, wrong consumer", i, out)
		}
	}
	q.Flow(high, 1)
	if c, _ := q.Deal(Entry{Position: pos(6), Messages: 1}); c != high {
		t.Fatal("the one with priority has permits again and did not get the entry")
	}
}

func TestUnackedLimitStopsExactly(t *testing.T) {
	q := &Queue{MaxUnacked: 100}
	c := add(t, q, 0, 1000)
	for i := range 100 {
		if _, out := q.Deal(Entry{Position: pos(i), Messages: 1}); out != Dealt {
			t.Fatalf("entry %d: outcome %v", i, out)
		}
	}
	if _, out := q.Deal(Entry{Position: pos(100), Messages: 1}); out != Refused || !q.Blocked(c) {
		t.Fatalf("the limit does not hold: outcome %v", out)
	}
	if again, fresh := q.Plan(nil, 10); len(again) != 0 || fresh != 0 {
		t.Fatal("a blocked consumer makes work")
	}
	q.Acked(c, pos(7))
	if _, out := q.Deal(Entry{Position: pos(100), Messages: 1}); out != Dealt {
		t.Fatalf("an acknowledgement gave no room: outcome %v", out)
	}
}

func TestRedeliveryIsCountedOnlyWhenAskedFor(t *testing.T) {
	q := &Queue{}
	a := add(t, q, 0, 10)
	q.Deal(Entry{Position: pos(0), Messages: 1})
	for want := uint32(1); want <= 3; want++ {
		if q.Redeliver(a, []ledgerfs.Position{pos(0), pos(5)}) != 1 {
			t.Fatal("redelivery of what is held, and only that")
		}
		again, _ := q.Plan(nil, 10)
		if len(again) != 1 {
			t.Fatalf("planned %v", again)
		}
		if _, out := q.DealAgain(Entry{Position: pos(0), Messages: 1}); out != Dealt || q.RedeliveryCount(pos(0)) != want {
			t.Fatalf("outcome %v, count %d, want %d", out, q.RedeliveryCount(pos(0)), want)
		}
	}
	b := add(t, q, 0, 10)
	q.Remove(a)
	q.Plan(nil, 10)
	if c, out := q.DealAgain(Entry{Position: pos(0), Messages: 1}); out != Dealt || c != b || q.RedeliveryCount(pos(0)) != 3 {
		t.Fatal("a lost consumer must not count as a redelivery")
	}
	q.Acked(b, pos(0))
	if q.RedeliveryCount(pos(0)) != 0 || q.Unacked() != 0 {
		t.Fatal("an acknowledged entry leaves a trace")
	}
}

func TestChunksStayTogether(t *testing.T) {
	q := &Queue{}
	add(t, q, 0, 100)
	add(t, q, 0, 100)
	key := ChunkKey([]byte("m1"))
	first, _ := q.Deal(Entry{Position: pos(0), Key: key, Messages: 1})
	for i := 1; i < 50; i++ {
		if i == 30 {
			q.Pause(first, true)
		}
		c, out := q.Deal(Entry{Position: pos(i), Key: key * int32(i%2), Messages: 1, LastChunk: i == 49})
		if i%2 == 0 {
			continue
		}
		if i < 30 && (out != Dealt || c != first) || i > 30 && out != Kept {
			t.Fatalf("chunk %d: outcome %v", i, out)
		}
	}
	q.Pause(first, false)
	again, _ := q.Plan(nil, 100)
	if len(again) != 10 {
		t.Fatalf("planned %v", again)
	}
	for _, p := range again {
		if c, out := q.DealAgain(Entry{Position: p, Messages: 1, LastChunk: p == pos(49)}); out != Dealt || c != first {
			t.Fatalf("chunk %v: outcome %v", p, out)
		}
	}
	if len(q.chunks) != 0 {
		t.Fatal("a finished message is remembered")
	}
}

// model is a topic and a subscription in their slowest, plainest form: it drives a Queue as a subscription does and
// checks what comes out against what the package promises.
type model struct {
	q       *Queue
	keyed   bool
	in      []*Consumer
	written int // entries in the topic
	read    int // entries read anew
	keyOf   map[int]int32
	holder  map[int]*Consumer // who was given what and has not given it back
	acked   map[int]bool
}

func (m *model) give(t *rapid.T, c *Consumer, i int) {
	if m.holder[i] != nil {
		t.Fatalf("entry %d was dealt while somebody holds it", i)
	}
	if m.acked[i] {
		t.Fatalf("entry %d was dealt after it was acknowledged", i)
	}
	if c.permits+int64(1) <= 0 {
		t.Fatalf("entry %d was dealt without permits", i)
	}
	if key := m.keyOf[i]; key != 0 {
		for j, h := range m.holder {
			if m.keyOf[j] == key && h != c {
				t.Fatalf("entries %d and %d of one key are with two consumers", i, j)
			}
		}
		for j := range i {
			// Earlier entries of the key: acknowledged, or already with this consumer.
			if m.keyOf[j] == key && !m.acked[j] && m.holder[j] == nil {
				t.Fatalf("entry %d was dealt before %d of the same key", i, j)
			}
		}
	}
	m.holder[i] = c
}

func (m *model) held(c *Consumer) (is []int) {
	for i, h := range m.holder {
		if h == c {
			is = append(is, i)
		}
	}
	slices.Sort(is)
	return is
}

// meanwhile does something between plan and deal, now and then, and says whether it did.
func (m *model) meanwhile(t *rapid.T) bool {
	if len(m.in) == 0 || rapid.IntRange(0, 3).Draw(t, "meanwhile") > 0 {
		return false
	}
	c := m.in[rapid.IntRange(0, len(m.in)-1).Draw(t, "who")]
	switch rapid.IntRange(0, 3).Draw(t, "what") {
	case 0:
		m.q.Flow(c, 3)
	case 1:
		for _, i := range m.held(c) {
			m.q.Acked(nil, pos(i))
			m.acked[i] = true
			delete(m.holder, i)
		}
	case 2:
		for _, i := range m.held(c) {
			delete(m.holder, i)
		}
		m.q.Redeliver(c, nil)
	case 3:
		for _, i := range m.held(c) {
			delete(m.holder, i)
		}
		m.in = slices.DeleteFunc(m.in, func(o *Consumer) bool { return o == c })
		m.q.Remove(c)
	}
	return true
}

func (m *model) drain(t *rapid.T) {
	for range 10_000 {
		m.q.Round()
		again, fresh := m.q.Plan(nil, 7)
		if !slices.IsSortedFunc(again, ledgerfs.Position.Compare) {
			t.Fatalf("plan %v is out of order", again)
		}
		// While the entries are being read, with nothing locked, anything may happen.
		disturbed := m.meanwhile(t)
		progress := false
		if len(again) > 0 {
			for _, p := range again {
				i := int(p.Ledger-1)*10 + int(p.Entry)
				c, out := m.q.DealAgain(Entry{Position: p, Messages: 1})
				if out == Dealt {
					m.give(t, c, i)
					progress = true
				}
			}
			if !progress && !disturbed {
				t.Fatalf("planned %v, and nothing could be dealt", again)
			}
			continue
		}
		for range min(fresh, m.written-m.read) {
			i := m.read
			c, out := m.q.Deal(Entry{Position: pos(i), Key: m.keyOf[i], Messages: 1})
			if out == Refused {
				if m.keyed {
					t.Fatal("Key_Shared refused an entry")
				}
				break
			}
			m.read++
			progress = true
			if out == Dealt {
				m.give(t, c, i)
			}
		}
		if !progress && !disturbed {
			return
		}
	}
	t.Fatal("dealing never ends")
}

// Nothing is lost, nothing is with two consumers, and the entries of a key stay in order, whatever consumers and
// producers do.
func TestQueueKeepsItsPromises(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed=%v", keyed), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := &model{q: &Queue{LookAhead: 15}, keyed: keyed, keyOf: map[int]int32{}, holder: map[int]*Consumer{}, acked: map[int]bool{}}
				if keyed {
					m.q.Keys = &Keys{}
				}
				release := func(i int) { m.holder[i] = nil; delete(m.holder, i) }
				some := func(t *rapid.T) *Consumer {
					if len(m.in) == 0 {
						t.Skip("nobody is there")
					}
					return m.in[rapid.IntRange(0, len(m.in)-1).Draw(t, "consumer")]
				}
				t.Repeat(map[string]func(*rapid.T){
					"publish": func(t *rapid.T) {
						for range rapid.IntRange(1, 10).Draw(t, "n") {
							if keyed {
								m.keyOf[m.written] = rapid.Int32Range(1, 6).Draw(t, "key") * 10_000
							}
							m.written++
						}
						m.drain(t)
					},
					"join": func(t *rapid.T) {
						if len(m.in) > 5 {
							t.Skip("full")
						}
						c, err := m.q.Add(rapid.Int32Range(0, 1).Draw(t, "priority"), nil)
						if err != nil {
							t.Fatal(err)
						}
						m.in = append(m.in, c)
						m.drain(t)
					},
					"flow": func(t *rapid.T) {
						m.q.Flow(some(t), rapid.Int64Range(1, 8).Draw(t, "permits"))
						m.drain(t)
					},
					"pause": func(t *rapid.T) {
						m.q.Pause(some(t), rapid.Bool().Draw(t, "on"))
						m.drain(t)
					},
					"ack": func(t *rapid.T) {
						c := some(t)
						is := m.held(c)
						if len(is) == 0 {
							t.Skip("nothing to acknowledge")
						}
						i := rapid.SampledFrom(is).Draw(t, "entry")
						if m.q.Acked(c, pos(i)) != 1 {
							t.Fatal("an acknowledgement of a held entry relieves of one message")
						}
						m.acked[i] = true
						release(i)
						m.drain(t)
					},
					"redeliver": func(t *rapid.T) {
						c := some(t)
						is := m.held(c)
						if len(is) == 0 {
							t.Skip("nothing to redeliver")
						}
						// A client that asks for one entry of a key again has let go of the later ones too, or has broken the
						// order itself.
						if !keyed && rapid.Bool().Draw(t, "one") {
							is = []int{rapid.SampledFrom(is).Draw(t, "entry")}
						}
						var ps []ledgerfs.Position
						for _, i := range is {
							ps = append(ps, pos(i))
							release(i)
						}
						if n := m.q.Redeliver(c, ps); n != len(ps) {
							t.Fatalf("redelivered %d of %d", n, len(ps))
						}
						m.drain(t)
					},
					"leave": func(t *rapid.T) {
						c := some(t)
						for _, i := range m.held(c) {
							release(i)
						}
						m.in = slices.DeleteFunc(m.in, func(o *Consumer) bool { return o == c })
						m.q.Remove(c)
						m.drain(t)
					},
					"": func(t *rapid.T) {
						var unacked int64
						for _, c := range m.in {
							if n := int64(len(m.held(c))); c.Unacked() != n {
								t.Fatalf("a consumer counts %d unacknowledged messages and has %d", c.Unacked(), n)
							}
							unacked += c.Unacked()
						}
						if m.q.Unacked() != unacked {
							t.Fatalf("%d unacknowledged in all, want %d", m.q.Unacked(), unacked)
						}
						for i := range m.read {
							_, waits := m.q.waiting.find(pos(i))
							if states := btoi(waits) + btoi(m.acked[i]) + btoi(m.holder[i] != nil); states != 1 {
								t.Fatalf("entry %d is in %d places", i, states)
							}
						}
					},
				})
				// In the end everything can be consumed.
				for range 20*m.written + 1 {
					if len(m.in) == 0 {
						c, _ := m.q.Add(0, nil)
						m.in = append(m.in, c)
					}
					for _, c := range m.in {
						m.q.Pause(c, false)
						m.q.Flow(c, 100)
					}
					m.drain(t)
					for _, c := range m.in {
						for _, i := range m.held(c) {
							m.q.Acked(c, pos(i))
							m.acked[i] = true
							release(i)
						}
					}
				}
				if len(m.acked) != m.written {
					t.Fatalf("%d of %d entries were consumed", len(m.acked), m.written)
				}
				if m.q.Waiting() != 0 || len(m.q.counts) != 0 || len(m.q.holders) != 0 || len(m.q.waiting.keys) != 0 {
					t.Fatal("a consumed topic leaves a trace")
				}
			})
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func BenchmarkDealAndAck(b *testing.B) {
	q := &Queue{}
	for range 3 {
		add(b, q, 0, 1<<40)
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		p := ledgerfs.Position{Ledger: 1, Entry: ledgerfs.EntryID(i)}
		c, _ := q.Deal(Entry{Position: p, Messages: 1})
		q.Acked(c, p)
		i++
	}
}

// BenchmarkKeysBehind deals the entries of three consumers: one takes nothing, so that a look-ahead full of its
// entries waits, one is always some hundred entries behind, one keeps up.
func BenchmarkKeysBehind(b *testing.B) {
	q := &Queue{Keys: &Keys{}, LookAhead: 1 << 30}
	stuck, late, quick := add(b, q, 0, 0), add(b, q, 0, 1<<40), add(b, q, 0, 1<<40)
	keys := map[*Consumer][]int32{}
	for key := int32(1); key < HashRange; key += 97 {
		c := q.Keys.Owner(key)
		keys[c] = append(keys[c], key)
	}
	next := 0
	deal := func(c *Consumer) {
		p := ledgerfs.Position{Ledger: 1, Entry: ledgerfs.EntryID(next)}
		if c, out := q.Deal(Entry{Position: p, Messages: 1, Key: keys[c][next%len(keys[c])]}); out == Dealt {
			q.Acked(c, p)
		}
		next++
	}
	for range 15_000 {
		deal(stuck)
	}
	const each = 250
	var plan []ledgerfs.Position
	b.ReportAllocs()
	for b.Loop() {
		q.Pause(late, true)
		for range each {
			deal(late)
			deal(quick)
		}
		q.Pause(late, false)
		for plan, _ = q.Plan(plan[:0], each); len(plan) > 0; plan, _ = q.Plan(plan[:0], each) {
			for _, p := range plan {
				if c, out := q.DealAgain(Entry{Position: p, Messages: 1}); out == Dealt {
					q.Acked(c, p)
				}
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(2*each), "ns/entry")
}
