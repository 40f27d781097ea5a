package topic_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/broker/brokertest"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
)

// bubble runs f with a fresh domain where synctest.Wait settles everything.
func bubble(t *testing.T, f func(t *testing.T, d *brokertest.Domain)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := brokertest.New(t)
		defer d.Close()
		f(t, d)
	})
}

func produce(t *testing.T, tp *topic.Topic) *brokertest.Sender {
	t.Helper()
	p, err := brokertest.Produce(t.Context(), tp, topic.ProducerRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// send publishes unbatched messages and waits for their receipts.
func send(t *testing.T, p *brokertest.Sender, values ...string) {
	t.Helper()
	had := len(p.Results())
	for _, v := range values {
		p.SendText("", v)
	}
	synctest.Wait()
	rs := p.Results()[had:]
	if len(rs) != len(values) {
		t.Fatalf("%d outcomes for %d sends", len(rs), len(values))
	}
	for _, r := range rs {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

func numbers(from, to int) (s []string) {
	for i := from; i < to; i++ {
		s = append(s, fmt.Sprint(i))
	}
	return s
}

func request(typ subscription.Type) subscription.Request {
	return subscription.Request{Subscription: "sub", Type: typ, ConsumerName: "c", Durable: true, Initial: subscription.Earliest}
}

func subscribe(t *testing.T, tp *topic.Topic, r subscription.Request, permits uint32) *brokertest.Receiver {
	t.Helper()
	c, err := brokertest.Subscribe(t.Context(), tp, r)
	if err != nil {
		t.Fatal(err)
	}
	c.Flow(permits)
	synctest.Wait()
	return c
}

// expect waits until nothing happens any more and compares what was received since the last look.
func expect(t *testing.T, c *brokertest.Receiver, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := c.TakeTexts(); !slices.Equal(got, want) {
		t.Fatalf("received %v, want %v", got, want)
	}
}

func ackOf(ms ...subscription.Message) subscription.Ack {
	var a subscription.Ack
	for _, m := range ms {
		a.IDs = append(a.IDs, subscription.AckID{Position: m.Position})
	}
	return a
}

func ack(t *testing.T, c *brokertest.Receiver, a subscription.Ack) {
	t.Helper()
	called := 0
	c.Ack(a, func(err error) {
		called++
		if err != nil {
			t.Fatal(err)
		}
	})
	synctest.Wait()
	if called != 1 {
		t.Fatalf("ack answered %d times", called)
	}
}

func TestTailAndCatchUpDeliverInOrder(t *testing.T) {
	for _, typ := range []subscription.Type{subscription.Exclusive, subscription.Failover, subscription.Shared, subscription.KeyShared} {
		t.Run(typ.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, d *brokertest.Domain) {
				tp := d.Topic("t")
				p := produce(t, tp)
				send(t, p, numbers(0, 300)...)
				c := subscribe(t, tp, request(typ), 1000)
				expect(t, c, numbers(0, 300)...)
				for i := 300; i < 310; i++ {
					send(t, p, fmt.Sprint(i))
					expect(t, c, fmt.Sprint(i))
				}
			})
		})
	}
}

func TestPermitsAreExact(t *testing.T) {
	for _, typ := range []subscription.Type{subscription.Exclusive, subscription.Shared, subscription.KeyShared} {
		t.Run(typ.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, d *brokertest.Domain) {
				tp := d.Topic("t")
				p := produce(t, tp)
				send(t, p, numbers(0, 20)...)
				c := subscribe(t, tp, request(typ), 0)
				expect(t, c)
				c.Flow(1)
				expect(t, c, "0")
				c.Flow(3)
				expect(t, c, "1", "2", "3")
				// The last entry, a batch, may overshoot; what is too much is owed.
				p.SendEntry(brokertest.Batch(p.Name(), 20, numbers(20, 30)...), 10)
				c.Flow(16)
				expect(t, c, numbers(4, 20)...)
				c.Flow(1)
				expect(t, c, numbers(20, 30)...)
				send(t, p, "30")
				c.Flow(9)
				expect(t, c)
				c.Flow(1)
				expect(t, c, "30")
			})
		})
	}
}

