package topic

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daybook/daybook/broker/internal/meter"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// The limits of unacknowledged messages on Shared and Key_Shared, Pulsar's defaults.
const (
	DefaultMaxUnackedPerConsumer     = 50_000
	DefaultMaxUnackedPerSubscription = 200_000
)

// A Host is the registry that a topic belongs to.
type Host interface {
	// ProducerName makes a name that no producer of the cluster has.
	ProducerName(ctx context.Context) (string, error)
	// AllowSubscription says whether a client's use may create a subscription.
	AllowSubscription(ctx context.Context, n topicname.Name) (bool, error)
	// Dead is called, on a goroutine of its own, when the ledger was taken over by another owner: the topic must be
	// closed.
	Dead(t *Topic)
}

// Config is what a topic is made of.
type Config struct {
	Name   topicname.Name
	Ledger *mledger.Ledger
	Host   Host
	Logger *slog.Logger
	// Owner is the broker's id, for statistics.
	Owner string
	// MaxUnackedPerConsumer and MaxUnackedPerSubscription are the defaults if 0, and no bound if negative.
	MaxUnackedPerConsumer, MaxUnackedPerSubscription int64
}

// A Topic is one loaded topic, or partition. All methods may be called by any goroutine.
type Topic struct {
	cfg    Config
	ledger *mledger.Ledger
	loaded time.Time

	msgIn, bytesIn meter.Meter
	lastPublish    atomic.Int64 // ms since 1970
	// inFlight counts the appends that are not completed. None is added once closing is set.
	inFlight sync.WaitGroup
	// growing is what Grown tells; it is replaced, never changed.
	growing atomic.Pointer[[]*subscription.Subscription]

	// making is held while a subscription is created or deleted. It comes before mu.
	making sync.Mutex
	// mu is held for moments only; no other lock is taken inside it.
	mu struct {
		sync.Mutex
		producers map[string]*Producer
		// exclusive is the producer that has, or is about to get, the topic for itself.
		exclusive *Producer
		// waiting want to be exclusive, in order.
		waiting       []*Producer
		subscriptions map[string]*subscription.Subscription
		closing       bool
		dead          bool
		// msgOut and bytesOut are those of subscriptions that are gone.
		msgOut, bytesOut int64
	}
}

// New makes the topic of an open ledger, with the subscriptions of its durable cursors. The topic owns the ledger
// from now on.
func New(cfg Config) *Topic {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	defaultTo := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
		*v = max(*v, 0)
	}
	defaultTo(&cfg.MaxUnackedPerConsumer, DefaultMaxUnackedPerConsumer)
	defaultTo(&cfg.MaxUnackedPerSubscription, DefaultMaxUnackedPerSubscription)
	t := &Topic{cfg: cfg, ledger: cfg.Ledger, loaded: time.Now()}
	for _, c := range t.ledger.Cursors() {
		t.insertSubscriptionLocked(t.newSubscription(c, false))
	}
	t.ledger.Listen(t)
	return t
}

// Name is the topic's full name.
func (t *Topic) Name() topicname.Name { return t.cfg.Name }

// Ledger is the topic's managed ledger.
func (t *Topic) Ledger() *mledger.Ledger { return t.ledger }

// Grown implements mledger.Listener.
func (t *Topic) Grown(l *mledger.Ledger) {
	if errors.Is(l.Err(), mledger.ErrFenced) {
		t.died()
	}
	if all := t.growing.Load(); all != nil {
		for _, s := range *all {
			s.Grown()
		}
	}
}

func (t *Topic) insertSubscriptionLocked(s *subscription.Subscription) {
	if t.mu.subscriptions == nil {
		t.mu.subscriptions = make(map[string]*subscription.Subscription)
	}
	t.mu.subscriptions[s.Name()] = s
	t.publishGrowingLocked()
}

func (t *Topic) publishGrowingLocked() {
	all := slices.Collect(maps.Values(t.mu.subscriptions))
	t.growing.Store(&all)
}

func (t *Topic) closedErr() error {
	return serr.ServiceNotReady.Errorf("topic %s is being unloaded", t.cfg.Name)
}

// Close closes all clients and the ledger: sends under way get their outcome first, as long as ctx lasts, and
// acknowledgements are stored.
func (t *Topic) Close(ctx context.Context) error {
	if !t.stop(ctx) {
		return nil
	}
	if err := t.ledger.Close(ctx); err != nil && !errors.Is(err, mledger.ErrFenced) && !errors.Is(err, mledger.ErrClosed) {
		return serr.PersistenceError.Wrapf(err, "topic %s cannot be closed cleanly", t.cfg.Name)
	}
	return nil
}

