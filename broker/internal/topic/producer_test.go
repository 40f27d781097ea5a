package topic_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/broker/brokertest"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/mledger"
)

func TestReceiptsComeInOrderWithDensePositions(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		p := produce(t, d.Topic("t"))
		for i := range 500 {
			p.SendText("", fmt.Sprint(i))
		}
		synctest.Wait()
		rs := p.Results()
		if len(rs) != 500 {
			t.Fatalf("%d receipts", len(rs))
		}
		for i, r := range rs {
			if r.Err != nil || r.SequenceID != uint64(i) || r.Position.Ledger != rs[0].Position.Ledger || r.Position.Entry != ledgerfs.EntryID(i) {
				t.Fatalf("receipt %d: %+v", i, r)
			}
		}
		if n, b := p.Pending(); n != 0 || b != 0 {
			t.Fatalf("pending %d, %d bytes", n, b)
		}
	})
}

// After a failed send every later one fails, in order, until the client makes the producer anew: what is stored is
// in the order in which it was sent, and nothing that got a receipt is missing.
func TestAFailedSendFailsTheLaterOnes(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		send(t, p, "0", "1")
		d.Bookies.At(0).Full()
		for i := 2; i < 6; i++ {
			p.SendText("", fmt.Sprint(i))
		}
		synctest.Wait()
		d.Bookies.At(0).Heal()
		p.SendText("", "6")
		synctest.Wait()
		rs := p.Results()
		for i, r := range rs {
			if r.SequenceID != uint64(i) {
				t.Fatalf("outcome %d is of send %d", i, r.SequenceID)
			}
			if (r.Err != nil) != (i >= 2) || i >= 2 && !errors.Is(r.Err, serr.PersistenceError) {
				t.Fatalf("outcome of send %d: %v", i, r.Err)
			}
		}
		// Those sent after the producer was closed have none: the client sends them again in any case.
		if len(rs) < 3 || !p.Closed() {
			t.Fatalf("%d outcomes, closed %v", len(rs), p.Closed())
		}
		again := produce(t, tp)
		send(t, again, "2", "3")
		c := subscribe(t, tp, request(subscription.Exclusive), 100)
		expect(t, c, "0", "1", "2", "3")
	})
}

// A send cannot overtake one that has failed, even though its producer has not heard of the failure yet and the topic
// takes messages again.
func TestASendCannotOvertakeAFailure(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		first := blocking{told: make(chan struct{}), release: make(chan struct{})}
		// Both wait for the topic's first ledger, which cannot be created: they fail in one go.
		d.Bookies.At(0).Hang()
		tp.Ledger().Append(&mledger.Append{Payload: brokertest.Entry("x", 0, "", "x"), Messages: 1, Done: first})
		p.SendText("", "lost")
		<-first.told // and keeps the producer from being told
		d.Bookies.At(0).Heal()
		time.Sleep(time.Second)
		p.SendText("", "late")
		synctest.Wait()
		close(first.release)
		synctest.Wait()
		rs := p.Results()
		if len(rs) != 2 || rs[0].Err == nil || rs[1].Err == nil || !p.Closed() {
			t.Fatalf("outcomes %+v, closed %v", rs, p.Closed())
		}
		send(t, produce(t, tp), "lost", "late")
		expect(t, subscribe(t, tp, request(subscription.Exclusive), 100), "lost", "late")
	})
}

// A blocking append's completion does not return before release.
type blocking struct{ told, release chan struct{} }

func (b blocking) AppendCompleted(*mledger.Append, error) {
	close(b.told)
	<-b.release
}

func TestWhatMustNotBeStoredIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		p := produce(t, d.Topic("t"))
		p.SendText("", "0")
		p.Send(topic.Send{SequenceID: 1, Messages: 1, Payload: []byte("nonsense")})
		p.Send(topic.Send{SequenceID: 2, Messages: 1, Payload: brokertest.Entry(p.Name(), 2, "", "txn"), Txn: true})
		p.Send(topic.Send{SequenceID: 3, Messages: 1, Payload: brokertest.Entry(p.Name(), 3, "", "3")})
		lie, err := message.AppendBatchOf(nil, &message.Header{ProducerName: "p", PublishTime: 1}, make([]byte, 100), 26, 4, 29)
		if err != nil {
			t.Fatal(err)
		}
		p.Send(topic.Send{SequenceID: 4, Messages: 26, Payload: lie})
		synctest.Wait()
		rs := p.Results()
		if len(rs) != 5 {
			t.Fatalf("%d outcomes", len(rs))
		}
		for i, r := range rs {
			if r.SequenceID != uint64(i) {
				t.Fatalf("outcome %d is of send %d", i, r.SequenceID)
			}
			if refused := i == 1 || i == 2 || i == 4; refused != errors.Is(r.Err, serr.NotAllowedError) || !refused && r.Err != nil {
				t.Fatalf("send %d: %v", i, r.Err)
			}
		}
	})
}

