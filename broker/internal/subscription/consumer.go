package subscription

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daybook/daybook/broker/internal/dispatch"
	"github.com/daybook/daybook/broker/internal/meter"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
)

// A Consumer is a connected consumer. All methods may be called by any goroutine; the connection calls those that
// carry out commands in the order of the commands.
type Consumer struct {
	sub       *Subscription
	sink      ConsumerSink
	req       Request
	connected time.Time
	joinedAt  ledgerfs.Position

	// gate orders what the sink is told, and ends it. No other lock but the sink's own is taken inside it.
	gate struct {
		sync.Mutex
		shut bool
	}
	// resumed counts calls of Resume: a pause that it has overtaken is not taken up.
	resumed atomic.Uint64

	// Guarded by sub.mu.
	place   *dispatch.Consumer // Shared and Key_Shared
	permits int64              // Exclusive and Failover
	paused  bool               // likewise
	epoch   uint64
	// batch is what a round of dispatch sends to this consumer; it belongs to the dispatching goroutine.
	batch []Message
	ended bool // EndOfTopic was sent
	gone  bool // it is none of the subscription's any more: what it still acknowledges does not count

	lastAcked, lastConsumed, lastFlow time.Time

	msgOut, bytesOut, redelivered, acked meter.Meter
}

// ID is the client's number of the consumer.
func (c *Consumer) ID() uint64 { return c.req.ConsumerID }

// Name is the consumer's name.
func (c *Consumer) Name() string { return c.req.ConsumerName }

// Request is what the consumer subscribed with.
func (c *Consumer) Request() Request { return c.req }

// Subscription is the one that the consumer belongs to.
func (c *Consumer) Subscription() *Subscription { return c.sub }

// MarkDelete is the subscription's mark-delete position, which GET_LAST_MESSAGE_ID reports.
func (c *Consumer) MarkDelete() ledgerfs.Position { return c.sub.MarkDelete() }

// tell calls the sink unless it has been shut.
func (c *Consumer) tell(f func()) {
	c.gate.Lock()
	defer c.gate.Unlock()
	if !c.gate.shut {
		f()
	}
}

// shut keeps the sink from being told anything more.
func (c *Consumer) shut() {
	c.gate.Lock()
	c.gate.shut = true
	c.gate.Unlock()
}

// disconnect tells the sink, as the last thing, that the consumer is gone.
func (c *Consumer) disconnect() {
	c.gate.Lock()
	defer c.gate.Unlock()
	if !c.gate.shut {
		c.gate.shut = true
		c.sink.CloseConsumer(c)
	}
}

// Close takes the consumer out. What it had not acknowledged goes to the others, or to the next one.
func (c *Consumer) Close() {
	c.shut()
	c.sub.remove(c)
}

// Flow grants permits for so many more messages; 0 is ignored.
func (c *Consumer) Flow(permits uint32) {
	s := c.sub
	s.mu.Lock()
	defer s.mu.Unlock()
	if permits == 0 || !s.hasLocked(c) {
		return
	}
	now := time.Now()
	c.lastFlow, s.mu.lastFlow = now, now
	if s.mu.queue != nil {
		s.mu.queue.Flow(c.place, int64(permits))
	} else {
		c.permits += int64(permits)
	}
	s.wakeLocked()
}

// Resume takes back what a Deliver that returned false asked for.
func (c *Consumer) Resume() {
	c.resumed.Add(1)
	s := c.sub
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hasLocked(c) {
		s.pauseLocked(c, false)
		s.wakeLocked()
	}
}

func (s *Subscription) pauseLocked(c *Consumer, on bool) {
	c.paused = on
	if s.mu.queue != nil {
		s.mu.queue.Pause(c.place, on)
	}
}

// hasLocked reports whether the consumer is still one of the subscription's.
func (s *Subscription) hasLocked(c *Consumer) bool {
	for _, o := range s.mu.consumers {
		if o == c {
			return true
		}
	}
	return false
}

// Ack acknowledges. done, which may be nil, is called once, possibly before Ack returns, when the acknowledgement
// has been taken into the cursor, which stores it within its flush interval.
func (c *Consumer) Ack(a Ack, done func(error)) {
	err := c.ack(a)
	if done != nil {
		done(err)
	}
}

