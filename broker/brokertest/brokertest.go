// Package brokertest runs a broker's topics in one process, over metadata and bookies in memory that can be made to
// fail, and offers sinks that record what a client would have been told.
//
// Everything works inside a testing/synctest bubble, which makes "nothing more happens" something a test can wait for.
package brokertest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/internal/policy"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta/metatest"
)

// A Domain is a broker's topics with all that they stand on.
type Domain struct {
	Store    *metatest.Store
	Bookies  *ledgertest.Cluster
	Policies *policy.Policies
	Topics   *topics.Registry

	client  *ledger.Client
	ledgers *mledger.Factory
	t       testing.TB
	closed  bool
	// left are what crashes have left running, to be ended with the domain.
	left []func()
}

// New starts a domain with one bookie and the namespace public/default. It is closed with the test, or, inside a
// synctest bubble, must be closed before the bubble ends.
func New(t testing.TB) *Domain {
	t.Helper()
	d := &Domain{Store: metatest.New(), Bookies: ledgertest.NewCluster(1), t: t}
	d.Policies = policy.New(d.Store, policy.DefaultConfig(), time.Now)
	if err := d.Policies.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.start()
	return d
}

func (d *Domain) start() {
	log := slog.New(slog.NewTextHandler(testWriter{d.t}, &slog.HandlerOptions{Level: slog.LevelError}))
	d.client = ledger.New(ledger.Config{Store: d.Store, Bookies: bookies{d.Bookies}, Logger: log})
	d.ledgers = mledger.New(mledger.Config{Client: d.client, Store: d.Store, Logger: log})
	d.Topics = topics.New(topics.Config{Cluster: "standalone", Owner: "test", Store: d.Store, Ledgers: d.ledgers, Policy: d.Policies, Logger: log})
	d.closed = false
}

// testWriter keeps logs out of the way unless the test is verbose.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if testing.Verbose() {
		fmt.Print(string(b))
	}
	return io.Discard.Write(b)
}

// Close stops the domain; everything acknowledged is stored.
func (d *Domain) Close() {
	d.t.Helper()
	if d.closed {
		return
	}
	d.closed = true
	ctx := context.Background()
	if err := d.Topics.Close(ctx); err != nil {
		d.t.Error(err)
	}
	if err := d.ledgers.Close(ctx); err != nil {
		d.t.Error(err)
	}
	d.client.Close()
	for _, end := range d.left {
		end()
	}
	d.left = nil
}

// Crash starts the domain anew over what is stored, without a word to what ran before: as after kill -9, that writes
// nothing any more that counts.
func (d *Domain) Crash() {
	d.t.Helper()
	topics, ledgers, client := d.Topics, d.ledgers, d.client
	d.left = append(d.left, func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		topics.Close(ctx)
		ledgers.Close(ctx)
		client.Close()
	})
	d.start()
}

// Restart stops the domain and starts it anew over what is stored.
func (d *Domain) Restart() {
	d.t.Helper()
	d.Close()
	d.start()
}

// Topic returns the topic of a short name, creating it if need be.
func (d *Domain) Topic(name string) *topic.Topic {
	d.t.Helper()
	n, err := topicname.Parse(name)
	if err != nil {
		d.t.Fatal(err)
	}
	tp, err := d.Topics.Topic(d.t.Context(), n, topics.Options{Create: true})
	if err != nil {
		d.t.Fatal(err)
	}
	return tp
}

// bookies are those of a fake cluster as a ledger client finds them.
type bookies struct{ c *ledgertest.Cluster }

func (b bookies) Candidates(context.Context) ([]ledger.Candidate, error) {
	var cs []ledger.Candidate
	for _, m := range b.c.Members() {
		cs = append(cs, ledger.Candidate{Member: m, Free: 1 << 40})
	}
	return cs, nil
}

func (b bookies) Bookie(m ledgerfs.Member) (ledgerfs.Bookie, error) { return b.c.Dial(m), nil }

// A Sender is a producer's client: it records what it is told.
type Sender struct {
	*topic.Producer
	Info topic.ProducerInfo

	mu      sync.Mutex
	results []topic.SendResult
	ready   []error // of ProducerReady
	closed  bool
	dead    bool
	next    uint64
}

// SendCompleted implements topic.ProducerSink.
func (s *Sender) SendCompleted(_ *topic.Producer, r topic.SendResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results = append(s.results, r)
}

// ProducerReady implements topic.ProducerSink.
func (s *Sender) ProducerReady(_ *topic.Producer, in topic.ProducerInfo, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Info = in
	s.ready = append(s.ready, err)
}

// CloseProducer implements topic.ProducerSink.
func (s *Sender) CloseProducer(*topic.Producer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// Alive implements topic.ProducerSink.
func (s *Sender) Alive(context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.dead
}

// Die has Alive answer false.
func (s *Sender) Die() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
}

// Closed reports whether the broker has closed the producer.
func (s *Sender) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Ready are the outcomes of ProducerReady.
func (s *Sender) Ready() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ready)
}