func TestAFullConnectionIsLeftAlone(t *testing.T) {
	for _, typ := range []subscription.Type{subscription.Exclusive, subscription.Shared} {
		t.Run(typ.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, d *brokertest.Domain) {
				tp := d.Topic("t")
				p := produce(t, tp)
				c := subscribe(t, tp, request(typ), 100)
				c.SetFull(true)
				send(t, p, "0")
				expect(t, c, "0")
				send(t, p, "1", "2")
				expect(t, c)
				c.SetFull(false)
				c.Resume()
				expect(t, c, "1", "2")
			})
		})
	}
}

func TestExclusiveTakesOneConsumer(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		a := subscribe(t, tp, request(subscription.Exclusive), 10)
		if _, err := brokertest.Subscribe(t.Context(), tp, request(subscription.Exclusive)); !errors.Is(err, serr.ConsumerBusy) {
			t.Fatalf("second exclusive consumer: %v", err)
		}
		if _, err := brokertest.Subscribe(t.Context(), tp, request(subscription.Shared)); !errors.Is(err, serr.ConsumerBusy) {
			t.Fatalf("consumer of another type: %v", err)
		}
		a.Die()
		b := subscribe(t, tp, request(subscription.Exclusive), 10)
		send(t, produce(t, tp), "x")
		expect(t, b, "x")
		expect(t, a)
		if !a.Closed() {
			t.Fatal("the dead consumer was not closed")
		}
		b.Close()
		subscribe(t, tp, request(subscription.Shared), 10)
	})
}

func TestUnackedComesBackToTheNextConsumer(t *testing.T) {
	for _, typ := range []subscription.Type{subscription.Exclusive, subscription.Failover, subscription.Shared, subscription.KeyShared} {
		t.Run(typ.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, d *brokertest.Domain) {
				tp := d.Topic("t")
				p := produce(t, tp)
				send(t, p, numbers(0, 10)...)
				a := subscribe(t, tp, request(typ), 5)
				synctest.Wait()
				ms := a.Take()
				if len(ms) != 5 {
					t.Fatalf("%d messages", len(ms))
				}
				ack(t, a, ackOf(ms[0], ms[2]))
				a.Close()
				b := subscribe(t, tp, request(typ), 100)
				synctest.Wait()
				got := b.Take()
				var texts []string
				for _, m := range got {
					if m.RedeliveryCount != 0 {
						t.Errorf("redelivery count %d after a lost consumer", m.RedeliveryCount)
					}
					texts = append(texts, brokertest.Texts(m)...)
				}
				if want := []string{"1", "3", "4", "5", "6", "7", "8", "9"}; !slices.Equal(texts, want) {
					t.Fatalf("received %v, want %v", texts, want)
				}
				st := tp.Stats().Subscriptions[0]
				if st.Backlog != 8 {
					t.Errorf("backlog %d, want 8", st.Backlog)
				}
			})
		})
	}
}

func TestAcksSurviveARestart(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		p.SendEntry(brokertest.Batch(p.Name(), 0, "b0", "b1", "b2", "b3"), 4)
		synctest.Wait()
		send(t, p, "4", "5", "6")
		c := subscribe(t, tp, request(subscription.Shared), 100)
		synctest.Wait()
		ms := c.Take()
		ack(t, c, subscription.Ack{IDs: []subscription.AckID{{Position: ms[0].Position, AckSet: []int64{0b1010}}, {Position: ms[2].Position}}})
		d.Restart()
		tp = d.Topic("t")
		if n := len(tp.Subscriptions()); n != 1 {
			t.Fatalf("%d subscriptions after the restart", n)
		}
		c = subscribe(t, tp, request(subscription.Shared), 100)
		expect(t, c, "b1", "b3", "4", "6")
	})
}

