// Package conn serves one connection of the Pulsar client protocol, from CONNECT to the end.
//
// # Promises
//
// Commands take effect in the order in which they came, save that requests that wait for metadata or storage
// (finding a topic, creating a producer, a seek) do so side by side. The receipts of a producer, and the
// messages of a consumer, are sent in the order in which the topic reports them. What a client does wrong
// ends its own connection at most.
//
// Memory is bounded: the connection is not read while more than Config.MaxPendingPublish bytes of its
// messages are on their way to storage or more than Config.MaxQueued bytes wait to be sent to it, and
// consumers are told to stop at the latter bound.
//
// # Goroutines
//
// Serve runs three: reader cuts the stream into frames, loop (the caller's) owns all state and handles them,
// and writer sends what outbox gathers. A request that waits gets one more, which posts what is to be done
// with its outcome to the loop. Topics and subscriptions call the sinks on their own goroutines; those write
// to the outbox and post, never wait. Serve returns when all have ended and everything is released.
package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
)

// Why a connection was ended from this side. Errors of package wire, wrapped, are the other reasons.
var (
	// ErrIdle: the client was silent for two intervals of keep-alive.
	ErrIdle = errors.New("client is silent")
	// ErrHandshake: no CONNECT within an interval of keep-alive.
	ErrHandshake = errors.New("handshake not finished in time")
	// ErrProtocol: the client broke the protocol.
	ErrProtocol = errors.New("protocol error")
)

// Refused reports whether err, from Serve, says that this side ended the connection for what the client did.
// Other errors are the network's.
func Refused(err error) bool {
	for _, kind := range []error{ErrIdle, ErrHandshake, ErrProtocol, wire.ErrMalformed, wire.ErrFrameTooLarge, wire.ErrUnknownCommand} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// Config is the settings of connections. The zero value of a field means its default.
type Config struct {
	// MaxMessageSize bounds a message, metadata included, in bytes; 5 MiB.
	MaxMessageSize int
	// KeepAlive is the interval of PINGs and the deadline of the handshake; 30 s.
	KeepAlive time.Duration
	// MaxPendingPublish is the bytes of messages without an outcome, with what it costs to keep track of them, above which
	// the connection is not read; 16 MiB.
	MaxPendingPublish int
	// Budget, which connections share, bounds the same bytes over all of them; nil: no bound.
	Budget *Budget
	// MaxQueued is the bytes that wait to be sent above which consumers stop and the connection is not read; 1 MiB.
	MaxQueued int
	// MaxRequests is the number of requests that wait at a time; more are answered TooManyRequests; 10 000.
	MaxRequests int
	// ServerVersion is told in CONNECTED; "Pulsar Server Daybook". Tools rely on its beginning with "Pulsar Server".
	ServerVersion string
}

func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.MaxMessageSize, wire.DefaultMaxMessageSize)
	def(&c.MaxPendingPublish, 16<<20)
	def(&c.MaxQueued, 1<<20)
	def(&c.MaxRequests, 10_000)
	if c.KeepAlive == 0 {
		c.KeepAlive = 30 * time.Second
	}
	if c.ServerVersion == "" {
		c.ServerVersion = "Pulsar Server Daybook"
	}
	return c
}

// noRequest is the request id of an ERROR that answers no request.
const noRequest = ^uint64(0)

// maxHandshakeFrame bounds the first frame: who has not said CONNECT gets no large buffers.
const maxHandshakeFrame = 128 << 10

// closeWait is how long, when the connection has come to its end, storage may take for what is on its way there,
// and then the client to take the last answers.
const closeWait = time.Second

// A connection is the state of one connection. Fields belong to the loop unless they say otherwise.
type connection struct {
	cfg    Config
	domain Domain
	log    *slog.Logger
	nc     net.Conn
	ctx    context.Context // ends with the connection
	remote string

	out  *outbox       // any goroutine
	wake chan struct{} // any goroutine; cap 1: something changed that the loop should look at
	// pending is the payload bytes of sends without an outcome; added to by the loop, taken from by
	// completions.
	pending   atomic.Int64
	throttled atomic.Bool // the loop waits for pending or out to fall
	closing   atomic.Bool // the loop has ended
	writeErr  atomic.Pointer[error]
	requests  sync.WaitGroup
	posted    struct {
		sync.Mutex
		funcs []func()
	}
	heard struct {
		sync.Mutex
		waiting []chan struct{} // closed at the next sign of life
	}

	cmd       wire.Command
	connected bool
	version   int32 // of the protocol, as agreed
	client    string
	// brokerEntries says that the client reads broker entry metadata.
	brokerEntries bool
	producers     map[uint64]*producer
	consumers     map[uint64]*consumer
	// closedProducers are those that this side has closed, and when: their SENDs may still be on their way.
	closedProducers map[uint64]time.Time
	waiting         int  // requests
	pinged          bool // no sign of life since the last PING
	ackIDs          idScratch
}

