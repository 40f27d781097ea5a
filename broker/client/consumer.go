package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs/message"
)

// A SubscriptionType says how the consumers of a subscription share its messages.
type SubscriptionType = pb.CommandSubscribe_SubType

// The subscription types.
const (
	Exclusive = pb.CommandSubscribe_Exclusive
	Shared    = pb.CommandSubscribe_Shared
	Failover  = pb.CommandSubscribe_Failover
	KeyShared = pb.CommandSubscribe_Key_Shared
)

// ConsumerConfig describes a consumer.
type ConsumerConfig struct {
	// Topic is a topic, a partition, or a partitioned topic, all of whose partitions are then consumed.
	Topic        string
	Subscription string
	Type         SubscriptionType
	// Name is made up if empty.
	Name string
	// Earliest starts a new subscription at the first message there is instead of after the last.
	Earliest   bool
	Schema     *Schema
	Priority   int32
	Properties map[string]string // of the consumer, for statistics
	// Queue is how many messages a partition may have on their way to Receive; 1000.
	Queue int
}

// ReaderConfig describes a reader: a consumer with a position of its own and no subscription that lasts.
type ReaderConfig struct {
	Topic string
	// Start is the message to start after, or, with Inclusive, at; Earliest if it is the zero value.
	Start     MessageID
	Inclusive bool
	Name      string
	// Compacted reads only the newest message of each key, as far as the topic is compacted.
	Compacted bool
	Queue     int
}

// A Received is a message that a consumer has received.
type Received struct {
	ID          MessageID
	Topic       string // with its partition
	Key         string
	HasKey      bool
	KeyBase64   bool // Key is the base64 form of bytes
	OrderingKey []byte
	Properties  map[string]string
	Value       []byte
	Null        bool
	// Encrypted messages have the whole encrypted payload as Value.
	Encrypted       bool
	EventTime       time.Time // zero if not set
	PublishTime     time.Time
	ProducerName    string
	SequenceID      uint64
	SchemaVersion   []byte
	Index           int64 // in the topic, -1 if not known
	RedeliveryCount uint32

	part  *partConsumer
	entry *tracked
}

// A tracked is an entry with the messages of it that are not acknowledged. part.mu guards left.
type tracked struct {
	id     MessageID // Batch is -1
	chunks []MessageID
	size   int
	left   int
	acked  []bool
}

// A Consumer receives the messages of a subscription. Receive, Seek and SeekTime are for one goroutine at a
// time, the other methods for any.
type Consumer struct {
	parts    []*partConsumer
	arrivals chan arrival
	ctx      context.Context
	cancel   context.CancelFunc
	failed   chan struct{} // closed when a part has failed for good
	failure  struct {
		sync.Once
		err error
	}

	// Of Receive.
	ready []*Received
}

// An arrival is an entry that has come.
type arrival struct {
	part    *partConsumer
	life    uint64
	msg     wire.Message
	payload []byte
}

// Subscribe makes a consumer, once the broker has accepted it.
func (c *Client) Subscribe(ctx context.Context, cfg ConsumerConfig) (*Consumer, error) {
	cmd := &pb.CommandSubscribe{
		Subscription: &cfg.Subscription, SubType: &cfg.Type, ConsumerName: &cfg.Name, PriorityLevel: &cfg.Priority,
		Durable: new(true), Metadata: keyValues(cfg.Properties), Schema: cfg.Schema.wire(),
		InitialPosition: pb.CommandSubscribe_Latest.Enum(),
	}
	if cfg.Earliest {
		cmd.InitialPosition = pb.CommandSubscribe_Earliest.Enum()
	}
	if cfg.Type == KeyShared {
		cmd.KeySharedMeta = &pb.KeySharedMeta{KeySharedMode: pb.KeySharedMode_AUTO_SPLIT.Enum()}
	}
	return c.newConsumer(ctx, cfg.Topic, cmd, cfg.Queue, nil)
}