func TestBatchIndexAcksAddUp(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		p.SendEntry(brokertest.Batch(p.Name(), 0, "0", "1", "2", "3"), 4)
		c := subscribe(t, tp, request(subscription.Shared), 100)
		synctest.Wait()
		at := c.Take()[0].Position
		if got := c.Stats().Unacked; got != 4 {
			t.Fatalf("%d unacked", got)
		}
		ack(t, c, subscription.Ack{IDs: []subscription.AckID{{Position: at, AckSet: []int64{0b1110}}}})
		ack(t, c, subscription.Ack{IDs: []subscription.AckID{{Position: at, AckSet: []int64{0b0111}}}})
		if got := c.Stats().Unacked; got != 2 {
			t.Fatalf("%d unacked", got)
		}
		c.Redeliver([]subscription.AckID{{Position: at}}, 0)
		synctest.Wait()
		ms := c.Take()
		if len(ms) != 1 || ms[0].RedeliveryCount != 1 || !slices.Equal(brokertest.Texts(ms[0]), []string{"1", "2"}) || ms[0].Messages != 2 {
			t.Fatalf("redelivered %+v", ms)
		}
		ack(t, c, subscription.Ack{IDs: []subscription.AckID{{Position: at, AckSet: []int64{0b1001}}}})
		if st := tp.Stats().Subscriptions[0]; st.Backlog != 0 || st.Unacked != 0 {
			t.Fatalf("backlog %d, unacked %d", st.Backlog, st.Unacked)
		}
	})
}

func TestNacksOnSharedComeBackInOrderBeforeNewOnes(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		send(t, p, numbers(0, 10)...)
		c := subscribe(t, tp, request(subscription.Shared), 5)
		synctest.Wait()
		ms := c.Take()
		c.Redeliver([]subscription.AckID{{Position: ms[3].Position}, {Position: ms[1].Position}}, 0)
		expect(t, c)
		c.Flow(3)
		expect(t, c, "1", "3", "5")
	})
}

func TestRedeliveryOnExclusiveRewinds(t *testing.T) {
	for _, typ := range []subscription.Type{subscription.Exclusive, subscription.Failover} {
		t.Run(typ.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, d *brokertest.Domain) {
				tp := d.Topic("t")
				send(t, produce(t, tp), numbers(0, 6)...)
				c := subscribe(t, tp, request(typ), 100)
				synctest.Wait()
				ms := c.Take()
				ack(t, c, ackOf(ms[0], ms[3]))
				c.Redeliver([]subscription.AckID{{Position: ms[4].Position}}, 7)
				synctest.Wait()
				again := c.Take()
				var texts []string
				for _, m := range again {
					texts = append(texts, brokertest.Texts(m)...)
					if m.Epoch != 7 || m.RedeliveryCount != 0 {
						t.Errorf("epoch %d, redelivery count %d", m.Epoch, m.RedeliveryCount)
					}
				}
				if want := []string{"1", "2", "4", "5"}; !slices.Equal(texts, want) {
					t.Fatalf("received %v, want %v", texts, want)
				}
			})
		})
	}
}

func TestCumulativeAck(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		send(t, p, numbers(0, 5)...)
		p.SendEntry(brokertest.Batch(p.Name(), 5, "5", "6", "7"), 3)
		c := subscribe(t, tp, request(subscription.Exclusive), 100)
		synctest.Wait()
		ms := c.Take()
		ack(t, c, subscription.Ack{Cumulative: true, IDs: []subscription.AckID{{Position: ms[2].Position}}})
		if c.MarkDelete() != ms[2].Position {
			t.Fatalf("mark-delete %v", c.MarkDelete())
		}
		// Of an entry in the middle of which the client stands, and of what lies before a ledger.
		ack(t, c, subscription.Ack{Cumulative: true, IDs: []subscription.AckID{{Position: ms[5].Position, AckSet: []int64{0b110}}}})
		ack(t, c, subscription.Ack{Cumulative: true, IDs: []subscription.AckID{{Position: ledgerfs.Position{Ledger: ms[0].Position.Ledger, Entry: -1}}}})
		c.Redeliver(nil, 1)
		expect(t, c, "6", "7")
		c.Close()
		s := subscribe(t, tp, request(subscription.Shared), 1)
		s.Ack(subscription.Ack{Cumulative: true, IDs: []subscription.AckID{{Position: ms[5].Position}}}, func(err error) {
			if !errors.Is(err, serr.NotAllowedError) {
				t.Errorf("cumulative ack on Shared: %v", err)
			}
		})
	})
}