// Delete closes all clients and removes the topic. Connected clients make it fail (status 412), or, with force, are
// closed. After it has removed something the topic is closed, whatever it returns.
func (t *Topic) Delete(ctx context.Context, force bool) error {
	if !force {
		if err := t.CheckUnused(); err != nil {
			return err
		}
	}
	if !t.stop(ctx) {
		return t.closedErr()
	}
	if err := t.ledger.Delete(ctx); err != nil {
		return serr.MetadataError.Wrapf(err, "topic %s cannot be deleted", t.cfg.Name)
	}
	return nil
}

// CheckUnused fails, with status 412, if producers or consumers are connected.
func (t *Topic) CheckUnused() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.mu.producers) + len(t.mu.waiting); n > 0 {
		return serr.NotAllowedError.Errorf("Topic has %d connected producers", n).WithStatus(http.StatusPreconditionFailed)
	}
	for _, s := range t.mu.subscriptions {
		if n := len(s.Consumers()); n > 0 {
			return serr.NotAllowedError.Errorf("Topic has %d connected consumers on subscription %q", n, s.Name()).WithStatus(http.StatusPreconditionFailed)
		}
	}
	return nil
}

// stop closes all clients. False: somebody else has done so.
func (t *Topic) stop(ctx context.Context) bool {
	t.mu.Lock()
	if t.mu.closing {
		t.mu.Unlock()
		return false
	}
	t.mu.closing = true
	producers := slices.Collect(maps.Values(t.mu.producers))
	waiting := t.mu.waiting
	t.mu.waiting = nil
	t.mu.Unlock()

	t.ledger.Unlisten(t)
	for _, p := range producers {
		p.halt()
	}
	t.awaitSends(ctx)
	for _, p := range waiting {
		p.giveUp(t.closedErr())
	}
	for _, p := range producers {
		p.disconnect()
	}
	t.making.Lock()
	defer t.making.Unlock()
	t.mu.Lock()
	subscriptions := slices.Collect(maps.Values(t.mu.subscriptions))
	t.mu.Unlock()
	for _, s := range subscriptions {
		s.Close()
	}
	return true
}

// awaitSends waits until no append is under way.
func (t *Topic) awaitSends(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		t.inFlight.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// died has the topic closed because another owner has its ledger.
func (t *Topic) died() {
	t.mu.Lock()
	first := !t.mu.dead && !t.mu.closing
	t.mu.dead = true
	t.mu.Unlock()
	if first {
		t.cfg.Logger.Warn("topic was taken over by another owner", "topic", t.cfg.Name)
		go t.cfg.Host.Dead(t)
	}
}

// Closed reports whether the topic has been closed or deleted, or is about to be.
func (t *Topic) Closed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.closing
}

// UpdateProperties changes the topic's stored properties in one transaction: change is given a copy to edit, and may
// be called more than once.
func (t *Topic) UpdateProperties(ctx context.Context, change func(map[string]string)) error {
	t.mu.Lock()
	closing := t.mu.closing
	t.mu.Unlock()
	if closing {
		return t.closedErr()
	}
	if err := t.ledger.UpdateProperties(ctx, change); err != nil {
		return serr.MetadataError.Wrapf(err, "the properties of topic %s cannot be stored", t.cfg.Name)
	}
	return nil
}

// Terminate seals the topic: no message is stored any more. Sends under way get their outcome, then all producers are
// closed. It returns the position of the last message.
func (t *Topic) Terminate(ctx context.Context) (ledgerfs.Position, error) {
	t.mu.Lock()
	if t.mu.closing {
		t.mu.Unlock()
		return ledgerfs.Position{}, t.closedErr()
	}
	t.mu.Unlock()
	last, err := t.ledger.Terminate(ctx)
	if err != nil {
		return ledgerfs.Position{}, serr.PersistenceError.Wrapf(err, "topic %s cannot be terminated", t.cfg.Name)
	}
	t.mu.Lock()
	producers := slices.Collect(maps.Values(t.mu.producers))
	waiting := t.mu.waiting
	t.mu.waiting = nil
	t.mu.Unlock()
	for _, p := range waiting {
		p.giveUp(t.terminatedErr())
	}
	for _, p := range producers {
		p.halt()
		p.disconnect()
		t.removeProducer(p)
	}
	for _, s := range t.Subscriptions() {
		s.Grown()
	}
	return last, nil
}

func (t *Topic) terminatedErr() error {
	return serr.TopicTerminatedError.Errorf("Topic was already terminated")
}

