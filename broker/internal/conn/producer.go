package conn

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// A producer is one producer of a connection, and the sink of its outcomes.
type producer struct {
	c       *connection
	id      uint64
	request uint64 // of PRODUCER
	schema  []byte // version

	// Of the loop: producer is nil until the topic has taken it in, ready false until it may send.
	producer Producer
	ready    bool
	closed   bool // by the client, before the topic had taken it in
	info     topic.ProducerInfo

	mu struct {
		sync.Mutex
		sizes sizeQueue // of the sends without an outcome, in order
	}
}

func (c *connection) handleProducer(m *pb.CommandProducer) {
	request := m.GetRequestId()
	if p := c.producers[m.GetProducerId()]; p != nil {
		if p.ready {
			p.succeed(p.info, request)
		} else {
			c.fail(request, serr.ServiceNotReady.Errorf("Producer is already present on the connection"))
		}
		return
	}
	name, err := parseTopic(m.GetTopic())
	if err != nil {
		c.fail(request, err)
		return
	}
	if mode := m.GetProducerAccessMode(); mode < 0 || mode > pb.ProducerAccessMode_ExclusiveWithFencing {
		c.fail(request, serr.UnsupportedVersionError.Errorf("unknown access mode %d", mode))
		return
	}
	p := &producer{c: c, id: m.GetProducerId(), request: request}
	req := topic.ProducerRequest{
		ProducerID: p.id, Name: m.GetProducerName(), UserProvided: m.GetUserProvidedProducerName(),
		Epoch: m.GetEpoch(), AccessMode: topic.AccessMode(m.GetProducerAccessMode()), TopicEpoch: m.TopicEpoch,
		Encrypted: m.GetEncrypted(), InitialSubscription: m.GetInitialSubscriptionName(), Metadata: properties(m.Metadata),
		Conn: c, Address: c.remote, ClientVersion: c.client,
	}
	c.producers[p.id] = p
	c.request(func(ctx context.Context) func() {
		dp, info, err := p.create(ctx, name, m.Schema, req)
		return func() { p.created(dp, info, err) }
	}, func(e *serr.Error) {
		delete(c.producers, p.id)
		c.fail(request, e)
	})
}

// create runs beside the loop.
func (p *producer) create(ctx context.Context, name topicname.Name, schema *pb.Schema, req topic.ProducerRequest) (Producer, topic.ProducerInfo, error) {
	use := Create
	if req.Epoch > 0 {
		use = Comeback
	}
	t, err := p.c.domain.Topic(ctx, name, use)
	if err != nil {
		return nil, topic.ProducerInfo{}, err
	}
	if s, ok := givenSchema(schema); ok {
		if req.SchemaVersion, err = p.c.domain.PutSchema(ctx, name, s); err != nil {
			return nil, topic.ProducerInfo{}, err
		}
		p.schema = req.SchemaVersion
	}
	return t.AddProducer(ctx, req, p)
}

// created runs in the loop when the topic has taken the producer in, or has refused it.
func (p *producer) created(dp Producer, info topic.ProducerInfo, err error) {
	c := p.c
	switch {
	case err != nil:
		if c.producers[p.id] == p {
			delete(c.producers, p.id)
		}
		if !p.closed {
			c.fail(p.request, err)
		}
	case p.closed:
		dp.Close()
	case c.producers[p.id] != p: // closed by the topic since then
		c.fail(p.request, serr.ServiceNotReady.Errorf("the producer was closed while it was created"))
	default:
		p.producer, p.info, p.ready = dp, info, info.Ready
		p.succeed(info, p.request)
	}
}

func (p *producer) succeed(info topic.ProducerInfo, request uint64) {
	version := p.schema
	if version == nil {
		version = []byte{} // the Java client reads the field without asking whether it is there
	}
	p.c.send(&pb.CommandProducerSuccess{
		RequestId: &request, ProducerName: &info.Name, LastSequenceId: &info.LastSequenceID,
		SchemaVersion: version, TopicEpoch: info.TopicEpoch, ProducerReady: &info.Ready,
	})
}

func (c *connection) handleCloseProducer(m *pb.CommandCloseProducer) {
	if p := c.producers[m.GetProducerId()]; p != nil {
		delete(c.producers, p.id)
		if p.producer == nil {
			p.closed = true // created releases it
		} else {
			p.producer.Close()
			p.settleAll()
		}
	}
	c.succeed(m.GetRequestId())
}

// sendOverhead is about what a send costs in memory beside its payload while it is on its way to storage: without it,
// millions of tiny messages would count as little.
const sendOverhead = 512