func TestForeignAcksLeaveNoTrace(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		send(t, produce(t, tp), numbers(0, 3)...)
		c := subscribe(t, tp, request(subscription.Shared), 1)
		last := tp.Ledger().LastConfirmed()
		for _, p := range []ledgerfs.Position{{Ledger: -1, Entry: -1}, {Ledger: last.Ledger, Entry: -1}, {Ledger: last.Ledger, Entry: 1 << 40}, {Ledger: 999, Entry: 0}, subscription.LatestID} {
			ack(t, c, subscription.Ack{IDs: []subscription.AckID{{Position: p}, {Position: p, AckSet: []int64{1}}}})
		}
		if st := tp.InternalStats().Cursors["sub"]; st.IndividuallyDeleted != "[]" {
			t.Fatalf("individually deleted: %s", st.IndividuallyDeleted)
		}
		if st := tp.Stats().Subscriptions[0]; st.Backlog != 3 {
			t.Fatalf("backlog %d", st.Backlog)
		}
	})
}

func TestFailover(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		r := request(subscription.Failover)
		r.ConsumerName = "b"
		b := subscribe(t, tp, r, 100)
		r.ConsumerName = "c"
		c := subscribe(t, tp, r, 100)
		if !slices.Equal(b.Active(), []bool{true}) || !slices.Equal(c.Active(), []bool{false}) {
			t.Fatalf("told b %v, c %v", b.Active(), c.Active())
		}
		send(t, p, "0", "1")
		expect(t, b, "0", "1")
		r.ConsumerName = "a"
		a := subscribe(t, tp, r, 100)
		expect(t, a, "0", "1")
		if !slices.Equal(a.Active(), []bool{true}) || !slices.Equal(b.Active(), []bool{true, false}) {
			t.Fatalf("told a %v, b %v", a.Active(), b.Active())
		}
		if got := tp.Stats().Subscriptions[0].ActiveConsumer; got != "a" {
			t.Fatalf("active consumer %q", got)
		}
		a.Close()
		expect(t, b, "0", "1")
		expect(t, c)
		if !slices.Equal(a.Active(), []bool{true}) {
			t.Fatal("a closed consumer was told something")
		}
	})
}

func TestKeySharedKeepsKeysTogetherAndInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		a := subscribe(t, tp, request(subscription.KeyShared), 1000)
		b := subscribe(t, tp, request(subscription.KeyShared), 1000)
		keys := []string{"key-shared-0", "key-shared-1", "key-shared-2"}
		for i := range 60 {
			p.SendText(keys[i%3], fmt.Sprint(i))
		}
		synctest.Wait()
		am, bm := a.Take(), b.Take()
		if len(am) != 20 || len(bm) != 40 {
			t.Fatalf("a has %d, b %d", len(am), len(bm))
		}
		// b leaves with everything unacknowledged: a gets it, in order.
		b.Close()
		synctest.Wait()
		again := a.Take()
		if len(again) != 40 || !slices.IsSortedFunc(again, func(x, y subscription.Message) int { return x.Position.Compare(y.Position) }) {
			t.Fatalf("a got %d more", len(again))
		}
		// A newcomer takes keys over, but gets nothing of them while a still holds some.
		c := subscribe(t, tp, request(subscription.KeyShared), 1000)
		for i := 60; i < 90; i++ {
			p.SendText(keys[i%3], fmt.Sprint(i))
		}
		synctest.Wait()
		if n := len(c.Take()); n != 0 {
			t.Fatalf("the newcomer was given %d entries of keys that another holds", n)
		}
		ack(t, a, ackOf(slices.Concat(am, again)...))
		synctest.Wait()
		if got := len(c.Take()); got != 20 {
			t.Fatalf("the newcomer has %d, want 20", got)
		}
	})
}

