package mledger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/bookie"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metaserver"
)

// A node is a whole process below the broker: metadata, bookie, ledgers and one topic with one cursor, all of it on
// one file system.
type node struct {
	m      *disk.Mem
	meta   *metaserver.Server
	bookie *bookie.Bookie
	client *ledger.Client
	topics *mledger.Factory
	topic  *mledger.Ledger
	sub    *mledger.Cursor

	// alive ends, as the process does, when storage reports that it cannot be trusted any more.
	alive context.Context
	dead  context.CancelCauseFunc
}

var quietLog = slog.New(slog.DiscardHandler)

// start starts a process; what it has started by the time of an error is in the node.
func start(ctx context.Context, m *disk.Mem) (n *node, err error) {
	n = &node{m: m}
	ctx, n.dead = context.WithCancelCause(ctx)
	n.alive = ctx
	if n.meta, err = metaserver.Open(metaserver.Config{Dir: "/meta", FS: m.Pebble(), Logger: quietLog, CacheBytes: 1 << 20,
		MemTableBytes: 256 << 10, Fatal: n.dead}); err != nil {
		return n, err
	}
	meta := n.meta.Store()
	res, err := meta.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("seq/incarnation/n", 1)}})
	if err != nil {
		return n, err
	}
	session, err := meta.OpenSession(ctx, raftmeta.SessionOptions{Node: "n", Incarnation: res.Results[0].N})
	if err != nil {
		return n, err
	}
	if n.bookie, err = bookie.Open(ctx, bookie.Config{ID: "n", Dir: "/bookie", Meta: meta, FS: m, SegmentSize: 64 << 10,
		WriteCache: 1 << 10, Fatal: n.dead}); err != nil {
		return n, err
	}
	if err = n.bookie.Register(ctx, session); err != nil {
		return n, err
	}
	n.client = ledger.New(ledger.Config{Store: meta, Bookies: ledger.Single(n.bookie.Member(), n.bookie), Logger: quietLog})
	n.topics = mledger.New(mledger.Config{Client: n.client, Store: meta, Logger: quietLog, CacheBytes: -1, FlushInterval: 5 * time.Millisecond})
	name, err := topicname.Parse("crash")
	if err != nil {
		return n, err
	}
	// Rolling by entries at once; what the cursor has passed is not kept.
	if n.topic, err = n.topics.OpenOrCreate(ctx, name, mledger.Options{MaxEntries: 7, MinRollover: -1}); err != nil {
		return n, err
	}
	n.sub, _, err = n.topic.OpenCursor(ctx, "sub", mledger.Earliest, nil)
	return n, err
}

// end ends the process, with a farewell as long as ctx allows.
func (n *node) end(ctx context.Context) error {
	defer n.dead(nil)
	var errs []error
	if n.topics != nil {
		errs = append(errs, n.topics.Close(ctx))
	}
	if n.client != nil {
		n.client.Close()
	}
	if n.bookie != nil {
		errs = append(errs, n.bookie.Close())
	}
	if n.meta != nil {
		errs = append(errs, n.meta.Close())
	}
	return errors.Join(errs...)
}

// A sent message is one append.
type sent struct {
	mledger.Append
	n    int // it is the n-th of all
	err  error
	done chan struct{}
}

func (s *sent) AppendCompleted(_ *mledger.Append, err error) {
	s.err = err
	close(s.done)
}

// promises are what the workload asked for and what it was promised.
type promises struct {
	sent   []*sent                    // in order
	asked  map[ledgerfs.Position]bool // acknowledgements that were asked for
	firm   map[ledgerfs.Position]bool // those of them that were reported as flushed
	behind ledgerfs.Position          // all entries up to it were asked to be acknowledged
	firmly ledgerfs.Position          // and that is flushed
}

func newPromises() *promises {
	none := ledgerfs.Position{Ledger: -1, Entry: -1}
	return &promises{asked: map[ledgerfs.Position]bool{}, firm: map[ledgerfs.Position]bool{}, behind: none, firmly: none}
}

// publish sends some messages at once and waits for all.
func (p *promises) publish(ctx context.Context, n *node, r *rand.Rand, count int) error {
	first := len(p.sent)
	for range count {
		s := &sent{n: len(p.sent), done: make(chan struct{})}
		text := fmt.Appendf(nil, "%d:", s.n)
		s.Append = mledger.Append{Payload: append(text, make([]byte, r.IntN(3000))...), Messages: 1 + s.n%3, Done: s}
		p.sent = append(p.sent, s)
		n.topic.Append(&s.Append)
	}
	var err error
	for _, s := range p.sent[first:] {
		select {
		case <-s.done:
			err = errors.Join(err, s.err)
		case <-ctx.Done():
			return fmt.Errorf("append %d is not answered: %w", s.n, ctx.Err())
		}
	}
	return err
}

