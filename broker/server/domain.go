package server

import (
	"context"
	"net"

	"github.com/daybook/daybook/broker/internal/conn"
	"github.com/daybook/daybook/broker/internal/ownership"
	"github.com/daybook/daybook/broker/internal/policy"
	"github.com/daybook/daybook/broker/internal/schemaregistry"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/schema"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// A domain is what connections see of the broker: its parts behind conn.Domain.
type domain struct {
	topics   *topics.Registry
	policies *policy.Policies
	schemas  *schemaregistry.Registry
	owners   *ownership.Single
	// advertised is the address that lookups answer with; "" for the one that the client has reached.
	advertised string
}

func (d *domain) Topic(ctx context.Context, n topicname.Name, u conn.Use) (conn.Topic, error) {
	t, err := d.topics.Topic(ctx, n, topics.Options{Create: u != conn.Existing, Comeback: u == conn.Comeback})
	if err != nil {
		return nil, err
	}
	return connTopic{t}, nil
}

func (d *domain) Partitions(ctx context.Context, n topicname.Name, create bool) (int, error) {
	exists, err := d.topics.Exists(ctx, n)
	if err != nil {
		return 0, err
	}
	return d.policies.PartitionsFor(ctx, n, create, exists)
}

func (d *domain) Lookup(ctx context.Context, r conn.LookupRequest) (conn.LookupResult, error) {
	if r.Listener != "" {
		return conn.LookupResult{}, serr.ServiceNotReady.Errorf("the broker does not have a listener %q", r.Listener)
	}
	if err := d.policies.CheckNamespace(ctx, r.Topic.NamespaceName()); err != nil {
		return conn.LookupResult{}, err
	}
	owner, ours, err := d.owners.Owner(ctx, r.Topic)
	if err != nil {
		return conn.LookupResult{}, err
	}
	if !ours {
		return conn.LookupResult{URL: owner.ServiceURL, URLTLS: owner.ServiceURLTLS, Redirect: true, Authoritative: true}, nil
	}
	if d.advertised == "" {
		return conn.LookupResult{URL: "pulsar://" + r.Local.String(), Authoritative: true}, nil
	}
	return conn.LookupResult{URL: owner.ServiceURL, URLTLS: owner.ServiceURLTLS, Authoritative: true}, nil
}

func (d *domain) List(ctx context.Context, ns topicname.Namespace) ([]topicname.Name, error) {
	return d.topics.List(ctx, ns)
}

func info(s conn.Schema) (schema.Info, error) {
	t, err := schema.FromWire(s.Type)
	if err != nil {
		return schema.Info{}, serr.IncompatibleSchema.Errorf("%s", err.Error())
	}
	return schema.Info{Type: t, Data: s.Data, Properties: s.Properties}, nil
}

func (d *domain) PutSchema(ctx context.Context, n topicname.Name, s conn.Schema) ([]byte, error) {
	i, err := info(s)
	if err != nil {
		return nil, err
	}
	v, err := d.schemas.Put(ctx, n.Base(), i, "")
	if err != nil {
		return nil, err
	}
	return schema.VersionBytes(v), nil
}

func (d *domain) CheckConsumerSchema(ctx context.Context, n topicname.Name, s conn.Schema) error {
	// A topic without a schema takes the consumer's; else Put stores nothing unless it is compatible.
	_, err := d.PutSchema(ctx, n, s)
	return err
}

func (d *domain) GetSchema(ctx context.Context, n topicname.Name, version []byte) (conn.Schema, []byte, error) {
	var s *schema.Stored
	var err error
	if len(version) == 0 {
		s, err = d.schemas.Latest(ctx, n.Base())
	} else {
		v, perr := schema.ParseVersion(version)
		if perr != nil {
			return conn.Schema{}, nil, serr.IncompatibleSchema.Errorf("%s", perr.Error())
		}
		s, err = d.schemas.Get(ctx, n.Base(), v)
	}
	if err != nil {
		return conn.Schema{}, nil, err
	}
	return conn.Schema{
		Name: n.Base().Local, Type: s.Info.Type.Wire(), Data: s.Info.Data, Properties: s.Info.Properties,
	}, schema.VersionBytes(s.Version), nil
}

// connTopic is a topic.Topic as connections see it.
type connTopic struct{ t *topic.Topic }

func (t connTopic) AddProducer(ctx context.Context, r topic.ProducerRequest, sink topic.ProducerSink) (conn.Producer, topic.ProducerInfo, error) {
	p, info, err := t.t.AddProducer(ctx, r, sink)
	if err != nil {
		return nil, info, err
	}
	return p, info, nil
}

func (t connTopic) Subscribe(ctx context.Context, r subscription.Request, sink subscription.ConsumerSink) (conn.Consumer, error) {
	c, err := t.t.Subscribe(ctx, r, sink)
	if err != nil {
		return nil, err
	}
	return connConsumer{c}, nil
}

func (t connTopic) LastMessageID(ctx context.Context) (topic.LastMessage, error) {
	return t.t.LastMessageID(ctx)
}

type connConsumer struct{ *subscription.Consumer }

func (c connConsumer) SubscriptionStats() subscription.Stats { return c.Subscription().Stats() }

// hostPort is the address with its host replaced, for URLs.
func hostPort(host string, a net.Addr) string {
	_, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return host
	}
	return net.JoinHostPort(host, port)
}
