package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/raftmeta"
)

func TestTableExpiresTheSilent(t *testing.T) {
	t0 := time.Now()
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	expired := func(table *Table, now time.Time) []raftmeta.SessionID {
		ids := table.Expired(now)
		slices.Sort(ids)
		return ids
	}
	table := NewTable()
	if _, ok := table.Next(); ok {
		t.Error("an empty table has a deadline")
	}
	table.Grant(1, 10*time.Second, at(0))
	table.Grant(2, 5*time.Second, at(0))
	if next, ok := table.Next(); !ok || next != at(5) {
		t.Errorf("Next = %v, want 5 s", next.Sub(t0))
	}
	if err := table.Renew(2, at(4)); err != nil {
		t.Fatal(err)
	}
	if ids := expired(table, at(8)); len(ids) != 0 {
		t.Errorf("expired %v before the renewed deadline", ids)
	}
	if ids := expired(table, at(10)); !slices.Equal(ids, []raftmeta.SessionID{1, 2}) {
		t.Errorf("expired %v, want 1 and 2", ids)
	}
	if ids := expired(table, at(20)); len(ids) != 0 {
		t.Errorf("expired %v twice", ids)
	}
	if _, ok := table.Next(); ok {
		t.Error("a session whose end is being decided has a deadline")
	}
	if err := table.Renew(1, at(11)); !errors.Is(err, raftmeta.ErrUnavailable) {
		t.Errorf("renewal while the end is being decided: %v, want ErrUnavailable", err)
	}
	table.Retake(1, at(12))
	if next, ok := table.Next(); !ok || next != at(22) {
		t.Errorf("deadline of a retaken session %v, want a full TTL", next.Sub(t0))
	}
	if err := table.Renew(1, at(13)); err != nil {
		t.Errorf("renewal of a retaken session: %v", err)
	}
	table.Remove(2)
	if err := table.Renew(2, at(13)); !errors.Is(err, raftmeta.ErrSessionExpired) {
		t.Errorf("renewal of a session that is gone: %v, want ErrSessionExpired", err)
	}
	table.Disable()
	if err := table.Renew(1, at(13)); !errors.Is(err, raftmeta.ErrUnavailable) {
		t.Errorf("renewal at a node that does not lead: %v, want ErrUnavailable", err)
	}
	table.Enable()
	if err := table.Renew(1, at(13)); !errors.Is(err, raftmeta.ErrSessionExpired) {
		t.Errorf("renewal of what was not granted anew: %v, want ErrSessionExpired", err)
	}
}

// fake is a Backend that answers what it is told.
type fake struct {
	mu    sync.Mutex
	err   error
	hang  bool
	calls int
	ended bool
}

func (f *fake) set(err error, hang bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.hang = err, hang
}

// take returns the number of keep-alives since the last take.
func (f *fake) take() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.calls
	f.calls = 0
	return n
}

func (f *fake) KeepAlive(ctx context.Context, _ raftmeta.SessionID) error {
	f.mu.Lock()
	f.calls++
	err, hang := f.err, f.hang
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (f *fake) EndSession(context.Context, raftmeta.SessionID) error {
	f.ended = true
	return f.err
}

// TestSessionIsGivenUpInTime: whatever happens to keep-alives, the owner stops relying on the session no later
// than two thirds of the TTL after the last that was confirmed was sent.
func TestSessionIsGivenUpInTime(t *testing.T) {
	const ttl = 30 * time.Second
	for name, c := range map[string]struct {
		err       error
		hang      bool
		min, max  time.Duration // after the last confirmed keep-alive
		wantCalls int
	}{
		"errors":  {err: fmt.Errorf("%w", raftmeta.ErrUnavailable), min: 20 * time.Second, max: 20 * time.Second, wantCalls: 10},
		"silence": {hang: true, min: 20 * time.Second, max: 20 * time.Second, wantCalls: 1},
		"expired": {err: raftmeta.ErrSessionExpired, min: 10 * time.Second, max: 10 * time.Second, wantCalls: 1},
		"closed":  {err: raftmeta.ErrClosed, min: 10 * time.Second, max: 10 * time.Second, wantCalls: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := new(fake)
				start := time.Now()
				s := NewSession(f, 1, ttl, start)
				time.Sleep(time.Hour + time.Second)
				select {
				case <-s.Lost():
					t.Fatal("a session that is kept alive was lost")
				default:
				}
				if n, want := f.take(), int(time.Hour/(ttl/3)); n != want {
					t.Errorf("%d keep-alives in an hour, want %d", n, want)
				}
				f.set(c.err, c.hang)
				<-s.Lost()
				if d := time.Since(start.Add(time.Hour)); d < c.min || d > c.max {
					t.Errorf("lost %v after the last confirmed keep-alive, want %v", d, c.max)
				}
				<-s.Done()
				if n := f.take(); n != c.wantCalls {
					t.Errorf("%d attempts, want %d", n, c.wantCalls)
				}
			})
		})
	}
}

func TestSessionRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fake)
		s := NewSession(f, 1, 30*time.Second, time.Now())
		for range 10 {
			f.set(raftmeta.ErrUnavailable, false)
			time.Sleep(9 * time.Second)
			f.set(nil, false)
			time.Sleep(14 * time.Second)
		}
		select {
		case <-s.Lost():
			t.Fatal("lost, although a keep-alive was confirmed every 20 s")
		default:
		}
		if err := s.Close(t.Context()); err != nil || !f.ended {
			t.Errorf("Close: %v, ended %v", err, f.ended)
		}
	})
}

// TestLateOpeningIsNotTrusted: the time that the opening took counts.
func TestLateOpeningIsNotTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fake)
		opened := time.Now()
		time.Sleep(15 * time.Second)
		f.set(raftmeta.ErrUnavailable, false)
		s := NewSession(f, 1, 30*time.Second, opened)
		<-s.Lost()
		if d := time.Since(opened); d > 20*time.Second {
			t.Errorf("given up %v after the opening was asked for, want 20 s", d)
		}
		<-s.Done()
	})
}
