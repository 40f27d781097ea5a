package conn_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/internal/conn"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// domain is a broker's domain in memory, whose outcomes the test decides. hold makes sends wait for release.
type domain struct {
	mu         sync.Mutex
	topics     map[string]*fakeTopic
	partitions map[string]int
	schemas    map[string][]conn.Schema
	hold       bool
	gate       chan struct{} // if not nil, Topic waits for it
}

func newDomain() *domain {
	return &domain{topics: map[string]*fakeTopic{}, partitions: map[string]int{}, schemas: map[string][]conn.Schema{}}
}

func (d *domain) Topic(ctx context.Context, n topicname.Name, u conn.Use) (conn.Topic, error) {
	if d.gate != nil {
		select {
		case <-d.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.topics[n.String()]
	if t == nil {
		if u == conn.Existing {
			return nil, serr.TopicNotFound.Errorf("Topic %s does not exist", n)
		}
		t = &fakeTopic{d: d, name: n}
		d.topics[n.String()] = t
	}
	return t, nil
}

func (d *domain) topic(name string) *fakeTopic {
	t, err := d.Topic(context.Background(), must(topicname.Parse(name)), conn.Create)
	if err != nil {
		panic(err)
	}
	return t.(*fakeTopic)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (d *domain) Partitions(_ context.Context, n topicname.Name, _ bool) (int, error) {
	if n.Tenant == "nobody" {
		return 0, serr.TopicNotFound.Errorf("Namespace not found")
	}
	return d.partitions[n.String()], nil
}

func (d *domain) Lookup(_ context.Context, r conn.LookupRequest) (conn.LookupResult, error) {
	if r.Listener != "" {
		return conn.LookupResult{}, serr.ServiceNotReady.Errorf("no listener %s", r.Listener)
	}
	return conn.LookupResult{URL: "pulsar://" + r.Local.String(), Authoritative: true}, nil
}

func (d *domain) List(_ context.Context, ns topicname.Namespace) ([]topicname.Name, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []topicname.Name
	for _, k := range slices.Sorted(maps.Keys(d.topics)) {
		if n := d.topics[k].name; n.NamespaceName() == ns {
			names = append(names, n)
		}
	}
	return names, nil
}

func (d *domain) PutSchema(_ context.Context, n topicname.Name, s conn.Schema) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.schemas[n.String()]
	for i, have := range all {
		if string(have.Data) == string(s.Data) {
			return binary.BigEndian.AppendUint64(nil, uint64(i)), nil
		}
	}
	if len(all) > 0 {
		return nil, serr.IncompatibleSchema.Errorf("another schema")
	}
	d.schemas[n.String()] = append(all, s)
	return binary.BigEndian.AppendUint64(nil, uint64(len(all))), nil
}

func (d *domain) CheckConsumerSchema(ctx context.Context, n topicname.Name, s conn.Schema) error {
	_, err := d.PutSchema(ctx, n, s)
	return err
}

func (d *domain) GetSchema(_ context.Context, n topicname.Name, version []byte) (conn.Schema, []byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.schemas[n.String()]
	i := len(all) - 1
	if len(version) == 8 {
		i = int(binary.BigEndian.Uint64(version))
	}
	if i < 0 || i >= len(all) {
		return conn.Schema{}, nil, serr.TopicNotFound.Errorf("Topic not found or no-schema")
	}
	return all[i], binary.BigEndian.AppendUint64(nil, uint64(i)), nil
}

// A fakeTopic stores sends in order and delivers what the test gives it.
type fakeTopic struct {
	d         *domain
	name      topicname.Name
	mu        sync.Mutex
	stored    [][]byte
	held      []func()
	producers map[string]*fakeProducer
	consumers map[uint64]*fakeConsumer
	waitFirst bool // the next producer has to wait for exclusive access
}

func (t *fakeTopic) AddProducer(_ context.Context, r topic.ProducerRequest, sink topic.ProducerSink) (conn.Producer, topic.ProducerInfo, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.producers == nil {
		t.producers = map[string]*fakeProducer{}
	}
	if r.Name == "" {
		r.Name = fmt.Sprintf("fake-%d", len(t.producers))
	}
	if t.producers[r.Name] != nil {
		return nil, topic.ProducerInfo{}, serr.ProducerBusy.Errorf("Producer with name '%s' is already connected to topic", r.Name)
	}
	p := &fakeProducer{t: t, name: r.Name, sink: sink}
	t.producers[r.Name] = p
	return p, topic.ProducerInfo{Name: r.Name, LastSequenceID: -1, Ready: !t.waitFirst}, nil
}

func (t *fakeTopic) Subscribe(_ context.Context, r subscription.Request, sink subscription.ConsumerSink) (conn.Consumer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.consumers == nil {
		t.consumers = map[uint64]*fakeConsumer{}
	}
	if r.Subscription == "taken" {
		return nil, serr.ConsumerBusy.Errorf("Exclusive consumer is already connected")
	}
	k := &fakeConsumer{t: t, req: r, sink: sink, resumed: make(chan struct{}, 100)}
	t.consumers[r.ConsumerID] = k
	if r.Type == subscription.Failover {
		sink.ActiveChanged(nil, true)
	}
	return k, nil
}

func (t *fakeTopic) consumer(id uint64) *fakeConsumer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.consumers[id]
}

func (t *fakeTopic) producer(name string) *fakeProducer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.producers[name]
}

