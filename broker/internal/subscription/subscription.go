package subscription

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daybook/daybook/broker/internal/dispatch"
	"github.com/daybook/daybook/broker/internal/meter"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/mledger"
)

// ErrGone: the subscription was deleted or closed between being found and being used.
var ErrGone = errors.New("subscription is gone")

// A Host is the topic that subscriptions belong to.
type Host interface {
	// Gone tells that a non-durable subscription has lost its last consumer and closed itself. It is called without
	// locks.
	Gone(s *Subscription)
	// Delete removes the subscription, its cursor with it, whoever is connected.
	Delete(ctx context.Context, s *Subscription) error
}

// Config is what a subscription is made of.
type Config struct {
	Name   string
	Ledger *mledger.Ledger
	Cursor *mledger.Cursor
	Host   Host
	// Partition is the index of the topic among its partitions, -1 if it is none.
	Partition int
	Logger    *slog.Logger
	// MaxUnacked and MaxUnackedTotal bound the unacknowledged messages of one consumer and of all together, on
	// Shared and Key_Shared; 0 is no bound.
	MaxUnacked, MaxUnackedTotal int64
	// Replicated is the flag that a subscriber asked for, kept for statistics.
	Replicated bool
}

// A Subscription is one subscription of a loaded topic. All methods may be called by any goroutine.
type Subscription struct {
	cfg    Config
	ledger *mledger.Ledger
	cursor *mledger.Cursor
	host   Host
	opened time.Time

	// atEnd is set, with mu held, when everything there is has been read; growth clears it.
	atEnd atomic.Bool

	msgOut, bytesOut, redelivered, acked, expired meter.Meter

	// mu comes before the locks of the managed ledger. A consumer's gate is never taken while it is held.
	mu struct {
		sync.Mutex
		typ     Type
		hasType bool
		keys    *KeySharedMeta
		// consumers in the order in which they came.
		consumers []*Consumer
		// active is the one that gets everything, on Exclusive and Failover.
		active *Consumer
		// queue deals on Shared and Key_Shared, nil without consumers.
		queue *dispatch.Queue
		// read is the next entry to read; moves other than by reading count generation up, so that what was being
		// read at that time is not used.
		read       ledgerfs.Position
		generation uint64
		// average is messages an entry on Exclusive and Failover, in 1/256.
		average int64
		// running says that the dispatching goroutine exists.
		running bool
		// retry is set while reading rests because it has failed, failures times in a row.
		retry    *time.Timer
		failures int
		// timer wakes the subscription at dueAt, in ms since 1970, when the first delayed message falls due.
		timer *time.Timer
		dueAt int64
		// seeking is closed when the seek that is under way ends.
		seeking chan struct{}
		closed  bool
		// leaving is the consumer that unsubscribes: it hears of the end by the answer to that.
		leaving *Consumer
		// notices are calls of sinks to be made, telling says that a goroutine is making some.
		notices []func()
		telling bool

		lastExpire, lastConsumed, lastFlow, lastAcked, lastMoved time.Time
	}
}

// New makes the subscription of a cursor. It has no consumers yet.
func New(cfg Config) *Subscription {
	s := &Subscription{cfg: cfg, ledger: cfg.Ledger, cursor: cfg.Cursor, host: cfg.Host, opened: time.Now()}
	s.mu.read = s.cursor.FirstUnacked()
	return s
}

// Name is the subscription's name.
func (s *Subscription) Name() string { return s.cfg.Name }

// Cursor is the subscription's cursor.
func (s *Subscription) Cursor() *mledger.Cursor { return s.cursor }

// Durable reports whether the subscription outlives its consumers.
func (s *Subscription) Durable() bool { return s.cursor.Durable() }

// Add takes a consumer in. It waits for a seek that is under way. ErrGone: the caller finds or makes the
// subscription anew.
func (s *Subscription) Add(ctx context.Context, r Request, sink ConsumerSink) (*Consumer, error) {
	for {
		c, obstacle, wait, err := s.add(r, sink)
		switch {
		case err != nil && obstacle != nil:
			// A consumer stands in the way; if its client is dead, it goes.
			probe, cancel := context.WithTimeout(ctx, aliveTimeout)
			alive := obstacle.sink.Alive(probe)
			cancel()
			if alive || ctx.Err() != nil {
				return nil, err
			}
			obstacle.disconnect()
			obstacle.Close()
		case err != nil:
			return nil, err
		case wait != nil:
			select {
			case <-wait:
			case <-ctx.Done():
				return nil, serr.ServiceNotReady.Wrapf(ctx.Err(), "subscription %q is being reset", s.Name())
			}
		default:
			return c, nil
		}
	}
}

// aliveTimeout is how long a client has to show that it is alive when another wants its place.
const aliveTimeout = 5 * time.Second

