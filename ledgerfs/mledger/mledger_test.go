package mledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metatest"
)

// A world is a metadata store and bookies; environments, which are processes, come and go in it.
type world struct {
	t     testing.TB
	store *metatest.Store
	*ledgertest.Cluster
	now atomic.Int64 // ms since 1970; 0: the system's clock
}

func (w *world) clock() int64 {
	if now := w.now.Load(); now > 0 {
		return now
	}
	return time.Now().UnixMilli()
}

func newWorld(t testing.TB, bookies int) *world {
	w := &world{t: t, store: metatest.New(), Cluster: ledgertest.NewCluster(bookies)}
	w.now.Store(1_700_000_000_000)
	t.Cleanup(func() { w.store.Close() })
	return w
}

// Candidates and Bookie make a world a ledger.Bookies.
func (w *world) Candidates(context.Context) ([]ledger.Candidate, error) {
	var cs []ledger.Candidate
	for _, m := range w.Members() {
		cs = append(cs, ledger.Candidate{Member: m, Free: 1 << 30})
	}
	return cs, nil
}

func (w *world) Bookie(m ledgerfs.Member) (ledgerfs.Bookie, error) { return w.Dial(m), nil }

// A process is what dies and comes back.
type process struct {
	*Factory
	w *world
	c *ledger.Client
}

var quiet = slog.New(slog.DiscardHandler)

