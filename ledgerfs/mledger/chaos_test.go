package mledger

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"pgregory.net/rapid"
)

// A producer sends 0, 1, 2, … and behaves as clients do: after a failure it sends everything that was not acknowledged
// again, in order.
type producer struct {
	id    int
	next  int // to be sent
	acked map[int]ledgerfs.Position
	first int // the first that is not acknowledged
	conn  *connection
}

// A connection ends with the first failure.
type connection struct {
	line    Line
	broken  bool
	pending int
}

func newProducer(id int) *producer {
	return &producer{id: id, acked: map[int]ledgerfs.Position{}, conn: &connection{}}
}

type send struct {
	Append
	p   *producer
	c   *connection
	n   int
	gen *chaos
}

type chaos struct {
	mu    chan struct{} // a lock that synctest can see through
	fault string        // the first violation, reported by the test's goroutine
}

func (s *send) AppendCompleted(_ *Append, err error) {
	s.gen.mu <- struct{}{}
	defer func() { <-s.gen.mu }()
	s.c.pending--
	if err != nil {
		s.c.broken = true
		return
	}
	if s.c.broken {
		s.gen.fault = fmt.Sprintf("producer %d: %d was acknowledged after an earlier one failed", s.p.id, s.n)
	}
	s.p.acked[s.n] = s.Position
	s.p.first = max(s.p.first, s.n+1)
}

// bubble runs one case of a property in virtual time. A failure of rt or of the TB that f gets is a panic, which would
// end the process if it left the bubble's goroutine: it is carried out, so that rapid shrinks the case and prints how
// to run it again.
func bubble(t *testing.T, rt *rapid.T, f func(t testing.TB)) {
	var failure any
	synctest.Test(t, func(t *testing.T) {
		defer func() { failure = recover() }()
		f(property{t, rt})
	})
	if failure != nil {
		panic(failure)
	}
}

// A property is the test that a bubble runs in, and fails as the case of the property.
type property struct {
	testing.TB
	rt *rapid.T
}

func (p property) Fatal(args ...any)                 { p.rt.Fatal(args...) }
func (p property) Fatalf(format string, args ...any) { p.rt.Fatalf(format, args...) }
func (p property) Error(args ...any)                 { p.rt.Error(args...) }
func (p property) Errorf(format string, args ...any) { p.rt.Errorf(format, args...) }

