// Package client is a small client of the Pulsar protocol: what the command line, the mount's appends and our
// load drivers need of one.
//
// A Client keeps one connection to each broker that it is sent to. Producers and consumers find their broker
// by lookup, and find it again, with growing pauses, whenever their connection ends or the broker tells them
// to: a producer then sends again, in order, what was not acknowledged, and a consumer goes on behind what it
// has returned or, with a durable subscription, where its acknowledgements end. So a message may be stored,
// and received, more than once after a failure.
//
// Every wait takes a context. Failures that the broker reports are *serr.Error values; those that cannot pass
// (no such topic, not allowed, an incompatible schema, …) end the producer or consumer, all others are waited
// out.
//
// # Goroutines
//
// A connection has two, a producer or consumer on one partition has one, which looks after its connection.
// Close ends and awaits those of what it closes.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// ErrClosed: the client, producer or consumer was closed by this process.
var ErrClosed = errors.New("client is closed")

// ErrTooLarge: the message, with its metadata, is larger than the broker takes.
var ErrTooLarge = errors.New("message too large")

// ErrUnknownOutcome: the message failed, but a copy of it that was sent before, without an answer, may be stored.
var ErrUnknownOutcome = errors.New("it is unknown whether the message was stored")

// errLost is why requests fail whose connection ended; they are tried again.
var errLost = errors.New("connection lost")

// Config is the settings of a Client. The zero value of a field means its default.
type Config struct {
	// URL is "pulsar://host:port", or several hosts separated by commas, tried in turn.
	URL string
	// ConnectTimeout bounds connecting to one host; 10 s. OperationTimeout bounds one request; 30 s.
	ConnectTimeout, OperationTimeout time.Duration
	// KeepAlive is the interval of PINGs; a broker that is silent for two of them is given up. 30 s.
	KeepAlive time.Duration
	// MaxBackoff bounds the pause before the next attempt; pauses start at 100 ms. 10 s.
	MaxBackoff time.Duration
	// Dial opens connections; a net.Dialer's DialContext if nil.
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Logger *slog.Logger // discards if nil
}

func (c Config) withDefaults() Config {
	def := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.ConnectTimeout, 10*time.Second)
	def(&c.OperationTimeout, 30*time.Second)
	def(&c.KeepAlive, 30*time.Second)
	def(&c.MaxBackoff, 10*time.Second)
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// A Client talks to one cluster. Its methods may be called by any goroutine.
type Client struct {
	cfg   Config
	hosts []string // host:port of the service URL
	log   *slog.Logger
	ctx   context.Context // ends with Close
	stop  context.CancelFunc
	wg    sync.WaitGroup // sessions, producers and consumers

	mu struct {
		sync.Mutex
		closed   bool
		sessions map[string]*dialing // by host:port
		nextID   uint64              // of producers and consumers
	}
}

// A dialing is a session, or the attempt to get one.
type dialing struct {
	done    chan struct{}
	session *session
	err     error
}

// New makes a client. It connects when it is first used.
func New(cfg Config) (*Client, error) {
	hosts, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg.withDefaults(), hosts: hosts}
	c.log = c.cfg.Logger
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.mu.sessions = map[string]*dialing{}
	return c, nil
}

// parseURL is the host:port pairs of a service URL.
func parseURL(url string) ([]string, error) {
	rest, ok := strings.CutPrefix(url, "pulsar://")
	if !ok {
		return nil, fmt.Errorf("service URL %q: want pulsar://host:port", url)
	}
	rest = strings.TrimSuffix(rest, "/")
	var hosts []string
	for h := range strings.SplitSeq(rest, ",") {
		if !strings.Contains(h, ":") || strings.HasSuffix(h, "]") {
			h += ":6650"
		}
		if host, port, err := net.SplitHostPort(h); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("service URL %q: want pulsar://host:port", url)
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// Close ends the client's connections and with them its producers and consumers; what they have not sent is
// lost. Close them first.
func (c *Client) Close() {
	c.mu.Lock()
	c.mu.closed = true
	c.mu.Unlock()
	c.stop()
	c.wg.Wait()
}

func (c *Client) newID() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.nextID++
	return c.mu.nextID
}

// spawn runs f on a goroutine that Close awaits; after Close, on none: f sees the end of c.ctx at once.
func (c *Client) spawn(f func()) {
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		f()
		return
	}
	c.wg.Go(f)
	c.mu.Unlock()
}

// anyHost is a session with one of the service URL's hosts.
func (c *Client) anyHost(ctx context.Context) (*session, error) {
	var errs []error
	start := 0
	if len(c.hosts) > 1 {
		start = rand.IntN(len(c.hosts))
	}
	for i := range c.hosts {
		s, err := c.connect(ctx, c.hosts[(start+i)%len(c.hosts)])
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// Connect makes a connection to a host of the service URL, unless there is one. It does not try again: it tells whether
// a broker can be reached now.
func (c *Client) Connect(ctx context.Context) error {
	_, err := c.anyHost(ctx)
	return err
}

// connect is the session with the broker at addr, made if there is none.
func (c *Client) connect(ctx context.Context, addr string) (*session, error) {
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	d := c.mu.sessions[addr]
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		c.mu.sessions[addr] = d
		c.wg.Go(func() {
			s, err := c.dial(addr)
			if err != nil {
				d.err = err
				c.forget(addr, d)
				close(d.done)
				return
			}
			d.session = s
			close(d.done)
			s.run()
			c.forget(addr, d)
		})
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.session, d.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Client) forget(addr string, d *dialing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.sessions[addr] == d {
		delete(c.mu.sessions, addr)
	}
}

func (c *Client) dial(addr string) (*session, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.ConnectTimeout)
	defer cancel()
	nc, err := c.cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to broker: %w", err)
	}
	s, err := handshake(ctx, c, nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("connect to broker %s: %w", addr, err)
	}
	return s, nil
}