func (w *world) start(change ...func(*Config)) *process {
	c := ledger.New(ledger.Config{Store: w.store, Bookies: w, Clock: w.clock, Logger: quiet, AddTimeout: 2 * time.Second, CallTimeout: time.Second})
	cfg := Config{Client: c, Store: w.store, Logger: quiet, Clock: w.clock, FlushInterval: 5 * time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	p := &process{New(cfg), w, c}
	w.t.Cleanup(p.crash)
	return p
}

// crash ends the process without any farewell: what is in memory is lost.
func (p *process) crash() {
	p.mu.Lock()
	var ls []*Ledger
	for l := range p.mu.open {
		ls = append(ls, l)
	}
	p.mu.closed = true
	p.mu.Unlock()
	p.c.Close()
	for _, l := range ls {
		l.die(ErrClosed)
		l.background.Wait()
	}
	p.cancel()
	p.wg.Wait()
}

func topic(t testing.TB, s string) topicname.Name {
	n, err := topicname.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (p *process) open(name string, o Options) *Ledger {
	p.w.t.Helper()
	l, err := p.OpenOrCreate(context.Background(), topic(p.w.t, name), o)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return l
}

// A result waits for one append.
type result struct {
	Append
	err  error
	done chan struct{}
}

func (r *result) AppendCompleted(_ *Append, err error) {
	r.err = err
	close(r.done)
}

func publish(l *Ledger, payload string, messages int) *result {
	r := &result{done: make(chan struct{})}
	r.Append = Append{Payload: []byte(payload), Messages: messages, LeastPublishTime: 1, GreatestPublishTime: 2, Done: r}
	l.Append(&r.Append)
	return r
}

func (r *result) wait() error {
	<-r.done
	return r.err
}

func mustPublish(t testing.TB, l *Ledger, payload string) ledgerfs.Position {
	t.Helper()
	r := publish(l, payload, 1)
	if err := r.wait(); err != nil {
		t.Fatalf("publish %q: %v", payload, err)
	}
	return r.Position
}

// contents reads the topic from the first entry to the last, and checks that indexes are continuous.
func contents(t testing.TB, l *Ledger) []string {
	t.Helper()
	var out []string
	pos := chain.None
	next := int64(-1)
	for {
		es, err := l.Read(context.Background(), nil, pos.Next(), 7, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(es) == 0 {
			return out
		}
		for _, e := range es {
			p, rest, err := CutPrefix(e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			if next >= 0 && p.Index != next {
				t.Fatalf("entry %d:%d has index %d, want %d", e.Ledger, e.Entry, p.Index, next)
			}
			next = p.Index + 1
			out = append(out, string(rest))
			pos = ledgerfs.Position{Ledger: e.Ledger, Entry: e.Entry}
		}
	}
}

func equal(t testing.TB, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

var small = Options{MaxEntries: 10, MinRollover: -1, RetainTime: -1, RetainBytes: -1}

func TestEntriesSurviveCrashInOrderOverManyLedgers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	var want []string
	for life := range 4 {
		p := w.start()
		l := p.open("a", small)
		equal(t, contents(t, l), want)
		var rs []*result
		for i := range 45 {
			s := fmt.Sprint(life, "-", i)
			rs = append(rs, publish(l, s, 1))
			want = append(want, s)
			if i%9 == 0 {
				rs[i].wait() // gives ledgers time to roll
			}
		}
		var before ledgerfs.Position
		for i, r := range rs {
			if err := r.wait(); err != nil {
				t.Fatal(err)
			}
			if !before.Less(r.Position) || r.Index != int64(life*45+i) {
				t.Fatalf("append %d has position %v after %v, index %d", i, r.Position, before, r.Index)
			}
			before = r.Position
		}
		if l.LastConfirmed() != before {
			t.Fatalf("last confirmed %v, want %v", l.LastConfirmed(), before)
		}
		if n := l.Entries(); n != int64(len(want)) {
			t.Fatalf("%d entries, want %d", n, len(want))
		}
		equal(t, contents(t, l), want)
		if life%2 == 0 {
			p.crash()
		} else if err := p.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLedgerRollsBySizeEntriesAndAge(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		o     Options
		after func(w *world)
	}{
		"entries": {Options{MaxEntries: 3, MinRollover: -1, RetainTime: -1, RetainBytes: -1}, func(*world) {}},
		"bytes":   {Options{MaxBytes: 60, MinRollover: -1, RetainTime: -1, RetainBytes: -1}, func(*world) {}},
		"age":     {Options{RetainTime: -1, RetainBytes: -1}, func(w *world) { w.now.Add(240 * 60 * 1000) }},
		"min age": {Options{MaxEntries: 2, RetainTime: -1, RetainBytes: -1}, func(w *world) { w.now.Add(10 * 60 * 1000) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			l := w.start().open("a", tc.o)
			var first ledgerfs.Position
			for i := range 3 {
				first = mustPublish(t, l, fmt.Sprint("message", i))
			}
			tc.after(w)
			for i := 0; ; i++ {
				if p := mustPublish(t, l, fmt.Sprint("message", i)); p.Ledger != first.Ledger {
					break
				}
				if i > 100_000 {
					t.Fatal("the ledger never rolls")
				}
			}
			r := l.Fence().Record
			if c := r.Ledgers[0]; !c.Closed || !c.TimesKnown || c.Messages != c.Entries || c.Bytes == 0 {
				t.Errorf("closed ledger: %+v", c)
			}
		})
	}
}

func TestYoungLedgerDoesNotRollByEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	l := w.start().open("a", Options{MaxEntries: 2})
	p := mustPublish(t, l, "x")
	for range 20 {
		if q := mustPublish(t, l, "x"); q.Ledger != p.Ledger {
			t.Fatal("rolled before MinRollover")
		}
	}
}

func TestNewOwnerFencesTheOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	o := Options{Ensemble: 3, WriteQuorum: 3, AckQuorum: 2}
	p1, p2 := w.start(), w.start()
	old := p1.open("a", o)
	c, _, err := old.OpenCursor(context.Background(), "sub", Earliest, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := mustPublish(t, old, "one")
	l := p2.open("a", o)
	if err := publish(old, "zombie", 1).wait(); err == nil {
		t.Fatal("the former owner still writes")
	}
	if err := publish(old, "zombie", 1).wait(); err == nil {
		t.Fatal("the former owner writes again")
	}
	c.Ack(first, nil)
	if err := c.Flush(context.Background()); err == nil {
		t.Fatal("the former owner still acknowledges")
	}
	if _, _, err := old.OpenCursor(context.Background(), "late", Earliest, nil); !errors.Is(err, ErrFenced) {
		t.Fatalf("the former owner makes a cursor: %v", err)
	}
	if err := old.Err(); !errors.Is(err, ErrFenced) {
		t.Fatalf("former owner: %v", err)
	}
	mustPublish(t, l, "two")
	equal(t, contents(t, l), []string{"one", "two"})
	if l.Cursor("sub").Backlog() != 2 || l.Cursor("late") != nil {
		t.Error("the former owner has changed cursors")
	}
}

// After a failed append the topic goes on in a new ledger, nothing acknowledged is lost, and of what failed either
// it is there, in order, or not.
func TestFailedAppendsLeaveAcknowledgedOnesInOrder(t *testing.T) {
	t.Parallel()
	faults := map[string]func(b *ledgertest.Bookie){
		"adds fail":     func(b *ledgertest.Bookie) { b.FailAdds(3, ledgerfs.ErrIO) },
		"lost requests": func(b *ledgertest.Bookie) { b.DropAdds() },
		"lost replies":  func(b *ledgertest.Bookie) { b.DropReplies() },
		"down":          func(b *ledgertest.Bookie) { b.Fail(ledgerfs.ErrClosed) },
		"hang":          func(b *ledgertest.Bookie) { b.Hang() },
		"busy":          func(b *ledgertest.Bookie) { b.FailAdds(3, ledgerfs.ErrTooManyRequests) },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				defer w.At(0).Heal()
				l := w.start().open("a", Options{})
				for i := range 5 {
					mustPublish(t, l, fmt.Sprint("before", i))
				}
				fault(w.At(0))
				var rs []*result
				for i := range 10 {
					rs = append(rs, publish(l, fmt.Sprint("during", i), 1))
				}
				failed := false
				acked := map[string]bool{}
				for i, r := range rs {
					err := r.wait()
					if err == nil {
						acked[fmt.Sprint("during", i)] = true
						continue
					}
					failed = true
					if !errors.Is(err, ErrAppend) && !errors.Is(err, ErrRejected) {
						t.Errorf("failed with %v", err)
					}
				}
				if !failed {
					t.Fatal("nothing has failed")
				}
				w.At(0).Heal()
				for i := 0; ; i++ {
					r := publish(l, "after", 1)
					if err := r.wait(); err == nil {
						break
					} else if !errors.Is(err, ErrRejected) && !errors.Is(err, ErrAppend) {
						t.Fatal(err)
					}
					time.Sleep(time.Millisecond)
				}
				got := contents(t, l)
				at := 0
				for i := range 5 {
					if got[at] != fmt.Sprint("before", i) {
						t.Fatalf("entry %d is %q", at, got[at])
					}
					at++
				}
				last := -1
				for ; at < len(got)-1; at++ {
					var n int
					if _, err := fmt.Sscanf(got[at], "during%d", &n); err != nil || n <= last {
						t.Fatalf("entry %d is %q after during%d", at, got[at], last)
					}
					last = n
					delete(acked, got[at])
				}
				if got[at] != "after" || len(acked) > 0 {
					t.Fatalf("got %v, missing %v", got, acked)
				}
			})
		})
	}
}