// Whatever fails, and whenever the process dies or is taken for dead and goes on: every acknowledged entry is at its
// position with its bytes, indexes have no gap, and each producer's entries are in order, repetitions of unacknowledged
// ones aside.
func TestAcknowledgedEntriesSurviveEverything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := rapid.IntRange(1, 3).Draw(rt, "ensemble")
		qw := rapid.IntRange(1, e).Draw(rt, "write")
		qa := rapid.IntRange(1, qw).Draw(rt, "ack")
		o := Options{Ensemble: e, WriteQuorum: qw, AckQuorum: qa, MaxEntries: 8, MinRollover: -1, RetainTime: -1, RetainBytes: -1}
		type step struct{ kind, arg int }
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.IntRange(0, 19).Draw(rt, "kind"), rapid.IntRange(0, 2).Draw(rt, "arg")}
		}), 5, 80).Draw(rt, "steps")
		bubble(t, rt, func(t testing.TB) {
			w := newWorld(t, 3)
			w.now.Store(0)
			c := &chaos{mu: make(chan struct{}, 1)}
			producers := []*producer{newProducer(0), newProducer(1)}
			p := w.start()
			l := p.open("a", o)
			heal := func() {
				for i := range 3 {
					w.At(i).Heal()
				}
			}
			lock := func() func() { c.mu <- struct{}{}; return func() { <-c.mu } }
			reopen := func() {
				heal()
				for _, pr := range producers {
					unlock := lock()
					pr.conn, pr.next = &connection{}, pr.first
					unlock()
				}
				p = w.start()
				var err error
				if l, err = p.OpenOrCreate(context.Background(), topic(t, "a"), o); err != nil {
					rt.Fatalf("open with all bookies up: %v", err)
				}
			}
			publish := func(pr *producer) {
				unlock := lock()
				if pr.conn.broken {
					if pr.conn.pending > 0 {
						unlock()
						return
					}
					pr.conn, pr.next = &connection{}, pr.first
				}
				n := pr.next
				pr.next++
				pr.conn.pending++
				s := &send{p: pr, c: pr.conn, n: n, gen: c}
				unlock()
				s.Append = Append{Payload: fmt.Appendf(nil, "%d %d", pr.id, n), Messages: 1, Line: &s.c.line, Done: s}
				l.Append(&s.Append)
			}
			for _, s := range steps {
				b := w.At(s.arg)
				switch s.kind {
				case 0:
					b.Hang()
				case 1:
					b.DropAdds()
				case 2:
					b.DropReplies()
				case 3:
					b.FailAdds(1, ledgerfs.ErrIO)
				case 4:
					b.FailAdds(2, ledgerfs.ErrNoSpace)
				case 5:
					b.Full()
				case 6, 7:
					heal()
				case 8:
					w.store.LoseAnswers(1)
				case 9:
					time.Sleep(time.Duration(s.arg+1) * time.Second)
				case 10:
					p.crash()
					reopen()
				case 11:
					// The process is taken for dead: a new owner opens the topic, and the old one goes on for a while.
					old := l
					heal()
					reopen()
					s := &send{p: newProducer(9), c: &connection{}, gen: c}
					s.Append = Append{Payload: []byte("9 0"), Messages: 1, Done: s}
					old.Append(&s.Append)
					synctest.Wait()
					time.Sleep(10 * time.Second)
					unlock := lock()
					if len(s.p.acked) > 0 {
						c.fault = "a former owner's append is acknowledged"
					}
					unlock()
				case 12:
					heal()
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					err := l.Close(ctx)
					cancel()
					if err != nil {
						rt.Fatalf("close with all bookies up: %v", err)
					}
					reopen()
				case 13:
					l.apply(event{kind: evRoll, now: w.clock()})
				case 14, 15:
					synctest.Wait()
				default:
					for range s.arg*3 + 1 {
						publish(producers[s.kind%2])
					}
				}
				if l.Err() != nil {
					rt.Fatalf("fenced without a new owner: %v", l.Err())
				}
			}
			heal()
			time.Sleep(time.Minute)
			synctest.Wait()
			if c.fault != "" {
				rt.Fatal(c.fault)
			}
			// In the end it must work again.
			r := &result{done: make(chan struct{})}
			for i := 0; ; i++ {
				*r = result{done: make(chan struct{})}
				r.Append = Append{Payload: []byte("8 0"), Messages: 1, Done: r}
				l.Append(&r.Append)
				if err := r.wait(); err == nil {
					break
				} else if i > 100 {
					rt.Fatalf("no append succeeds: %v", err)
				}
				time.Sleep(100 * time.Millisecond)
			}
			for _, reopened := range []bool{false, true} {
				if reopened {
					p.crash()
					reopen()
				}
				check(rt, l, producers)
			}
		})
	})
}

func check(rt *rapid.T, l *Ledger, producers []*producer) {
	at := map[ledgerfs.Position]string{}
	seen := map[int]int{} // by producer: how many different entries have come
	next := int64(0)
	for pos := chain.None; ; {
		es, err := l.Read(context.Background(), nil, pos.Next(), 100, 1<<20)
		if err != nil {
			rt.Fatal(err)
		}
		if len(es) == 0 {
			break
		}
		for _, e := range es {
			pos = ledgerfs.Position{Ledger: e.Ledger, Entry: e.Entry}
			p, b, err := CutPrefix(e.Payload)
			if err != nil || p.Index != next {
				rt.Fatalf("%v has index %d, want %d: %v", pos, p.Index, next, err)
			}
			next++
			at[pos] = string(b)
			var id, n int
			if _, err := fmt.Sscan(string(b), &id, &n); err != nil {
				rt.Fatalf("%v holds %q", pos, b)
			}
			if n > seen[id] {
				rt.Fatalf("%v holds %q, but %d %d has not come", pos, b, id, seen[id])
			}
			if n == seen[id] {
				seen[id]++
			}
		}
	}
	if got := l.NextIndex(); got != next {
		rt.Fatalf("next index %d, want %d", got, next)
	}
	for _, pr := range producers {
		for n, pos := range pr.acked {
			if want := fmt.Sprintf("%d %d", pr.id, n); at[pos] != want {
				rt.Fatalf("%v was acknowledged as %q and holds %q", pos, want, at[pos])
			}
		}
	}
	r := l.Fence().Record
	for i := range r.Ledgers {
		if c := r.Ledgers[i]; c.Closed && (c.Entries == 0 || c.Messages != c.Entries) {
			rt.Fatalf("ledger %+v", c)
		}
	}
	if errors.Is(l.Err(), ErrFenced) {
		rt.Fatal("fenced")
	}
}