func TestProducerNames(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		a, b := produce(t, tp), produce(t, tp)
		if a.Name() == b.Name() || !strings.HasPrefix(a.Name(), "standalone-") || strings.Count(a.Name(), "-") != 2 {
			t.Fatalf("generated names %q and %q", a.Name(), b.Name())
		}
		if a.Info.LastSequenceID != -1 || !a.Info.Ready {
			t.Fatalf("info %+v", a.Info)
		}
		conn := new(int)
		first, err := brokertest.Produce(t.Context(), tp, topic.ProducerRequest{Name: "n", ProducerID: 1, Conn: conn})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []topic.ProducerRequest{
			{Name: "n", ProducerID: 1, Conn: conn},
			{Name: "n", ProducerID: 2, Epoch: 1, Conn: conn},
			{Name: "n", ProducerID: 1, Epoch: 1},
		} {
			if _, err := brokertest.Produce(t.Context(), tp, r); !errors.Is(err, serr.ProducerBusy) {
				t.Errorf("%+v: %v, want ProducerBusy", r, err)
			}
		}
		second, err := brokertest.Produce(t.Context(), tp, topic.ProducerRequest{Name: "n", ProducerID: 1, Epoch: 1, Conn: conn})
		if err != nil {
			t.Fatal(err)
		}
		first.SendText("", "from the past")
		send(t, second, "x")
		if len(first.Results()) != 0 || first.Closed() {
			t.Fatal("the replaced producer was told something")
		}
		second.Die()
		if _, err := brokertest.Produce(t.Context(), tp, topic.ProducerRequest{Name: "n"}); err != nil {
			t.Fatalf("the name of a dead client's producer: %v", err)
		}
		restarted := a.Name()
		d.Restart()
		if c := produce(t, d.Topic("t")); c.Name() == restarted {
			t.Fatal("a name was given twice")
		}
	})
}

func TestAccessModes(t *testing.T) {
	type mode = topic.AccessMode
	const (
		sh, ex, wait, fence = topic.AccessShared, topic.AccessExclusive, topic.AccessWaitForExclusive, topic.AccessExclusiveWithFencing
	)
	for _, c := range []struct {
		first, second mode
		err           error
		ready, evicts bool
	}{
		{sh, sh, nil, true, false},
		{sh, ex, serr.ProducerFenced, false, false},
		{sh, wait, nil, false, false},
		{sh, fence, nil, true, true},
		{ex, sh, serr.ProducerBusy, false, false},
		{ex, ex, serr.ProducerFenced, false, false},
		{ex, wait, nil, false, false},
		{ex, fence, nil, true, true},
		{wait, sh, serr.ProducerBusy, false, false},
		{wait, ex, serr.ProducerFenced, false, false},
		{wait, wait, nil, false, false},
		{wait, fence, nil, true, true},
		{fence, sh, serr.ProducerBusy, false, false},
		{fence, ex, serr.ProducerFenced, false, false},
		{fence, wait, nil, false, false},
		{fence, fence, nil, true, true},
	} {
		t.Run(fmt.Sprintf("%v beside %v", c.second, c.first), func(t *testing.T) {
			bubble(t, func(t *testing.T, d *brokertest.Domain) {
				tp := d.Topic("t")
				a, err := brokertest.Produce(t.Context(), tp, topic.ProducerRequest{AccessMode: c.first})
				if err != nil || !a.Info.Ready {
					t.Fatalf("the first: %v, ready %v", err, a != nil && a.Info.Ready)
				}
				b, err := brokertest.Produce(t.Context(), tp, topic.ProducerRequest{AccessMode: c.second})
				if (c.err == nil) != (err == nil) || c.err != nil && !errors.Is(err, c.err) {
					t.Fatalf("the second: %v, want %v", err, c.err)
				}
				if a.Closed() != c.evicts {
					t.Fatalf("the first is closed: %v", a.Closed())
				}
				if err != nil {
					return
				}
				if b.Info.Ready != c.ready {
					t.Fatalf("the second is ready: %v", b.Info.Ready)
				}
				if !c.ready {
					a.Close()
					synctest.Wait()
					if r := b.Ready(); len(r) != 1 || r[0] != nil || !b.Info.Ready {
						t.Fatalf("told %v", r)
					}
				}
				send(t, b, "x")
			})
		})
	}
}