func TestSeek(t *testing.T) {
	for _, durable := range []bool{true, false} {
		t.Run(fmt.Sprintf("durable=%v", durable), func(t *testing.T) {
			bubble(t, func(t *testing.T, d *brokertest.Domain) {
				tp := d.Topic("t")
				p := produce(t, tp)
				for _, v := range numbers(0, 10) {
					send(t, p, v)
					time.Sleep(time.Second)
				}
				r := request(subscription.Exclusive)
				r.Durable = durable
				c := subscribe(t, tp, r, 100)
				ms := c.Take()
				ack(t, c, ackOf(ms[:8]...))
				again := func(to subscription.SeekTarget, want ...string) {
					t.Helper()
					if err := c.Seek(t.Context(), to); err != nil {
						t.Fatal(err)
					}
					if !c.Closed() {
						t.Fatal("the consumer was not closed")
					}
					c.Close() // as the connection does when it goes
					r.Initial = subscription.Latest
					c = subscribe(t, tp, r, 100)
					expect(t, c, want...)
				}
				again(subscription.SeekTarget{Position: ms[3].Position}, numbers(3, 10)...)
				again(subscription.SeekTarget{Position: subscription.LatestID})
				again(subscription.SeekTarget{Position: subscription.EarliestID}, numbers(0, 10)...)
				at := time.Now().Add(-4500 * time.Millisecond)
				again(subscription.SeekTarget{Time: at}, numbers(6, 10)...)
				again(subscription.SeekTarget{Time: at.Add(time.Hour)})
				again(subscription.SeekTarget{Time: at.Add(-time.Hour)}, numbers(0, 10)...)
			})
		})
	}
}

// What a consumer acknowledges after a seek has closed it is of the past: the seek is not undone by a client that has not
// heard of it yet.
func TestLateAcksDoNotUndoASeek(t *testing.T) {
	for _, typ := range []subscription.Type{subscription.Failover, subscription.Shared} {
		t.Run(typ.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, d *brokertest.Domain) {
				tp := d.Topic("t")
				send(t, produce(t, tp), numbers(0, 10)...)
				c := subscribe(t, tp, request(typ), 100)
				ms := c.Take()
				sub, err := tp.Subscription(c.Request().Subscription)
				if err != nil {
					t.Fatal(err)
				}
				if err := sub.Seek(t.Context(), subscription.SeekTarget{Position: subscription.EarliestID}); err != nil {
					t.Fatal(err)
				}
				late := ackOf(ms...)
				if late.Cumulative = typ == subscription.Failover; late.Cumulative {
					late = subscription.Ack{Cumulative: true, IDs: late.IDs[9:]}
				}
				var answer error
				c.Ack(late, func(err error) { answer = err })
				if answer == nil {
					t.Errorf("%v: the late acknowledgement was taken", typ)
				}
				c.Close()
				expect(t, subscribe(t, tp, request(typ), 100), numbers(0, 10)...)
			})
		})
	}
}

func TestSubscribingWaitsForASeek(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		send(t, produce(t, tp), numbers(0, 3)...)
		c := subscribe(t, tp, request(subscription.Exclusive), 100)
		expect(t, c, numbers(0, 3)...)
		d.Store.DelayCommits(1, time.Second)
		d.Bookies.At(0).Slow(time.Second)
		done := make(chan error, 1)
		go func() { done <- c.Seek(t.Context(), subscription.SeekTarget{Position: subscription.EarliestID}) }()
		synctest.Wait()
		if !c.Closed() {
			t.Fatal("the consumer is not closed while the cursor moves")
		}
		c = subscribe(t, tp, request(subscription.Exclusive), 100)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		expect(t, c, numbers(0, 3)...)
		d.Bookies.At(0).Heal()
	})
}