// add takes the consumer in, or says who is in its way, or what to wait for.
func (s *Subscription) add(r Request, sink ConsumerSink) (c, obstacle *Consumer, wait chan struct{}, err error) {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return nil, nil, nil, ErrGone
	}
	if s.mu.seeking != nil {
		defer s.mu.Unlock()
		return nil, nil, s.mu.seeking, nil
	}
	if obstacle, err = s.checkLocked(r); err != nil {
		s.mu.Unlock()
		return nil, obstacle, nil, err
	}
	c = &Consumer{sub: s, sink: sink, req: r, connected: time.Now(), joinedAt: s.mu.read, epoch: r.Epoch}
	if len(s.mu.consumers) == 0 {
		s.mu.typ, s.mu.hasType, s.mu.keys = r.Type, true, nil
		s.rewindLocked()
		if r.Type == Shared || r.Type == KeyShared {
			s.mu.queue = &dispatch.Queue{MaxUnacked: s.cfg.MaxUnacked, MaxUnackedTotal: s.cfg.MaxUnackedTotal}
		}
		if r.Type == KeyShared {
			s.mu.keys = metaOrDefault(r.KeyShared)
			s.mu.queue.Keys = &dispatch.Keys{Sticky: s.mu.keys.Sticky}
			s.mu.queue.Unordered = s.mu.keys.AllowOutOfOrder
		}
	}
	if q := s.mu.queue; q != nil {
		var ranges []dispatch.Range
		if r.KeyShared != nil && r.KeyShared.Sticky {
			for _, h := range r.KeyShared.Ranges {
				ranges = append(ranges, dispatch.Range(h))
			}
		}
		place, aerr := q.Add(r.Priority, ranges)
		if aerr != nil {
			if len(s.mu.consumers) == 0 {
				s.mu.queue = nil
			}
			s.mu.Unlock()
			return nil, nil, nil, serr.ConsumerAssignError.Wrapf(aerr, "%s", aerr.Error())
		}
		place.Owner = c
		c.place = place
	}
	s.mu.consumers = append(s.mu.consumers, c)
	s.electLocked(c)
	s.wakeLocked()
	s.unlockAndTell()
	return c, nil, nil, nil
}

func metaOrDefault(m *KeySharedMeta) *KeySharedMeta {
	if m == nil {
		return &KeySharedMeta{}
	}
	return m
}

// checkLocked reports why the consumer cannot join those that are there.
func (s *Subscription) checkLocked(r Request) (obstacle *Consumer, err error) {
	if len(s.mu.consumers) == 0 {
		return nil, nil
	}
	first := s.mu.consumers[0]
	if s.mu.typ != r.Type {
		return first, serr.ConsumerBusy.Errorf("Subscription is of different type. Active subscription type of '%s' is different than the connecting consumer's type '%s'.", s.mu.typ, r.Type)
	}
	switch r.Type {
	case Exclusive:
		return first, serr.ConsumerBusy.Errorf("Exclusive consumer is already connected")
	case KeyShared:
		have, want := s.mu.keys, metaOrDefault(r.KeyShared)
		if have.Sticky != want.Sticky {
			return first, serr.ConsumerBusy.Errorf("Subscription is of different type. Active subscription key_shared mode of '%s' is different than the connecting consumer's key_shared mode '%s'.", have.mode(), want.mode())
		}
		if have.AllowOutOfOrder != want.AllowOutOfOrder {
			return first, serr.ConsumerBusy.Errorf("Subscription is of different type. The active consumers and the connecting one differ in whether they allow out-of-order delivery.")
		}
		if want.Sticky {
			var ranges []dispatch.Range
			for _, h := range want.Ranges {
				ranges = append(ranges, dispatch.Range(h))
			}
			if p := s.mu.queue.Keys.Conflict(ranges); p != nil {
				return p.Owner.(*Consumer), serr.ConsumerAssignError.Errorf("Range conflict with consumer %s", p.Owner.(*Consumer).Name())
			}
		}
	}
	return nil, nil
}

func (m *KeySharedMeta) mode() string {
	if m.Sticky {
		return "STICKY"
	}
	return "AUTO_SPLIT"
}

// noteLocked has f, a call of a sink, made once the lock is released: after those noted before.
func (s *Subscription) noteLocked(f func()) { s.mu.notices = append(s.mu.notices, f) }

// unlockAndTell releases the lock and makes the calls that were noted. If another goroutine is at it, that one goes on
// with ours, so that sinks hear things in the order in which they happened.
func (s *Subscription) unlockAndTell() {
	if s.mu.telling {
		s.mu.Unlock()
		return
	}
	for len(s.mu.notices) > 0 {
		s.mu.telling = true
		notices := s.mu.notices
		s.mu.notices = nil
		s.mu.Unlock()
		for _, f := range notices {
			f()
		}
		s.mu.Lock()
	}
	s.mu.telling = false
	s.mu.Unlock()
}

