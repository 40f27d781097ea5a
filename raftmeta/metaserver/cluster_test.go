package metaserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/node"
	"github.com/daybook/daybook/raftmeta/internal/snapshot"
)

// A network carries messages between nodes of one process, and loses those that it is told to.
type network struct {
	mu    sync.Mutex
	nodes map[uint64]*Server
	cut   map[uint64]bool
	loss  atomic.Int64 // per mille
	wg    sync.WaitGroup
	snaps atomic.Int64
}

func (nw *network) send(from uint64) func([]node.Outbound) {
	return func(out []node.Outbound) {
		for _, o := range out {
			nw.mu.Lock()
			to, me := nw.nodes[o.Msg.GetTo()], nw.nodes[from]
			drop := to == nil || nw.cut[from] || nw.cut[o.Msg.GetTo()] || rand.Int64N(1000) < nw.loss.Load()
			nw.mu.Unlock()
			switch {
			case o.State != nil:
				nw.wg.Go(func() { nw.sendSnapshot(me, to, o, drop) })
			case !drop:
				to.node.Receive(o.Msg)
			}
		}
	}
}

func (nw *network) sendSnapshot(from, to *Server, o node.Outbound, drop bool) {
	defer o.State.Close()
	status := raft.SnapshotFailure
	if !drop {
		var b bytes.Buffer
		err := snapshot.Export(context.Background(), node.View{R: o.State}, from.cluster, &b)
		if err == nil {
			var s *snapshot.Staged
			if s, err = snapshot.Stage(&b, to.cluster, to.cfg.FS, "meta-staged", pebbleFormat); err == nil {
				to.node.ReceiveSnapshot(o.Msg, s)
				nw.snaps.Add(1)
				status = raft.SnapshotFinish
			}
		}
	}
	if from != nil {
		from.node.ReportSnapshot(o.Msg.GetTo(), status)
	}
}

func (nw *network) open(t *testing.T, id uint64, join []byte) *Server {
	t.Helper()
	s, err := Open(Config{Dir: "meta", FS: vfs.NewMem(), NodeID: id, send: nw.send(id), join: join})
	if err != nil {
		t.Fatal(err)
	}
	nw.mu.Lock()
	nw.nodes[id] = s
	nw.mu.Unlock()
	return s
}

// A trio is three nodes on the fake clock.
type trio struct {
	*testing.T
	ctx     context.Context
	nw      *network
	servers []*Server
}

func (c *trio) isCut(s *Server) bool {
	c.nw.mu.Lock()
	defer c.nw.mu.Unlock()
	return c.nw.cut[s.cfg.NodeID]
}

func (c *trio) cut(s *Server, v bool) {
	c.nw.mu.Lock()
	defer c.nw.mu.Unlock()
	c.nw.cut[s.cfg.NodeID] = v
}

// leader waits for a node that leads and is not cut off.
func (c *trio) leader() *Server {
	c.Helper()
	for c.ctx.Err() == nil {
		for _, s := range c.servers {
			if s.node.Leading() && !c.isCut(s) {
				return s
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.Fatal("no node leads")
	return nil
}

// commit tries until a leader has answered. A repetition of what was in doubt does no harm: it puts the same.
func (c *trio) commit(key, value string) {
	c.Helper()
	for {
		ctx, cancel := context.WithTimeout(c.ctx, time.Second)
		_, err := c.leader().Store().Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put(key, []byte(value))}})
		cancel()
		if err == nil {
			return
		}
		if c.ctx.Err() != nil {
			c.Fatalf("no node commits: %v", err)
		}
	}
}

func (c *trio) check(s *Server, key, want string) {
	c.Helper()
	it, err := s.Store().Get(c.ctx, key)
	if err != nil || string(it.Value) != want {
		c.Fatalf("node %d reads %q, %v at %s, want %q", s.cfg.NodeID, it.Value, err, key, want)
	}
}

// cluster grows a cluster from one node with data, so that the others are brought up by snapshots. started is
// called for each new node before it knows anything.
func cluster(t *testing.T, started func(*Server), f func(*trio)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		nw := &network{nodes: map[uint64]*Server{}, cut: map[uint64]bool{}}
		defer func() {
			for _, s := range nw.nodes {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			nw.wg.Wait()
		}()
		s1 := nw.open(t, 1, nil)
		if err := s1.node.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			put(t, s1.Store(), raftmeta.Put(fmt.Sprintf("before/%d", i), []byte("x")))
		}
		c := &trio{T: t, ctx: ctx, nw: nw, servers: []*Server{s1}}
		for id := uint64(2); id <= 3; id++ {
			s := nw.open(t, id, s1.cluster)
			started(s)
			c.servers = append(c.servers, s)
			cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(id)}}}
			if err := s1.node.ChangeMembers(ctx, cc); err != nil {
				t.Fatalf("add node %d: %v", id, err)
			}
		}
		f(c)
	})
}