// Results are the outcomes of sends so far.
func (s *Sender) Results() []topic.SendResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.results)
}

// Produce makes a producer.
func Produce(ctx context.Context, t *topic.Topic, r topic.ProducerRequest) (*Sender, error) {
	s := &Sender{}
	if r.Conn == nil {
		r.Conn = s
	}
	p, info, err := t.AddProducer(ctx, r, s)
	if err != nil {
		return nil, err
	}
	s.Producer, s.Info = p, info
	return s, nil
}

// SendText sends an unbatched message with a key (none if empty).
func (s *Sender) SendText(key, value string) {
	s.SendEntry(Entry(s.Name(), s.next, key, value), 1)
}

// SendEntry sends an entry of n messages.
func (s *Sender) SendEntry(payload []byte, n int32) {
	s.Send(topic.Send{SequenceID: s.next, Messages: n, Payload: payload})
	s.next += uint64(n)
}

// Entry is an unbatched message as a producer sends it.
func Entry(producer string, sequence uint64, key, value string) []byte {
	b, err := message.AppendSingle(nil, &message.Header{ProducerName: producer, PublishTime: time.Now().UnixMilli()}, &message.Outgoing{SequenceID: sequence, Key: key, Value: []byte(value)})
	if err != nil {
		panic(err)
	}
	return b
}

// DelayedEntry is Entry, not to be delivered before at.
func DelayedEntry(producer string, sequence uint64, key, value string, at time.Time) []byte {
	b, err := message.AppendSingle(nil, &message.Header{ProducerName: producer, PublishTime: time.Now().UnixMilli(), DeliverAt: at.UnixMilli()}, &message.Outgoing{SequenceID: sequence, Key: key, Value: []byte(value)})
	if err != nil {
		panic(err)
	}
	return b
}

// Batch is a batch of messages with these values as a producer sends it.
func Batch(producer string, sequence uint64, values ...string) []byte {
	ms := make([]message.Outgoing, len(values))
	for i, v := range values {
		ms[i] = message.Outgoing{SequenceID: sequence + uint64(i), Value: []byte(v)}
	}
	b, err := message.AppendBatch(nil, &message.Header{ProducerName: producer, PublishTime: time.Now().UnixMilli()}, ms)
	if err != nil {
		panic(err)
	}
	return b
}

// A Receiver is a consumer's client: it records what it is told.
type Receiver struct {
	*subscription.Consumer

	mu       sync.Mutex
	received []subscription.Message
	active   []bool
	closed   bool
	ended    bool
	dead     bool
	full     bool
}

// Deliver implements subscription.ConsumerSink.
func (r *Receiver) Deliver(_ *subscription.Consumer, ms []subscription.Message) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.received = append(r.received, ms...)
	return !r.full
}

// CloseConsumer implements subscription.ConsumerSink.
func (r *Receiver) CloseConsumer(*subscription.Consumer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// ActiveChanged implements subscription.ConsumerSink.
func (r *Receiver) ActiveChanged(_ *subscription.Consumer, active bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = append(r.active, active)
}

// EndOfTopic implements subscription.ConsumerSink.
func (r *Receiver) EndOfTopic(*subscription.Consumer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
}

// Alive implements subscription.ConsumerSink.
func (r *Receiver) Alive(context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.dead
}

// Die has Alive answer false.
func (r *Receiver) Die() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead = true
}

// SetFull says what Deliver answers from now on: full receivers are not writable.
func (r *Receiver) SetFull(full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full = full
}

// Closed reports whether the broker has closed the consumer.
func (r *Receiver) Closed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// Ended reports whether the consumer was told of the topic's end.
func (r *Receiver) Ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// Active is what the consumer was told of being active.
func (r *Receiver) Active() []bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.active)
}

// Take returns the messages received since the last Take.
func (r *Receiver) Take() []subscription.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	ms := r.received
	r.received = nil
	return ms
}

// TakeTexts is Take, as the values of the messages, batches taken apart.
func (r *Receiver) TakeTexts() []string {
	var out []string
	for _, m := range r.Take() {
		out = append(out, Texts(m)...)
	}
	return out
}

// Texts are the values of an entry's messages that are not acknowledged.
func Texts(m subscription.Message) []string {
	var e message.Entry
	if err := e.Parse(m.Payload); err != nil {
		return []string{err.Error()}
	}
	var d message.Decoder
	var out []string
	i := 0
	for msg, err := range d.Messages(&e) {
		switch {
		case err != nil:
			return append(out, err.Error())
		case m.AckSet == nil || i/64 < len(m.AckSet) && m.AckSet[i/64]&(1<<(i%64)) != 0:
			out = append(out, string(msg.Value))
		}
		i++
	}
	return out
}

// Subscribe makes a consumer.
func Subscribe(ctx context.Context, t *topic.Topic, r subscription.Request) (*Receiver, error) {
	rec := &Receiver{}
	c, err := t.Subscribe(ctx, r, rec)
	if err != nil {
		return nil, err
	}
	rec.Consumer = c
	return rec, nil
}
