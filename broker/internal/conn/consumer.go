package conn

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// A consumer is one consumer of a connection, and the sink of what it is sent.
type consumer struct {
	c         *connection
	id        uint64
	request   uint64 // of SUBSCRIBE
	partition int32  // of its topic, -1 if none
	durable   bool

	// Of the loop: nil until the topic has taken it in.
	consumer Consumer
	topic    Topic
	closed   bool        // by the client, before the topic had taken it in
	early    []wire.Body // to be sent when it has been taken in
}

func (c *connection) handleSubscribe(m *pb.CommandSubscribe) error {
	request := m.GetRequestId()
	if k := c.consumers[m.GetConsumerId()]; k != nil {
		if k.consumer != nil {
			c.succeed(request)
		} else {
			c.fail(request, serr.ServiceNotReady.Errorf("Consumer is already present on the connection"))
		}
		return nil
	}
	if t := m.GetSubType(); t < 0 || t > pb.CommandSubscribe_Key_Shared {
		return fmt.Errorf("%w: subscription type %d", wire.ErrMalformed, t)
	}
	name, err := parseTopic(m.GetTopic())
	if err != nil {
		c.fail(request, err)
		return nil
	}
	if err := topicname.CheckSubscription(m.GetSubscription()); err != nil {
		c.fail(request, serr.NotAllowedError.Errorf("%s", err.Error()))
		return nil
	}
	k := &consumer{c: c, id: m.GetConsumerId(), request: request, partition: int32(name.Partition()), durable: m.GetDurable()}
	req := subscription.Request{
		Subscription: m.GetSubscription(), Type: subscription.Type(m.GetSubType()), ConsumerID: k.id, ConsumerName: m.GetConsumerName(),
		Priority: m.GetPriorityLevel(), Durable: m.GetDurable(), StartRollback: rollback(m.GetStartMessageRollbackDurationSec()),
		Initial: subscription.InitialPosition(m.GetInitialPosition()), ReadCompacted: m.GetReadCompacted(), Epoch: m.GetConsumerEpoch(),
		Metadata: properties(m.Metadata), Properties: properties(m.SubscriptionProperties), Replicated: m.GetReplicateSubscriptionState(),
		Address: c.remote, ClientVersion: c.client,
	}
	if id := m.StartMessageId; id != nil {
		req.Start = &ledgerfs.Position{Ledger: ledgerfs.LedgerID(id.GetLedgerId()), Entry: ledgerfs.EntryID(id.GetEntryId())}
	}
	if ks := m.KeySharedMeta; ks != nil {
		req.KeyShared = &subscription.KeySharedMeta{Sticky: ks.GetKeySharedMode() == pb.KeySharedMode_STICKY, AllowOutOfOrder: ks.GetAllowOutOfOrderDelivery()}
		for _, r := range ks.HashRanges {
			req.KeyShared.Ranges = append(req.KeyShared.Ranges, subscription.HashRange{Start: r.GetStart(), End: r.GetEnd()})
		}
	}
	c.consumers[k.id] = k
	c.request(func(ctx context.Context) func() {
		t, dk, err := k.create(ctx, name, m, req)
		return func() { k.created(t, dk, err) }
	}, func(e *serr.Error) {
		delete(c.consumers, k.id)
		c.fail(request, e)
	})
	return nil
}

// rollback is that many seconds, bounded to what a Duration holds.
func rollback(sec uint64) time.Duration {
	return time.Duration(min(sec, uint64(1<<62/int64(time.Second)))) * time.Second
}

// create runs beside the loop.
func (k *consumer) create(ctx context.Context, name topicname.Name, m *pb.CommandSubscribe, req subscription.Request) (Topic, Consumer, error) {
	use := Existing
	if m.GetForceTopicCreation() {
		use = Create
	}
	t, err := k.c.domain.Topic(ctx, name, use)
	if err != nil {
		return nil, nil, err
	}
	if s, ok := givenSchema(m.Schema); ok {
		if err := k.c.domain.CheckConsumerSchema(ctx, name, s); err != nil {
			return nil, nil, err
		}
	}
	dk, err := t.Subscribe(ctx, req, k)
	return t, dk, err
}

// created runs in the loop when the topic has taken the consumer in, or has refused it.
func (k *consumer) created(t Topic, dk Consumer, err error) {
	c := k.c
	switch {
	case err != nil:
		if c.consumers[k.id] == k {
			delete(c.consumers, k.id)
		}
		if !k.closed {
			c.fail(k.request, err)
		}
	case k.closed:
		dk.Close()
	case c.consumers[k.id] != k: // closed by the topic since then
		c.fail(k.request, serr.ServiceNotReady.Errorf("the consumer was closed while it subscribed"))
	default:
		k.consumer, k.topic = dk, t
		c.succeed(k.request)
		for _, m := range k.early {
			c.send(m)
		}
		k.early = nil
	}
}