// TestThreeNodesAgree writes through the leader and reads on every node, also while messages are lost and after
// leaders are cut off.
func TestThreeNodesAgree(t *testing.T) {
	t.Parallel()
	var w raftmeta.Watcher
	cluster(t, func(s *Server) {
		if s.cfg.NodeID != 2 {
			return
		}
		var err error
		if w, err = s.Store().Watch(t.Context(), "", 0); err != nil {
			t.Fatal(err)
		}
	}, func(c *trio) {
		defer w.Close()
		c.nw.loss.Store(50)
		for i := range 100 {
			value := fmt.Sprint(i)
			c.commit("k", value)
			c.check(c.servers[i%3], "k", value)
		}
		if n := c.nw.snaps.Load(); n < 2 {
			c.Errorf("%d snapshots were sent, want one for each new node", n)
		}
		for round := range 5 {
			old := c.leader()
			c.cut(old, true)
			after := fmt.Sprint("after cut ", round)
			c.commit("k", after)
			for _, s := range c.servers {
				if s != old {
					c.check(s, "k", after)
				}
			}
			// The old leader may not know better, and so must not answer.
			ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
			if it, err := old.Store().Get(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
				c.Errorf("a node that is cut off answers %q, %v", it.Value, err)
			}
			if _, err := old.Store().Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("lost", nil)}}); err == nil {
				c.Error("a node that is cut off commits")
			}
			cancel()
			c.cut(old, false)
			c.commit("k", fmt.Sprint("healed ", round))
			for _, s := range c.servers {
				c.check(s, "k", fmt.Sprint("healed ", round))
			}
		}

		// Node 2 saw every revision once, although its first ones came with the snapshot.
		_, last, err := c.servers[1].Store().Range(c.ctx, "", "", 0)
		if err != nil {
			c.Fatal(err)
		}
		for want := raftmeta.Revision(1); want <= last; {
			b, err := w.Next(c.ctx)
			if err != nil {
				c.Fatal(err)
			}
			if len(b.Events) == 0 && b.Rev == want-1 {
				continue // a bookmark
			}
			if b.Rev != want {
				c.Fatalf("node 2 saw revision %d, want %d", b.Rev, want)
			}
			want++
		}
		// At rest all have the same state, to the byte.
		c.nw.loss.Store(0)
		c.commit("k", "end")
		time.Sleep(5 * time.Second)
		var exports [3]bytes.Buffer
		for i, s := range c.servers {
			if err := s.Export(c.ctx, &exports[i]); err != nil {
				c.Fatal(err)
			}
			if !bytes.Equal(exports[i].Bytes(), exports[0].Bytes()) {
				c.Errorf("the state of node %d differs from that of node 1", i+1)
			}
		}
	})
}

// TestNewLeaderGrantsAFullTTL lets a session's leader be cut off: neither it nor its successor ends the session
// before a full TTL has gone by under the successor.
func TestNewLeaderGrantsAFullTTL(t *testing.T) {
	t.Parallel()
	cluster(t, func(*Server) {}, func(c *trio) {
		const ttl = 30 * time.Second
		old := c.leader()
		ses, err := old.Store().OpenSession(c.ctx, raftmeta.SessionOptions{Node: "n", Incarnation: 1, TTL: ttl})
		if err != nil {
			c.Fatal(err)
		}
		put(c.T, old.Store(), raftmeta.PutEphemeral("e", nil, ses.ID()))
		time.Sleep(10 * time.Minute)
		c.check(old, "e", "")
		c.cut(old, true)
		cut := time.Now()
		<-ses.Lost()
		if d := time.Since(cut); d > ttl*2/3 {
			c.Errorf("lost after %v, want two thirds of the TTL after the last keep-alive that was confirmed", d)
		}
		young := c.leader()
		w, err := young.Store().Watch(c.ctx, "e", 51)
		if err != nil {
			c.Fatal(err)
		}
		defer w.Close()
		for {
			b, err := w.Next(c.ctx)
			if err != nil {
				c.Fatal(err)
			}
			if len(b.Events) > 0 {
				break
			}
		}
		if d := time.Since(cut); d < ttl || d > ttl+10*time.Second {
			c.Errorf("expired %v after the cut, want the TTL after the next leader's election", d)
		}
	})
}