func TestNoSpaceRefusesBeforeAnythingIsWrittenAndEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	l := w.start().open("a", Options{})
	c, _, err := l.OpenCursor(context.Background(), "sub", Earliest, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := mustPublish(t, l, "one")
	w.At(0).Full()
	for range 3 {
		var rs []*result
		for i := range 10 {
			rs = append(rs, publish(l, fmt.Sprint("refused", i), 1))
		}
		for _, r := range rs {
			if err := r.wait(); !errors.Is(err, ErrNoSpace) {
				t.Fatalf("append on a full disk: %v", err)
			}
		}
	}
	c.Ack(first, nil)
	if err := c.Flush(context.Background()); err != nil {
		t.Fatalf("acknowledgement on a full disk: %v", err)
	}
	w.At(0).Heal()
	if p := mustPublish(t, l, "two"); p != first.Next() {
		t.Errorf("after the refusals an entry has position %v, want %v", p, first.Next())
	}
	equal(t, contents(t, l), []string{"one", "two"})
}

// On one line, nothing passes a failure, whenever the caller is told of it: otherwise what a producer sent later could
// be stored, and what it sent before not. Others are not held up, nor is the next line.
func TestNothingPassesAFailureOfItsLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	l := w.start().open("a", Options{})
	mustPublish(t, l, "one")
	w.At(0).FailAdds(1, ledgerfs.ErrNoSpace)
	line := new(Line)
	on := func(line *Line, payload string) *result {
		r := &result{done: make(chan struct{})}
		r.Append = Append{Payload: []byte(payload), Messages: 1, Line: line, Done: r}
		l.Append(&r.Append)
		return r
	}
	bad := newBlocking("bad")
	bad.Line = line
	l.Append(&bad.Append)
	<-bad.told // its completion is running, and does not return
	early, other := on(line, "early"), on(new(Line), "other")
	close(bad.release)
	if err := early.wait(); !errors.Is(err, ErrRejected) {
		t.Fatalf("append before the failure was reported: %v", err)
	}
	if err := other.wait(); err != nil {
		t.Fatalf("append on another line: %v", err)
	}
	// Long after the report, as it is when the caller decided on it before.
	late := on(line, "late")
	if err := late.wait(); !errors.Is(err, ErrRejected) {
		t.Fatalf("append after the failure was reported: %v", err)
	}
	if err := on(new(Line), "two").wait(); err != nil {
		t.Fatalf("append on the next line: %v", err)
	}
	equal(t, contents(t, l), []string{"one", "other", "two"})
}

