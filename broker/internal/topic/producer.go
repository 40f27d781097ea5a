package topic

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daybook/daybook/broker/internal/meter"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/mledger"
)

// A Producer is a connected producer.
type Producer struct {
	topic     *Topic
	sink      ProducerSink
	req       ProducerRequest
	name      string
	connected time.Time
	// waits: the producer was made to wait for others to leave. Set before it is known to them.
	waits bool

	sends, bytes atomic.Int64 // in flight

	// line keeps a send that was decided on before a failure was known from overtaking the failed one.
	line mledger.Line

	msgIn, bytesIn meter.Meter

	// mu orders what the sink is told; it is held while the sink is called. Nothing but the sink's own lock is taken
	// inside it.
	mu struct {
		sync.Mutex
		// issued and done count appends: handed down, and come back.
		issued, done uint64
		// later are outcomes of sends that were refused while appends before them were in flight.
		later []refusal
		// failed is why a send was not stored: every later one fails too.
		failed error
		// halted: sends are dropped unanswered, because CloseProducer will follow.
		halted bool
		// ready: the producer may send; one that waits to be exclusive is not.
		ready bool
		// shut: the sink is told nothing any more.
		shut bool
	}
}

// A refusal is the outcome of a send that is reported once `after` appends are done.
type refusal struct {
	after  uint64
	result SendResult
}

// aliveTimeout is how long a client has to show that it is alive when another wants its place.
const aliveTimeout = 5 * time.Second

// AddProducer takes a producer in. Its name must not be in use, except by an earlier epoch of the same client
// producer on the same connection, which is replaced (ProducerBusy). For access modes see PIP-68: an answer with
// Ready false is followed by ProducerSink.ProducerReady.
func (t *Topic) AddProducer(ctx context.Context, r ProducerRequest, sink ProducerSink) (*Producer, ProducerInfo, error) {
	p := &Producer{topic: t, sink: sink, req: r, name: r.Name, connected: time.Now()}
	if p.name == "" {
		name, err := t.cfg.Host.ProducerName(ctx)
		if err != nil {
			return nil, ProducerInfo{}, err
		}
		p.name = name
	}
	if r.InitialSubscription != "" {
		if err := t.createInitial(ctx, r.InitialSubscription); err != nil {
			return nil, ProducerInfo{}, err
		}
	}
	for {
		a, err := t.admit(p)
		for _, f := range a.fenced {
			f.fence()
		}
		if a.replaced != nil {
			a.replaced.silence()
		}
		switch {
		case err != nil && a.obstacle != nil:
			probe, cancel := context.WithTimeout(ctx, aliveTimeout)
			alive := a.obstacle.sink.Alive(probe)
			cancel()
			if alive || ctx.Err() != nil {
				return nil, ProducerInfo{}, err
			}
			a.obstacle.halt()
			a.obstacle.disconnect()
			t.removeProducer(a.obstacle)
			continue
		case err != nil:
			return nil, ProducerInfo{}, err
		case p.waits:
			return p, ProducerInfo{Name: p.name, LastSequenceID: -1}, nil
		case a.exclusive:
			if err := t.raiseEpoch(ctx, p); err != nil {
				t.removeProducer(p)
				return nil, ProducerInfo{}, err
			}
		}
		if !p.begin() {
			return nil, ProducerInfo{}, serr.ProducerFenced.Errorf("Fenced out")
		}
		return p, p.info(), nil
	}
}

// createInitial makes the subscription that a producer of dead letters wants to be there.
func (t *Topic) createInitial(ctx context.Context, name string) error {
	if s, _ := t.Subscription(name); s != nil {
		return nil
	}
	switch ok, err := t.cfg.Host.AllowSubscription(ctx, t.cfg.Name); {
	case err != nil:
		return err
	case !ok:
		return serr.NotAllowedError.Errorf("Could not create the initial subscription due to the auto subscription creation is not allowed.")
	}
	earliest := subscription.EarliestID
	if _, err := t.CreateSubscription(ctx, name, &earliest, nil, false); err != nil && !errors.Is(err, serr.ConsumerBusy) {
		return err
	}
	return nil
}

// admission is what admit has found and done.
type admission struct {
	// exclusive: the producer has the topic for itself, once its epoch is stored.
	exclusive bool
	// obstacle is the producer that caused the error: if its client is dead it may be removed, and the rules applied
	// again.
	obstacle *Producer
	// fenced are out of the topic, and to be told so. replaced is the producer's own former self.
	fenced   []*Producer
	replaced *Producer
}

