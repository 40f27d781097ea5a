package metaserver

import (
	"context"
	"fmt"
	"time"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/command"
	"github.com/daybook/daybook/raftmeta/internal/lease"
	"github.com/daybook/daybook/raftmeta/internal/node"
	"github.com/daybook/daybook/raftmeta/internal/state"
)

// store is the server as a raftmeta.Store.
type store struct{ s *Server }

var _ raftmeta.Store = store{}

// begin is the start of every call.
func (st store) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return st.s.node.Err()
}

// Get implements raftmeta.Store.
func (st store) Get(ctx context.Context, key string) (raftmeta.Item, error) {
	if err := st.begin(ctx); err != nil {
		return raftmeta.Item{}, err
	}
	if err := command.CheckKey(key); err != nil {
		return raftmeta.Item{}, err
	}
	if err := st.s.node.Barrier(ctx); err != nil {
		return raftmeta.Item{}, fmt.Errorf("get %q: %w", key, err)
	}
	done, err := st.s.read()
	if err != nil {
		return raftmeta.Item{}, err
	}
	defer done()
	it, ok, err := state.Get(node.View{R: st.s.db}, key)
	if err != nil {
		return raftmeta.Item{}, st.s.broken(err)
	}
	if !ok {
		return raftmeta.Item{}, fmt.Errorf("key %q: %w", key, raftmeta.ErrNotFound)
	}
	return it, nil
}

// Range implements raftmeta.Store.
func (st store) Range(ctx context.Context, start, end string, limit int) ([]raftmeta.Item, raftmeta.Revision, error) {
	if err := st.begin(ctx); err != nil {
		return nil, 0, err
	}
	if err := st.s.node.Barrier(ctx); err != nil {
		return nil, 0, fmt.Errorf("range from %q: %w", start, err)
	}
	done, err := st.s.read()
	if err != nil {
		return nil, 0, err
	}
	defer done()
	snap := st.s.db.NewSnapshot()
	defer snap.Close()
	v := node.View{R: snap}
	a, err := state.ReadApplied(v)
	if err != nil {
		return nil, 0, st.s.broken(err)
	}
	items, err := state.Range(v, start, end, limit)
	if err != nil {
		return nil, 0, st.s.broken(err)
	}
	return items, a.Rev, nil
}

// broken stops the node: what it has stored cannot be read.
func (s *Server) broken(err error) error {
	s.node.Fail(err)
	return s.node.Err()
}

// Commit implements raftmeta.Store.
func (st store) Commit(ctx context.Context, txn raftmeta.Txn) (raftmeta.TxnResult, error) {
	if err := st.begin(ctx); err != nil {
		return raftmeta.TxnResult{}, err
	}
	c := command.Commit{Txn: txn}
	if err := c.Check(); err != nil {
		return raftmeta.TxnResult{}, err
	}
	if !st.s.cfg.HasSpace() && !c.OnlyDeletes() {
		return raftmeta.TxnResult{}, raftmeta.ErrNoSpace
	}
	eff, err := st.s.node.Propose(ctx, c)
	return eff.Result, err
}

// Watch implements raftmeta.Store.
func (st store) Watch(ctx context.Context, prefix string, after raftmeta.Revision) (raftmeta.Watcher, error) {
	if err := st.begin(ctx); err != nil {
		return nil, err
	}
	if err := command.CheckBound(prefix); err != nil {
		return nil, err
	}
	return st.s.hub.Watch(prefix, after)
}

// OpenSession implements raftmeta.Store.
func (st store) OpenSession(ctx context.Context, o raftmeta.SessionOptions) (raftmeta.Session, error) {
	if err := st.begin(ctx); err != nil {
		return nil, err
	}
	c, err := command.NewOpenSession(o)
	if err != nil {
		return nil, err
	}
	s, opened := st.s, time.Now()
	eff, err := s.node.Propose(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open session of %q: %w", o.Node, err)
	}
	id := eff.Opened.ID
	done, err := s.read()
	if err != nil {
		return nil, err
	}
	defer done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, errClosed()
	}
	ses := lease.NewSession(backend{s}, id, eff.Opened.TTL, opened)
	s.mu.sessions[id] = ses
	// It may have been ended since it was opened, before ended could find it.
	alive, err := state.HasSession(node.View{R: s.db}, id)
	if err != nil || !alive {
		delete(s.mu.sessions, id)
		ses.End()
	}
	if err != nil {
		return nil, s.broken(err)
	}
	return ses, nil
}

// Compact is Server.Compact, for metatest's suite.
func (st store) Compact(ctx context.Context, rev raftmeta.Revision) error {
	return st.s.Compact(ctx, rev)
}

// Close is Server.Close, for metatest's suite.
func (st store) Close() error { return st.s.Close() }

type backend struct{ s *Server }

func (b backend) KeepAlive(ctx context.Context, id raftmeta.SessionID) error {
	return b.s.node.KeepAlive(ctx, id)
}

func (b backend) EndSession(ctx context.Context, id raftmeta.SessionID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := b.s.node.Propose(ctx, command.CloseSession{ID: id})
	return err
}

type source struct{ s *Server }

// Events implements watch.Source.
func (src source) Events(after, upTo raftmeta.Revision, yield func(raftmeta.Revision, []raftmeta.Event) bool) error {
	done, err := src.s.read()
	if err != nil {
		return err
	}
	defer done()
	snap := src.s.db.NewSnapshot()
	defer snap.Close()
	return state.Events(node.View{R: snap}, after, upTo, yield)
}