// An append that reaches the writer after it has taken back the entries of refused ones, and before this package hears
// of that, has a position and an index that are wrong by then: it fails, too.
func TestNothingIsStoredAtATakenBackPosition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		l := w.start().open("a", Options{Ensemble: 2, WriteQuorum: 1, AckQuorum: 1})
		mustPublish(t, l, "zero")
		before := w.At(0).Adds()
		first := newBlocking("one")
		l.Append(&first.Append)
		<-first.told // and holds up the answers that come after it
		// The next entry goes to the other bookie.
		other := w.At(0)
		if other.Adds() > before {
			other = w.At(1)
		}
		other.FailAdds(1, ledgerfs.ErrNoSpace)
		refused := publish(l, "refused", 1)
		synctest.Wait()
		late := publish(l, "late", 1)
		synctest.Wait()
		close(first.release)
		if err := refused.wait(); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("append without space: %v", err)
		}
		if err := late.wait(); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("append at a position that was taken back: %v", err)
		}
		mustPublish(t, l, "two")
		equal(t, contents(t, l), []string{"zero", "one", "two"})
	})
}

// A blocking append's completion does not return before release.
type blocking struct {
	Append
	told, release chan struct{}
}

func newBlocking(payload string) *blocking {
	b := &blocking{told: make(chan struct{}), release: make(chan struct{})}
	b.Append = Append{Payload: []byte(payload), Messages: 1, Done: b}
	return b
}

func (b *blocking) AppendCompleted(*Append, error) {
	close(b.told)
	<-b.release
}

func TestLostMetadataAnswersDoNoHarm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.store.LoseAnswers(1)
	p := w.start()
	l := p.open("a", small)
	var want []string
	for i := range 60 {
		if i%7 == 0 {
			w.store.LoseAnswers(1)
		}
		want = append(want, fmt.Sprint(i))
		mustPublish(t, l, fmt.Sprint(i))
	}
	w.store.LoseAnswers(1)
	if _, _, err := l.OpenCursor(context.Background(), "sub", Earliest, nil); err != nil {
		t.Fatal(err)
	}
	w.store.LoseAnswers(1)
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	l = p.open("a", small)
	equal(t, contents(t, l), want)
	w.store.LoseAnswers(1)
	if err := l.Delete(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestTerminatedTopicTakesNothingAndStaysReadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	p := w.start()
	l := p.open("a", Options{})
	last := mustPublish(t, l, "one")
	for range 2 {
		if got, err := l.Terminate(context.Background()); err != nil || got != last {
			t.Fatalf("Terminate = %v, %v; want %v", got, err, last)
		}
		if err := publish(l, "two", 1).wait(); !errors.Is(err, ErrTerminated) {
			t.Fatalf("append after Terminate: %v", err)
		}
		equal(t, contents(t, l), []string{"one"})
		p.crash()
		p = w.start()
		l = p.open("a", Options{})
	}
}