// admit applies the rules of names and access modes.
func (t *Topic) admit(p *Producer) (a admission, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closing || t.mu.dead {
		return a, t.closedErr()
	}
	if t.ledger.Terminated() {
		return a, t.terminatedErr()
	}
	wasExclusive := false
	if old := t.mu.producers[p.name]; old != nil {
		if old.req.Conn != p.req.Conn || old.req.ProducerID != p.req.ProducerID || old.req.Epoch >= p.req.Epoch {
			a.obstacle = old
			return a, serr.ProducerBusy.Errorf("Producer with name '%s' is already connected to topic '%s'", p.name, t.cfg.Name)
		}
		a.replaced = old
		wasExclusive = t.mu.exclusive == old
		t.takeLocked(old)
		defer func() {
			if err != nil {
				t.promoteLocked()
			}
		}()
	}
	if !wasExclusive && (t.mu.exclusive != nil || len(t.mu.waiting) > 0) {
		a.obstacle = t.mu.exclusive
		switch p.req.AccessMode {
		case AccessShared:
			return a, serr.ProducerBusy.Errorf("Topic has an existing exclusive producer: %s", t.exclusiveName())
		case AccessExclusive:
			return a, serr.ProducerFenced.Errorf("Topic has an existing exclusive producer: %s", t.exclusiveName())
		}
		a.obstacle = nil
	}
	switch p.req.AccessMode {
	case AccessShared:
		t.insertLocked(p)
		return a, nil
	case AccessExclusive:
		for _, o := range t.mu.producers {
			a.obstacle = o
			return a, serr.ProducerFenced.Errorf("Topic has existing shared producers")
		}
	case AccessWaitForExclusive:
		if t.mu.exclusive != nil || len(t.mu.producers) > 0 {
			p.waits = true
			t.mu.waiting = append(t.mu.waiting, p)
			return a, nil
		}
	case AccessExclusiveWithFencing:
	default:
		return a, serr.NotAllowedError.Errorf("unknown producer access mode %d", p.req.AccessMode)
	}
	if epoch, ok := t.ledger.Epoch(); ok && p.req.TopicEpoch != nil && *p.req.TopicEpoch < epoch {
		return a, serr.ProducerFenced.Errorf("Topic epoch has already moved. Current epoch: %d, Producer epoch: %d", epoch, *p.req.TopicEpoch)
	}
	if p.req.AccessMode == AccessExclusiveWithFencing {
		for _, o := range t.mu.producers {
			a.fenced = append(a.fenced, o)
		}
		a.fenced = append(a.fenced, t.mu.waiting...)
		t.mu.producers, t.mu.waiting = nil, nil
	}
	a.exclusive = true
	t.mu.exclusive = p
	t.insertLocked(p)
	return a, nil
}

func (t *Topic) exclusiveName() string {
	if t.mu.exclusive != nil {
		return t.mu.exclusive.name
	}
	return t.mu.waiting[0].name
}

func (t *Topic) insertLocked(p *Producer) {
	if t.mu.producers == nil {
		t.mu.producers = make(map[string]*Producer)
	}
	t.mu.producers[p.name] = p
}

// raiseEpoch stores the topic epoch under which an exclusive producer writes.
func (t *Topic) raiseEpoch(ctx context.Context, p *Producer) error {
	epoch, ok := t.ledger.Epoch()
	switch {
	case p.req.TopicEpoch != nil && ok && *p.req.TopicEpoch == epoch:
		return nil
	case p.req.TopicEpoch != nil:
		epoch = *p.req.TopicEpoch
	case ok:
		epoch++
	}
	if err := t.ledger.SetEpoch(ctx, epoch); err != nil {
		return serr.ServiceNotReady.Wrapf(err, "the epoch of topic %s cannot be stored", t.cfg.Name)
	}
	return nil
}

// begin lets the producer send, unless it was fenced or closed meanwhile.
func (p *Producer) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.ready = !p.mu.shut
	return p.mu.ready
}

func (p *Producer) info() ProducerInfo {
	in := ProducerInfo{Name: p.name, LastSequenceID: -1, Ready: true}
	if epoch, ok := p.topic.ledger.Epoch(); ok {
		in.TopicEpoch = &epoch
	}
	return in
}

// removeProducer takes a producer out, and lets the next one that waits become exclusive.
func (t *Topic) removeProducer(p *Producer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.mu.waiting, p); i >= 0 {
		t.mu.waiting = slices.Delete(t.mu.waiting, i, i+1)
	} else if t.mu.producers[p.name] == p {
		t.takeLocked(p)
		t.promoteLocked()
	}
}

func (t *Topic) takeLocked(p *Producer) {
	delete(t.mu.producers, p.name)
	if t.mu.exclusive == p {
		t.mu.exclusive = nil
	}
}

