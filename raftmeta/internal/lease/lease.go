// Package lease keeps sessions alive: Table is the leader's memory of when each session was last heard of, and
// Session the owner's side of one session.
//
// Keep-alives leave no trace in the log. A session that was silent for its TTL is ended by a command that the
// apply step rejects if the leader that proposed it no longer leads; a new leader grants every session a full
// TTL. The owner stops relying on its session when no keep-alive was confirmed for two thirds of the TTL, so
// before anyone else may believe it gone.
package lease

import (
	"fmt"
	"sync"
	"time"

	"github.com/daybook/daybook/raftmeta"
)

// A Table says when sessions expire. Its methods may be called by any goroutine.
type Table struct {
	mu struct {
		sync.Mutex
		leases map[raftmeta.SessionID]*grant
		inert  bool // this node does not lead: it knows nothing about sessions
	}
}

type grant struct {
	ttl      time.Duration
	deadline time.Time
	expiring bool // its end has been proposed
}

// NewTable returns an empty table.
func NewTable() *Table {
	t := new(Table)
	t.mu.leases = make(map[raftmeta.SessionID]*grant)
	return t
}

// Disable empties the table: until Enable, all keep-alives fail with ErrUnavailable.
func (t *Table) Disable() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.inert = true
	clear(t.mu.leases)
}

// Enable makes an emptied table answer again, after the caller has granted what is alive.
func (t *Table) Enable() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.inert = false
}

// Grant adds a session, or gives it a full TTL anew.
func (t *Table) Grant(id raftmeta.SessionID, ttl time.Duration, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.leases[id] = &grant{ttl: ttl, deadline: now.Add(ttl)}
}

// Remove forgets a session that has ended.
func (t *Table) Remove(id raftmeta.SessionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.mu.leases, id)
}

// Renew records a keep-alive. A session whose end was proposed is not renewed, as the end may already be
// decided: the answer then is ErrUnavailable, and later ErrSessionExpired, unless the end is taken back.
func (t *Table) Renew(id raftmeta.SessionID, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.mu.leases[id]
	switch {
	case t.mu.inert:
		return fmt.Errorf("keep-alive: %w: this node does not lead", raftmeta.ErrUnavailable)
	case g == nil:
		return fmt.Errorf("keep-alive: %w: %x", raftmeta.ErrSessionExpired, id)
	case g.expiring:
		return fmt.Errorf("keep-alive: %w: the end of session %x is being decided", raftmeta.ErrUnavailable, id)
	}
	g.deadline = now.Add(g.ttl)
	return nil
}

// Expired returns the sessions that were silent for their TTL and marks them, so that each is returned once.
func (t *Table) Expired(now time.Time) []raftmeta.SessionID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []raftmeta.SessionID
	for id, g := range t.mu.leases {
		if !g.expiring && !now.Before(g.deadline) {
			g.expiring = true
			ids = append(ids, id)
		}
	}
	return ids
}

// Retake takes the proposed end of a session back and gives it a full TTL anew.
func (t *Table) Retake(id raftmeta.SessionID, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g := t.mu.leases[id]; g != nil {
		g.expiring, g.deadline = false, now.Add(g.ttl)
	}
}

// Next returns the earliest deadline, or false if there is none to wait for.
func (t *Table) Next() (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next time.Time
	found := false
	for _, g := range t.mu.leases {
		if !g.expiring && (!found || g.deadline.Before(next)) {
			next, found = g.deadline, true
		}
	}
	return next, found
}