// Serve serves the connection until it ends, and closes nc. When ctx ends, nothing more is read, but what was
// taken on is answered if storage does not take long. The error is nil if the client left, ctx's cause if ctx
// ended, else why this side ended it.
func Serve(ctx context.Context, nc net.Conn, cfg Config, d Domain, log *slog.Logger) error {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &connection{
		cfg: cfg, domain: d, nc: nc, ctx: ctx, remote: nc.RemoteAddr().String(),
		out: newOutbox(cfg.MaxQueued / 2), wake: make(chan struct{}, 1),
		producers: map[uint64]*producer{}, consumers: map[uint64]*consumer{},
	}
	c.log = log.With("client", c.remote)

	in := make(chan batch)
	free := make(chan [][]byte, 2)
	free <- nil
	free <- nil
	var wg sync.WaitGroup
	wg.Go(func() { read(ctx, nc, wire.MaxFrame(cfg.MaxMessageSize), in, free) })
	wg.Go(func() {
		// A failed write ends the reader, and the reader the loop.
		if err := c.out.write(nc, c.writing); err != nil {
			c.writeErr.Store(&err)
			c.out.abandon()
			c.notify()
		}
		nc.Close()
	})

	err := c.loop(in, free)

	c.closing.Store(true)
	nc.SetWriteDeadline(time.Now().Add(closeWait))
	c.out.close() // the writer sends what is there and closes nc
	cancel()
	wg.Wait()
	c.release()
	return err
}

// A batch is the frames that arrived together. With err the stream has ended after them.
type batch struct {
	frames [][]byte
	err    error
}

// read cuts the stream into frames until it ends. The loop gives each batch's slice back through free.
func read(ctx context.Context, nc net.Conn, maxFrame int, in chan<- batch, free <-chan [][]byte) {
	r := wire.NewReader(nc, min(maxFrame, maxHandshakeFrame))
	for {
		var b batch
		select {
		case b.frames = <-free:
		case <-ctx.Done():
			return
		}
		b.frames, b.err = r.Next(b.frames[:0])
		r.SetMaxFrame(maxFrame)
		select {
		case in <- b:
		case <-ctx.Done():
			return
		}
		if b.err != nil {
			return
		}
	}
}

func (c *connection) loop(in <-chan batch, free chan<- [][]byte) error {
	tick := time.NewTicker(c.cfg.KeepAlive)
	defer tick.Stop()
	for {
		c.runPosted()
		from := in
		if c.mustWait() {
			from = nil
		}
		select {
		case b := <-from:
			c.signOfLife()
			// What was posted before the client could react to it comes first.
			c.runPosted()
			for _, f := range b.frames {
				if err := c.handle(f); err != nil {
					return err
				}
			}
			if b.err != nil {
				if err := c.writeErr.Load(); err != nil && errors.Is(*err, os.ErrDeadlineExceeded) {
					return fmt.Errorf("%w: it takes nothing: %w", ErrIdle, *err)
				}
				if b.err == io.EOF || errors.Is(b.err, net.ErrClosed) || errors.Is(b.err, io.ErrClosedPipe) {
					return nil
				}
				return b.err
			}
			clear(b.frames)
			free <- b.frames
		case <-c.wake:
		case <-tick.C:
			if err := c.keepAlive(); err != nil {
				return err
			}
		case <-c.ctx.Done():
			c.drain()
			return context.Cause(c.ctx)
		}
	}
}

// drain waits, a little, for the outcomes of what is on its way to storage, so that the client hears of them
// and need not send it again to the next broker.
func (c *connection) drain() {
	c.throttled.Store(true) // have settled wake us
	limit := time.NewTimer(closeWait)
	defer limit.Stop()
	for c.pending.Load() > 0 {
		select {
		case <-c.wake:
			c.runPosted()
		case <-limit.C:
			return
		}
	}
}

// mustWait says that nothing more may be read now. What makes it false again wakes the loop.
func (c *connection) mustWait() bool {
	over := func() bool {
		return c.pending.Load() > int64(c.cfg.MaxPendingPublish) || c.out.full() || c.cfg.Budget.over(c)
	}
	if !over() {
		c.throttled.Store(false)
		return false
	}
	// Set first and look again: who lowers the figures afterwards sees the flag.
	c.throttled.Store(true)
	return over()
}

