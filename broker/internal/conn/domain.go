package conn

import (
	"context"
	"net"

	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// A Domain is what connections ask of the broker. Its methods may be called by any goroutine and may wait;
// they give up when ctx ends. Their errors are serr.Errors or become one through serr.From.
type Domain interface {
	// Topic loads the topic for that use.
	Topic(ctx context.Context, n topicname.Name, u Use) (Topic, error)
	// Partitions is the number of partitions of the topic, 0 if it is not partitioned or does not exist. With
	// create, a topic that does not exist may be created as the policies say.
	Partitions(ctx context.Context, n topicname.Name, create bool) (int, error)
	// Lookup says where the topic is served.
	Lookup(ctx context.Context, r LookupRequest) (LookupResult, error)
	// List is the topics of a namespace, partitions one by one, without system topics; none for a namespace
	// that does not exist.
	List(ctx context.Context, ns topicname.Namespace) ([]topicname.Name, error)

	// PutSchema stores the schema as the topic's newest and returns its version; one that is stored already
	// keeps its version. IncompatibleSchema if the topic's strategy refuses it.
	PutSchema(ctx context.Context, n topicname.Name, s Schema) (version []byte, err error)
	// CheckConsumerSchema is for a consumer that subscribes with a schema: it stores the schema if the topic has none and refuses
	// it with IncompatibleSchema if the consumer could not read the topic.
	CheckConsumerSchema(ctx context.Context, n topicname.Name, s Schema) error
	// GetSchema returns the schema of that version, the newest if version is empty; TopicNotFound if there is
	// none.
	GetSchema(ctx context.Context, n topicname.Name, version []byte) (Schema, []byte, error)
}

// A Use of a topic says whether it may create the topic.
type Use uint8

// The uses. Comeback is that of a producer that was connected before: it may create, but not what was just deleted.
const (
	Existing Use = iota
	Create
	Comeback
)

// A Topic is a loaded topic: topic.Topic, with its producers and consumers as interfaces.
type Topic interface {
	AddProducer(ctx context.Context, r topic.ProducerRequest, sink topic.ProducerSink) (Producer, topic.ProducerInfo, error)
	Subscribe(ctx context.Context, r subscription.Request, sink subscription.ConsumerSink) (Consumer, error)
	LastMessageID(ctx context.Context) (topic.LastMessage, error)
}

// A Producer is a topic.Producer.
type Producer interface {
	Send(s topic.Send)
	Close()
}

// A Consumer is a subscription.Consumer.
type Consumer interface {
	Flow(permits uint32)
	Resume()
	Ack(a subscription.Ack, done func(error))
	Redeliver(ids []subscription.AckID, epoch uint64)
	Seek(ctx context.Context, to subscription.SeekTarget) error
	Unsubscribe(ctx context.Context, force bool) error
	Close()
	MarkDelete() ledgerfs.Position
	Stats() subscription.ConsumerStats
	// SubscriptionStats is of the subscription that the consumer belongs to.
	SubscriptionStats() subscription.Stats
}

// A LookupRequest asks where a topic is served.
type LookupRequest struct {
	Topic topicname.Name
	// Listener is the advertised listener that the client names, "" if none.
	Listener string
	// Authoritative says that the client was redirected here.
	Authoritative bool
	// Local is this end of the client's connection.
	Local net.Addr
}

// A LookupResult is where a topic is served: the URLs to connect to, or to ask again if Redirect.
type LookupResult struct {
	URL, URLTLS   string // "pulsar://host:port", "pulsar+ssl://host:port"; either may be empty
	Redirect      bool
	Authoritative bool
}

// A Schema is a schema as it is on the wire.
type Schema struct {
	Name       string
	Type       int32 // number of wirepb.Schema_Type
	Data       []byte
	Properties map[string]string
}