// A topic with as many ledgers as there may be can be opened, read and trimmed; appends are refused, with the reason, until
// ledgers have gone. Its record fits into metadata whatever is known of its ledgers.
func TestTooManyLedgersRefuseAppendsOnly(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	if _, err := w.store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("seq/ledger", 1<<50)}}); err != nil {
		t.Fatal(err)
	}
	p := w.start()
	o := Options{RetainTime: -1, RetainBytes: -1}
	for _, m := range []string{"one", "two"} {
		l := p.open("a", o)
		mustPublish(t, l, m)
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	key := chain.Key(topic(t, "a"))
	it, err := w.store.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := chain.Decode(it.Value)
	if err != nil {
		t.Fatal(err)
	}
	var old []chain.Ledger
	for i := range maxLedgers - len(rec.Ledgers) {
		old = append(old, chain.Ledger{
			ID: ledgerfs.LedgerID(1<<40 + i), Closed: true, Entries: 1 << 32, Bytes: 1 << 42, Created: 1 << 41, ClosedAt: 1 << 41,
			Text:          [chain.NumViews]chain.Text{{Known: true, Base: 1 << 55, Length: 1 << 42}, {Known: true, Base: 1 << 55, Length: 1 << 42}},
			RenderVersion: 1 << 20, TimesKnown: true, LeastPublishTime: 1 << 41, GreatestPublishTime: 1 << 41,
		})
	}
	rec.Ledgers = append(old, rec.Ledgers...)
	value, err := rec.Encode()
	if err == nil {
		_, err = w.store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put(key, value)}})
	}
	if err != nil {
		t.Fatalf("a record of %d bytes: %v", len(value), err)
	}

	l := p.open("a", o)
	if err := publish(l, "three", 1).wait(); !errors.Is(err, ErrLedgers) || !errors.Is(err, ErrRejected) {
		t.Fatalf("append: %v, want ErrLedgers", err)
	}
	last := l.LastConfirmed()
	if es, err := l.Read(ctx, nil, last, 1, 1); err != nil || len(es) != 1 {
		t.Fatalf("read: %d entries, %v", len(es), err)
	}
	l.SetOptions(Options{RetainTime: 0, RetainBytes: 0})
	if err := l.Trim(ctx); err != nil {
		t.Fatal(err)
	}
	w.now.Add(1000) // beyond the pause after a failed creation
	mustPublish(t, l, "four")
}

func TestLimitsGrowWithTheNumberOfLedgers(t *testing.T) {
	l := limits{entries: 10, bytes: math.MaxInt64, minAge: 0, maxAge: 3}
	for n, want := range map[int]limits{
		0: l, doubleEvery - 1: l,
		doubleEvery:     {entries: 20, bytes: math.MaxInt64, maxAge: 6},
		3 * doubleEvery: {entries: 80, bytes: math.MaxInt64, maxAge: 24},
	} {
		if got := l.beside(n); got != want {
			t.Errorf("beside %d ledgers: %+v, want %+v", n, got, want)
		}
	}
}

// What a topic's creation depends on is a condition of the transaction that creates it, not of opening it later.
func TestCreationHoldsToItsConditions(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	p := w.start()
	o := Options{CreateIf: []raftmeta.Cond{raftmeta.Present("home")}}
	if _, err := p.OpenOrCreate(ctx, topic(t, "a"), o); !errors.Is(err, ErrNotFound) {
		t.Fatalf("create without its home: %v, want ErrNotFound", err)
	}
	if _, err := w.store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("home", nil)}}); err != nil {
		t.Fatal(err)
	}
	l := p.open("a", o)
	mustPublish(t, l, "one")
	if err := l.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Delete("home")}}); err != nil {
		t.Fatal(err)
	}
	equal(t, contents(t, p.open("a", o)), []string{"one"})
}