// sendAfterSuccess sends m; not before the client knows that it has subscribed. Any goroutine.
func (k *consumer) sendAfterSuccess(m wire.Body) {
	k.c.post(func() {
		if k.consumer == nil {
			k.early = append(k.early, m)
		} else if k.c.consumers[k.id] == k {
			k.c.send(m)
		}
	})
}

// live is the consumer of that id if it has been taken in, else nil.
func (c *connection) live(id uint64) *consumer {
	if k := c.consumers[id]; k != nil && k.consumer != nil {
		return k
	}
	return nil
}

func errNoConsumer() error { return serr.MetadataError.Errorf("Consumer not found") }

func (c *connection) handleFlow(f wire.Flow) {
	if k := c.live(f.ConsumerID); k != nil {
		k.consumer.Flow(f.Permits)
	}
}

// idScratch is where the ids of a command are translated, used again for each. The sets, which the cursor may
// keep, are copied out of the decoder; acknowledging whole entries, the common case, copies nothing.
type idScratch []subscription.AckID

func (s *idScratch) of(ids []wire.MessageID) []subscription.AckID {
	*s = (*s)[:0]
	for i := range ids {
		*s = append(*s, subscription.AckID{Position: position(ids[i].Ledger, ids[i].Entry), AckSet: slices.Clone(ids[i].AckSet)})
	}
	return *s
}

func position(ledger, entry int64) ledgerfs.Position {
	return ledgerfs.Position{Ledger: ledgerfs.LedgerID(ledger), Entry: ledgerfs.EntryID(entry)}
}

func (c *connection) handleAck(a *wire.Ack) {
	k := c.live(a.ConsumerID)
	if !a.HasRequest {
		if k != nil && !a.InTxn {
			k.consumer.Ack(subscription.Ack{Cumulative: a.Cumulative, IDs: c.ackIDs.of(a.IDs)}, nil)
		}
		return
	}
	consumerID, request := a.ConsumerID, a.RequestID
	answer := func(err error) {
		r := &pb.CommandAckResponse{ConsumerId: &consumerID, RequestId: &request}
		if err != nil {
			e := serr.From(err)
			r.Error, r.Message = wireCode(e), &e.Text
		}
		c.send(r)
	}
	switch {
	case k == nil:
		answer(serr.ConsumerNotFound.Errorf("Consumer not found"))
	case a.InTxn:
		answer(serr.NotAllowedError.Errorf("Transactions are not enabled."))
	default:
		k.consumer.Ack(subscription.Ack{Cumulative: a.Cumulative, IDs: c.ackIDs.of(a.IDs)}, answer)
	}
}

func (c *connection) handleRedeliver(m *pb.CommandRedeliverUnacknowledgedMessages) {
	k := c.live(m.GetConsumerId())
	if k == nil {
		return
	}
	var ids []subscription.AckID
	for _, id := range m.MessageIds {
		ids = append(ids, subscription.AckID{Position: position(int64(id.GetLedgerId()), int64(id.GetEntryId())), AckSet: id.AckSet})
	}
	k.consumer.Redeliver(ids, m.GetConsumerEpoch())
}

func (c *connection) handleUnsubscribe(m *pb.CommandUnsubscribe) {
	request := m.GetRequestId()
	k := c.live(m.GetConsumerId())
	if k == nil {
		c.fail(request, errNoConsumer())
		return
	}
	c.request(func(ctx context.Context) func() {
		err := k.consumer.Unsubscribe(ctx, m.GetForce())
		return func() {
			if err != nil {
				c.fail(request, err)
				return
			}
			if c.consumers[k.id] == k {
				delete(c.consumers, k.id)
				k.consumer.Close()
			}
			c.succeed(request)
		}
	}, func(e *serr.Error) { c.fail(request, e) })
}

func (c *connection) handleSeek(m *pb.CommandSeek) {
	request := m.GetRequestId()
	k := c.live(m.GetConsumerId())
	if k == nil {
		c.fail(request, errNoConsumer())
		return
	}
	var to subscription.SeekTarget
	switch {
	case m.MessageId != nil:
		to.Position = position(int64(m.MessageId.GetLedgerId()), int64(m.MessageId.GetEntryId()))
		if len(m.MessageId.AckSet) > 0 {
			to.AckSet = m.MessageId.AckSet
		}
	case m.MessagePublishTime != nil:
		to.Time = time.UnixMilli(int64(min(m.GetMessagePublishTime(), 1<<53)))
	default:
		c.fail(request, serr.MetadataError.Errorf("Message id and message publish time were not present"))
		return
	}
	c.request(func(ctx context.Context) func() {
		err := k.consumer.Seek(ctx, to)
		return func() {
			if err != nil {
				c.fail(request, err)
			} else {
				c.succeed(request)
			}
		}
	}, func(e *serr.Error) { c.fail(request, e) })
}