// electLocked chooses the active consumer. newcomer, which may be nil, is told where it stands in any case.
func (s *Subscription) electLocked(newcomer *Consumer) {
	if s.mu.queue != nil {
		return
	}
	old := s.mu.active
	if s.mu.active = nil; len(s.mu.consumers) > 0 {
		candidates := make([]dispatch.Candidate, len(s.mu.consumers))
		for i, c := range s.mu.consumers {
			candidates[i] = dispatch.Candidate{Priority: c.req.Priority, Name: c.req.ConsumerName}
		}
		s.mu.active = s.mu.consumers[dispatch.Active(candidates, s.cfg.Partition)]
	}
	if s.mu.active != old {
		s.rewindLocked()
	}
	if s.mu.typ != Failover {
		return
	}
	for _, c := range s.mu.consumers {
		if s.mu.active != old || c == newcomer {
			active := c == s.mu.active
			s.noteLocked(func() { c.tell(func() { c.sink.ActiveChanged(c, active) }) })
		}
	}
}

// rewindLocked has reading begin anew at the first entry that is not acknowledged.
func (s *Subscription) rewindLocked() {
	s.mu.read = s.cursor.FirstUnacked()
	s.mu.generation++
	s.atEnd.Store(false)
	if s.mu.queue != nil {
		s.mu.queue.Reset()
	}
}

// remove takes a consumer out.
func (s *Subscription) remove(c *Consumer) {
	s.mu.Lock()
	i := slices.Index(s.mu.consumers, c)
	if i < 0 {
		s.mu.Unlock()
		return
	}
	s.mu.consumers = slices.Delete(s.mu.consumers, i, i+1)
	c.gone = true
	if q := s.mu.queue; q != nil {
		q.Remove(c.place)
		if len(s.mu.consumers) == 0 {
			s.mu.queue = nil
		}
	}
	s.electLocked(nil)
	if len(s.mu.consumers) == 0 {
		s.mu.generation++
	}
	gone := s.vacantLocked()
	s.wakeLocked()
	s.unlockAndTell()
	if gone {
		s.host.Gone(s)
	}
}

// vacantLocked closes a non-durable subscription that has lost its last consumer.
func (s *Subscription) vacantLocked() bool {
	if len(s.mu.consumers) > 0 || s.Durable() || s.mu.seeking != nil || s.mu.closed {
		return false
	}
	s.closeLocked()
	return true
}

func (s *Subscription) closeLocked() {
	s.mu.closed = true
	s.mu.generation++
	s.mu.active, s.mu.queue = nil, nil
	if s.mu.retry != nil {
		s.mu.retry.Stop()
	}
	if s.mu.timer != nil {
		s.mu.timer.Stop()
	}
}

// Close closes all consumers and the subscription: the topic is unloaded, or the subscription deleted.
func (s *Subscription) Close() {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return
	}
	consumers := s.mu.consumers
	s.mu.consumers = nil
	leaving := s.mu.leaving
	s.closeLocked()
	s.mu.Unlock()
	for _, c := range consumers {
		if c == leaving {
			c.shut()
		} else {
			c.disconnect()
		}
	}
}

// Grown tells that the topic has new entries, or was terminated.
func (s *Subscription) Grown() {
	if s.atEnd.CompareAndSwap(true, false) {
		s.mu.Lock()
		s.wakeLocked()
		s.mu.Unlock()
	}
}

// Consumers are those connected now.
func (s *Subscription) Consumers() []*Consumer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mu.consumers)
}

// MarkDelete is the position up to which everything is acknowledged.
func (s *Subscription) MarkDelete() ledgerfs.Position { return s.cursor.MarkDelete() }

// seekLinger is how long a non-durable subscription waits for a consumer after a seek has closed them all.
const seekLinger = time.Minute

// Seek moves the cursor. All consumers are closed: their clients subscribe again, and wait until the cursor stands
// where it should.
func (s *Subscription) Seek(ctx context.Context, to SeekTarget) error {
	start, err := s.resolve(ctx, to)
	if err != nil {
		return err
	}
	s.mu.Lock()
	switch {
	case s.mu.closed:
		s.mu.Unlock()
		return serr.ServiceNotReady.Errorf("subscription %q is closed", s.Name())
	case s.mu.seeking != nil:
		s.mu.Unlock()
		return serr.ServiceNotReady.Errorf("subscription %q is being reset already", s.Name())
	}
	done := make(chan struct{})
	s.mu.seeking = done
	consumers := s.mu.consumers
	s.mu.consumers, s.mu.active, s.mu.queue = nil, nil, nil
	s.mu.generation++
	for _, c := range consumers {
		c.gone = true
	}
	s.mu.Unlock()
	for _, c := range consumers {
		c.disconnect()
	}
	err = s.cursor.Reset(ctx, start)
	if err == nil && to.AckSet != nil && to.Time.IsZero() {
		s.cursor.Ack(to.Position, to.AckSet)
	}
	s.mu.Lock()
	s.mu.seeking = nil
	s.rewindLocked()
	if !s.Durable() && !s.mu.closed {
		time.AfterFunc(seekLinger, s.leave)
	}
	s.mu.Unlock()
	close(done)
	if err != nil {
		return serr.MetadataError.Wrapf(err, "the cursor of subscription %q cannot be moved", s.Name())
	}
	return nil
}