// writing is called by the writer when it has taken what gathered and is about to write it. A client that takes
// nothing for two intervals of keep-alive is gone, whatever else it may be waiting for.
func (c *connection) writing() {
	c.nc.SetWriteDeadline(time.Now().Add(2 * c.cfg.KeepAlive))
	if c.closing.Load() { // Serve's deadline may have been overwritten
		c.nc.SetWriteDeadline(time.Now().Add(closeWait))
	}
	if c.throttled.Load() {
		c.notify()
	}
}

// settled takes bytes off pending. Any goroutine.
func (c *connection) settled(bytes int64) {
	c.cfg.Budget.give(bytes)
	if left := c.pending.Add(-bytes); c.throttled.Load() && left <= int64(c.cfg.MaxPendingPublish)/2 {
		c.notify()
	}
}

// notify makes the loop look again. Any goroutine.
func (c *connection) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// post has the loop run f. Any goroutine; never waits.
func (c *connection) post(f func()) {
	c.posted.Lock()
	c.posted.funcs = append(c.posted.funcs, f)
	c.posted.Unlock()
	c.notify()
}

func (c *connection) runPosted() {
	for {
		c.posted.Lock()
		funcs := c.posted.funcs
		c.posted.funcs = nil
		c.posted.Unlock()
		if len(funcs) == 0 {
			return
		}
		for _, f := range funcs {
			f()
		}
	}
}

// request runs work beside the loop and then, in the loop, what work returns; that is also run when the
// connection ends in the meantime, so that it can release what work has got. refuse answers the client that
// there are too many requests.
func (c *connection) request(work func(ctx context.Context) (done func()), refuse func(*serr.Error)) {
	if c.waiting >= c.cfg.MaxRequests {
		refuse(serr.TooManyRequests.Errorf("%d requests of this connection are waiting", c.waiting))
		return
	}
	c.waiting++
	c.requests.Go(func() {
		done := work(c.ctx)
		c.post(func() {
			c.waiting--
			done()
		})
	})
}

// release gives back what the connection holds, after its goroutines have ended.
func (c *connection) release() {
	c.requests.Wait()
	c.runPosted()
	for _, p := range c.producers {
		if p.producer != nil {
			p.producer.Close()
			p.settleAll()
		}
	}
	c.cfg.Budget.forget(c)
	for _, k := range c.consumers {
		if k.consumer != nil {
			k.consumer.Close()
		}
	}
	c.heard.Lock()
	c.heard.waiting = nil // they see the end of ctx
	c.heard.Unlock()
}

func (c *connection) keepAlive() error {
	if !c.connected {
		return fmt.Errorf("%w: %v", ErrHandshake, c.cfg.KeepAlive)
	}
	for id, at := range c.closedProducers {
		if time.Since(at) > c.cfg.KeepAlive {
			delete(c.closedProducers, id)
		}
	}
	if c.throttled.Load() {
		return nil // its answer could not be read
	}
	if c.pinged {
		return fmt.Errorf("%w for %v", ErrIdle, 2*c.cfg.KeepAlive)
	}
	c.pinged = true
	c.ping()
	return nil
}

func (c *connection) ping() {
	b := c.out.lock()
	b.arena = wire.AppendPing(b.arena)
	c.out.unlock()
}

// signOfLife is called when something has arrived.
func (c *connection) signOfLife() {
	c.pinged = false
	c.heard.Lock()
	for _, ch := range c.heard.waiting {
		close(ch)
	}
	c.heard.waiting = nil
	c.heard.Unlock()
}

// alive reports whether the client answers a PING before ctx ends. A client that is not read from now counts
// as alive. Any goroutine.
func (c *connection) alive(ctx context.Context) bool {
	if c.ctx.Err() != nil {
		return false
	}
	if c.throttled.Load() {
		return true
	}
	ch := make(chan struct{})
	c.heard.Lock()
	c.heard.waiting = append(c.heard.waiting, ch)
	c.heard.Unlock()
	c.ping()
	select {
	case <-ch:
		return true
	case <-c.ctx.Done():
	case <-ctx.Done():
	}
	return false
}

// send queues a simple frame. Any goroutine.
func (c *connection) send(m wire.Body) {
	b := c.out.lock()
	b.arena = wire.AppendFrame(b.arena, m)
	c.out.unlock()
}

func (c *connection) succeed(request uint64) {
	c.send(&pb.CommandSuccess{RequestId: &request})
}

func (c *connection) fail(request uint64, err error) {
	e := serr.From(err)
	c.logFailure(e)
	c.send(&pb.CommandError{RequestId: &request, Error: wireCode(e), Message: &e.Text})
}

// logFailure logs what went wrong on our side; a client's mistakes are told to the client alone.
func (c *connection) logFailure(e *serr.Error) {
	if e.Cause != nil && c.ctx.Err() == nil {
		c.log.Warn("request failed", "code", e.Code.String(), "err", e)
	}
}

