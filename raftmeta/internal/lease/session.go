package lease

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/daybook/daybook/raftmeta"
)

// A Backend is what a Session needs of its store.
type Backend interface {
	// KeepAlive renews the session; ErrSessionExpired says that it is gone.
	KeepAlive(ctx context.Context, id raftmeta.SessionID) error
	// EndSession ends the session and removes its keys.
	EndSession(ctx context.Context, id raftmeta.SessionID) error
}

// A Session is the owner's side of a session: it implements raftmeta.Session. One goroutine sends the
// keep-alives; it ends when the session is lost, which End and Close bring about.
type Session struct {
	b      Backend
	id     raftmeta.SessionID
	ttl    time.Duration
	lost   chan struct{}
	once   sync.Once // closes lost
	cancel context.CancelFunc
	done   chan struct{}
}

// NewSession keeps alive the session id, whose opening was asked for at opened.
func NewSession(b Backend, id raftmeta.SessionID, ttl time.Duration, opened time.Time) *Session {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Session{b: b, id: id, ttl: ttl, lost: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	go s.keep(ctx, opened)
	return s
}

// ID returns the session's id.
func (s *Session) ID() raftmeta.SessionID { return s.id }

// Lost is closed when the session must no longer be relied on.
func (s *Session) Lost() <-chan struct{} { return s.lost }

// End says that the session is gone. It does not wait.
func (s *Session) End() {
	s.once.Do(func() { close(s.lost) })
	s.cancel()
}

// Done is closed when the session's goroutine has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Close ends the session in the store. A session that is gone already is no error.
func (s *Session) Close(ctx context.Context) error {
	s.End()
	<-s.done
	if err := s.b.EndSession(ctx, s.id); err != nil && !errors.Is(err, raftmeta.ErrSessionExpired) {
		return err
	}
	return nil
}

// keep renews the session every third of its TTL; after a failure it tries again every thirtieth.
func (s *Session) keep(ctx context.Context, confirmed time.Time) {
	defer close(s.done)
	defer s.End()
	timer := time.NewTimer(max(0, time.Until(confirmed.Add(s.ttl/3))))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		trust := confirmed.Add(s.ttl * 2 / 3)
		sent := time.Now()
		if !sent.Before(trust) {
			return
		}
		tctx, cancel := context.WithDeadline(ctx, trust)
		err := s.b.KeepAlive(tctx, s.id)
		cancel()
		next := time.Now().Add(s.ttl / 30)
		switch {
		case err == nil:
			confirmed = sent
			next = sent.Add(s.ttl / 3)
		case errors.Is(err, raftmeta.ErrSessionExpired), errors.Is(err, raftmeta.ErrClosed), ctx.Err() != nil:
			return
		}
		if giveUp := confirmed.Add(s.ttl * 2 / 3); giveUp.Before(next) {
			next = giveUp
		}
		timer.Reset(max(0, time.Until(next)))
	}
}