// promoteLocked makes the first producer that waits exclusive, if nobody is in its way.
func (t *Topic) promoteLocked() {
	if len(t.mu.producers) > 0 || len(t.mu.waiting) == 0 || t.mu.closing {
		return
	}
	next := t.mu.waiting[0]
	t.mu.waiting = t.mu.waiting[1:]
	t.mu.exclusive = next
	t.insertLocked(next)
	go t.promote(next)
}

// promoteTimeout is how long the metadata store may take for the epoch of a producer that nobody waits for in a call.
const promoteTimeout = 30 * time.Second

// promote completes what promoteLocked has begun.
func (t *Topic) promote(p *Producer) {
	ctx, cancel := context.WithTimeout(context.Background(), promoteTimeout)
	defer cancel()
	if err := t.raiseEpoch(ctx, p); err != nil {
		p.giveUp(err)
		t.removeProducer(p)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mu.shut {
		p.mu.ready = true
		p.sink.ProducerReady(p, p.info(), nil)
	}
}

// ID is the client's number of the producer.
func (p *Producer) ID() uint64 { return p.req.ProducerID }

// Name is the producer's name, given or generated.
func (p *Producer) Name() string { return p.name }

// Topic is the producer's topic.
func (p *Producer) Topic() *Topic { return p.topic }

// Pending is the number and the payload bytes of the sends without an outcome yet, from which a connection decides
// to stop reading its socket.
func (p *Producer) Pending() (sends, bytes int64) { return p.sends.Load(), p.bytes.Load() }

// Close takes the producer out; sends without an outcome are stored or not, and their outcome is no longer reported.
func (p *Producer) Close() {
	p.silence()
	p.topic.removeProducer(p)
}

// silence keeps the sink from being told anything more, and drops what is still sent.
func (p *Producer) silence() {
	p.mu.Lock()
	p.mu.shut, p.mu.halted = true, true
	p.mu.Unlock()
}

// halt drops what is sent from now on; what is in flight is still reported.
func (p *Producer) halt() {
	p.mu.Lock()
	p.mu.halted = true
	p.mu.Unlock()
}

// disconnect tells the sink, as the last thing, that the producer is gone.
func (p *Producer) disconnect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disconnectLocked()
}

func (p *Producer) disconnectLocked() {
	if !p.mu.shut {
		p.mu.shut, p.mu.halted = true, true
		p.sink.CloseProducer(p)
	}
}

// giveUp ends the wait of a producer that wanted to be exclusive.
func (p *Producer) giveUp(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mu.shut {
		p.mu.shut, p.mu.halted = true, true
		p.sink.ProducerReady(p, ProducerInfo{}, err)
	}
}

// fence closes a producer that another has pushed out.
func (p *Producer) fence() {
	p.mu.Lock()
	ready := p.mu.ready
	p.mu.Unlock()
	switch {
	case ready:
		p.disconnect()
	case p.waits:
		p.giveUp(serr.ProducerFenced.Errorf("Fenced out"))
	default: // AddProducer will find out
		p.silence()
	}
}

// An entry is a send on its way through the managed ledger.
type entry struct {
	mledger.Append
	p         *Producer
	seq, high uint64
	size      int64
}

var entries = sync.Pool{New: func() any { return new(entry) }}

// Send stores one entry. Calls of one producer must come from one goroutine at a time; they never block for
// storage. The outcome comes to the sink, in order.
func (p *Producer) Send(s Send) {
	var m message.Entry
	err := p.check(&s, &m)
	p.mu.Lock()
	if p.mu.halted || !p.mu.ready {
		p.mu.Unlock()
		return
	}
	if p.mu.failed != nil {
		err = p.mu.failed
	}
	if err != nil {
		p.refuseLocked(SendResult{SequenceID: s.SequenceID, HighestSequenceID: s.HighestSequenceID, Err: err})
		p.mu.Unlock()
		return
	}
	p.mu.issued++
	p.topic.inFlight.Add(1)
	p.mu.Unlock()

	e := entries.Get().(*entry)
	e.p, e.seq, e.high, e.size = p, s.SequenceID, s.HighestSequenceID, int64(len(s.Payload)-s.Headroom)
	e.Append.Payload, e.Append.Headroom, e.Append.Line = s.Payload, s.Headroom, &p.line
	e.Append.Messages = m.Count()
	if m.Meta.IsMarker {
		e.Append.Messages = 0
	}
	e.Append.LeastPublishTime, e.Append.GreatestPublishTime = m.Meta.PublishTime, m.Meta.PublishTime
	e.Append.Done = e
	p.sends.Add(1)
	p.bytes.Add(e.size)
	p.topic.ledger.Append(&e.Append)
}

// minBatched is the least that a message takes in a batch: the size of its metadata. Counts beyond what fits would
// spoil the topic's indexes and its consumers' permits.
const minBatched = 4