// wireCode is the ServerError of an error.
func wireCode(e *serr.Error) *pb.ServerError { return pb.ServerError(e.Code).Enum() }

// handle carries out one frame. An error ends the connection.
func (c *connection) handle(frame []byte) error {
	command, payload, err := wire.SplitFrame(frame)
	if err != nil {
		return err
	}
	if err := c.cmd.Decode(command); err != nil {
		return err
	}
	if !c.connected && c.cmd.Type != wire.TypeConnect {
		return fmt.Errorf("%w: %v before CONNECT", ErrProtocol, c.cmd.Type)
	}
	switch c.cmd.Type {
	case wire.TypeSend:
		return c.handleSend(&c.cmd.Send, frame, payload)
	case wire.TypeAck:
		c.handleAck(&c.cmd.Ack)
		return nil
	case wire.TypeFlow:
		c.handleFlow(c.cmd.Flow)
		return nil
	case wire.TypePing:
		b := c.out.lock()
		b.arena = wire.AppendPong(b.arena)
		c.out.unlock()
		return nil
	case wire.TypePong:
		return nil
	}
	switch m := c.cmd.Body.(type) {
	case *pb.CommandConnect:
		return c.handleConnect(m)

	case *pb.CommandLookupTopic:
		c.handleLookup(m)
	case *pb.CommandPartitionedTopicMetadata:
		c.handlePartitions(m)
	case *pb.CommandGetTopicsOfNamespace:
		c.handleTopics(m)

	case *pb.CommandProducer:
		c.handleProducer(m)
	case *pb.CommandCloseProducer:
		c.handleCloseProducer(m)

	case *pb.CommandSubscribe:
		return c.handleSubscribe(m)
	case *pb.CommandRedeliverUnacknowledgedMessages:
		c.handleRedeliver(m)
	case *pb.CommandUnsubscribe:
		c.handleUnsubscribe(m)
	case *pb.CommandSeek:
		c.handleSeek(m)
	case *pb.CommandCloseConsumer:
		c.handleCloseConsumer(m)
	case *pb.CommandGetLastMessageId:
		c.handleLastMessageID(m)
	case *pb.CommandConsumerStats:
		c.handleConsumerStats(m)

	case *pb.CommandGetSchema:
		c.handleGetSchema(m)
	case *pb.CommandGetOrCreateSchema:
		c.handleGetOrCreateSchema(m)

	case *pb.CommandTcClientConnectRequest:
		c.noTransactions(m.GetRequestId())
	case *pb.CommandNewTxn:
		c.noTransactions(m.GetRequestId())
	case *pb.CommandAddPartitionToTxn:
		c.noTransactions(m.GetRequestId())
	case *pb.CommandAddSubscriptionToTxn:
		c.noTransactions(m.GetRequestId())
	case *pb.CommandEndTxn:
		c.noTransactions(m.GetRequestId())
	case *pb.CommandEndTxnOnPartition:
		c.noTransactions(m.GetRequestId())
	case *pb.CommandEndTxnOnSubscription:
		c.noTransactions(m.GetRequestId())

	case *pb.CommandWatchTopicList:
		c.fail(m.GetRequestId(), serr.NotAllowedError.Errorf("this broker does not offer watching of topic lists"))
	case *pb.CommandWatchTopicListClose:
		c.succeed(m.GetRequestId())

	default:
		return fmt.Errorf("%w: a client must not send %v", ErrProtocol, c.cmd.Type)
	}
	return nil
}

func (c *connection) noTransactions(request uint64) {
	c.fail(request, serr.NotAllowedError.Errorf("Transactions are not enabled."))
}

func (c *connection) handleConnect(m *pb.CommandConnect) error {
	if c.connected {
		return fmt.Errorf("%w: second CONNECT", ErrProtocol)
	}
	c.connected = true
	c.version = min(m.GetProtocolVersion(), wire.ProtocolVersion)
	c.client = m.GetClientVersion()
	c.brokerEntries = m.GetFeatureFlags().GetSupportsBrokerEntryMetadata()
	c.log = c.log.With("version", c.client)
	c.send(&pb.CommandConnected{
		ServerVersion:   &c.cfg.ServerVersion,
		ProtocolVersion: &c.version,
		MaxMessageSize:  new(int32(c.cfg.MaxMessageSize)),
		FeatureFlags: &pb.FeatureFlags{
			SupportsGetPartitionedMetadataWithoutAutoCreation: new(true),
		},
	})
	return nil
}

// properties are key-value pairs as a map; nil if there are none.
func properties(kvs []*pb.KeyValue) map[string]string {
	if len(kvs) == 0 {
		return nil
	}
	m := make(map[string]string, len(kvs))
	for _, kv := range kvs {
		m[kv.GetKey()] = kv.GetValue()
	}
	return m
}