// With nothing retained, ledgers go as soon as all cursors have passed them: never one that holds an entry that some
// cursor has not acknowledged, whatever crashes, and in the end nothing is left that nobody refers to.
func TestOnlyAcknowledgedEntriesAreTrimmed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := Options{MaxEntries: 5, MinRollover: -1}
		type step struct{ kind, arg int }
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.IntRange(0, 15).Draw(rt, "kind"), rapid.IntRange(0, 1000).Draw(rt, "arg")}
		}), 5, 80).Draw(rt, "steps")
		bubble(t, rt, func(t testing.TB) {
			ctx := context.Background()
			w := newWorld(t, 1)
			w.now.Store(0)
			p := w.start()
			l := p.open("a", o)
			names := []string{"x", "y"}
			acked := map[string]map[ledgerfs.Position]bool{"x": {}, "y": {}}
			for _, n := range names {
				if _, _, err := l.OpenCursor(ctx, n, Earliest, nil); err != nil {
					rt.Fatal(err)
				}
			}
			held := map[ledgerfs.Position]string{}
			var ps []ledgerfs.Position
			publish := func(n int) {
				for range n {
					s := fmt.Sprint(len(ps))
					pos := mustPublish(t, l, s)
					ps = append(ps, pos)
					held[pos] = s
				}
			}
			publish(3)
			for _, s := range steps {
				c := l.Cursor(names[s.arg%2])
				switch s.kind {
				case 0, 1, 2:
					publish(s.arg%7 + 1)
				case 3, 4, 5:
					pos := ps[s.arg%len(ps)]
					c.Ack(pos, nil)
					acked[c.Name()][pos] = true
				case 6, 7:
					to := ps[s.arg%len(ps)]
					c.AckAll(to, nil)
					for _, pos := range ps {
						if !to.Less(pos) {
							acked[c.Name()][pos] = true
						}
					}
				case 8:
					if err := l.Trim(ctx); err != nil {
						rt.Fatal(err)
					}
				case 9:
					if err := c.Flush(ctx); err != nil {
						rt.Fatal(err)
					}
				case 10:
					if s.arg%3 == 0 {
						if err := l.Close(ctx); err != nil {
							rt.Fatal(err)
						}
					}
					p.crash()
					p = w.start()
					l = p.open("a", o)
				case 11:
					w.store.LoseAnswers(1)
				case 12:
					if err := l.Roll(ctx); err != nil {
						rt.Fatal(err)
					}
				default:
					time.Sleep(time.Duration(s.arg%200) * time.Millisecond)
				}
				for _, n := range names {
					c := l.Cursor(n)
					var backlog int64
					for pos, want := range held {
						if c.IsAcked(pos) {
							continue
						}
						if !l.Exists(pos) {
							if !acked[n][pos] {
								rt.Fatalf("%v was trimmed, and %s has not acknowledged it", pos, n)
							}
							continue // acknowledged, trimmed, and then the acknowledgement was lost
						}
						backlog++
						es, err := l.Read(ctx, nil, pos, 1, 1)
						if err != nil || len(es) == 0 || (ledgerfs.Position{Ledger: es[0].Ledger, Entry: es[0].Entry}) != pos {
							rt.Fatalf("read %v: %v, %v", pos, es, err)
						}
						if _, b, _ := CutPrefix(es[0].Payload); string(b) != want {
							rt.Fatalf("%v holds %q, want %q", pos, b, want)
						}
					}
					if got := c.Backlog(); got != backlog {
						rt.Fatalf("backlog of %s is %d, want %d: %+v", n, got, backlog, c.Stats())
					}
				}
			}
			if got := l.NextIndex(); got != int64(len(ps)) {
				rt.Fatalf("next index %d, want %d", got, len(ps))
			}
			if err := l.Delete(ctx); err != nil {
				rt.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			items, _, err := w.store.Range(ctx, "", "\xff", 0)
			for _, it := range items {
				if it.Key != "seq/ledger" {
					rt.Errorf("left behind: %s %v", it.Key, err)
				}
			}
			for id := range ledgerfs.LedgerID(400) {
				if len(w.At(0).Entries(id)) > 0 {
					rt.Errorf("the bookie still holds ledger %d", id)
				}
			}
		})
	})
}