// LastMessageID is the end of the topic, not counting what no consumer sees.
func (t *Topic) LastMessageID(ctx context.Context) (LastMessage, error) {
	none := LastMessage{Position: ledgerfs.Position{Ledger: -1, Entry: -1}, BatchIndex: -1}
	var buf [1]ledgerfs.Entry
	var m message.Entry
	for p := t.ledger.LastConfirmed(); t.ledger.Exists(p); p = t.ledger.Prev(p) {
		es, err := t.ledger.Read(ctx, buf[:0], p, 1, 1)
		if err != nil {
			return none, serr.MetadataError.Wrapf(err, "the last message of %s cannot be read", t.cfg.Name)
		}
		if len(es) == 0 {
			return none, nil // trimmed meanwhile
		}
		last := LastMessage{Position: ledgerfs.Position{Ledger: es[0].Ledger, Entry: es[0].Entry}, BatchIndex: -1}
		if err := m.Parse(es[0].Payload); err != nil {
			return last, nil
		}
		if m.Meta.IsMarker || m.Meta.HasTxn {
			continue
		}
		if m.Meta.HasBatch {
			last.BatchIndex = m.Meta.NumMessages - 1
		}
		return last, nil
	}
	return none, nil
}

// ReadEntry reads one entry in its stored form.
func (t *Topic) ReadEntry(ctx context.Context, p ledgerfs.Position) ([]byte, error) {
	es, err := t.ledger.Read(ctx, nil, p, 1, 1)
	if err != nil {
		return nil, serr.PersistenceError.Wrapf(err, "message %v of %s cannot be read", p, t.cfg.Name)
	}
	if len(es) == 0 || es[0].Ledger != p.Ledger || es[0].Entry != p.Entry {
		return nil, serr.MetadataError.Errorf("Message not found").WithStatus(http.StatusNotFound)
	}
	return es[0].Payload, nil
}

// FindTime is the first entry published at or after at; false if there is none.
func (t *Topic) FindTime(ctx context.Context, at time.Time) (ledgerfs.Position, bool, error) {
	p, ok, err := subscription.FindTime(ctx, t.ledger, at)
	if err != nil {
		return p, false, serr.PersistenceError.Wrapf(err, "the message of %v cannot be found", at.UnixMilli())
	}
	return p, ok, nil
}

// Subscription returns the subscription of that name, or SubscriptionNotFound.
func (t *Topic) Subscription(name string) (*subscription.Subscription, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.mu.subscriptions[name]
	if s == nil {
		return nil, serr.SubscriptionNotFound.Errorf("Subscription %s not found", name)
	}
	return s, nil
}

// Subscriptions are all there are, by name.
func (t *Topic) Subscriptions() []*subscription.Subscription {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Values(t.mu.subscriptions), func(a, b *subscription.Subscription) int {
		return strings.Compare(a.Name(), b.Name())
	})
}

func (t *Topic) newSubscription(c *mledger.Cursor, replicated bool) *subscription.Subscription {
	return subscription.New(subscription.Config{
		Name: c.Name(), Ledger: t.ledger, Cursor: c, Host: host{t}, Partition: t.cfg.Name.Partition(),
		Logger: t.cfg.Logger, Replicated: replicated,
		MaxUnacked: t.cfg.MaxUnackedPerConsumer, MaxUnackedTotal: t.cfg.MaxUnackedPerSubscription,
	})
}

// Subscribe takes a consumer in, creating the subscription if it does not exist. It waits for a seek that is under
// way on the subscription. The sink may be called before Subscribe returns.
func (t *Topic) Subscribe(ctx context.Context, r subscription.Request, sink subscription.ConsumerSink) (*subscription.Consumer, error) {
	if err := topicname.CheckSubscription(r.Subscription); err != nil {
		return nil, serr.NotAllowedError.Wrapf(err, "Empty or invalid subscription name")
	}
	if r.ReadCompacted && r.Type != subscription.Exclusive && r.Type != subscription.Failover {
		return nil, serr.NotAllowedError.Errorf("readCompacted only allowed on failover or exclusive subscriptions")
	}
	for {
		s, err := t.findOrCreate(ctx, r)
		if err != nil {
			return nil, err
		}
		c, err := s.Add(ctx, r, sink)
		if !errors.Is(err, subscription.ErrGone) {
			return c, err
		}
		t.forget(s) // it was closed since it was found
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

func (t *Topic) findOrCreate(ctx context.Context, r subscription.Request) (*subscription.Subscription, error) {
	if s, _ := t.Subscription(r.Subscription); s != nil {
		return s, checkDurable(s, r)
	}
	t.making.Lock()
	defer t.making.Unlock()
	if s, _ := t.Subscription(r.Subscription); s != nil {
		return s, checkDurable(s, r)
	}
	if err := t.checkOpen(); err != nil {
		return nil, err
	}
	if !r.Durable {
		start := startOf(r)
		if r.Start != nil {
			start = startAt(*r.Start)
		}
		return t.adopt(t.ledger.NewReaderCursor(r.Subscription, start), r.Replicated), nil
	}
	switch ok, err := t.cfg.Host.AllowSubscription(ctx, t.cfg.Name); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, serr.SubscriptionNotFound.Errorf("Subscription does not exist")
	}
	start := startOf(r)
	if r.StartRollback > 0 {
		p, ok, err := t.FindTime(ctx, time.Now().Add(-r.StartRollback))
		if err != nil {
			return nil, err
		}
		if start = mledger.Latest; ok {
			start = mledger.At(p)
		}
	}
	c, _, err := t.ledger.OpenCursor(ctx, r.Subscription, start, r.Properties)
	if err != nil {
		return nil, serr.PersistenceError.Wrapf(err, "subscription %q cannot be created", r.Subscription)
	}
	return t.adopt(c, r.Replicated), nil
}

func (t *Topic) checkOpen() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closing || t.mu.dead {
		return t.closedErr()
	}
	return nil
}