// A deletion or termination that metadata refuses half-way ends this Ledger as a crash would: the topic can be opened
// again in the same process, with all its entries, and takes more.
func TestFailedDeletionAndTerminationLeaveTheTopicUsable(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cause := errors.New("refused")
	for name, end := range map[string]func(*Ledger) error{
		"delete":    func(l *Ledger) error { return l.Delete(ctx) },
		"terminate": func(l *Ledger) error { _, err := l.Terminate(ctx); return err },
		"delete, given up": func(l *Ledger) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return l.Delete(ctx)
		},
	} {
		// How many commits pass before one is refused.
		for n := range 3 {
			w := newWorld(t, 1)
			p := w.start()
			l := p.open("a", Options{})
			mustPublish(t, l, "one")
			if n > 0 && name != "delete, given up" {
				w.store.DelayCommits(n, 0)
			}
			if name != "delete, given up" {
				w.store.FailCommits(1, cause)
			}
			err := end(l)
			if err == nil {
				break // it has fewer commits than that
			}
			if !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
				t.Fatalf("%s: %v, want %v", name, err, cause)
			}
			if err := l.Err(); !errors.Is(err, ErrFenced) {
				t.Fatalf("%s, refused after %d commits: the Ledger says %v, want ErrFenced", name, n, err)
			}
			again, err := p.Open(ctx, l.Name(), Options{})
			if err != nil {
				t.Fatalf("%s, refused after %d commits: open: %v", name, n, err)
			}
			equal(t, contents(t, again), []string{"one"})
			if again.Terminated() {
				t.Fatalf("%s, refused after %d commits: the topic is terminated", name, n)
			}
			mustPublish(t, again, "two")
			equal(t, contents(t, again), []string{"one", "two"})
		}
	}
}

func TestDeleteLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, open := range []bool{true, false} {
		w := newWorld(t, 1)
		p := w.start()
		l := p.open("a", small)
		c, _, err := l.OpenCursor(ctx, "sub", Earliest, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 35 {
			c.Ack(mustPublish(t, l, fmt.Sprint(i)), nil)
		}
		if err := c.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		incarnation := l.Incarnation()
		if open {
			err = l.Delete(ctx)
		} else if err = l.Close(ctx); err == nil {
			err = p.Delete(ctx, l.Name())
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Open(ctx, l.Name(), small); !errors.Is(err, ErrNotFound) {
			t.Fatalf("open a deleted topic: %v", err)
		}
		if err := p.Delete(ctx, l.Name()); !errors.Is(err, ErrNotFound) {
			t.Fatalf("delete a deleted topic: %v", err)
		}
		// A process that dies right now leaves the garbage to the next one.
		p.crash()
		c2 := ledger.New(ledger.Config{Store: w.store, Bookies: w, Logger: quiet})
		defer c2.Close()
		if left, err := c2.Collect(ctx); left != 0 || err != nil {
			t.Fatalf("collect: %d left, %v", left, err)
		}
		items, _, err := w.store.Range(ctx, "", "\xff", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			if it.Key != "seq/ledger" {
				t.Errorf("left behind: %s", it.Key)
			}
		}
		for id := range ledgerfs.LedgerID(60) {
			if n := len(w.At(0).Entries(id)); n > 0 {
				t.Errorf("the bookie still holds %d entries of ledger %d", n, id)
			}
		}
		if l := w.start().open("a", small); l.Incarnation() == incarnation {
			t.Error("a new topic has the old incarnation")
		}
	}
}

func TestTrimDropsWhatAllCursorsPassed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	l := w.start().open("a", Options{MaxEntries: 10, MinRollover: -1, RetainTime: -1, RetainBytes: -1})
	a, _, _ := l.OpenCursor(ctx, "a", Earliest, nil)
	b, _, _ := l.OpenCursor(ctx, "b", Earliest, nil)
	for i := range 55 {
		mustPublish(t, l, fmt.Sprint(i))
		if i%10 == 9 {
			if err := l.Roll(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	ledgers := func() int { return len(l.Fence().Record.Ledgers) }
	n := ledgers()
	a.AckAll(l.LastConfirmed(), nil)
	if err := l.Trim(ctx); err != nil || ledgers() != n {
		t.Fatalf("%d ledgers, want %d: %v", ledgers(), n, err)
	}
	l.SetOptions(Options{MaxEntries: 10, MinRollover: -1})
	if err := l.Trim(ctx); err != nil || ledgers() != n {
		t.Fatalf("%d ledgers, want %d, since a cursor is behind: %v", ledgers(), n, err)
	}
	if got := b.Backlog(); got != 55 {
		t.Fatalf("backlog %d", got)
	}
	half := l.Advance(chain.None, 30)
	b.AckAll(half, nil)
	if err := l.Trim(ctx); err != nil {
		t.Fatal(err)
	}
	if got := l.First(); !half.Less(got) && got != half || got != l.Next(half) {
		t.Errorf("the first entry is %v, want that after %v", got, half)
	}
	if b.Backlog() != 25 || a.Backlog() != 0 {
		t.Errorf("backlogs %d and %d", a.Backlog(), b.Backlog())
	}
	b.AckAll(l.LastConfirmed(), nil)
	if err := l.Trim(ctx); err != nil || ledgers() == 0 {
		t.Fatalf("%d ledgers: %v", ledgers(), err)
	}
	if l.NextIndex() != 55 {
		t.Errorf("next index %d", l.NextIndex())
	}
	mustPublish(t, l, "more")
	if b.Backlog() != 1 || a.Backlog() != 1 {
		t.Errorf("backlogs %d and %d after one more", a.Backlog(), b.Backlog())
	}
}

// What Trim decided to remove may have become the only ledger by the time it can: then it stays, and is no garbage.
func TestTrimNeverTakesTheOnlyLedger(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	p := w.start()
	l := p.open("a", Options{})
	mustPublish(t, l, "kept")
	l.Close(ctx)
	l = p.open("a", Options{})
	only := l.Fence().Record.Ledgers[0].ID
	if err := l.dropUpTo(ctx, only); err != nil {
		t.Fatal(err)
	}
	p.crash()
	c := ledger.New(ledger.Config{Store: w.store, Bookies: w, Logger: quiet})
	defer c.Close()
	if _, err := c.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	equal(t, contents(t, w.start().open("a", Options{})), []string{"kept"})
}

func TestRetentionByTimeNeedsNoTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.now.Store(0)
		l := w.start().open("a", Options{MaxEntries: 5, MinRollover: -1, RetainTime: time.Hour, RetainBytes: -1})
		for i := range 20 {
			mustPublish(t, l, fmt.Sprint(i))
			l.Roll(context.Background())
		}
		n := len(l.Fence().Record.Ledgers)
		time.Sleep(30 * time.Minute)
		if got := len(l.Fence().Record.Ledgers); got != n {
			t.Errorf("%d ledgers after half the time, want %d", got, n)
		}
		time.Sleep(31 * time.Minute)
		if got := len(l.Fence().Record.Ledgers); got > 2 {
			t.Errorf("%d of %d ledgers are left after the time", got, n)
		}
	})
}