func (t *fakeTopic) LastMessageID(context.Context) (topic.LastMessage, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.stored) == 0 {
		return topic.LastMessage{Position: ledgerfs.Position{Ledger: -1, Entry: -1}, BatchIndex: -1}, nil
	}
	return topic.LastMessage{Position: ledgerfs.Position{Ledger: 7, Entry: ledgerfs.EntryID(len(t.stored) - 1)}, BatchIndex: -1}, nil
}

// release completes what was held.
func (t *fakeTopic) release() {
	t.mu.Lock()
	held := t.held
	t.held = nil
	t.mu.Unlock()
	for _, f := range held {
		f()
	}
}

func (t *fakeTopic) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.held)
}

type fakeProducer struct {
	t    *fakeTopic
	name string
	sink topic.ProducerSink
}

func (p *fakeProducer) Send(s topic.Send) {
	t := p.t
	t.mu.Lock()
	t.stored = append(t.stored, s.Payload[s.Headroom:])
	r := topic.SendResult{SequenceID: s.SequenceID, HighestSequenceID: s.HighestSequenceID, Position: ledgerfs.Position{Ledger: 7, Entry: ledgerfs.EntryID(len(t.stored) - 1)}}
	if s.Txn {
		r.Err = serr.NotAllowedError.Errorf("no transactions")
	}
	if t.d.hold {
		t.held = append(t.held, func() { p.sink.SendCompleted(nil, r) })
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	p.sink.SendCompleted(nil, r)
}

func (p *fakeProducer) Close() {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	delete(p.t.producers, p.name)
}

type fakeConsumer struct {
	t       *fakeTopic
	req     subscription.Request
	sink    subscription.ConsumerSink
	mu      sync.Mutex
	permits int
	acks    []subscription.Ack
	redel   [][]subscription.AckID
	closed  bool
	resumed chan struct{}
}

func (k *fakeConsumer) Flow(n uint32) { k.mu.Lock(); k.permits += int(n); k.mu.Unlock() }
func (k *fakeConsumer) Resume()       { k.resumed <- struct{}{} }
func (k *fakeConsumer) Ack(a subscription.Ack, done func(error)) {
	a.IDs = slices.Clone(a.IDs)
	k.mu.Lock()
	k.acks = append(k.acks, a)
	k.mu.Unlock()
	if done != nil {
		done(nil)
	}
}
func (k *fakeConsumer) Redeliver(ids []subscription.AckID, _ uint64) {
	k.mu.Lock()
	k.redel = append(k.redel, ids)
	k.mu.Unlock()
}
func (k *fakeConsumer) Seek(context.Context, subscription.SeekTarget) error {
	k.sink.CloseConsumer(nil)
	return nil
}
func (k *fakeConsumer) Unsubscribe(context.Context, bool) error { return nil }
func (k *fakeConsumer) Close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
}
func (k *fakeConsumer) MarkDelete() ledgerfs.Position {
	return ledgerfs.Position{Ledger: 7, Entry: -1}
}
func (k *fakeConsumer) Stats() subscription.ConsumerStats {
	return subscription.ConsumerStats{Name: k.req.ConsumerName, AvailablePermits: k.permits, Type: k.req.Type}
}
func (k *fakeConsumer) SubscriptionStats() subscription.Stats { return subscription.Stats{Backlog: 5} }

func (k *fakeConsumer) get() (permits int, acks []subscription.Ack, redel [][]subscription.AckID, closed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.permits, slices.Clone(k.acks), slices.Clone(k.redel), k.closed
}

// A peer is the client's end of a connection.
type peer struct {
	t    testing.TB
	nc   net.Conn
	r    *wire.Reader
	next [][]byte
	done chan error // of Serve
}

// pipeAddr gives the ends of a pipe addresses.
type pipeConn struct{ net.Conn }