func checkDurable(s *subscription.Subscription, r subscription.Request) error {
	if s.Durable() == r.Durable {
		return nil
	}
	kind := "NonDurable"
	if s.Durable() {
		kind = "Durable"
	}
	return serr.NotAllowedError.Errorf("%s subscription with the same name already exists.", kind)
}

func startOf(r subscription.Request) mledger.Start {
	if r.Initial == subscription.Earliest {
		return mledger.Earliest
	}
	return mledger.Latest
}

func startAt(p ledgerfs.Position) mledger.Start {
	switch {
	case p.Ledger < 0:
		return mledger.Earliest
	case p == subscription.LatestID:
		return mledger.Latest
	}
	return mledger.At(ledgerfs.Position{Ledger: p.Ledger, Entry: max(p.Entry, 0)})
}

// adopt makes the subscription of a new cursor known. making is held.
func (t *Topic) adopt(c *mledger.Cursor, replicated bool) *subscription.Subscription {
	s := t.newSubscription(c, replicated)
	t.mu.Lock()
	t.insertSubscriptionLocked(s)
	t.mu.Unlock()
	return s
}

// forget takes a subscription out of the topic.
func (t *Topic) forget(s *subscription.Subscription) {
	st := s.Stats()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.subscriptions[s.Name()] == s {
		delete(t.mu.subscriptions, s.Name())
		t.mu.msgOut += st.MsgOut
		t.mu.bytesOut += st.BytesOut
		t.publishGrowingLocked()
	}
}

// CreateSubscription makes a durable subscription at start (nil: Latest); one that exists is a ConsumerBusy with
// status 409.
func (t *Topic) CreateSubscription(ctx context.Context, name string, start *ledgerfs.Position, properties map[string]string, replicated bool) (*subscription.Subscription, error) {
	if err := topicname.CheckSubscription(name); err != nil {
		return nil, serr.NotAllowedError.Wrapf(err, "%s", err.Error()).WithStatus(http.StatusPreconditionFailed)
	}
	t.making.Lock()
	defer t.making.Unlock()
	if s, _ := t.Subscription(name); s != nil {
		return nil, serr.ConsumerBusy.Errorf("Subscription already exists for topic").WithStatus(http.StatusConflict)
	}
	if err := t.checkOpen(); err != nil {
		return nil, err
	}
	from := mledger.Latest
	if start != nil {
		from = startAt(*start)
	}
	c, _, err := t.ledger.OpenCursor(ctx, name, from, properties)
	if err != nil {
		return nil, serr.PersistenceError.Wrapf(err, "subscription %q cannot be created", name)
	}
	return t.adopt(c, replicated), nil
}

// DeleteSubscription removes the subscription and its cursor. Connected consumers make it fail (status 412), or,
// with force, are closed.
func (t *Topic) DeleteSubscription(ctx context.Context, name string, force bool) error {
	s, err := t.Subscription(name)
	if err != nil {
		return err
	}
	if !force && len(s.Consumers()) > 0 {
		return serr.ConsumerBusy.Errorf("Subscription has active connected consumers").WithStatus(http.StatusPreconditionFailed)
	}
	return t.delete(ctx, s)
}

func (t *Topic) delete(ctx context.Context, s *subscription.Subscription) error {
	t.making.Lock()
	defer t.making.Unlock()
	if now, _ := t.Subscription(s.Name()); now != s {
		return serr.SubscriptionNotFound.Errorf("Subscription %s not found", s.Name())
	}
	if s.Durable() {
		if err := t.ledger.DeleteCursor(ctx, s.Name()); err != nil && !errors.Is(err, mledger.ErrNotFound) {
			return serr.MetadataError.Wrapf(err, "subscription %q cannot be deleted", s.Name())
		}
	}
	t.forget(s)
	s.Close()
	s.Cursor().Close()
	return nil
}

// host is the topic as its subscriptions see it.
type host struct{ t *Topic }

// Gone implements subscription.Host.
func (h host) Gone(s *subscription.Subscription) {
	h.t.forget(s)
	s.Cursor().Close()
}

// Delete implements subscription.Host.
func (h host) Delete(ctx context.Context, s *subscription.Subscription) error {
	return h.t.delete(ctx, s)
}
