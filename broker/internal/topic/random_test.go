package topic_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/broker/brokertest"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/ledgerfs"
)

// history is what clients of one subscription know: what they have sent, been given, and acknowledged.
type history struct {
	t   *rapid.T
	d   *brokertest.Domain
	typ subscription.Type

	tp       *topic.Topic
	producer *brokertest.Sender
	keys     []string // of the messages sent
	acked    map[int]bool
	// unsure were acknowledged so shortly before a crash that they may come again.
	unsure    map[int]bool
	lately    map[int]bool // acknowledged since the clock was last let run
	at        map[int]ledgerfs.Position
	consumers []*client
	names     int
}

type client struct {
	*brokertest.Receiver
	name string
	// holds are the messages it was given and has not acknowledged, in the order in which they came.
	holds []int
}

func (h *history) open() {
	h.tp = h.d.Topic("t")
	p, err := brokertest.Produce(h.t.Context(), h.tp, topic.ProducerRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.producer = p
}

func (h *history) join() *client {
	h.names++
	r := request(h.typ)
	r.ConsumerName = fmt.Sprint("c", h.names)
	rec, err := brokertest.Subscribe(h.t.Context(), h.tp, r)
	if err != nil {
		h.t.Fatal(err)
	}
	c := &client{Receiver: rec, name: r.ConsumerName}
	h.consumers = append(h.consumers, c)
	return c
}

// settle waits until nothing happens any more and checks what was delivered.
func (h *history) settle() {
	synctest.Wait()
	for _, c := range h.consumers {
		for _, m := range c.Take() {
			for _, s := range brokertest.Texts(m) {
				i, err := strconv.Atoi(s)
				if err != nil {
					h.t.Fatal(s)
				}
				h.given(c, i, m)
			}
		}
	}
}

func (h *history) given(c *client, i int, m subscription.Message) {
	if h.acked[i] {
		if !h.unsure[i] {
			h.t.Fatalf("%s was given message %d, which is acknowledged", c.name, i)
		}
		delete(h.acked, i)
	}
	if p, ok := h.at[i]; ok && p != m.Position {
		h.t.Fatalf("message %d has moved from %v to %v", i, p, m.Position)
	}
	h.at[i] = m.Position
	for _, o := range h.consumers {
		if slices.Contains(o.holds, i) {
			h.t.Fatalf("%s was given message %d, which %s holds", c.name, i, o.name)
		}
	}
	switch h.typ {
	case subscription.Exclusive, subscription.Failover:
		if n := len(c.holds); n > 0 && c.holds[n-1] > i {
			h.t.Fatalf("%s was given message %d after %d", c.name, i, c.holds[n-1])
		}
		for j := range i {
			if !h.acked[j] && !slices.Contains(c.holds, j) {
				h.t.Fatalf("%s was given message %d before %d", c.name, i, j)
			}
		}
	case subscription.KeyShared:
		for j := range i {
			if h.keys[j] == h.keys[i] && !h.acked[j] && !slices.Contains(c.holds, j) {
				h.t.Fatalf("%s was given message %d before %d of the same key %s", c.name, i, j, h.keys[i])
			}
		}
	}
	c.holds = append(c.holds, i)
}

// inBubble hides that a test is a *testing.T from rapid, which would ask for its deadline: bubbles have none.
type inBubble struct{ *testing.T }

// Whatever producers and consumers do, and through restarts and crashes: every message is delivered until it is
// acknowledged, not afterwards, to one consumer at a time, and in the order that the type of the subscription promises.
func TestNothingIsLostDoubledOrOutOfOrder(t *testing.T) {
	for _, typ := range []subscription.Type{subscription.Exclusive, subscription.Failover, subscription.Shared, subscription.KeyShared} {
		t.Run(typ.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rapid.Check(inBubble{t}, func(rt *rapid.T) {
					h := &history{t: rt, d: brokertest.New(t), typ: typ, acked: map[int]bool{}, unsure: map[int]bool{}, lately: map[int]bool{}, at: map[int]ledgerfs.Position{}}
					defer h.d.Close()
					h.open()
					one := func(rt *rapid.T) *client {
						if len(h.consumers) == 0 {
							rt.Skip("nobody is there")
						}
						return h.consumers[rapid.IntRange(0, len(h.consumers)-1).Draw(rt, "consumer")]
					}
					h.join()
					rt.Repeat(map[string]func(*rapid.T){
						"publish": func(rt *rapid.T) {
							for range rapid.IntRange(1, 12).Draw(rt, "n") {
								key := fmt.Sprint("k", rapid.IntRange(0, 3).Draw(rt, "key"))
								h.producer.SendText(key, fmt.Sprint(len(h.keys)))
								h.keys = append(h.keys, key)
							}
							if rapid.Bool().Draw(rt, "settle") {
								h.settle()
							}
						},
						"publish batch": func(rt *rapid.T) {
							if typ == subscription.KeyShared {
								rt.Skip("batches of several keys have no order")
							}
							var vs []string
							for range rapid.IntRange(1, 5).Draw(rt, "n") {
								vs = append(vs, fmt.Sprint(len(h.keys)))
								h.keys = append(h.keys, "")
							}
							h.producer.SendEntry(brokertest.Batch(h.producer.Name(), 0, vs...), int32(len(vs)))
						},
						"flow": func(rt *rapid.T) {
							one(rt).Flow(rapid.Uint32Range(1, 10).Draw(rt, "permits"))
							h.settle()
						},
						"ack": func(rt *rapid.T) {
							c := one(rt)
							if len(c.holds) == 0 {
								rt.Skip("it holds nothing")
							}
							var a subscription.Ack
							for range rapid.IntRange(1, 3).Draw(rt, "n") {
								if len(c.holds) == 0 {
									break
								}
								k := rapid.IntRange(0, len(c.holds)-1).Draw(rt, "which")
								// A message of a batch is acknowledged with all its fellows, since these clients ask for no more.
								p := h.at[c.holds[k]]
								a.IDs = append(a.IDs, subscription.AckID{Position: p})
								c.holds = slices.DeleteFunc(c.holds, func(i int) bool {
									if h.at[i] == p {
										h.acked[i], h.lately[i] = true, true
										return true
									}
									return false
								})
							}
							var failed error
							c.Ack(a, func(err error) { failed = err })
							h.settle()
							if failed != nil {
								rt.Fatal(failed)
							}
						},
						"ack up to": func(rt *rapid.T) {
							c := one(rt)
							if len(c.holds) == 0 || typ == subscription.Shared || typ == subscription.KeyShared {
								rt.Skip("nothing to acknowledge")
							}
							p := h.at[c.holds[rapid.IntRange(0, len(c.holds)-1).Draw(rt, "which")]]
							c.Ack(subscription.Ack{Cumulative: true, IDs: []subscription.AckID{{Position: p}}}, nil)
							for i, q := range h.at {
								if !p.Less(q) {
									h.acked[i], h.lately[i] = true, true
								}
							}
							for _, o := range h.consumers {
								o.holds = slices.DeleteFunc(o.holds, func(i int) bool { return h.acked[i] })
							}
							h.settle()
						},
						"redeliver": func(rt *rapid.T) {
							h.settle()
							c := one(rt)
							if len(c.holds) == 0 {
								rt.Skip("it holds nothing")
							}
							c.holds = nil
							c.Redeliver(nil, 0)
							h.settle()
						},
						"join": func(rt *rapid.T) {
							h.settle()
							if typ == subscription.Exclusive && len(h.consumers) > 0 || len(h.consumers) > 3 {
								rt.Skip("full")
							}
							c := h.join()
							if typ == subscription.Failover && c.Subscription().Stats().ActiveConsumer == c.name {
								for _, o := range h.consumers {
									o.holds = nil // the new one gets it all
								}
							}
							h.settle()
						},
						"leave": func(rt *rapid.T) {
							h.settle()
							c := one(rt)
							c.Close()
							h.consumers = slices.DeleteFunc(h.consumers, func(o *client) bool { return o == c })
							h.settle()
						},
						"wait": func(*rapid.T) {
							time.Sleep(150 * time.Millisecond)
							clear(h.lately)
							h.settle()
						},
						"restart": func(rt *rapid.T) {
							h.settle()
							crash := rapid.Bool().Draw(rt, "crash")
							if crash {
								h.d.Crash()
								for i := range h.lately {
									h.unsure[i] = true
								}
							} else {
								h.d.Restart()
							}
							h.consumers = nil
							h.open()
							if st := h.tp.Stats().Subscriptions; len(st) != 1 {
								rt.Fatalf("%d subscriptions after a restart", len(st))
							}
						},
					})
					// In the end everything can be consumed.
					h.settle()
					for _, c := range h.consumers {
						c.Close()
					}
					h.consumers = nil
					c := h.join()
					c.Flow(uint32(len(h.keys)) + 100)
					h.settle()
					for _, i := range c.holds {
						c.Ack(subscription.Ack{IDs: []subscription.AckID{{Position: h.at[i]}}}, nil)
						h.acked[i] = true
					}
					c.holds = nil
					h.settle()
					if len(h.acked) != len(h.keys) {
						rt.Fatalf("%d of %d messages were consumed", len(h.acked), len(h.keys))
					}
					if st := h.tp.Stats().Subscriptions[0]; st.Backlog != 0 || st.Unacked != 0 || st.InReplay != 0 {
						rt.Fatalf("in the end: backlog %d, unacked %d, waiting %d", st.Backlog, st.Unacked, st.InReplay)
					}
				})
			})
		})
	}
}