func TestReaderStartsWhereItSays(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		send(t, p, numbers(0, 5)...)
		third := p.Results()[2].Position
		read := func(start *ledgerfs.Position, want ...string) {
			t.Helper()
			r := subscription.Request{Subscription: "reader", Type: subscription.Exclusive, Start: start}
			c := subscribe(t, tp, r, 100)
			expect(t, c, want...)
			c.Close()
			if _, err := tp.Subscription("reader"); !errors.Is(err, serr.SubscriptionNotFound) {
				t.Fatalf("the reader's subscription outlives it: %v", err)
			}
		}
		read(nil)
		read(&subscription.EarliestID, numbers(0, 5)...)
		read(&subscription.LatestID)
		read(&third, numbers(2, 5)...)
		beyond := ledgerfs.Position{Ledger: third.Ledger, Entry: 100}
		read(&beyond)
	})
}

func TestUnsubscribe(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		a := subscribe(t, tp, request(subscription.Shared), 100)
		b := subscribe(t, tp, request(subscription.Shared), 100)
		if err := a.Unsubscribe(t.Context(), false); !errors.Is(err, serr.MetadataError) {
			t.Fatalf("unsubscribe beside another consumer: %v", err)
		}
		if err := a.Unsubscribe(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if a.Closed() || !b.Closed() {
			t.Fatal("who unsubscribes hears the answer, the others that they are closed")
		}
		d.Restart()
		if n := len(d.Topic("t").Subscriptions()); n != 0 {
			t.Fatalf("%d subscriptions are left", n)
		}
	})
}

func TestTerminatedTopicEnds(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		send(t, p, "0", "1")
		c := subscribe(t, tp, request(subscription.Exclusive), 100)
		ms := c.Take()
		last, err := tp.Terminate(t.Context())
		if err != nil || last != ms[1].Position {
			t.Fatalf("terminated at %v: %v", last, err)
		}
		if !p.Closed() {
			t.Fatal("the producer is not closed")
		}
		if _, err := brokertest.Produce(t.Context(), tp, topic.ProducerRequest{}); !errors.Is(err, serr.TopicTerminatedError) {
			t.Fatalf("a new producer: %v", err)
		}
		synctest.Wait()
		if c.Ended() {
			t.Fatal("the end was announced before everything was consumed")
		}
		ack(t, c, ackOf(ms...))
		if !c.Ended() {
			t.Fatal("the end was not announced")
		}
	})
}

func TestSkipAndExpire(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		for _, v := range numbers(0, 10) {
			send(t, p, v)
			time.Sleep(time.Second)
		}
		c := subscribe(t, tp, request(subscription.Shared), 3)
		ms := c.Take()
		ack(t, c, ackOf(ms[1]))
		s := c.Subscription()
		if err := s.Skip(t.Context(), 3); err != nil { // 0, 2, 3
			t.Fatal(err)
		}
		if st := s.Stats(); st.Backlog != 6 || st.Unacked != 0 {
			t.Fatalf("backlog %d, unacked %d", st.Backlog, st.Unacked)
		}
		c.Flow(1)
		expect(t, c, "4")
		if err := s.ExpireBefore(t.Context(), time.Now().Add(-3500*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if st := s.Stats(); st.Backlog != 3 || st.TotalExpired != 3 {
			t.Fatalf("backlog %d, expired %d", st.Backlog, st.TotalExpired)
		}
		if err := s.SkipAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := s.Stats(); st.Backlog != 0 {
			t.Fatalf("backlog %d", st.Backlog)
		}
		c.Flow(10)
		send(t, p, "new")
		expect(t, c, "new")
	})
}

