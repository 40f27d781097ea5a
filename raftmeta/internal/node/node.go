// Package node drives one Raft member of the metadata store: it feeds proposals and messages to Raft, writes
// what Raft wants written, applies what is committed, and answers.
//
// # Promises
//
// A proposal is answered after its entry is synced on a quorum and applied. Entries that are waiting together
// are written and synced together. The applied state, its position and the events of its revisions are in one
// batch, after that of the entries in the same write-ahead log.
//
// After an error of a write or a sync the node stops: nobody knows what the disk holds, and recovery decides.
//
// # Goroutines
//
// One, run, owns the RawNode, the log and the machine. It wakes for input, for the next deadline of a session
// and, only if there are other members, for ticks. The methods of Node may be called by any goroutine. Stop
// ends and awaits run.
package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/command"
	"github.com/daybook/daybook/raftmeta/internal/lease"
	"github.com/daybook/daybook/raftmeta/internal/metapb"
	"github.com/daybook/daybook/raftmeta/internal/raftlog"
	"github.com/daybook/daybook/raftmeta/internal/snapshot"
	"github.com/daybook/daybook/raftmeta/internal/state"
	"github.com/daybook/daybook/raftmeta/internal/watch"
)

// Timing of a node with peers. A sole voter has no ticks.
const (
	tick           = 100 * time.Millisecond
	electionTicks  = 10
	heartbeatTicks = 1
)

// Bounds of what is written at once, and of what the log keeps.
const (
	maxBatchBytes   = 4 << 20
	maxBatchEntries = 2048
	maxUncommitted  = 64 << 20
	keepEntries     = 1000    // when there are twice as many
	keepBytes       = 4 << 20 // when there are twice as many
	keepForSlowest  = 100_000 // entries for a follower that is behind; further back it gets a snapshot
)

// Config is what a node is made of.
type Config struct {
	ID      uint64
	Cluster []byte
	DB      *pebble.DB
	Log     *raftlog.Log
	Machine *state.Machine
	Hub     *watch.Hub
	Leases  *lease.Table
	Logger  *slog.Logger
	// Retain bounds the events that are kept for watches.
	RetainRevisions int64
	RetainFor       time.Duration
	// Send passes messages on to peers, by any delay and loss, without waiting; nil if there are none.
	Send func([]Outbound)
	// Ended is told which sessions are gone, after their keys are.
	Ended func([]raftmeta.SessionID)
	// Failed is told why the node has stopped for good, once. It is called from the node's goroutine or
	// from pebble's, which must not wait.
	Failed func(error)
}

// An Outbound is a message for a peer.
type Outbound struct {
	Msg *raftpb.Message
	// State is, with a MsgSnap, the state to send along (see package snapshot). The receiver of the
	// Outbound closes it and reports the outcome with ReportSnapshot.
	State *pebble.Snapshot
}

// A Node is a running member.
type Node struct {
	cfg     Config
	stop    chan struct{}
	stopped chan struct{}
	ready   chan struct{} // closed when the node first leads or follows a leader
	wake    chan struct{} // capacity 1
	failed  atomic.Pointer[error]
	failing sync.Once
	broken  chan struct{} // closed once failed is set
	// solo says that this node leads alone and has applied all that was ever answered: what is applied can
	// be read without asking anyone.
	solo    atomic.Bool
	serving atomic.Bool // leading, for others than run

	in struct {
		sync.Mutex
		proposals []*proposal
		reads     []*read
		msgs      []inbound
		closed    error
	}

	// Below here: owned by run.
	rn       *raft.RawNode
	log      *raftlog.Log
	machine  *state.Machine
	pending  []*proposal // proposed and not applied, in the order of their index
	isLeader bool
	leading  bool // isLeader, and everything up to this term has been applied
	hasLead  bool
	reads    readQueue
	staged   map[position]*snapshot.Staged
	ticker   *time.Ticker // nil for a sole voter
	deadline *time.Timer
	marks    []mark // of revisions over time, for RetainFor
	compact  bool   // a CompactEvents is pending
}

type position struct{ index, term uint64 }

type mark struct {
	rev raftmeta.Revision
	at  time.Time
}

type proposal struct {
	ctx   context.Context // of the caller; nil for the node's own
	data  []byte
	conf  *raftpb.ConfChangeV2
	done  func(outcome) // called once, must not wait
	index uint64
	term  uint64
}