// flushed notes that all acknowledgements so far are durable.
func (p *promises) flushed() {
	for pos := range p.asked {
		p.firm[pos] = true
	}
	p.firmly = p.behind
}

// run is the workload. It stops at the first error.
func (p *promises) run(ctx context.Context, n *node, r *rand.Rand) error {
	for range 30 {
		if err := p.publish(ctx, n, r, 1+r.IntN(5)); err != nil {
			return err
		}
		pos := p.sent[r.IntN(len(p.sent))].Position
		switch r.IntN(6) {
		case 0, 1:
			p.asked[pos] = true
			n.sub.Ack(pos, nil)
		case 2:
			if p.behind.Less(pos) {
				p.behind = pos
			}
			n.sub.AckAll(pos, nil)
		}
		switch r.IntN(12) {
		case 0, 1:
			if err := n.sub.Flush(ctx); err != nil {
				return err
			}
			p.flushed()
		case 2, 3:
			// Without being asked the cursor is flushed, too, and says so.
			for ctx.Err() == nil && n.sub.Stats().Dirty {
				wait(time.Millisecond)
			}
			if n.sub.Stats().Dirty {
				return errors.Join(errors.New("acknowledgements are not flushed"), ctx.Err())
			}
			p.flushed()
		case 4:
			if err := n.topic.Roll(ctx); err != nil {
				return err
			}
		case 5, 6, 7:
			if err := n.topic.Trim(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func wait(d time.Duration) { <-time.After(d) }

// check compares what a process finds with the promises.
func (p *promises) check(ctx context.Context, n *node) error {
	acked := map[ledgerfs.Position]*sent{}
	var former *sent
	for _, s := range p.sent {
		if s.err != nil {
			continue
		}
		acked[s.Position] = s
		if former != nil && (!former.Position.Less(s.Position) || s.Index < former.Index+int64(s.Messages)) {
			return fmt.Errorf("message %d is at %v with index %d, after %d at %v with %d", s.n, s.Position, s.Index, former.n,
				former.Position, former.Index)
		}
		former = s
	}
	end := ledgerfs.Position{Ledger: math.MaxInt64}
	first := end // of what is there
	at, last, next := n.topic.First(), -1, int64(-1)
	for {
		es, err := n.topic.Read(ctx, nil, at, 100, 1<<20)
		if err != nil {
			return fmt.Errorf("read from %v: %w", at, err)
		}
		if len(es) == 0 {
			break
		}
		for _, e := range es {
			pos := ledgerfs.Position{Ledger: e.Ledger, Entry: e.Entry}
			prefix, payload, err := mledger.CutPrefix(e.Payload)
			if err != nil {
				return fmt.Errorf("entry %v: %w", pos, err)
			}
			var i int
			if _, err := fmt.Sscanf(string(payload[:min(len(payload), 20)]), "%d:", &i); err != nil || i < 0 || i >= len(p.sent) ||
				string(p.sent[i].Payload) != string(payload) {
				return fmt.Errorf("entry %v holds what nobody sent", pos)
			}
			s := p.sent[i]
			if i <= last {
				return fmt.Errorf("entry %v is message %d, after %d", pos, i, last)
			}
			if want := next + int64(s.Messages); next >= 0 && prefix.Index != want {
				return fmt.Errorf("entry %v has index %d, want %d", pos, prefix.Index, want)
			}
			if s.err == nil && (pos != s.Position || prefix.Index != s.Index) {
				return fmt.Errorf("message %d was acknowledged at %v with index %d, it is at %v with %d", i, s.Position, s.Index, pos, prefix.Index)
			}
			if first == end {
				first = pos
			}
			last, next = i, prefix.Index
			delete(acked, pos)
			at = n.topic.Next(pos)
		}
	}
	for pos, s := range acked {
		// It may have been trimmed: with all before it, and after the cursor was asked to pass it.
		if first.Less(pos) || !p.passed(pos) {
			return fmt.Errorf("acknowledged message %d at %v is lost (consumed: %v); the topic starts at %v", s.n, pos, p.passed(pos), first)
		}
	}
	for _, s := range p.sent {
		if s.err != nil {
			continue
		}
		got, asked, firm := n.sub.IsAcked(s.Position), p.passed(s.Position), p.firm[s.Position] || !p.firmly.Less(s.Position)
		if firm && !got && !s.Position.Less(first) { // what was trimmed was passed, see above
			return fmt.Errorf("the flushed acknowledgement of %v is lost; mark-delete is %v", s.Position, n.sub.MarkDelete())
		}
		if got && !asked {
			return fmt.Errorf("nobody acknowledged %v; mark-delete is %v", s.Position, n.sub.MarkDelete())
		}
	}
	return nil
}

func (p *promises) passed(pos ledgerfs.Position) bool { return p.asked[pos] || !p.behind.Less(pos) }

func newNodeDisk() *disk.Mem {
	m := disk.NewMem()
	m.SetCapacity(32 << 20)
	return m
}

// crashed ends a process whose disk has crashed: nothing that it does now matters.
func (n *node) crashed() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.end(ctx)
}

// lifetime runs the workload on a fresh disk that crashes at an operation.
func lifetime(t *testing.T, ctx context.Context, seed uint64, op int) (*disk.Mem, *promises) {
	m, p := newNodeDisk(), newPromises()
	m.CrashAt(op)
	n, err := start(ctx, m)
	if err == nil {
		err = p.run(n.alive, n, rand.New(rand.NewPCG(seed, 0)))
	}
	if err != nil && !m.Crashed() {
		t.Fatalf("seed %d, operation %d: %v", seed, op, err)
	}
	m.Crash()
	n.crashed()
	return m, p
}

// TestNodeSurvivesAnyCrash cuts the power of a whole node at sampled operations of its disk: journal, index and
// metadata are left as they were at one and the same instant, with what was not yet synced there, gone, or there in
// parts. Every acknowledged message is where it was acknowledged, indexes have no gap, flushed acknowledgements are
// there, and the topic goes on.
func TestNodeSurvivesAnyCrash(t *testing.T) {
	t.Parallel()
	budget := 4 * time.Second
	if n, err := strconv.Atoi(os.Getenv("DAYBOOK_CRASH_SECONDS")); err == nil {
		budget = time.Duration(n) * time.Second
	}
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("DAYBOOK_CRASH_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("seed %d (DAYBOOK_CRASH_SEED)", seed)
	ctx, cancel := context.WithTimeout(t.Context(), budget+time.Minute)
	defer cancel()
	deadline := time.Now().Add(budget)
	m, p := lifetime(t, ctx, seed, 1<<30)
	total := m.Ops()
	if len(p.sent) < 30 || p.sent[len(p.sent)-1].err != nil {
		t.Fatalf("the workload did not end: %d messages", len(p.sent))
	}
	r := rand.New(rand.NewPCG(seed, 1))
	images := 0
	points := 0
	for ; points < 4 || time.Now().Before(deadline); points++ {
		op := 1 + r.IntN(total)
		m, p := lifetime(t, ctx, seed+uint64(points), op)
		for _, survival := range []disk.Survival{disk.SurviveNone, disk.SurviveSome, disk.SurviveAll} {
			what := fmt.Sprintf("seed %d, crash %d at operation %d of %d, survival %d", seed, points, op, total, survival)
			img := m.CrashImage(survival, seed+uint64(op))
			after(t, ctx, img, p, what, r)
			images++
		}
	}
	t.Logf("%d crashes, %d images", points, images)
}

// after starts a process on an image, checks it, goes on, and once more after another crash.
func after(t *testing.T, ctx context.Context, img *disk.Mem, before *promises, what string, r *rand.Rand) {
	p := *before
	p.asked, p.firm = maps.Clone(p.asked), maps.Clone(p.firm)
	for life := range 2 {
		n, err := start(ctx, img)
		if err != nil {
			t.Fatalf("%s: start %d: %v", what, life, err)
		}
		if err := p.check(n.alive, n); err != nil {
			t.Fatalf("%s: start %d: %v", what, life, err)
		}
		p.sent = p.sent[:len(p.sent):len(p.sent)]
		if err := p.publish(n.alive, n, r, 3); err != nil {
			t.Fatalf("%s: start %d: publish: %v", what, life, err)
		}
		if err := p.check(n.alive, n); err != nil {
			t.Fatalf("%s: start %d, after publishing: %v", what, life, err)
		}
		if r.IntN(3) == 0 { // an orderly end: every acknowledgement is kept
			n.sub.AckAll(p.sent[len(p.sent)-2].Position, nil)
			p.behind = p.sent[len(p.sent)-2].Position
			if err := n.end(ctx); err != nil {
				t.Fatalf("%s: start %d: end: %v", what, life, err)
			}
			p.flushed()
		} else {
			img.Crash()
			n.crashed()
		}
		img = img.CrashImage(disk.SurviveNone, 0)
	}
}