// A Reader reads a topic from a position of its own choice. Its methods are those of Consumer; nothing needs
// to be acknowledged.
type Reader struct{ consumer *Consumer }

// NewReader makes a reader, once the broker has accepted it.
func (c *Client) NewReader(ctx context.Context, cfg ReaderConfig) (*Reader, error) {
	if cfg.Start == (MessageID{}) {
		cfg.Start = Earliest
	}
	name := cfg.Name
	if name == "" {
		name = "reader-" + randomName()
	}
	cmd := &pb.CommandSubscribe{
		Subscription: &name, SubType: Exclusive.Enum(), ConsumerName: &name, Durable: new(false), ReadCompacted: &cfg.Compacted,
		InitialPosition: pb.CommandSubscribe_Earliest.Enum(),
	}
	k, err := c.newConsumer(ctx, cfg.Topic, cmd, cfg.Queue, &position{id: cfg.Start, inclusive: cfg.Inclusive})
	if err != nil {
		return nil, err
	}
	return &Reader{k}, nil
}

func randomName() string { return fmt.Sprintf("%010x", rand.Uint64()>>24) }

// Next is the next message, waiting for it within ctx.
func (r *Reader) Next(ctx context.Context) (*Received, error) { return r.consumer.Receive(ctx) }

// HasNext reports whether a message is behind those that Next has returned.
func (r *Reader) HasNext(ctx context.Context) (bool, error) { return r.consumer.hasNext(ctx) }

// Seek moves the reader: the next message is the one at id, or the first one after it.
func (r *Reader) Seek(ctx context.Context, id MessageID) error { return r.consumer.Seek(ctx, id) }

// SeekTime moves the reader to the first message published at t or later.
func (r *Reader) SeekTime(ctx context.Context, t time.Time) error {
	return r.consumer.SeekTime(ctx, t)
}

// Close closes the reader.
func (r *Reader) Close(ctx context.Context) error { return r.consumer.Close(ctx) }

func (c *Client) newConsumer(ctx context.Context, topic string, cmd *pb.CommandSubscribe, queue int, start *position) (*Consumer, error) {
	if queue <= 0 {
		queue = 1000
	}
	if cmd.GetConsumerName() == "" {
		cmd.ConsumerName = new(randomName())
	}
	names, err := c.parts(ctx, topic)
	if err != nil {
		return nil, err
	}
	// One entry has at least one message: what has permits always fits.
	k := &Consumer{arrivals: make(chan arrival, queue*len(names)), failed: make(chan struct{})}
	k.ctx, k.cancel = context.WithCancel(c.ctx)
	for _, n := range names {
		p := &partConsumer{
			c: c, k: k, cmd: cmd, topic: n.String(), partition: int32(n.Partition()), queue: queue, id: c.newID(),
			done: make(chan struct{}), ready: make(chan struct{}),
		}
		if start != nil {
			p.mu.start = *start
		}
		p.reader = start != nil
		k.parts = append(k.parts, p)
		c.spawn(p.run)
	}
	for _, p := range k.parts {
		if err := p.awaitReady(ctx); err != nil {
			k.shut()
			return nil, fmt.Errorf("subscribe to %s: %w", p.topic, err)
		}
	}
	return k, nil
}