// handleSend passes on the message that is the payload of frame.
func (c *connection) handleSend(s *wire.Send, frame, payload []byte) error {
	p := c.producers[s.ProducerID]
	if p == nil || !p.ready {
		if _, ok := c.closedProducers[s.ProducerID]; ok && p == nil {
			return nil // sent before the client knew; it sends again once it has created the producer anew
		}
		return fmt.Errorf("%w: SEND for producer %d, which does not exist", ErrProtocol, s.ProducerID)
	}
	parts, err := wire.ParsePayload(payload)
	if err != nil {
		return err
	}
	if err := parts.Verify(); err != nil {
		c.log.Warn("message failed its checksum", "producer", p.info.Name, "sequence", s.SequenceID, "err", err)
		c.send(&pb.CommandSendError{
			ProducerId: &s.ProducerID, SequenceId: &s.SequenceID,
			Error: pb.ServerError_ChecksumError.Enum(), Message: new("Checksum failed on the broker"),
		})
		return nil
	}
	size := len(payload) + sendOverhead
	p.mu.Lock()
	p.mu.sizes.push(size)
	p.mu.Unlock()
	c.pending.Add(int64(size))
	c.cfg.Budget.take(int64(size))
	p.producer.Send(topic.Send{
		SequenceID: s.SequenceID, HighestSequenceID: s.HighestSequenceID, Messages: s.Messages,
		// The head of the frame has been read, and is room for what the topic puts before the message.
		Payload: frame, Headroom: len(frame) - len(payload), IsChunk: s.IsChunk, Marker: s.Marker, Txn: s.InTxn,
	})
	return nil
}

// SendCompleted implements topic.ProducerSink.
func (p *producer) SendCompleted(_ *topic.Producer, r topic.SendResult) {
	c := p.c
	p.mu.Lock()
	size := p.mu.sizes.pop()
	p.mu.Unlock()
	if r.Err == nil {
		receipt := wire.SendReceipt{
			ProducerID: p.id, SequenceID: r.SequenceID, HighestSequenceID: r.HighestSequenceID,
			ID: wire.MessageID{Ledger: int64(r.Position.Ledger), Entry: int64(r.Position.Entry), Partition: -1, BatchIndex: -1},
		}
		b := c.out.lock()
		b.arena = receipt.AppendFrame(b.arena)
		c.out.unlock()
	} else {
		p.sendFailed(r.SequenceID, r.Err)
	}
	c.settled(int64(size))
}

func (p *producer) sendFailed(sequence uint64, err error) {
	e := serr.From(err)
	p.c.send(&pb.CommandSendError{ProducerId: &p.id, SequenceId: &sequence, Error: wireCode(e), Message: &e.Text})
}

// ProducerReady implements topic.ProducerSink.
func (p *producer) ProducerReady(_ *topic.Producer, info topic.ProducerInfo, err error) {
	// By way of the loop, because the first answer may not have been sent yet.
	p.c.post(func() {
		if p.c.producers[p.id] != p {
			return // closed in the meantime
		}
		if err != nil {
			delete(p.c.producers, p.id)
			p.c.fail(p.request, err)
			return
		}
		p.info, p.ready = info, true
		p.succeed(info, p.request)
	})
}

// CloseProducer implements topic.ProducerSink.
func (p *producer) CloseProducer(*topic.Producer) {
	c := p.c
	// Posted first: when the client reacts to the frame, the loop must already know.
	c.post(func() {
		if c.producers[p.id] != p {
			return
		}
		delete(c.producers, p.id)
		if c.closedProducers == nil {
			c.closedProducers = map[uint64]time.Time{}
		}
		c.closedProducers[p.id] = time.Now()
		p.settleAll()
	})
	c.send(&pb.CommandCloseProducer{ProducerId: &p.id, RequestId: new(noRequest)})
}

// Alive implements topic.ProducerSink.
func (p *producer) Alive(ctx context.Context) bool { return p.c.alive(ctx) }

// settleAll takes what has no outcome, and will not get one, off the connection's pending bytes. The loop
// calls it when the producer has ended.
func (p *producer) settleAll() {
	p.mu.Lock()
	var n int64
	for p.mu.sizes.len() > 0 {
		n += int64(p.mu.sizes.pop())
	}
	p.mu.Unlock()
	p.c.settled(n)
}

// A sizeQueue is a first-in, first-out queue of sizes.
type sizeQueue struct {
	ring  []int32 // its length is a power of two
	first int
	n     int
}

func (q *sizeQueue) len() int { return q.n }

func (q *sizeQueue) push(size int) {
	if q.n == len(q.ring) {
		grown := make([]int32, max(16, 2*len(q.ring)))
		for i := range q.n {
			grown[i] = q.ring[(q.first+i)&(len(q.ring)-1)]
		}
		q.ring, q.first = grown, 0
	}
	q.ring[(q.first+q.n)&(len(q.ring)-1)] = int32(size)
	q.n++
}

// pop is 0 if the queue is empty.
func (q *sizeQueue) pop() int {
	if q.n == 0 {
		return 0
	}
	size := q.ring[q.first]
	q.first = (q.first + 1) & (len(q.ring) - 1)
	q.n--
	return int(size)
}

// parseTopic parses a topic's name for a client.
func parseTopic(s string) (topicname.Name, error) {
	n, err := topicname.Parse(s)
	if err != nil {
		return n, serr.InvalidTopicName.Errorf("%s", err.Error())
	}
	return n, nil
}