// Delayed messages come at their time, to the millisecond, in the order of their times, and do not hold up others.
func TestDelayedMessagesComeAtTheirTime(t *testing.T) {
	for _, typ := range []subscription.Type{subscription.Shared, subscription.KeyShared} {
		t.Run(typ.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, d *brokertest.Domain) {
				tp := d.Topic("t")
				p := produce(t, tp)
				start := time.Now()
				for i, s := range []int{5, 2, 9, 2} {
					p.SendEntry(brokertest.DelayedEntry(p.Name(), uint64(i), fmt.Sprint("k", i), fmt.Sprint(s, "s"), start.Add(time.Duration(s)*time.Second)), 1)
				}
				synctest.Wait()
				c := subscribe(t, tp, request(typ), 100)
				send(t, p, "now")
				expect(t, c, "now")
				if st := tp.Stats().Subscriptions[0]; st.Delayed != 4 || st.Backlog != 5 {
					t.Fatalf("delayed %d, backlog %d", st.Delayed, st.Backlog)
				}
				time.Sleep(time.Until(start.Add(2*time.Second - time.Millisecond)))
				expect(t, c)
				time.Sleep(time.Millisecond)
				expect(t, c, "2s", "2s")
				time.Sleep(3 * time.Second)
				expect(t, c, "5s")
				// They survive who waits for them.
				c.Close()
				c = subscribe(t, tp, request(typ), 100)
				synctest.Wait()
				if got := len(c.Take()); got != 4 {
					t.Fatalf("%d messages came back", got)
				}
				time.Sleep(4 * time.Second)
				expect(t, c, "9s")
				if st := tp.Stats().Subscriptions[0]; st.Delayed != 0 {
					t.Fatalf("%d are still delayed", st.Delayed)
				}
			})
		})
	}
}

func TestExclusiveDoesNotDelay(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		p.SendEntry(brokertest.DelayedEntry(p.Name(), 0, "", "x", time.Now().Add(time.Hour)), 1)
		expect(t, subscribe(t, tp, request(subscription.Exclusive), 100), "x")
	})
}

// An entry that cannot be read now is neither skipped nor given up.
func TestReadingIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		send(t, produce(t, d.Topic("t")), numbers(0, 5)...)
		subscribe(t, d.Topic("t"), request(subscription.Shared), 0)
		d.Restart() // nothing is in the cache
		tp := d.Topic("t")
		d.Bookies.At(0).Fail(ledgerfs.ErrIO)
		c := subscribe(t, tp, request(subscription.Shared), 3)
		time.Sleep(time.Second)
		expect(t, c)
		d.Bookies.At(0).Heal()
		time.Sleep(time.Minute)
		ms := c.Take()
		if len(ms) != 3 {
			t.Fatalf("%d messages once they can be read", len(ms))
		}
		c.Flow(10)
		expect(t, c, "3", "4")
	})
}

func TestMarkersAreHidden(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		send(t, p, "0")
		marker, err := message.AppendSingle(nil, &message.Header{ProducerName: "p", PublishTime: 1, MarkerType: message.MarkerTxnCommit}, &message.Outgoing{})
		if err != nil {
			t.Fatal(err)
		}
		p.Send(topic.Send{SequenceID: 1, Messages: 1, Payload: marker, Marker: true})
		synctest.Wait()
		if last, err := tp.LastMessageID(t.Context()); err != nil || last.Position != p.Results()[0].Position {
			t.Fatalf("last message %v: %v", last, err)
		}
		for _, typ := range []subscription.Type{subscription.Exclusive, subscription.Shared, subscription.KeyShared} {
			r := request(typ)
			r.Subscription = typ.String()
			c := subscribe(t, tp, r, 10)
			synctest.Wait()
			ms := c.Take()
			if len(ms) != 1 {
				t.Fatalf("%d messages", len(ms))
			}
			ack(t, c, ackOf(ms...))
			if st := c.Subscription().Stats(); st.Backlog != 0 {
				t.Fatalf("%v: the marker is backlog", typ)
			}
		}
	})
}

