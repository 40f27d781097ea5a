package compat

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"

	"github.com/daybook/daybook/tests/cluster"
)

const (
	messagesPerType = 100_000
	keys            = 97
)

// A hundred thousand messages, published in every flavour at once, arrive on each type of subscription:
// none lost, none doubled, and in the order that the type promises.
func TestHundredThousandMessages(t *testing.T) {
	s := cluster.Start(t, cluster.Options{})
	for _, c := range []struct {
		name      string
		kind      pulsar.SubscriptionType
		consumers int
		order     func(flavour string, key string) string // what is ordered; "" for nothing
	}{
		{"exclusive", pulsar.Exclusive, 1, func(f, _ string) string { return f }},
		{"failover", pulsar.Failover, 2, func(f, _ string) string { return f }},
		{"shared", pulsar.Shared, 3, func(_, _ string) string { return "" }},
		{"key_shared", pulsar.KeyShared, 3, func(f, k string) string { return f + "/" + k }},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := newClient(t, s)
			topic := "hundred-thousand-" + c.name
			type got struct {
				consumer int
				msg      pulsar.Message
			}
			arrived := make(chan got, 10_000)
			ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
			defer cancel()
			var receivers sync.WaitGroup
			for i := range c.consumers {
				consumer, err := client.Subscribe(pulsar.ConsumerOptions{
					Topic: topic, SubscriptionName: "sub", Type: c.kind, Name: fmt.Sprintf("consumer-%d", i),
					SubscriptionInitialPosition: pulsar.SubscriptionPositionEarliest,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer consumer.Close()
				receivers.Go(func() {
					for {
						m, err := consumer.Receive(ctx)
						if err != nil {
							return
						}
						if err := consumer.Ack(m); err != nil {
							t.Errorf("ack: %v", err)
						}
						arrived <- got{i, m}
					}
				})
			}

			fs := flavours(c.kind == pulsar.KeyShared)
			each := messagesPerType / len(fs)
			var acked sync.Map // id → payload
			var senders sync.WaitGroup
			for _, f := range fs {
				o := f.opts
				o.Topic = topic
				producer, err := client.CreateProducer(o)
				if err != nil {
					t.Fatal(err)
				}
				senders.Go(func() {
					defer producer.Close()
					for n := range each {
						msg := &pulsar.ProducerMessage{Payload: payload(f.name, n), Key: fmt.Sprintf("key-%d", n%keys)}
						producer.SendAsync(ctx, msg, func(mid pulsar.MessageID, m *pulsar.ProducerMessage, err error) {
							if err != nil {
								t.Errorf("send: %v", err)
								return
							}
							if old, twice := acked.LoadOrStore(id(mid), string(m.Payload)); twice {
								t.Errorf("id %s given to %q and %q", id(mid), old, m.Payload)
							}
						})
					}
					if err := producer.FlushWithCtx(ctx); err != nil {
						t.Errorf("flush: %v", err)
					}
				})
			}

			seen := map[string]bool{}
			last := map[string]int{}
			owner := map[string]int{}
			for range each * len(fs) {
				var g got
				select {
				case g = <-arrived:
				case <-ctx.Done():
					t.Fatalf("%d of %d messages arrived", len(seen), each*len(fs))
				}
				f, n := parse(t, g.msg.Payload())
				if name := fmt.Sprintf("%s %d", f, n); seen[name] {
					t.Fatalf("%s came twice", name)
				} else {
					seen[name] = true
				}
				if what := c.order(f, g.msg.Key()); what != "" {
					if before, ok := last[what]; ok && n <= before {
						t.Fatalf("%s: %d after %d", what, n, before)
					}
					last[what] = n
				}
				if c.kind == pulsar.KeyShared {
					if o, ok := owner[g.msg.Key()]; ok && o != g.consumer {
						t.Fatalf("key %s went to consumers %d and %d", g.msg.Key(), o, g.consumer)
					}
					owner[g.msg.Key()] = g.consumer
				}
				if g.msg.RedeliveryCount() != 0 {
					t.Errorf("%s %d was redelivered", f, n)
				}
				mid := id(g.msg.ID())
				// The receipt may still be on its way to the sender's callback.
				if p, ok := acked.Load(mid); ok && p != string(g.msg.Payload()) {
					t.Fatalf("id %s was acknowledged for %q, came with %q", mid, p, g.msg.Payload())
				}
			}
			senders.Wait()
			select {
			case g := <-arrived:
				t.Errorf("one message too many: %q", g.msg.Payload())
			case <-time.After(300 * time.Millisecond):
			}
			if n := count(t, s, topic); n != each*len(fs) {
				t.Errorf("SQL counts %d messages, want %d", n, each*len(fs))
			}
			cancel()
			receivers.Wait()
		})
	}
}