type outcome struct {
	eff state.Effects
	err error
}

type inbound struct {
	msg    *raftpb.Message
	staged *snapshot.Staged
	report func(*raft.RawNode)
}

// Start runs a node.
func Start(cfg Config) (*Node, error) {
	n := &Node{
		cfg: cfg, log: cfg.Log, machine: cfg.Machine,
		stop: make(chan struct{}), stopped: make(chan struct{}), broken: make(chan struct{}), ready: make(chan struct{}), wake: make(chan struct{}, 1),
		staged: map[position]*snapshot.Staged{}, deadline: time.NewTimer(time.Hour),
	}
	n.deadline.Stop()
	n.reads.prefix = rand.Uint64()
	rn, err := raft.NewRawNode(&raft.Config{
		ID: cfg.ID, ElectionTick: electionTicks, HeartbeatTick: heartbeatTicks,
		Storage: cfg.Log, Applied: cfg.Machine.Applied().Index,
		MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: maxBatchBytes, MaxUncommittedEntriesSize: maxUncommitted,
		MaxInflightMsgs: 256, MaxInflightBytes: 64 << 20,
		CheckQuorum: true, PreVote: true, StepDownOnRemoval: true, DisableProposalForwarding: true,
		ReadOnlyOption: raft.ReadOnlySafe, Logger: raftLogger{cfg.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	n.rn = rn
	cfg.Leases.Disable()
	if n.alone() {
		// Nobody else can win: do not wait for an election timeout.
		if err := rn.Campaign(); err != nil {
			return nil, fmt.Errorf("campaign: %w", err)
		}
	}
	go n.run()
	return n, nil
}

// Wait returns when the node first leads or follows a leader.
func (n *Node) Wait(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-n.stop:
		return n.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop ends the node. Calls that wait fail with err, or with the reason why the node had failed before. If it has
// failed, or does so while it stops, Stop returns false at once, as a goroutine that hit the failure may be stuck in
// the store.
func (n *Node) Stop(err error) bool {
	n.close(err)
	select {
	case <-n.stopped:
	case <-n.broken:
	}
	return n.failed.Load() == nil
}

func (n *Node) close(err error) {
	n.in.Lock()
	defer n.in.Unlock()
	if n.in.closed == nil {
		n.in.closed = err
		close(n.stop)
	}
}

// Err says why the node does not answer, or nil.
func (n *Node) Err() error {
	if p := n.failed.Load(); p != nil {
		return *p
	}
	n.in.Lock()
	defer n.in.Unlock()
	return n.in.closed
}

// Fail stops the node for good. It may be called by any goroutine and does not wait.
func (n *Node) Fail(cause error) {
	n.failing.Do(func() {
		err := fmt.Errorf("%w: the node has failed: %w", raftmeta.ErrUnavailable, cause)
		n.failed.Store(&err)
		close(n.broken)
		n.solo.Store(false)
		n.close(err)
		n.cfg.Hub.Close(err)
		n.cfg.Leases.Disable()
		n.cfg.Failed(cause)
	})
}

func (n *Node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Propose has a command applied and returns its effects, or why it was refused. After any other error nothing
// is known about the outcome.
func (n *Node) Propose(ctx context.Context, c command.Command) (state.Effects, error) {
	data, err := command.Encode(c)
	if err != nil {
		return state.Effects{}, err
	}
	return n.propose(ctx, &proposal{ctx: ctx, data: data})
}

// ChangeMembers has a change of the members applied.
func (n *Node) ChangeMembers(ctx context.Context, cc *raftpb.ConfChangeV2) error {
	_, err := n.propose(ctx, &proposal{ctx: ctx, conf: cc})
	return err
}

func (n *Node) propose(ctx context.Context, p *proposal) (state.Effects, error) {
	done := make(chan outcome, 1)
	p.done = func(o outcome) { done <- o }
	n.in.Lock()
	if err := n.in.closed; err != nil {
		n.in.Unlock()
		return state.Effects{}, err
	}
	n.in.proposals = append(n.in.proposals, p)
	n.in.Unlock()
	n.poke()
	select {
	case o := <-done:
		return o.eff, o.err
	case <-n.stop:
		return state.Effects{}, n.Err()
	case <-ctx.Done():
		return state.Effects{}, ctx.Err()
	}
}

// Barrier returns when the node has applied everything that was answered, by any node, before the call.
func (n *Node) Barrier(ctx context.Context) error {
	if n.solo.Load() {
		return nil
	}
	r := &read{done: make(chan struct{}), ctx: ctx}
	n.in.Lock()
	if err := n.in.closed; err != nil {
		n.in.Unlock()
		return err
	}
	n.in.reads = append(n.in.reads, r)
	n.in.Unlock()
	n.poke()
	select {
	case <-r.done:
		return nil
	case <-n.stop:
		return n.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// KeepAlive renews a session. It is confirmed only by a node that leads, after that was ascertained: a new
// leader, which grants a full TTL anew, can only come later.
func (n *Node) KeepAlive(ctx context.Context, id raftmeta.SessionID) error {
	if err := n.Err(); err != nil {
		return err
	}
	if err := n.cfg.Leases.Renew(id, time.Now()); err != nil {
		return err
	}
	return n.Barrier(ctx)
}

// Leading says whether this node leads and serves as leader.
func (n *Node) Leading() bool { return n.serving.Load() }

// Receive takes messages from peers.
func (n *Node) Receive(msgs ...*raftpb.Message) {
	n.in.Lock()
	for _, m := range msgs {
		n.in.msgs = append(n.in.msgs, inbound{msg: m})
	}
	n.in.Unlock()
	n.poke()
}

// ReceiveSnapshot takes a MsgSnap with the state that came along. The node removes the staged files.
func (n *Node) ReceiveSnapshot(m *raftpb.Message, s *snapshot.Staged) {
	n.in.Lock()
	n.in.msgs = append(n.in.msgs, inbound{msg: m, staged: s})
	n.in.Unlock()
	n.poke()
}

// ReportSnapshot says how the sending of a snapshot to a peer has ended.
func (n *Node) ReportSnapshot(peer uint64, status raft.SnapshotStatus) {
	n.report(func(rn *raft.RawNode) { rn.ReportSnapshot(peer, status) })
}

// ReportUnreachable says that a message to a peer was not delivered.
func (n *Node) ReportUnreachable(peer uint64) {
	n.report(func(rn *raft.RawNode) { rn.ReportUnreachable(peer) })
}

func (n *Node) report(f func(*raft.RawNode)) {
	n.in.Lock()
	n.in.msgs = append(n.in.msgs, inbound{report: f})
	n.in.Unlock()
	n.poke()
}

// conf returns the members.
func (n *Node) conf() *metapb.ConfState { return n.machine.Applied().Conf }

// alone says that this node is the only voter and has nobody to send anything to.
func (n *Node) alone() bool {
	c := n.conf()
	return c != nil && len(c.Voters) == 1 && c.Voters[0] == n.cfg.ID && len(c.VotersOutgoing)+len(c.Learners)+len(c.LearnersNext) == 0
}

func (n *Node) run() {
	defer close(n.stopped)
	defer n.release()
	defer func() {
		// Raft panics where its invariants do not hold, for example if the log it is given has lost
		// entries. That is this node's end, not that of the whole process.
		if p := recover(); p != nil {
			n.cfg.Logger.Error("metadata node panicked", "panic", p, "stack", string(debug.Stack()))
			n.Fail(fmt.Errorf("panic: %v", p))
		}
	}()
	for {
		if err := n.work(); err != nil {
			n.Fail(err)
			return
		}
		n.setTimers()
		var ticks <-chan time.Time
		if n.ticker != nil {
			ticks = n.ticker.C
		}
		select {
		case <-n.wake:
		case <-ticks:
			n.rn.Tick()
			n.reads.tick()
		case <-n.deadline.C:
			n.expire(time.Now())
		case <-n.stop:
			return
		}
	}
}

// release lets go of what run holds. Whoever waits for an answer sees stop.
func (n *Node) release() {
	n.solo.Store(false)
	n.deadline.Stop()
	if n.ticker != nil {
		n.ticker.Stop()
	}
	n.in.Lock()
	msgs := n.in.msgs
	n.in.msgs = nil
	n.in.Unlock()
	for _, m := range msgs {
		if m.staged != nil {
			m.staged.Remove()
		}
	}
	for _, s := range n.staged {
		s.Remove()
	}
}

func (n *Node) setTimers() {
	if alone := n.alone(); alone && n.ticker != nil {
		n.ticker.Stop()
		n.ticker = nil
	} else if !alone && n.ticker == nil {
		n.ticker = time.NewTicker(tick)
	}
	n.deadline.Stop()
	if next, ok := n.cfg.Leases.Next(); n.leading && ok {
		n.deadline.Reset(time.Until(next))
	}
}

// work goes on until there is nothing to do.
func (n *Node) work() error {
	for {
		for n.rn.HasReady() {
			if err := n.handle(n.rn.Ready()); err != nil {
				return err
			}
		}
		if n.failed.Load() != nil {
			return nil // run sees stop
		}
		if !n.takeInput() {
			return nil
		}
	}
}

// takeInput gives Raft what has come in. Raft has nothing ready, so the log's last index is Raft's.
func (n *Node) takeInput() bool {
	n.in.Lock()
	msgs, reads := n.in.msgs, n.in.reads
	n.in.msgs, n.in.reads = nil, nil
	var proposals []*proposal
	size := 0
	for i, p := range n.in.proposals {
		if size += len(p.data); i > 0 && (size > maxBatchBytes || i == maxBatchEntries || p.conf != nil) {
			break
		}
		proposals = n.in.proposals[: i+1 : i+1]
		if p.conf != nil {
			break
		}
	}
	n.in.proposals = n.in.proposals[len(proposals):]
	n.in.Unlock()

	for _, m := range msgs {
		n.receive(m)
	}
	if len(proposals) > 0 && !n.rn.HasReady() {
		n.proposeAll(proposals)
	} else if len(proposals) > 0 {
		n.in.Lock()
		n.in.proposals = append(proposals, n.in.proposals...)
		n.in.Unlock()
	}
	n.reads.add(reads)
	n.reads.ask(n.rn)
	return len(msgs)+len(reads)+len(proposals) > 0 || n.rn.HasReady()
}

func (n *Node) receive(in inbound) {
	if in.report != nil {
		in.report(n.rn)
		return
	}
	if in.staged != nil {
		meta := in.msg.GetSnapshot().GetMetadata()
		at := position{meta.GetIndex(), meta.GetTerm()}
		if a := in.staged.Applied; a.Index != at.index || a.Term != at.term {
			n.cfg.Logger.Warn("snapshot is not of the message that announced it", "index", a.Index, "announced", at.index)
			in.staged.Remove()
			return
		}
		if old := n.staged[at]; old != nil {
			old.Remove()
		}
		n.staged[at] = in.staged
	}
	if err := n.rn.Step(in.msg); err != nil {
		n.cfg.Logger.Debug("message from a peer refused", "err", err)
	}
}

func (n *Node) proposeAll(proposals []*proposal) {
	live := make([]*proposal, 0, len(proposals))
	entries := make([]*raftpb.Entry, 0, len(proposals))
	for _, p := range proposals {
		if p.ctx != nil && p.ctx.Err() != nil {
			p.done(outcome{err: p.ctx.Err()}) // nobody waits any more
			continue
		}
		e := &raftpb.Entry{Data: p.data}
		if p.conf != nil {
			data, err := proto.Marshal(p.conf)
			if err != nil {
				p.done(outcome{err: err})
				continue
			}
			e = &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Data: data}
		}
		live, entries = append(live, p), append(entries, e)
	}
	if len(live) == 0 {
		return
	}
	last, _ := n.log.LastIndex()
	err := n.rn.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(n.cfg.ID), Entries: entries})
	if err != nil {
		for _, p := range live {
			p.done(outcome{err: fmt.Errorf("%w: %w", raftmeta.ErrUnavailable, err)})
		}
		return
	}
	term := n.rn.BasicStatus().GetTerm()
	for i, p := range live {
		p.index, p.term = last+1+uint64(i), term
	}
	n.pending = append(n.pending, live...)
}

// handle does what Raft asks for.
func (n *Node) handle(rd raft.Ready) error {
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := n.install(rd.Snapshot); err != nil {
			return err
		}
	}
	if err := n.write(rd); err != nil {
		return err
	}
	n.send(rd.Messages)
	if rd.SoftState != nil {
		n.follow(rd.SoftState)
	}
	if len(rd.CommittedEntries) > 0 {
		if err := n.apply(rd.CommittedEntries); err != nil {
			return err
		}
	}
	n.reads.arrived(rd.ReadStates, n.machine.Applied().Index)
	n.rn.Advance(rd)
	if n.isLeader && !n.leading {
		return n.lead()
	}
	return nil
}

// write makes the entries and the hard state durable.
func (n *Node) write(rd raft.Ready) error {
	if len(rd.Entries) == 0 && raft.IsEmptyHardState(rd.HardState) {
		return nil
	}
	b := n.cfg.DB.NewBatch()
	defer b.Close()
	if err := n.log.Write(b, rd.Entries, rd.HardState); err != nil {
		return err
	}
	sync := pebble.NoSync
	if rd.MustSync {
		sync = pebble.Sync
	}
	if err := n.commit(b, sync); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	n.log.DidWrite(rd.Entries, rd.HardState)
	return nil
}

// commit writes a batch. Pebble reports some failures to its logger only, which calls Fail.
func (n *Node) commit(b *pebble.Batch, o *pebble.WriteOptions) error {
	if err := b.Commit(o); err != nil {
		return err
	}
	if p := n.failed.Load(); p != nil {
		return *p
	}
	return nil
}

func (n *Node) send(msgs []*raftpb.Message) {
	if len(msgs) == 0 {
		return
	}
	if n.cfg.Send == nil {
		n.cfg.Logger.Error("no transport for messages to peers", "messages", len(msgs))
		return
	}
	out := make([]Outbound, len(msgs))
	for i, m := range msgs {
		out[i].Msg = m
		if m.GetType() == raftpb.MsgSnap {
			out[i].State = n.cfg.DB.NewSnapshot()
		}
	}
	n.cfg.Send(out)
}

// follow takes note of who leads.
func (n *Node) follow(s *raft.SoftState) {
	was := n.isLeader
	n.isLeader, n.hasLead = s.RaftState == raft.StateLeader, s.Lead != raft.None
	if was && !n.isLeader {
		n.leading, n.compact = false, false
		n.serving.Store(false)
		n.solo.Store(false)
		n.cfg.Leases.Disable()
		for _, p := range n.pending {
			p.done(outcome{err: fmt.Errorf("%w: this node no longer leads", raftmeta.ErrUnavailable)})
		}
		n.pending = nil
	}
	n.reads.again() // whoever was asked may not lead any more
	if n.hasLead && !n.isLeader {
		n.announce()
	}
}

func (n *Node) announce() {
	select {
	case <-n.ready:
	default:
		close(n.ready)
	}
}

// lead begins to serve as leader once an entry of its term is applied, and with it all before.
func (n *Node) lead() error {
	if n.machine.Applied().Term != n.rn.BasicStatus().GetTerm() {
		return nil
	}
	sessions, err := state.Sessions(View{n.cfg.DB})
	if err != nil {
		return err
	}
	now := time.Now()
	for _, s := range sessions {
		n.cfg.Leases.Grant(s.ID, s.TTL, now)
	}
	n.cfg.Leases.Enable()
	n.leading = true
	n.serving.Store(true)
	n.marks = []mark{{n.machine.Applied().Rev, now}}
	n.solo.Store(n.alone() && n.failed.Load() == nil)
	n.announce()
	return nil
}

// apply applies committed entries: one batch, then the effects in order.
func (n *Node) apply(entries []*raftpb.Entry) error {
	b := n.cfg.DB.NewIndexedBatch()
	defer b.Close()
	effects := make([]outcome, len(entries))
	for i, e := range entries {
		var err error
		if effects[i].eff, err = n.step(b, e); err != nil {
			return fmt.Errorf("apply entry %d: %w", e.GetIndex(), err)
		}
		effects[i].err = effects[i].eff.Err
	}
	header, err := n.machine.Header()
	if err != nil {
		return err
	}
	if err := apply(b, header); err != nil {
		return err
	}
	if err := n.commit(b, pebble.NoSync); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	now := time.Now()
	for i, o := range effects {
		if o.eff.Opened.ID != 0 && n.leading {
			n.cfg.Leases.Grant(o.eff.Opened.ID, o.eff.Opened.TTL, now)
		}
		for _, id := range o.eff.Ended {
			n.cfg.Leases.Remove(id)
		}
		if len(o.eff.Ended) > 0 {
			n.cfg.Ended(o.eff.Ended)
		}
		if len(o.eff.Events) > 0 {
			n.cfg.Hub.Publish(o.eff.Rev, o.eff.Events)
		}
		n.answer(entries[i], o)
	}
	if n.leading {
		n.solo.Store(n.alone() && n.failed.Load() == nil)
		n.trimEvents(now)
	}
	return n.trimLog()
}

func (n *Node) step(b *pebble.Batch, e *raftpb.Entry) (state.Effects, error) {
	index, term := e.GetIndex(), e.GetTerm()
	switch e.GetType() {
	case raftpb.EntryConfChange, raftpb.EntryConfChangeV2:
		var cc raftpb.ConfChangeI
		if e.GetType() == raftpb.EntryConfChange {
			m := new(raftpb.ConfChange)
			if err := proto.Unmarshal(e.GetData(), m); err != nil {
				return state.Effects{}, fmt.Errorf("%w: member change: %w", raftlog.ErrCorrupt, err)
			}
			cc = m
		} else {
			m := new(raftpb.ConfChangeV2)
			if err := proto.Unmarshal(e.GetData(), m); err != nil {
				return state.Effects{}, fmt.Errorf("%w: member change: %w", raftlog.ErrCorrupt, err)
			}
			cc = m
		}
		n.machine.SetConf(index, term, ConfToPB(n.rn.ApplyConfChange(cc)))
		if !n.alone() {
			n.solo.Store(false)
		}
		return state.Effects{}, nil
	}
	if len(e.GetData()) == 0 {
		n.machine.Skip(index, term)
		return state.Effects{}, nil
	}
	c, err := command.Decode(e.GetData())
	if err != nil {
		return state.Effects{}, err
	}
	eff, muts, err := n.machine.Step(View{b}, index, term, c)
	if err != nil {
		return state.Effects{}, err
	}
	for _, m := range muts {
		if err := apply(b, m); err != nil {
			return state.Effects{}, err
		}
	}
	return eff, nil
}

// answer tells whoever proposed the entry.
func (n *Node) answer(e *raftpb.Entry, o outcome) {
	if len(n.pending) == 0 || n.pending[0].index != e.GetIndex() {
		return
	}
	p := n.pending[0]
	n.pending[0] = nil
	n.pending = n.pending[1:]
	if p.term != e.GetTerm() {
		o = outcome{err: fmt.Errorf("%w: another leader's entry took its place", raftmeta.ErrUnavailable)}
	}
	p.done(o)
}

// expire proposes the end of sessions that were silent for their TTL.
func (n *Node) expire(now time.Time) {
	term := n.rn.BasicStatus().GetTerm()
	for _, id := range n.cfg.Leases.Expired(now) {
		n.proposeOwn(command.ExpireSession{ID: id, Term: term}, func(o outcome) {
			if o.err != nil {
				n.cfg.Leases.Retake(id, time.Now())
			}
		})
	}
}

// proposeOwn proposes a command that nobody waits for.
func (n *Node) proposeOwn(c command.Command, done func(outcome)) {
	data, err := command.Encode(c)
	if err != nil {
		panic(fmt.Sprintf("node: encode own command: %v", err))
	}
	n.in.Lock()
	defer n.in.Unlock()
	n.in.proposals = append(n.in.proposals, &proposal{data: data, done: done})
	n.poke()
}

// trimEvents proposes to drop the events that need not be kept. It runs with the changes: a store at rest
// keeps what it has.
func (n *Node) trimEvents(now time.Time) {
	a := n.machine.Applied()
	if last := n.marks[len(n.marks)-1]; now.Sub(last.at) >= n.cfg.RetainFor/16 {
		n.marks = append(n.marks, mark{a.Rev, now})
	}
	upTo := raftmeta.Revision(0)
	for len(n.marks) > 1 && now.Sub(n.marks[0].at) >= n.cfg.RetainFor {
		upTo = n.marks[0].rev
		n.marks = n.marks[1:]
	}
	if retain := raftmeta.Revision(n.cfg.RetainRevisions); a.Rev-a.EventsAfter > retain+retain/8 {
		upTo = max(upTo, a.Rev-retain)
	}
	if upTo <= a.EventsAfter || n.compact {
		return
	}
	n.compact = true
	n.proposeOwn(command.CompactEvents{Rev: upTo}, func(outcome) { n.compact = false }) // called by run
}

// trimLog removes entries that nobody needs any more.
func (n *Node) trimLog() error {
	entries, bytes := n.log.Len()
	if entries < 2*keepEntries && bytes < 2*keepBytes {
		return nil
	}
	applied := n.machine.Applied().Index
	upTo := min(applied, n.log.Before(keepEntries, keepBytes))
	if n.isLeader && !n.alone() {
		n.rn.WithProgress(func(_ uint64, _ raft.ProgressType, pr tracker.Progress) {
			if applied-min(applied, pr.Match) < keepForSlowest {
				upTo = min(upTo, pr.Match)
			}
		})
	}
	first, _ := n.log.FirstIndex()
	if upTo < first || int(upTo-first) < entries/8 {
		return nil // held back by a follower: in larger steps
	}
	b := n.cfg.DB.NewBatch()
	defer b.Close()
	if err := n.log.Truncate(b, upTo); err != nil {
		return err
	}
	if err := n.commit(b, pebble.NoSync); err != nil {
		return fmt.Errorf("truncate log: %w", err)
	}
	n.log.DidTruncate(upTo)
	return nil
}

// install replaces the state by a snapshot that has come with its message.
func (n *Node) install(s *raftpb.Snapshot) error {
	at := position{s.GetMetadata().GetIndex(), s.GetMetadata().GetTerm()}
	staged := n.staged[at]
	if staged == nil {
		return fmt.Errorf("snapshot at %d was accepted, but its state has not come along", at.index)
	}
	// First the state, which holds its own position and members, then the log: after a crash between, Open
	// finds a state beyond the log and does the second again.
	if err := staged.Install(context.Background(), n.cfg.DB); err != nil {
		return err
	}
	delete(n.staged, at)
	b := n.cfg.DB.NewBatch()
	defer b.Close()
	if err := n.log.Reset(b, at.index, at.term); err != nil {
		return err
	}
	if err := n.commit(b, pebble.Sync); err != nil {
		return fmt.Errorf("reset log: %w", err)
	}
	n.log.DidReset(at.index, at.term)
	machine, err := state.Load(View{n.cfg.DB})
	if err != nil {
		return err
	}
	*n.machine = *machine
	n.cfg.Hub.Reload(machine.Applied().Rev)
	n.cfg.Logger.Info("metadata restored from a snapshot", "index", at.index, "revision", machine.Applied().Rev)
	return nil
}

// A read waits for the node to have applied all that was answered before it.
type read struct {
	ctx  context.Context
	done chan struct{} // closed
}

// A readQueue has at most one question to the leader under way, each with an id of its own: an answer to an
// earlier question, which may not cover reads that came later, is never taken for theirs.
type readQueue struct {
	prefix  uint64 // random
	seq     uint64
	waiting []*read // for the next question
	asked   []*read // by question seq
	age     int     // ticks since it was asked
	ripe    []ripe  // answered, to be applied
}

type ripe struct {
	index uint64
	reads []*read
}

func (q *readQueue) add(reads []*read) { q.waiting = append(q.waiting, reads...) }

func (q *readQueue) ask(rn *raft.RawNode) {
	if len(q.asked) > 0 || len(q.waiting) == 0 {
		return
	}
	for _, r := range q.waiting {
		if r.ctx.Err() == nil {
			q.asked = append(q.asked, r)
		}
	}
	q.waiting = nil
	if len(q.asked) == 0 {
		return
	}
	q.seq++
	q.age = 0
	rn.ReadIndex(q.id())
}

func (q *readQueue) id() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, q.prefix), q.seq)
}

// again takes back a question that may never be answered.
func (q *readQueue) again() {
	q.waiting = append(q.asked, q.waiting...)
	q.asked = nil
}

func (q *readQueue) tick() {
	if q.age++; q.age >= electionTicks/2 {
		q.again()
	}
}

func (q *readQueue) arrived(states []raft.ReadState, applied uint64) {
	for _, s := range states {
		if len(q.asked) > 0 && string(s.RequestCtx) == string(q.id()) {
			q.ripe = append(q.ripe, ripe{s.Index, q.asked})
			q.asked = nil
		}
	}
	for len(q.ripe) > 0 && q.ripe[0].index <= applied {
		for _, r := range q.ripe[0].reads {
			close(r.done)
		}
		q.ripe = q.ripe[1:]
	}
}