func (c *connection) handleCloseConsumer(m *pb.CommandCloseConsumer) {
	if k := c.consumers[m.GetConsumerId()]; k != nil {
		delete(c.consumers, k.id)
		if k.consumer == nil {
			k.closed = true // created releases it
		} else {
			k.consumer.Close()
		}
	}
	c.succeed(m.GetRequestId())
}

func (c *connection) handleLastMessageID(m *pb.CommandGetLastMessageId) {
	request := m.GetRequestId()
	k := c.live(m.GetConsumerId())
	if k == nil {
		c.fail(request, errNoConsumer())
		return
	}
	c.request(func(ctx context.Context) func() {
		last, err := k.topic.LastMessageID(ctx)
		mark := k.consumer.MarkDelete()
		return func() {
			if err != nil {
				c.fail(request, err)
				return
			}
			c.send(&pb.CommandGetLastMessageIdResponse{
				RequestId: &request,
				LastMessageId: &pb.MessageIdData{
					LedgerId: new(uint64(last.Position.Ledger)), EntryId: new(uint64(last.Position.Entry)),
					Partition: &k.partition, BatchIndex: &last.BatchIndex,
				},
				ConsumerMarkDeletePosition: &pb.MessageIdData{
					LedgerId: new(uint64(mark.Ledger)), EntryId: new(uint64(mark.Entry)),
				},
			})
		}
	}, func(e *serr.Error) { c.fail(request, e) })
}

func (c *connection) handleConsumerStats(m *pb.CommandConsumerStats) {
	r := &pb.CommandConsumerStatsResponse{RequestId: m.RequestId}
	k := c.live(m.GetConsumerId())
	if k == nil {
		r.ErrorCode, r.ErrorMessage = pb.ServerError_ConsumerNotFound.Enum(), new("Consumer not found")
		c.send(r)
		return
	}
	s, sub := k.consumer.Stats(), k.consumer.SubscriptionStats()
	r.MsgRateOut, r.MsgThroughputOut, r.MsgRateRedeliver = &s.MsgRateOut, &s.MsgThroughputOut, &s.MsgRateRedeliver
	r.ConsumerName, r.Address = &s.Name, &s.Address
	r.AvailablePermits, r.UnackedMessages = new(uint64(max(s.AvailablePermits, 0))), new(uint64(max(s.Unacked, 0)))
	r.BlockedConsumerOnUnackedMsgs = &s.BlockedOnUnacked
	r.ConnectedSince = new(s.ConnectedSince.Format("2006-01-02T15:04:05.000-07:00"))
	r.Type = new(s.Type.String())
	r.MsgRateExpired, r.MsgBacklog, r.MessageAckRate = &sub.MsgRateExpired, new(uint64(max(sub.Backlog, 0))), &s.MessageAckRate
	c.send(r)
}

// Deliver implements subscription.ConsumerSink.
func (k *consumer) Deliver(_ *subscription.Consumer, msgs []subscription.Message) (writable bool) {
	c := k.c
	b := c.out.lock()
	for i := range msgs {
		m := &msgs[i]
		payload := m.Payload
		if !c.brokerEntries {
			var err error
			if payload, err = wire.SkipBrokerEntry(payload); err != nil {
				// Every entry was checked when it was read: nothing can be said to the client about this one.
				c.log.Error("stored entry is malformed", "position", m.Position, "err", err)
				continue
			}
		}
		w := wire.Message{
			ConsumerID: k.id, RedeliveryCount: m.RedeliveryCount, AckSet: m.AckSet, Epoch: m.Epoch,
			ID: wire.MessageID{Ledger: int64(m.Position.Ledger), Entry: int64(m.Position.Entry), Partition: k.partition, BatchIndex: -1},
		}
		b.arena = w.AppendFrame(b.arena, len(payload))
		b.payload(payload)
	}
	return c.out.unlockOrBlock(k)
}

// CloseConsumer implements subscription.ConsumerSink.
func (k *consumer) CloseConsumer(*subscription.Consumer) {
	c := k.c
	// Posted first: when the client reacts to the frame, the loop must already know.
	c.post(func() {
		if c.consumers[k.id] == k {
			delete(c.consumers, k.id)
		}
	})
	c.send(&pb.CommandCloseConsumer{ConsumerId: &k.id, RequestId: new(noRequest)})
}

// ActiveChanged implements subscription.ConsumerSink.
func (k *consumer) ActiveChanged(_ *subscription.Consumer, active bool) {
	if k.c.version >= 12 {
		k.sendAfterSuccess(&pb.CommandActiveConsumerChange{ConsumerId: &k.id, IsActive: &active})
	}
}

// EndOfTopic implements subscription.ConsumerSink.
func (k *consumer) EndOfTopic(*subscription.Consumer) {
	if k.c.version >= 9 {
		k.sendAfterSuccess(&pb.CommandReachedEndOfTopic{ConsumerId: &k.id})
	}
}

// Alive implements subscription.ConsumerSink.
func (k *consumer) Alive(ctx context.Context) bool { return k.c.alive(ctx) }
