package adminapi

import (
	"context"

	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// Registry is the broker's topics as the API's Topics.
func Registry(r *topics.Registry) Topics { return registry{r} }

type registry struct{ *topics.Registry }

func (r registry) Topic(ctx context.Context, n topicname.Name, o topics.Options) (Topic, error) {
	t, err := r.Registry.Topic(ctx, n, o)
	if err != nil {
		return nil, err
	}
	return loaded{t}, nil
}

func (r registry) Loaded(n topicname.Name) (Topic, bool) {
	t, ok := r.Registry.Loaded(n)
	if !ok {
		return nil, false
	}
	return loaded{t}, true
}

func (r registry) All() []Topic {
	all := r.Registry.All()
	out := make([]Topic, len(all))
	for i, t := range all {
		out[i] = loaded{t}
	}
	return out
}

type loaded struct{ *topic.Topic }

func (t loaded) Subscription(name string) (Subscription, error) {
	s, err := t.Topic.Subscription(name)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (t loaded) Subscriptions() []Subscription {
	all := t.Topic.Subscriptions()
	out := make([]Subscription, len(all))
	for i, s := range all {
		out[i] = s
	}
	return out
}

func (t loaded) CreateSubscription(ctx context.Context, name string, start *ledgerfs.Position, properties map[string]string, replicated bool) (Subscription, error) {
	s, err := t.Topic.CreateSubscription(ctx, name, start, properties, replicated)
	if err != nil {
		return nil, err
	}
	return s, nil
}