// leave ends a non-durable subscription to which nobody has come back after a seek.
func (s *Subscription) leave() {
	s.mu.Lock()
	gone := s.vacantLocked()
	s.mu.Unlock()
	if gone {
		s.host.Gone(s)
	}
}

// resolve finds where a seek leads.
func (s *Subscription) resolve(ctx context.Context, to SeekTarget) (mledger.Start, error) {
	if to.Time.IsZero() {
		switch {
		case to.Position.Ledger < 0:
			return mledger.Earliest, nil
		case s.ledger.LastConfirmed().Less(to.Position):
			return mledger.Latest, nil
		}
		return mledger.At(ledgerfs.Position{Ledger: to.Position.Ledger, Entry: max(0, to.Position.Entry)}), nil
	}
	p, ok, err := s.findTime(ctx, to.Time)
	switch {
	case err != nil:
		return mledger.Start{}, serr.PersistenceError.Wrapf(err, "the message of %v cannot be found", to.Time.UnixMilli())
	case !ok:
		return mledger.Latest, nil
	}
	return mledger.At(p), nil
}

// findTime is the first entry that was published at or after t.
func (s *Subscription) findTime(ctx context.Context, t time.Time) (ledgerfs.Position, bool, error) {
	return FindTime(ctx, s.ledger, t)
}

// Skip acknowledges the next n unacknowledged entries.
func (s *Subscription) Skip(ctx context.Context, n int) error {
	to := s.cursor.MarkDelete()
	for p := s.cursor.FirstUnacked(); n > 0 && !s.ledger.LastConfirmed().Less(p); n-- {
		to = p
		p = s.cursor.NextUnacked(s.ledger.Next(p))
	}
	return s.ackThrough(ctx, to)
}

// SkipAll acknowledges everything that the topic holds now.
func (s *Subscription) SkipAll(ctx context.Context) error {
	return s.ackThrough(ctx, s.ledger.LastConfirmed())
}

// ExpireBefore acknowledges every entry before the first one that was published at t or later.
func (s *Subscription) ExpireBefore(ctx context.Context, t time.Time) error {
	p, ok, err := s.findTime(ctx, t)
	if err != nil {
		return serr.PersistenceError.Wrapf(err, "the message of %v cannot be found", t.UnixMilli())
	}
	if !ok {
		p = s.ledger.Next(s.ledger.LastConfirmed())
	}
	before := s.cursor.Backlog()
	if err := s.ackThrough(ctx, s.ledger.Prev(p)); err != nil {
		return err
	}
	s.expired.Add(max(0, before-s.cursor.Backlog()))
	s.mu.Lock()
	s.mu.lastExpire = time.Now()
	s.mu.Unlock()
	return nil
}

// ExpireThrough acknowledges every entry up to and including p.
func (s *Subscription) ExpireThrough(ctx context.Context, p ledgerfs.Position) error {
	return s.ackThrough(ctx, p)
}

func (s *Subscription) ackThrough(ctx context.Context, p ledgerfs.Position) error {
	if last := s.ledger.LastConfirmed(); last.Less(p) {
		p = last
	}
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return serr.ServiceNotReady.Errorf("subscription %q is closed", s.Name())
	}
	s.cursor.AckAll(p, nil)
	if s.mu.queue != nil {
		s.mu.queue.AckedThrough(p)
	}
	if s.mu.read.Compare(p) <= 0 {
		s.mu.read = s.cursor.FirstUnacked()
		s.mu.generation++
	}
	s.ackedLocked()
	s.unlockAndTell()
	if err := s.cursor.Flush(ctx); err != nil {
		return serr.PersistenceError.Wrapf(err, "the acknowledgements of subscription %q are not stored", s.Name())
	}
	return nil
}

// SetProperties replaces the stored properties.
func (s *Subscription) SetProperties(ctx context.Context, p map[string]string) error {
	if err := s.cursor.SetProperties(ctx, p); err != nil {
		return serr.MetadataError.Wrapf(err, "the properties of subscription %q are not stored", s.Name())
	}
	return nil
}

// Properties are the stored properties; the map must not be changed.
func (s *Subscription) Properties() map[string]string { return s.cursor.Properties() }