// check parses the send and refuses what must not be stored.
func (p *Producer) check(s *Send, m *message.Entry) error {
	if s.Headroom < 0 || s.Headroom > len(s.Payload) {
		return serr.UnknownError.Errorf("headroom of %d in %d bytes", s.Headroom, len(s.Payload))
	}
	if err := m.Parse(s.Payload[s.Headroom:]); err != nil {
		return serr.NotAllowedError.Wrapf(err, "The message's metadata is malformed")
	}
	if m.HasBroker {
		return serr.NotAllowedError.Errorf("Broker entry metadata is the broker's to write")
	}
	if room := max(len(m.Payload), int(m.Meta.UncompressedSize)); m.Count() > max(1, room/minBatched) {
		return serr.NotAllowedError.Errorf("%d messages do not fit into a batch of %d bytes", m.Count(), room)
	}
	if s.Txn || m.Meta.HasTxn {
		return serr.NotAllowedError.Errorf("Transactions are not enabled on this broker")
	}
	return nil
}

// refuseLocked reports the outcome of a send that is not stored, after those of the sends before it.
func (p *Producer) refuseLocked(r SendResult) {
	if p.mu.done == p.mu.issued {
		if !p.mu.shut {
			p.sink.SendCompleted(p, r)
		}
		return
	}
	p.mu.later = append(p.mu.later, refusal{p.mu.issued, r})
}

// AppendCompleted implements mledger.Appender.
func (e *entry) AppendCompleted(a *mledger.Append, err error) {
	p, t := e.p, e.p.topic
	r := SendResult{SequenceID: e.seq, HighestSequenceID: e.high, Position: a.Position}
	messages, size := int64(a.Messages), e.size
	e.p = nil
	e.Append = mledger.Append{}
	entries.Put(e)

	p.sends.Add(-1)
	p.bytes.Add(-size)
	if err == nil {
		p.msgIn.Add(messages)
		p.bytesIn.Add(size)
		t.msgIn.Add(messages)
		t.bytesIn.Add(size)
		t.lastPublish.Store(time.Now().UnixMilli())
	}
	p.completed(r, err)
	t.inFlight.Done()
}

// completed reports the outcome of an append.
func (p *Producer) completed(r SendResult, err error) {
	t := p.topic
	p.mu.Lock()
	p.mu.done++
	gone := false
	switch {
	case errors.Is(err, mledger.ErrTerminated), errors.Is(err, mledger.ErrClosed), errors.Is(err, mledger.ErrFenced):
		// The client must not hear of the failed send before it hears that its producer is closed: it would wait
		// for the time-out of the send. CloseProducer makes it come back and find out.
		p.mu.halted, gone = true, true
	case p.mu.failed != nil:
		r.Err = p.mu.failed
	case err != nil:
		p.mu.failed = storeError(err, t)
		r.Err = p.mu.failed
		t.cfg.Logger.Warn("message not stored", "topic", t.cfg.Name, "producer", p.name, "error", err)
	}
	if !gone && !p.mu.shut {
		p.sink.SendCompleted(p, r)
	}
	for len(p.mu.later) > 0 && p.mu.later[0].after <= p.mu.done {
		if !p.mu.shut && !gone {
			p.sink.SendCompleted(p, p.mu.later[0].result)
		}
		p.mu.later = p.mu.later[1:]
	}
	drop := (p.mu.failed != nil || gone && !errors.Is(err, mledger.ErrClosed)) && p.mu.done == p.mu.issued && !p.mu.shut
	if drop {
		p.disconnectLocked()
	}
	p.mu.Unlock()
	if drop {
		go t.removeProducer(p)
	}
	if errors.Is(err, mledger.ErrFenced) {
		t.died()
	}
}

func storeError(err error, t *Topic) error {
	if errors.Is(err, mledger.ErrNoSpace) {
		return serr.PersistenceError.Wrapf(err, "no space is left to store messages of %s", t.cfg.Name)
	}
	return serr.PersistenceError.Wrapf(err, "the message cannot be stored in %s", t.cfg.Name)
}

func (p *Producer) statsAt(now time.Time) ProducerStats {
	st := ProducerStats{
		Name: p.name, ID: p.req.ProducerID, AccessMode: p.req.AccessMode,
		Address: p.req.Address, ClientVersion: p.req.ClientVersion, ConnectedSince: p.connected,
		MsgRateIn:       p.msgIn.Rate(now, p.connected),
		MsgThroughputIn: p.bytesIn.Rate(now, p.connected),
		MsgIn:           p.msgIn.Count(), BytesIn: p.bytesIn.Count(),
		Metadata: p.req.Metadata, PartialProducer: p.req.PartialProducer,
	}
	if st.MsgIn > 0 {
		st.AverageMsgSize = float64(st.BytesIn) / float64(st.MsgIn)
	}
	return st
}