// maxRedirects bounds a lookup, as the official clients do.
const maxRedirects = 20

// lookup is the session with the broker that serves the topic.
func (c *Client) lookup(ctx context.Context, topic string) (*session, error) {
	s, err := c.anyHost(ctx)
	if err != nil {
		return nil, err
	}
	authoritative := false
	for range maxRedirects {
		body, err := s.request(ctx, func(id uint64) wire.Body {
			return &pb.CommandLookupTopic{Topic: &topic, RequestId: &id, Authoritative: &authoritative}
		})
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", topic, err)
		}
		r, ok := body.(*pb.CommandLookupTopicResponse)
		if !ok {
			return nil, fmt.Errorf("look up %s: unexpected answer %T", topic, body)
		}
		if r.GetResponse() == pb.CommandLookupTopicResponse_Failed {
			return nil, fmt.Errorf("look up %s: %w", topic, wireError(r.GetError(), r.GetMessage()))
		}
		hosts, err := parseURL(r.GetBrokerServiceUrl())
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", topic, err)
		}
		if s, err = c.connect(ctx, hosts[0]); err != nil {
			return nil, err
		}
		if r.GetResponse() == pb.CommandLookupTopicResponse_Connect {
			return s, nil
		}
		authoritative = r.GetAuthoritative()
	}
	return nil, fmt.Errorf("look up %s: more than %d redirects", topic, maxRedirects)
}

// Partitions is the number of partitions of the topic, 0 if it is not partitioned. The topic may be created by
// the question, if the namespace creates partitioned topics by use.
func (c *Client) Partitions(ctx context.Context, topic string) (n int, err error) {
	err = c.retry(ctx, func(ctx context.Context) error {
		s, err := c.anyHost(ctx)
		if err != nil {
			return err
		}
		body, err := s.request(ctx, func(id uint64) wire.Body {
			return &pb.CommandPartitionedTopicMetadata{Topic: &topic, RequestId: &id}
		})
		if err != nil {
			return err
		}
		r, ok := body.(*pb.CommandPartitionedTopicMetadataResponse)
		if !ok {
			return fmt.Errorf("unexpected answer %T", body)
		}
		if r.GetResponse() == pb.CommandPartitionedTopicMetadataResponse_Failed {
			return wireError(r.GetError(), r.GetMessage())
		}
		n = int(r.GetPartitions())
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the partitions of %s: %w", topic, err)
	}
	return n, nil
}

// Topics are the persistent topics of a namespace, "tenant/namespace", partitions one by one.
func (c *Client) Topics(ctx context.Context, namespace string) (topics []string, err error) {
	err = c.retry(ctx, func(ctx context.Context) error {
		s, err := c.anyHost(ctx)
		if err != nil {
			return err
		}
		body, err := s.request(ctx, func(id uint64) wire.Body {
			return &pb.CommandGetTopicsOfNamespace{Namespace: &namespace, RequestId: &id}
		})
		if err != nil {
			return err
		}
		r, ok := body.(*pb.CommandGetTopicsOfNamespaceResponse)
		if !ok {
			return fmt.Errorf("unexpected answer %T", body)
		}
		topics = r.GetTopics()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the topics of %s: %w", namespace, err)
	}
	return topics, nil
}

// parts are the topics that hold the messages: the topic itself, or its partitions.
func (c *Client) parts(ctx context.Context, topic string) ([]topicname.Name, error) {
	name, err := topicname.Parse(topic)
	if err != nil {
		return nil, err
	}
	n, err := c.Partitions(ctx, name.String())
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return []topicname.Name{name}, nil
	}
	var parts []topicname.Name
	for i := range n {
		parts = append(parts, name.WithPartition(i))
	}
	return parts, nil
}

// retry runs f, each time bounded by the operation timeout, until it succeeds, fails for good, or ctx ends;
// then the error is f's last one.
func (c *Client) retry(ctx context.Context, f func(context.Context) error) error {
	for b := (backoff{max: c.cfg.MaxBackoff}); ; {
		once, cancel := context.WithTimeout(ctx, c.cfg.OperationTimeout)
		err := f(once)
		cancel()
		if err == nil || permanent(err) {
			return err
		}
		if b.wait(ctx) != nil {
			return err
		}
	}
}

// wireError is what the broker reported.
func wireError(code pb.ServerError, text string) error {
	return serr.Code(code).Errorf("%s", text)
}

// permanent reports whether trying again cannot help.
func permanent(err error) bool {
	if errors.Is(err, ErrClosed) || errors.Is(err, context.Canceled) {
		return true
	}
	e, ok := errors.AsType[*serr.Error](err)
	return ok && slices.Contains([]serr.Code{
		serr.AuthenticationError, serr.AuthorizationError, serr.UnsupportedVersionError, serr.TopicNotFound,
		serr.SubscriptionNotFound, serr.TopicTerminatedError, serr.InvalidTopicName, serr.IncompatibleSchema,
		serr.ConsumerAssignError, serr.NotAllowedError, serr.ProducerFenced, serr.ConsumerBusy, serr.ProducerBusy,
		serr.ProducerBlockedQuotaExceededException,
	}, e.Code)
}

// A backoff is the pauses between attempts: 100 ms, doubling, each shortened at random by up to a tenth.
type backoff struct{ next, max time.Duration }

// wait pauses, or returns ctx's error.
func (b *backoff) wait(ctx context.Context) error {
	b.next = min(max(100*time.Millisecond, 2*b.next), b.max)
	t := time.NewTimer(b.next - rand.N(b.next/10+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *backoff) reset() { b.next = 0 }