func (c *Consumer) ack(a Ack) error {
	s := c.sub
	if len(a.IDs) == 0 {
		return nil
	}
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return serr.ServiceNotReady.Errorf("subscription %q is closed", s.Name())
	}
	if c.gone {
		s.mu.Unlock()
		return serr.ConsumerNotFound.Errorf("the consumer was closed")
	}
	var messages int64
	if a.Cumulative {
		if s.mu.typ == Shared || s.mu.typ == KeyShared {
			s.mu.Unlock()
			return serr.NotAllowedError.Errorf("Cumulative acks are not allowed on a %s subscription", s.mu.typ)
		}
		id := a.IDs[len(a.IDs)-1]
		before := s.cursor.Backlog()
		switch {
		case id.Position.Ledger < 0 || id.Position == LatestID:
			// Nothing lies before the earliest id; and no client means everything to come.
		case id.Position.Entry < 0:
			// The client acknowledges up to before the first entry of a ledger.
			s.cursor.AckAll(s.ledger.Prev(ledgerfs.Position{Ledger: id.Position.Ledger}), nil)
		default:
			s.cursor.AckAll(id.Position, id.AckSet)
		}
		messages = max(0, before-s.cursor.Backlog())
	} else {
		for _, id := range a.IDs {
			messages += s.ackOneLocked(c, id)
		}
	}
	now := time.Now()
	c.lastAcked, s.mu.lastAcked = now, now
	c.acked.Add(messages)
	s.acked.Add(messages)
	s.ackedLocked()
	s.unlockAndTell()
	return nil
}

// ackOneLocked acknowledges one id and returns the number of messages, as far as it is known.
func (s *Subscription) ackOneLocked(c *Consumer, id AckID) int64 {
	p := id.Position
	q := s.mu.queue
	if q == nil || c.place == nil || !c.place.Holds(p) {
		// It need not be an entry at all, and then must leave no trace in the cursor.
		if !s.ledger.Exists(p) {
			return 0
		}
	}
	whole := s.cursor.Ack(p, id.AckSet)
	switch {
	case q == nil:
		return 1
	case whole || id.AckSet == nil:
		return int64(q.Acked(c.place, p))
	}
	if left := s.cursor.Remaining(p); left != nil {
		return int64(q.AckedPart(c.place, p, ones(left)))
	}
	if s.cursor.IsAcked(p) {
		return int64(q.Acked(c.place, p))
	}
	return 0
}

// ackedLocked follows up on acknowledgements: consumers may have room again, keys may be free, and a terminated
// topic may have come to its end.
func (s *Subscription) ackedLocked() {
	s.wakeLocked()
	s.endLocked()
}

// endLocked tells all consumers, once, that a terminated topic has been consumed.
func (s *Subscription) endLocked() {
	if !s.ledger.Terminated() || s.cursor.Backlog() > 0 {
		return
	}
	for _, c := range s.mu.consumers {
		if !c.ended {
			c.ended = true
			s.noteLocked(func() { c.tell(func() { c.sink.EndOfTopic(c) }) })
		}
	}
}

// Redeliver asks for entries to be delivered again: ids on Shared and Key_Shared. Without ids, and always on
// Exclusive and Failover, it is everything that is delivered and unacknowledged; epoch is then the new consumer
// epoch (0 where the client sent none).
func (c *Consumer) Redeliver(ids []AckID, epoch uint64) {
	s := c.sub
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hasLocked(c) {
		return
	}
	if q := s.mu.queue; q != nil {
		var ps []ledgerfs.Position
		if len(ids) > 0 {
			ps = make([]ledgerfs.Position, len(ids))
			for i, id := range ids {
				ps[i] = id.Position
			}
		}
		n := int64(q.Redeliver(c.place, ps))
		c.redelivered.Add(n)
		s.redelivered.Add(n)
	} else {
		c.epoch = max(c.epoch, epoch)
		if c != s.mu.active {
			return
		}
		s.rewindLocked()
	}
	s.wakeLocked()
}

// Seek is Subscription.Seek. This consumer's CloseConsumer comes before Seek returns.
func (c *Consumer) Seek(ctx context.Context, to SeekTarget) error { return c.sub.Seek(ctx, to) }

// Unsubscribe deletes the subscription. Other connected consumers make it fail, or, with force, are closed.
func (c *Consumer) Unsubscribe(ctx context.Context, force bool) error {
	s := c.sub
	s.mu.Lock()
	if !s.hasLocked(c) || len(s.mu.consumers) > 1 && !force {
		s.mu.Unlock()
		return serr.MetadataError.Errorf("Unconnected or shared consumer attempting to unsubscribe")
	}
	s.mu.leaving = c
	s.mu.Unlock()
	err := s.host.Delete(ctx, s)
	if err != nil {
		s.mu.Lock()
		s.mu.leaving = nil
		s.mu.Unlock()
	}
	return err
}

// ones counts the bits of an ack set: the messages that are not acknowledged.
func ones(set []int64) int32 {
	n := 0
	for _, w := range set {
		n += bits.OnesCount64(uint64(w))
	}
	return int32(n)
}