func TestTopicEpoch(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		exclusive := func(m topic.AccessMode, epoch *uint64) (*brokertest.Sender, error) {
			return brokertest.Produce(t.Context(), tp, topic.ProducerRequest{AccessMode: m, TopicEpoch: epoch})
		}
		a, err := exclusive(topic.AccessExclusive, nil)
		if err != nil || a.Info.TopicEpoch == nil || *a.Info.TopicEpoch != 0 {
			t.Fatalf("first: %v, %+v", err, a)
		}
		w, err := exclusive(topic.AccessWaitForExclusive, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := exclusive(topic.AccessExclusiveWithFencing, nil)
		if err != nil || *b.Info.TopicEpoch != 1 || !a.Closed() {
			t.Fatalf("fencing: %v, first closed %v", err, a.Closed())
		}
		if r := w.Ready(); len(r) != 1 || !errors.Is(r[0], serr.ProducerFenced) {
			t.Fatalf("the one that waited was told %v", r)
		}
		b.Close()
		if _, err := exclusive(topic.AccessExclusive, a.Info.TopicEpoch); !errors.Is(err, serr.ProducerFenced) {
			t.Fatalf("coming back with an old epoch: %v", err)
		}
		d.Restart()
		tp = d.Topic("t")
		if _, err := exclusive(topic.AccessExclusive, a.Info.TopicEpoch); !errors.Is(err, serr.ProducerFenced) {
			t.Fatalf("coming back with an old epoch after a restart: %v", err)
		}
		c, err := exclusive(topic.AccessExclusive, b.Info.TopicEpoch)
		if err != nil || *c.Info.TopicEpoch != 1 {
			t.Fatalf("coming back with the present epoch: %v", err)
		}
	})
}

func TestInitialSubscription(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		for range 2 {
			if _, err := brokertest.Produce(t.Context(), tp, topic.ProducerRequest{InitialSubscription: "dlq"}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tp.Subscription("dlq"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLastMessageID(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		last := func(want ledgerfs.Position, index int32) {
			t.Helper()
			got, err := tp.LastMessageID(t.Context())
			if err != nil || got.Position != want || got.BatchIndex != index {
				t.Fatalf("last message %+v: %v; want %v, batch index %d", got, err, want, index)
			}
		}
		last(ledgerfs.Position{Ledger: -1, Entry: -1}, -1)
		p := produce(t, tp)
		send(t, p, "0")
		last(p.Results()[0].Position, -1)
		p.SendEntry(brokertest.Batch(p.Name(), 1, "a", "b", "c"), 3)
		synctest.Wait()
		last(p.Results()[1].Position, 2)
		at := p.Results()[1].Position
		d.Restart()
		tp = d.Topic("t")
		last(at, 2)
	})
}

// Sends under way get their outcome before the topic goes, and nobody is told anything afterwards.
func TestUnloadLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		c := subscribe(t, tp, request(subscription.Exclusive), 2)
		for i := range 100 {
			p.SendText("", fmt.Sprint(i))
		}
		if err := d.Topics.Unload(t.Context(), tp.Name()); err != nil {
			t.Fatal(err)
		}
		if !p.Closed() || !c.Closed() || len(p.Results()) != 100 {
			t.Fatalf("producer closed %v, consumer closed %v, %d receipts", p.Closed(), c.Closed(), len(p.Results()))
		}
		c.Close()
		p.Close()
		tp = d.Topic("t")
		expect(t, subscribe(t, tp, request(subscription.Exclusive), 1000), numbers(0, 100)...)
	})
}

func TestDelete(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p := produce(t, tp)
		send(t, p, "0")
		subscribe(t, tp, request(subscription.Exclusive), 2).Close()
		if err := d.Topics.Delete(t.Context(), tp.Name(), false); err == nil || serr.From(err).Status != 412 {
			t.Fatalf("delete with a producer: %v", err)
		}
		send(t, p, "1")
		p.Close()
		if err := d.Topics.Delete(t.Context(), tp.Name(), false); err != nil {
			t.Fatal(err)
		}
		if ok, err := d.Topics.Exists(t.Context(), tp.Name()); ok || err != nil {
			t.Fatalf("the topic is still there: %v", err)
		}
		if err := d.Topics.Delete(t.Context(), tp.Name(), true); !errors.Is(err, serr.TopicNotFound) {
			t.Fatalf("deleting again: %v", err)
		}
		names, err := d.Topics.List(t.Context(), tp.Name().NamespaceName())
		if err != nil || len(names) != 0 {
			t.Fatalf("listed %v: %v", names, err)
		}
		fresh := d.Topic("t")
		if len(fresh.Subscriptions()) != 0 {
			t.Fatal("the new topic has subscriptions of the old one")
		}
		c := subscribe(t, fresh, request(subscription.Exclusive), 10)
		expect(t, c)
		forced := produce(t, fresh)
		if err := d.Topics.Delete(t.Context(), fresh.Name(), true); err != nil {
			t.Fatal(err)
		}
		if !forced.Closed() || !c.Closed() {
			t.Fatal("clients of the deleted topic are not closed")
		}
	})
}

func TestList(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		d.Topic("b")
		d.Topic("a")
		var got []string
		names, err := d.Topics.List(t.Context(), d.Topic("a").Name().NamespaceName())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			got = append(got, n.Local)
		}
		if !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("listed %v", got)
		}
	})
}
