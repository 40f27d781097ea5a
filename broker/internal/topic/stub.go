package topic

import (
	"context"

	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// A Topic is one loaded topic, or partition. All methods may be called by any goroutine.
type Topic struct{}

// Name is the topic's full name.
func (t *Topic) Name() topicname.Name { panic("") }

// AddProducer takes a producer in. Its name must not be in use, except by an earlier epoch of the same client
// producer on the same connection, which is replaced (ProducerBusy). For access modes see PIP-68: an answer with
// Ready false is followed by ProducerSink.ProducerReady.
func (t *Topic) AddProducer(ctx context.Context, r ProducerRequest, sink ProducerSink) (*Producer, ProducerInfo, error) {
	panic("")
}

// Subscribe takes a consumer in, creating the subscription if it does not exist. It waits for a seek that is under
// way on the subscription.
func (t *Topic) Subscribe(ctx context.Context, r subscription.Request, sink subscription.ConsumerSink) (*subscription.Consumer, error) {
	panic("")
}

// Subscription returns the subscription of that name, or SubscriptionNotFound.
func (t *Topic) Subscription(name string) (*subscription.Subscription, error) { panic("") }

// Subscriptions are all there are, by name.
func (t *Topic) Subscriptions() []*subscription.Subscription { panic("") }

// CreateSubscription makes a durable subscription at start (nil: Latest); one that exists is a ConsumerBusy with
// status 409.
func (t *Topic) CreateSubscription(ctx context.Context, name string, start *ledgerfs.Position, properties map[string]string, replicated bool) (*subscription.Subscription, error) {
	panic("")
}

// DeleteSubscription removes the subscription and its cursor. Connected consumers make it fail (status 412), or,
// with force, are closed.
func (t *Topic) DeleteSubscription(ctx context.Context, name string, force bool) error { panic("") }

// LastMessageID is the end of the topic.
func (t *Topic) LastMessageID(ctx context.Context) (LastMessage, error) { panic("") }

// Terminate seals the topic: no message is stored any more. It returns the position of the last one.
func (t *Topic) Terminate(ctx context.Context) (ledgerfs.Position, error) { panic("") }

// Stats is a snapshot.
func (t *Topic) Stats() Stats { panic("") }

// InternalStats is a snapshot of the managed ledger.
func (t *Topic) InternalStats() InternalStats { panic("") }

// ReadEntry reads one entry in its stored form.
func (t *Topic) ReadEntry(ctx context.Context, p ledgerfs.Position) ([]byte, error) { panic("") }

// A Producer is a connected producer.
type Producer struct{}

// ID is the client's number of the producer.
func (p *Producer) ID() uint64 { panic("") }

// Name is the producer's name, given or generated.
func (p *Producer) Name() string { panic("") }

// Send stores one entry. Calls of one producer must come from one goroutine at a time; they never block for
// storage. The outcome comes to the sink, in order.
func (p *Producer) Send(s Send) { panic("") }

// Pending is the number and the payload bytes of the sends without an outcome yet, from which a connection decides
// to stop reading its socket.
func (p *Producer) Pending() (sends, bytes int64) { panic("") }

// Close takes the producer out; sends without an outcome are stored or not, and their outcome is no longer reported.
func (p *Producer) Close() { panic("") }