func (pipeConn) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6650}
}
func (pipeConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// dial serves one end of a pipe and returns the other, not yet connected.
func dial(t testing.TB, d conn.Domain, cfg conn.Config) *peer {
	return dialWith(context.Background(), t, d, cfg)
}

// dialWith is dial, with the context of Serve.
func dialWith(ctx context.Context, t testing.TB, d conn.Domain, cfg conn.Config) *peer {
	server, client := net.Pipe()
	p := &peer{t: t, nc: client, r: wire.NewReader(client, 10<<20), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(ctx)
	go func() { p.done <- conn.Serve(ctx, pipeConn{server}, cfg, d, quiet()) }()
	t.Cleanup(func() {
		cancel()
		client.Close()
		<-p.done
	})
	return p
}

// connect is dial with the handshake done.
func connect(t testing.TB, d conn.Domain, cfg conn.Config) *peer {
	p := dial(t, d, cfg)
	p.send(&pb.CommandConnect{ClientVersion: new("test"), ProtocolVersion: new(int32(20))})
	want[*pb.CommandConnected](p)
	return p
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	p.nc.SetWriteDeadline(time.Now().Add(10 * time.Second))
	defer p.nc.SetWriteDeadline(time.Time{})
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

func (p *peer) send(m wire.Body) { p.t.Helper(); p.write(wire.AppendFrame(nil, m)) }

// recv is the next command, PINGs answered and left out, and what follows it in its frame.
func (p *peer) recv() (*wire.Command, []byte, error) {
	for {
		if len(p.next) == 0 {
			p.nc.SetReadDeadline(time.Now().Add(time.Hour))
			frames, err := p.r.Next(nil)
			if err != nil {
				return nil, nil, err
			}
			p.next = frames
		}
		command, payload, err := wire.SplitFrame(p.next[0])
		p.next = p.next[1:]
		if err != nil {
			return nil, nil, err
		}
		c := new(wire.Command)
		if err := c.Decode(command); err != nil {
			return nil, nil, err
		}
		if c.Type == wire.TypePing {
			p.nc.Write(wire.AppendPong(nil))
			continue
		}
		return c, payload, nil
	}
}

func (p *peer) must() *wire.Command {
	p.t.Helper()
	c, _, err := p.recv()
	if err != nil {
		p.t.Fatalf("receive: %v", err)
	}
	return c
}

// want is the next command, which must be a B.
func want[B wire.Body](p *peer) B {
	p.t.Helper()
	c := p.must()
	b, ok := c.Body.(B)
	if !ok {
		p.t.Fatalf("received %v %v, want %T", c.Type, c.Body, b)
	}
	return b
}

// wantEnd reads to the end of the connection, which must come without another command, and returns Serve's
// error.
func (p *peer) wantEnd() error {
	p.t.Helper()
	if c, _, err := p.recv(); err == nil {
		p.t.Fatalf("received %v %v, want the end", c.Type, c.Body)
	} else if err != io.EOF {
		p.t.Fatalf("receive: %v, want EOF", err)
	}
	err := <-p.done
	p.done <- err
	return err
}

func (p *peer) produce(id uint64, topic string) {
	p.t.Helper()
	p.send(&pb.CommandProducer{Topic: &topic, ProducerId: &id, RequestId: new(uint64(100))})
	want[*pb.CommandProducerSuccess](p)
}

func (p *peer) subscribe(id uint64, topic string) {
	p.t.Helper()
	p.send(&pb.CommandSubscribe{Topic: &topic, ConsumerId: &id, RequestId: new(uint64(100)), Subscription: new("sub"), SubType: pb.CommandSubscribe_Shared.Enum()})
	want[*pb.CommandSuccess](p)
}

// sendFrame is a SEND frame with a body of that many bytes.
func sendFrame(producer, sequence uint64, body int) []byte {
	s := wire.Send{ProducerID: producer, SequenceID: sequence, Messages: 1}
	payload := stored(body)
	return append(s.AppendFrame(nil, len(payload)), payload...)
}

// stored is an entry as a producer sends it, with a body of that many bytes.
func stored(body int) []byte {
	return must(message.AppendSingle(nil, &message.Header{ProducerName: "p", PublishTime: 5}, &message.Outgoing{Value: make([]byte, body)}))
}

func (p *peer) receipt() wire.SendReceipt {
	p.t.Helper()
	c := p.must()
	if c.Type != wire.TypeSendReceipt {
		p.t.Fatalf("received %v %v, want a receipt", c.Type, c.Body)
	}
	return c.Receipt
}