// Receive is the next message, waiting for it within ctx. A consumer that has failed for good returns why.
func (k *Consumer) Receive(ctx context.Context) (*Received, error) {
	for {
		for len(k.ready) > 0 {
			m := k.ready[0]
			k.ready[0] = nil
			k.ready = k.ready[1:]
			if m.part.take(m) {
				return m, nil
			}
		}
		select {
		case a := <-k.arrivals:
			k.ready = a.part.open(k.ready[:0], &a)
			continue
		default:
		}
		select {
		case a := <-k.arrivals:
			k.ready = a.part.open(k.ready[:0], &a)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-k.failed:
			return nil, k.failure.err
		case <-k.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// Ack acknowledges the message. The acknowledgement is sent when all messages of its batch have theirs; it is
// lost with the connection, and the message then comes again.
func (k *Consumer) Ack(m *Received) {
	p, e := m.part, m.entry
	p.mu.Lock()
	defer p.mu.Unlock()
	i := max(int(m.ID.Batch), 0)
	if i >= len(e.acked) || e.acked[i] {
		return
	}
	e.acked[i] = true
	if e.left--; e.left > 0 || p.mu.session == nil {
		return
	}
	p.ackLocked(append(e.chunks, e.id), false)
}

// AckCumulative acknowledges the message and, in its partition, all before it. It is not for Shared and
// Key_Shared subscriptions.
func (k *Consumer) AckCumulative(m *Received) {
	p, id := m.part, m.entry.id
	if int(m.ID.Batch) >= 0 && int(m.ID.Batch) < m.entry.size-1 {
		id.Entry-- // the rest of the batch comes again should the connection be lost
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.session != nil {
		p.ackLocked([]MessageID{id}, true)
	}
}

// Nack has the message, with the others of its batch, delivered again.
func (k *Consumer) Nack(m *Received) {
	p := m.part
	ids := append(append([]MessageID(nil), m.entry.chunks...), m.entry.id)
	cmd := &pb.CommandRedeliverUnacknowledgedMessages{ConsumerId: &p.id}
	for _, id := range ids {
		cmd.MessageIds = append(cmd.MessageIds, id.wire())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.session != nil {
		p.mu.session.post(wire.AppendFrame(nil, cmd))
	}
}

func (id MessageID) wire() *pb.MessageIdData {
	w := &pb.MessageIdData{LedgerId: new(uint64(id.Ledger)), EntryId: new(uint64(id.Entry))}
	if id.Partition >= 0 {
		w.Partition = new(id.Partition)
	}
	return w
}

// Seek moves the subscription, in all partitions or, if id names one, in that: the next message is the one at
// id, or the first one after it. Messages received before are no longer the subscription's concern.
func (k *Consumer) Seek(ctx context.Context, id MessageID) error {
	return k.seek(ctx, id.Partition, position{id: id, inclusive: true}, func(cmd *pb.CommandSeek) { cmd.MessageId = id.wire() })
}

// SeekTime moves the subscription to the first message published at t or later.
func (k *Consumer) SeekTime(ctx context.Context, t time.Time) error {
	return k.seek(ctx, -1, position{id: Earliest}, func(cmd *pb.CommandSeek) { cmd.MessagePublishTime = new(uint64(max(t.UnixMilli(), 0))) })
}

func (k *Consumer) seek(ctx context.Context, partition int32, start position, target func(*pb.CommandSeek)) error {
	k.ready = nil
	for _, p := range k.parts {
		if partition >= 0 && p.partition >= 0 && p.partition != partition {
			continue
		}
		if err := p.seek(ctx, start, target); err != nil {
			return fmt.Errorf("seek in %s: %w", p.topic, err)
		}
	}
	return nil
}

// Unsubscribe deletes the subscription. The consumer is to be closed then.
func (k *Consumer) Unsubscribe(ctx context.Context) error {
	for _, p := range k.parts {
		if err := p.request(ctx, func(id uint64) wire.Body {
			return &pb.CommandUnsubscribe{ConsumerId: &p.id, RequestId: &id}
		}); err != nil {
			return fmt.Errorf("unsubscribe from %s: %w", p.topic, err)
		}
	}
	return nil
}

// Close closes the consumer. The subscription stays.
func (k *Consumer) Close(ctx context.Context) error {
	var errs []error
	for _, p := range k.parts {
		p.mu.Lock()
		attached := p.mu.session != nil
		p.mu.Unlock()
		if !attached {
			continue
		}
		err := p.request(ctx, func(id uint64) wire.Body {
			return &pb.CommandCloseConsumer{ConsumerId: &p.id, RequestId: &id}
		})
		if err != nil && !errors.Is(err, errLost) {
			errs = append(errs, fmt.Errorf("close consumer of %s: %w", p.topic, err))
		}
	}
	k.shut()
	return errors.Join(errs...)
}

func (k *Consumer) shut() {
	k.cancel()
	for _, p := range k.parts {
		<-p.done
	}
}

func (k *Consumer) fail(err error) {
	k.failure.Do(func() {
		k.failure.err = err
		close(k.failed)
	})
}

func (k *Consumer) hasNext(ctx context.Context) (bool, error) {
	for _, m := range k.ready {
		if m.part.wants(m) {
			return true, nil
		}
	}
	for _, p := range k.parts {
		if has, err := p.hasNext(ctx); has || err != nil {
			return has, err
		}
	}
	return false, nil
}

// A position is where a reader starts.
type position struct {
	id        MessageID
	inclusive bool
}

// A partConsumer is a consumer on one partition.
type partConsumer struct {
	c         *Client
	k         *Consumer
	cmd       *pb.CommandSubscribe
	topic     string
	partition int32
	queue     int
	id        uint64
	reader    bool
	done      chan struct{}
	ready     chan struct{} // closed when it has subscribed for the first time, or failed for good

	mu struct {
		sync.Mutex
		session  *session // nil while there is none that has subscribed
		lost     chan struct{}
		err      error
		lastErr  error
		attached bool
		sought   bool   // a seek is why the subscribing ends
		life     uint64 // grows with every subscribing, and when a seek begins: older arrivals are dropped
		taken    int    // messages since the last FLOW
		chunks   message.Assembler
		parts    map[string][]MessageID // ids of the chunks of messages that are not complete, by uuid
		unacked  int                    // of a reader, since its last acknowledgement
		start    position               // of a reader: where to go on
	}
}

func (p *partConsumer) awaitReady(ctx context.Context) error {
	select {
	case <-p.ready:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.mu.err
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		return errors.Join(ctx.Err(), p.mu.lastErr)
	}
}

// run keeps the consumer subscribed.
func (p *partConsumer) run() {
	defer close(p.done)
	for b := (backoff{max: p.c.cfg.MaxBackoff}); ; {
		s, lost, err := p.attach()
		if err != nil {
			p.mu.Lock()
			p.mu.lastErr = err
			again := p.mu.attached && errors.Is(err, serr.ConsumerBusy)
			p.mu.Unlock()
			if p.k.ctx.Err() != nil || permanent(err) && !again {
				p.mu.Lock()
				p.mu.err = err
				if !p.mu.attached {
					p.mu.attached = true
					close(p.ready)
				}
				p.mu.Unlock()
				p.k.fail(err)
				return
			}
			p.c.log.Debug("consumer not attached", "topic", p.topic, "err", err)
			b.wait(p.k.ctx)
			continue
		}
		since := time.Now()
		select {
		case <-s.done:
		case <-lost:
		case <-p.k.ctx.Done():
		}
		s.unregister(p.id)
		p.mu.Lock()
		p.mu.session = nil
		sought := p.mu.sought
		p.mu.sought = false
		p.mu.Unlock()
		if p.k.ctx.Err() != nil {
			return
		}
		if sought || time.Since(since) > time.Second {
			b.reset()
		} else { // again so soon
			b.wait(p.k.ctx)
		}
	}
}

func (p *partConsumer) attach() (*session, chan struct{}, error) {
	ctx, cancel := context.WithTimeout(p.k.ctx, p.c.cfg.OperationTimeout)
	defer cancel()
	s, err := p.c.lookup(ctx, p.topic)
	if err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	p.mu.life++
	p.mu.chunks, p.mu.parts = message.Assembler{}, map[string][]MessageID{}
	p.mu.taken = 0
	cmd := &pb.CommandSubscribe{
		Topic: &p.topic, Subscription: p.cmd.Subscription, SubType: p.cmd.SubType, ConsumerId: &p.id, ConsumerName: p.cmd.ConsumerName,
		PriorityLevel: p.cmd.PriorityLevel, Durable: p.cmd.Durable, Metadata: p.cmd.Metadata, ReadCompacted: p.cmd.ReadCompacted,
		Schema: p.cmd.Schema, InitialPosition: p.cmd.InitialPosition, KeySharedMeta: p.cmd.KeySharedMeta,
	}
	if p.reader {
		cmd.StartMessageId = p.mu.start.id.wire()
	}
	p.mu.Unlock()
	if !s.register(p.id, p) {
		return nil, nil, errLost
	}
	if _, err := s.request(ctx, func(id uint64) wire.Body { cmd.RequestId = &id; return cmd }); err != nil {
		s.unregister(p.id)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			// It may have been created after all.
			s.post(wire.AppendFrame(nil, &pb.CommandCloseConsumer{ConsumerId: &p.id, RequestId: new(^uint64(0))}))
		}
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.session, p.mu.lost = s, make(chan struct{})
	if !p.mu.attached {
		p.mu.attached = true
		close(p.ready)
	}
	s.post((&wire.Flow{ConsumerID: p.id, Permits: uint32(p.queue)}).AppendFrame(nil))
	return s, p.mu.lost, nil
}

func (p *partConsumer) request(ctx context.Context, command func(id uint64) wire.Body) error {
	p.mu.Lock()
	s := p.mu.session
	p.mu.Unlock()
	if s == nil {
		return errLost
	}
	_, err := s.request(ctx, command)
	return err
}

func (p *partConsumer) seek(ctx context.Context, start position, target func(*pb.CommandSeek)) error {
	return p.c.retry(ctx, func(ctx context.Context) error {
		p.mu.Lock()
		p.mu.life++ // what has arrived by now is of no interest
		p.mu.sought = true
		before := p.mu.start
		p.mu.start = start
		s := p.mu.session
		p.mu.session = nil // nor is what arrives before the consumer has subscribed again
		p.mu.Unlock()
		if s == nil {
			p.mu.Lock()
			p.mu.start = before
			p.mu.Unlock()
			return errLost
		}
		_, err := s.request(ctx, func(id uint64) wire.Body {
			cmd := &pb.CommandSeek{ConsumerId: &p.id, RequestId: &id}
			target(cmd)
			return cmd
		})
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.mu.start = before
		}
		// The broker has closed the consumer; in case that it did not: subscribing again does no harm.
		if p.mu.session == nil && p.mu.lost != nil {
			select {
			case <-p.mu.lost:
			default:
				close(p.mu.lost)
			}
		}
		return err
	})
}

func (p *partConsumer) hasNext(ctx context.Context) (has bool, err error) {
	err = p.c.retry(ctx, func(ctx context.Context) error {
		p.mu.Lock()
		s, start := p.mu.session, p.mu.start
		p.mu.Unlock()
		if s == nil {
			return errLost
		}
		body, err := s.request(ctx, func(id uint64) wire.Body {
			return &pb.CommandGetLastMessageId{ConsumerId: &p.id, RequestId: &id}
		})
		if err != nil {
			return err
		}
		r, ok := body.(*pb.CommandGetLastMessageIdResponse)
		if !ok {
			return fmt.Errorf("unexpected answer %T", body)
		}
		last := MessageID{
			Ledger: int64(r.GetLastMessageId().GetLedgerId()), Entry: int64(r.GetLastMessageId().GetEntryId()), Batch: r.GetLastMessageId().GetBatchIndex(),
		}
		at := start.id
		if at == Latest {
			mark := r.GetConsumerMarkDeletePosition()
			at = MessageID{Ledger: int64(mark.GetLedgerId()), Entry: int64(mark.GetEntryId()), Batch: -1}
			// The mark is of an entry, last of a message in one.
			has = last.Entry >= 0 && (last.Ledger > at.Ledger || last.Ledger == at.Ledger && last.Entry > at.Entry)
			return nil
		}
		at.Partition, last.Partition = -1, -1
		has = last.Entry >= 0 && (at.before(last) || start.inclusive && at == last)
		return nil
	})
	return has, err
}

// ackLocked sends an acknowledgement over the session.
func (p *partConsumer) ackLocked(ids []MessageID, cumulative bool) {
	a := wire.Ack{ConsumerID: p.id, Cumulative: cumulative, ValidationError: -1}
	for _, id := range ids {
		a.IDs = append(a.IDs, wire.MessageID{Ledger: id.Ledger, Entry: id.Entry, Partition: -1, BatchIndex: -1})
	}
	p.mu.session.post(a.AppendFrame(nil))
}

// message implements receiver.
func (p *partConsumer) message(m *wire.Message, payload []byte) {
	p.mu.Lock()
	life := p.mu.life
	p.mu.Unlock()
	a := arrival{part: p, life: life, msg: *m, payload: payload}
	a.msg.AckSet = append([]int64(nil), m.AckSet...)
	select {
	case p.k.arrivals <- a:
	default: // the broker sends more than it was permitted
		p.c.log.Warn("broker sends more messages than it may", "topic", p.topic)
		p.mu.Lock()
		p.loseLocked(nil)
		p.mu.Unlock()
	}
}

func (p *partConsumer) loseLocked(s *session) {
	if p.mu.session != nil && (s == nil || p.mu.session == s) {
		p.mu.session = nil
		close(p.mu.lost)
	}
}

// closed implements receiver.
func (p *partConsumer) closed(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loseLocked(s)
}

func (p *partConsumer) receipt(*wire.SendReceipt)          {}
func (p *partConsumer) sendError(*pb.CommandSendError)     {}
func (p *partConsumer) ackResponse(*pb.CommandAckResponse) {}

// open appends the messages of an entry that has arrived.
func (p *partConsumer) open(dst []*Received, a *arrival) []*Received {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.life != p.mu.life {
		return dst
	}
	id := MessageID{Ledger: a.msg.ID.Ledger, Entry: a.msg.ID.Entry, Batch: -1, Partition: p.partition}
	var e message.Entry
	err := e.Parse(a.payload)
	if err == nil {
		err = e.Verify()
	}
	if err != nil {
		p.discardLocked(id, 1, err)
		return dst
	}
	var chunks []MessageID
	if e.Meta.IsChunk() {
		uuid := string(e.Meta.UUID)
		whole, err := p.mu.chunks.Add(&e)
		if err != nil || e.Meta.ChunkID == 0 {
			delete(p.mu.parts, uuid)
		}
		if err != nil {
			p.discardLocked(id, 1, err)
			return dst
		}
		if !whole {
			if len(p.mu.parts) > message.DefaultMaxChunkedCount {
				clear(p.mu.parts)
			}
			p.mu.parts[uuid] = append(p.mu.parts[uuid], id)
			p.usedLocked(1)
			return dst
		}
		chunks = p.mu.parts[uuid]
		delete(p.mu.parts, uuid)
	}
	n := 1
	if e.Meta.HasBatch && !e.Meta.Encrypted {
		n = int(e.Meta.NumMessages)
	}
	t := &tracked{id: id, chunks: chunks, size: n, left: n, acked: make([]bool, n)}
	first := len(dst)
	// A decoder of its own: its scratch space becomes the messages'.
	for m, err := range new(message.Decoder).Messages(&e) {
		if err != nil {
			p.discardLocked(id, n, err)
			return dst[:first]
		}
		i := max(m.BatchIndex, 0)
		if len(a.msg.AckSet) > 0 && (i/64 >= len(a.msg.AckSet) || a.msg.AckSet[i/64]>>(i%64)&1 == 0) {
			t.acked[i] = true // before; and the broker took no permit for it
			t.left--
			continue
		}
		dst = append(dst, p.received(m, t, &a.msg))
	}
	if len(dst) == first { // a marker, or a batch without messages
		p.usedLocked(1)
	}
	return dst
}

func (p *partConsumer) received(m *message.Message, t *tracked, w *wire.Message) *Received {
	md := &m.Entry.Meta
	r := &Received{
		ID: t.id, Topic: p.topic, Key: string(m.Key), HasKey: m.HasKey, KeyBase64: m.KeyBase64, OrderingKey: m.OrderingKey,
		Value: m.Value, Null: m.Null, Encrypted: m.Encrypted, PublishTime: time.UnixMilli(m.PublishTime),
		ProducerName: string(md.ProducerName), SequenceID: m.SequenceID, SchemaVersion: md.SchemaVersion, Index: m.Index,
		RedeliveryCount: w.RedeliveryCount, part: p, entry: t,
	}
	r.ID.Batch = int32(m.BatchIndex)
	if m.EventTime > 0 {
		r.EventTime = time.UnixMilli(m.EventTime)
	}
	for k, v := range m.Properties() {
		if r.Properties == nil {
			r.Properties = map[string]string{}
		}
		r.Properties[string(k)] = string(v)
	}
	return r
}

// discardLocked acknowledges an entry that nobody can read, as the official clients do.
func (p *partConsumer) discardLocked(id MessageID, messages int, err error) {
	p.c.log.Warn("message cannot be read and is left out", "topic", p.topic, "id", id.String(), "err", err)
	p.usedLocked(messages)
	if p.mu.session == nil {
		return
	}
	a := wire.Ack{
		ConsumerID: p.id, IDs: []wire.MessageID{{Ledger: id.Ledger, Entry: id.Entry, Partition: -1, BatchIndex: -1}},
		ValidationError: int32(pb.CommandAck_BatchDeSerializeError),
	}
	if errors.Is(err, message.ErrChecksum) {
		a.ValidationError = int32(pb.CommandAck_ChecksumMismatch)
	}
	p.mu.session.post(a.AppendFrame(nil))
}

// usedLocked counts messages that were permitted, and permits as many more when it is half of the queue.
func (p *partConsumer) usedLocked(n int) {
	p.mu.taken += n
	if p.mu.taken < (p.queue+1)/2 || p.mu.session == nil {
		return
	}
	p.mu.session.post((&wire.Flow{ConsumerID: p.id, Permits: uint32(p.mu.taken)}).AppendFrame(nil))
	p.mu.taken = 0
}

// wants says whether a reader is to return the message: it lies behind the position.
func (p *partConsumer) wants(m *Received) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wantsLocked(m)
}

func (p *partConsumer) wantsLocked(m *Received) bool {
	if !p.reader || p.mu.start.id == Latest {
		return true
	}
	at := p.mu.start.id
	if at.Batch < 0 && at.Ledger == m.ID.Ledger && at.Entry == m.ID.Entry {
		return p.mu.start.inclusive // the whole entry
	}
	return at.before(m.ID) || p.mu.start.inclusive && at.Ledger == m.ID.Ledger && at.Entry == m.ID.Entry && at.Batch == m.ID.Batch
}

// take has a message leave the queue; false if it is not to be returned.
func (p *partConsumer) take(m *Received) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.usedLocked(1)
	if !p.reader {
		return true
	}
	if !p.wantsLocked(m) {
		return false
	}
	p.mu.start = position{id: m.ID}
	// The position at the broker follows, so that what was read need not be kept for it.
	last := m.entry.size == 1 || int(m.ID.Batch) == m.entry.size-1
	if p.mu.unacked++; last && p.mu.unacked >= p.queue/2 && p.mu.session != nil {
		p.mu.unacked = 0
		p.ackLocked([]MessageID{m.entry.id}, true)
	}
	return true
}