func TestFindByPublishTime(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	l := w.start().open("a", Options{MaxEntries: 7, MinRollover: -1, RetainTime: -1, RetainBytes: -1})
	var ps []ledgerfs.Position
	for i := range 40 {
		r := &result{done: make(chan struct{})}
		ms := int64(1000 + 10*(i/2))
		r.Append = Append{Payload: fmt.Append(nil, ms), Messages: 1, LeastPublishTime: ms, GreatestPublishTime: ms, Done: r}
		l.Append(&r.Append)
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, r.Position)
	}
	for at := int64(995); at < 1220; at += 5 {
		got, ok, err := l.Find(ctx, at, func(e ledgerfs.Entry) (bool, error) {
			_, b, err := CutPrefix(e.Payload)
			var ms int64
			fmt.Sscan(string(b), &ms)
			return ms >= at, err
		})
		i := int(max((at-1000+9)/10*2, 0))
		if err != nil || ok != (i < len(ps)) {
			t.Fatalf("find %d: %v %v %v", at, got, ok, err)
		}
		if ok && got != ps[i] {
			t.Fatalf("find %d = %v, want %v", at, got, ps[i])
		}
		if !ok && !ps[len(ps)-1].Less(got) {
			t.Fatalf("find %d = %v, want the end", at, got)
		}
	}
}

type counter struct {
	n  atomic.Int64
	ch chan struct{}
}

func (c *counter) Grown(*Ledger) {
	c.n.Add(1)
	select {
	case c.ch <- struct{}{}:
	default:
	}
}

func TestListenersHearOfGrowth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	l := w.start().open("a", Options{})
	c := &counter{ch: make(chan struct{}, 1)}
	l.Listen(c)
	p := mustPublish(t, l, "one")
	<-c.ch
	if l.LastConfirmed() != p {
		t.Error("heard of growth before there was any")
	}
	l.Unlisten(c)
	mustPublish(t, l, "two")
}

