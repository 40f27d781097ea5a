package topic_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/daybook/daybook/broker/brokertest"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
)

// counter is a sink that counts.
type counter struct {
	n    atomic.Int64
	want atomic.Int64
	done chan struct{}
	// taken are the entries to be acknowledged, by a goroutine as a connection's is.
	taken chan subscription.AckID
}

// consume acknowledges and asks for more, as a client does.
func (c *counter) consume(k *subscription.Consumer) {
	var ids []subscription.AckID
	for id := range c.taken {
		ids = append(ids[:0], id)
		for range min(len(c.taken), 99) {
			ids = append(ids, <-c.taken)
		}
		k.Ack(subscription.Ack{IDs: ids}, nil)
	}
}

func (c *counter) add(n int64) {
	if c.n.Add(n) == c.want.Load() {
		c.done <- struct{}{}
	}
}

func (c *counter) SendCompleted(_ *topic.Producer, r topic.SendResult) {
	if r.Err != nil {
		panic(r.Err)
	}
	c.add(1)
}
func (c *counter) ProducerReady(*topic.Producer, topic.ProducerInfo, error) {}
func (c *counter) CloseProducer(*topic.Producer)                            {}
func (c *counter) Deliver(_ *subscription.Consumer, ms []subscription.Message) bool {
	var n int64
	for i := range ms {
		n += int64(ms[i].Messages)
		c.taken <- subscription.AckID{Position: ms[i].Position}
	}
	c.add(n)
	return true
}
func (c *counter) CloseConsumer(*subscription.Consumer)       {}
func (c *counter) ActiveChanged(*subscription.Consumer, bool) {}
func (c *counter) EndOfTopic(*subscription.Consumer)          {}
func (c *counter) Alive(context.Context) bool                 { return true }

// BenchmarkPublish stores entries of 1 KB, one at a time or in batches, over bookies in memory.
func BenchmarkPublish(b *testing.B) {
	for _, batch := range []int{1, 100} {
		b.Run(map[int]string{1: "single", 100: "batch100"}[batch], func(b *testing.B) {
			d := brokertest.New(b)
			defer d.Close()
			tp := d.Topic("t")
			c := &counter{done: make(chan struct{}, 1)}
			p, _, err := tp.AddProducer(b.Context(), topic.ProducerRequest{Conn: c}, c)
			if err != nil {
				b.Fatal(err)
			}
			payload := brokertest.Entry(p.Name(), 0, "", strings.Repeat("x", 1000))
			if batch > 1 {
				payload = brokertest.Batch(p.Name(), 0, slices.Repeat([]string{strings.Repeat("x", 1000)}, batch)...)
			}
			const round = 500
			b.SetBytes(int64(round * len(payload)))
			b.ReportAllocs()
			n := int64(0)
			for b.Loop() {
				n += round
				c.want.Store(n)
				for range round {
					p.Send(topic.Send{Messages: int32(batch), Payload: payload})
				}
				<-c.done
			}
			b.ReportMetric(float64(n*int64(batch))/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkDispatch delivers what is published, entry by entry as it is confirmed.
func BenchmarkDispatch(b *testing.B) {
	for _, typ := range []subscription.Type{subscription.Exclusive, subscription.Shared, subscription.KeyShared} {
		for _, batch := range []int{1, 100} {
			b.Run(typ.String()+map[int]string{1: "/single", 100: "/batch100"}[batch], func(b *testing.B) {
				d := brokertest.New(b)
				defer d.Close()
				tp := d.Topic("t")
				sends, receives := &counter{done: make(chan struct{}, 1)}, &counter{done: make(chan struct{}, 1), taken: make(chan subscription.AckID, 10_000)}
				p, _, err := tp.AddProducer(b.Context(), topic.ProducerRequest{Conn: sends}, sends)
				if err != nil {
					b.Fatal(err)
				}
				payload := brokertest.Entry(p.Name(), 0, "", strings.Repeat("x", 100))
				if batch > 1 {
					payload = brokertest.Batch(p.Name(), 0, slices.Repeat([]string{strings.Repeat("x", 100)}, batch)...)
				}
				k, err := tp.Subscribe(b.Context(), subscription.Request{Subscription: "s", Type: typ, Initial: subscription.Earliest}, receives)
				if err != nil {
					b.Fatal(err)
				}
				go receives.consume(k)
				defer close(receives.taken)
				defer k.Close()
				sends.want.Store(1 << 60)
				b.ReportAllocs()
				n := int64(0)
				const round = 500
				for b.Loop() {
					n += round
					k.Flow(uint32(round * batch))
					receives.want.Store(n * int64(batch))
					for range round {
						p.Send(topic.Send{Messages: int32(batch), Payload: payload})
					}
					<-receives.done
				}
				b.ReportMetric(float64(n*int64(batch))/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}