func TestChunksOnSharedStayTogether(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		a, b := subscribe(t, tp, request(subscription.Shared), 100), subscribe(t, tp, request(subscription.Shared), 100)
		for i := range 10 {
			chunk, err := message.AppendSingle(nil, &message.Header{ProducerName: "p", PublishTime: 1, UUID: "u", NumChunks: 10, TotalChunkSize: 10, ChunkID: i}, &message.Outgoing{Value: []byte("x")})
			if err != nil {
				t.Fatal(err)
			}
			p.Send(topic.Send{SequenceID: 0, Messages: 1, Payload: chunk, IsChunk: true})
			synctest.Wait() // each in a round of its own
		}
		if na, nb := len(a.Take()), len(b.Take()); na*nb != 0 || na+nb != 10 {
			t.Fatalf("a has %d chunks, b %d", na, nb)
		}
	})
}

func TestStickyConsumersBringTheirRanges(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		sticky := func(start, end int32) subscription.Request {
			r := request(subscription.KeyShared)
			r.KeyShared = &subscription.KeySharedMeta{Sticky: true, Ranges: []subscription.HashRange{{Start: start, End: end}}}
			return r
		}
		low := subscribe(t, tp, sticky(0, 30000), 100)
		for _, r := range []subscription.Request{sticky(30000, 40000), sticky(0, 65536), sticky(5, 4)} {
			if _, err := brokertest.Subscribe(t.Context(), tp, r); !errors.Is(err, serr.ConsumerAssignError) {
				t.Fatalf("ranges %v: %v", r.KeyShared.Ranges, err)
			}
		}
		if _, err := brokertest.Subscribe(t.Context(), tp, request(subscription.KeyShared)); !errors.Is(err, serr.ConsumerBusy) {
			t.Fatalf("a consumer without ranges: %v", err)
		}
		p.SendText("key-shared-0", "30051")
		p.SendText("key-shared-1", "9321")
		expect(t, low, "9321")
		high := subscribe(t, tp, sticky(30001, 65535), 100)
		expect(t, high, "30051")
		low.Die()
		expect(t, subscribe(t, tp, sticky(0, 100), 100))
		if !low.Closed() {
			t.Fatal("a dead consumer keeps its range")
		}
	})
}

func TestDeleteSubscription(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		c := subscribe(t, tp, request(subscription.Shared), 1)
		if err := tp.DeleteSubscription(t.Context(), "sub", false); err == nil || serr.From(err).Status != 412 {
			t.Fatalf("with a consumer: %v", err)
		}
		if err := tp.DeleteSubscription(t.Context(), "sub", true); err != nil || !c.Closed() {
			t.Fatalf("by force: %v, consumer closed %v", err, c.Closed())
		}
		if err := tp.DeleteSubscription(t.Context(), "sub", true); !errors.Is(err, serr.SubscriptionNotFound) {
			t.Fatalf("again: %v", err)
		}
		if _, err := tp.CreateSubscription(t.Context(), "sub", &subscription.EarliestID, map[string]string{"a": "b"}, false); err != nil {
			t.Fatal(err)
		}
		if _, err := tp.CreateSubscription(t.Context(), "sub", nil, nil, false); err == nil || serr.From(err).Status != 409 {
			t.Fatalf("one that exists: %v", err)
		}
		d.Restart()
		s, err := d.Topic("t").Subscription("sub")
		if err != nil || s.Properties()["a"] != "b" {
			t.Fatalf("after a restart: %v", err)
		}
	})
}

// A reader's subscription outlives the seek that closes its consumer, but not for ever.
func TestAReaderThatDoesNotComeBackIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		c := subscribe(t, tp, subscription.Request{Subscription: "reader", Type: subscription.Exclusive}, 1)
		if err := c.Seek(t.Context(), subscription.SeekTarget{Position: subscription.EarliestID}); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if _, err := tp.Subscription("reader"); err != nil {
			t.Fatalf("just after the seek: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := tp.Subscription("reader"); !errors.Is(err, serr.SubscriptionNotFound) {
			t.Fatalf("long after the seek: %v", err)
		}
	})
}