func TestHeadroomIsUsedAndCallersBytesAreNotLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	l := w.start().open("a", Options{})
	for _, room := range []int{0, 3, MaxPrefix, MaxPrefix + 10} {
		buf := append(make([]byte, room), "payload"...)
		r := &result{done: make(chan struct{})}
		r.Append = Append{Payload: buf, Headroom: room, Messages: 3, Done: r}
		l.Append(&r.Append)
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		es, err := l.Read(context.Background(), nil, r.Position, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		p, rest, err := CutPrefix(es[0].Payload)
		if err != nil || string(rest) != "payload" || p.Index != r.Index || p.Time != w.now.Load() {
			t.Errorf("room %d: %+v %q %v", room, p, rest, err)
		}
		if inPlace := &es[0].Payload[len(es[0].Payload)-1] == &buf[len(buf)-1]; inPlace != (room >= MaxPrefix) {
			t.Errorf("room %d: in place %v", room, inPlace)
		}
	}
	if l.NextIndex() != 12 {
		t.Errorf("next index %d, want 12", l.NextIndex())
	}
}

func TestManyProducersAppendAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	l := w.start().open("a", Options{Ensemble: 3, WriteQuorum: 2, AckQuorum: 2, MaxEntries: 50, MinRollover: -1, RetainTime: -1, RetainBytes: -1})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var rs []*result
			for i := range 100 {
				rs = append(rs, publish(l, fmt.Sprint(g, " ", i), 1))
			}
			var before ledgerfs.Position
			for _, r := range rs {
				if err := r.wait(); err != nil || !before.Less(r.Position) {
					t.Errorf("%v after %v: %v", r.Position, before, err)
				}
				before = r.Position
			}
		})
	}
	wg.Wait()
	got := contents(t, l)
	if len(got) != 800 {
		t.Fatalf("%d entries", len(got))
	}
	var next [8]int
	for _, s := range got {
		var g, i int
		fmt.Sscan(s, &g, &i)
		if next[g] != i {
			t.Fatalf("producer %d: %d, want %d", g, i, next[g])
		}
		next[g]++
	}
}

func BenchmarkManagedAppend(b *testing.B) {
	w := newWorld(b, 1)
	// A bookie that stores nothing: what remains is our own cost.
	m := ledgerfs.Member{Bookie: "null"}
	c := ledger.New(ledger.Config{Store: w.store, Bookies: ledger.Single(m, null{}), Logger: quiet})
	defer c.Close()
	f := New(Config{Client: c, Store: w.store, Logger: quiet})
	defer f.Close(context.Background())
	l, err := f.OpenOrCreate(context.Background(), topic(b, "a"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	const window = 256
	rs := make([]benchAppend, window)
	free := make(chan *benchAppend, window)
	for i := range rs {
		rs[i].free = free
		free <- &rs[i]
	}
	b.SetBytes(1024)
	b.ReportAllocs()
	buf := make([]byte, MaxPrefix+1024)
	for b.Loop() {
		r := <-free
		r.Append = Append{Payload: buf, Headroom: MaxPrefix, Messages: 1, Done: r}
		l.Append(&r.Append)
	}
	for range window {
		<-free
	}
}

type benchAppend struct {
	Append
	free chan *benchAppend
}

func (r *benchAppend) AppendCompleted(_ *Append, err error) {
	if err != nil {
		panic(err)
	}
	r.free <- r
}

type null struct{}

func (null) Install(context.Context, ledgerfs.LedgerID) error { return nil }
func (null) Add(a *ledgerfs.Add)                              { a.Done.AddCompleted(a, nil) }
func (null) Read(context.Context, ledgerfs.ReadRequest) (ledgerfs.ReadResponse, error) {
	return ledgerfs.ReadResponse{}, ledgerfs.ErrNoEntry
}
func (null) LastAdd(context.Context, ledgerfs.LedgerID, bool) (ledgerfs.LastAdd, error) {
	return ledgerfs.LastAdd{LastEntry: -1, MaxLAC: -1}, nil
}
func (null) Delete(context.Context, ledgerfs.LedgerID) error { return nil }
