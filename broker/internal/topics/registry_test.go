package topics_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/broker/brokertest"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

func bubble(t *testing.T, f func(t *testing.T, d *brokertest.Domain)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := brokertest.New(t)
		defer d.Close()
		f(t, d)
	})
}

func name(t *testing.T, s string) topicname.Name {
	t.Helper()
	n, err := topicname.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestATopicIsLoadedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		var mu sync.Mutex
		seen := map[*topic.Topic]int{}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				tp, err := d.Topics.Topic(t.Context(), name(t, "t"), topics.Options{Create: true})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				seen[tp]++
			})
		}
		wg.Wait()
		if len(seen) != 1 || len(d.Topics.All()) != 1 {
			t.Fatalf("%d topics were made, %d are loaded", len(seen), len(d.Topics.All()))
		}
	})
}

func TestWhatDoesNotExistIsMadeOnlyOnRequest(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		for _, c := range []struct {
			name string
			o    topics.Options
			want serr.Code
		}{
			{"t", topics.Options{}, serr.TopicNotFound},
			{"persistent://public/nowhere/t", topics.Options{Create: true}, serr.TopicNotFound},
			{"non-persistent://public/default/t", topics.Options{Create: true}, serr.NotAllowedError},
		} {
			if _, err := d.Topics.Topic(t.Context(), name(t, c.name), c.o); !errors.Is(err, c.want) {
				t.Errorf("%s with %+v: %v, want %v", c.name, c.o, err, c.want)
			}
		}
		if ok, err := d.Topics.Exists(t.Context(), name(t, "t")); ok || err != nil {
			t.Fatalf("asking has made the topic: %v", err)
		}
		if _, err := d.Topics.Topic(t.Context(), name(t, "t"), topics.Options{Create: true, Explicit: true, Properties: map[string]string{"a": "b"}}); err != nil {
			t.Fatal(err)
		}
		d.Restart()
		tp, err := d.Topics.Topic(t.Context(), name(t, "t"), topics.Options{})
		if err != nil || tp.Ledger().Properties()["a"] != "b" {
			t.Fatalf("after a restart: %v", err)
		}
	})
}

// Those who ask without creating and those who create do not spoil each other's answer.
func TestAskingBesideCreating(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		d.Store.DelayCommits(10, time.Millisecond)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				_, err := d.Topics.Topic(t.Context(), name(t, "t"), topics.Options{Create: i%2 == 0})
				if i%2 == 0 && err != nil {
					t.Errorf("creating: %v", err)
				}
				if i%2 == 1 && err != nil && !errors.Is(err, serr.TopicNotFound) {
					t.Errorf("asking: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

func TestAFailedLoadIsTriedAnew(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		d.Store.SetNoSpace(true)
		if _, err := d.Topics.Topic(t.Context(), name(t, "t"), topics.Options{Create: true}); !errors.Is(err, serr.ServiceNotReady) {
			t.Fatalf("without room for metadata: %v", err)
		}
		d.Store.SetNoSpace(false)
		d.Topic("t")
	})
}

func TestACallerMayGiveUp(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		d.Store.DelayCommits(1, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := d.Topics.Topic(ctx, name(t, "t"), topics.Options{Create: true}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("giving up: %v", err)
		}
		d.Topic("t") // the loading went on
	})
}

// While a topic is on its way out it answers that it is not ready; afterwards it can be used again.
func TestUnloading(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		d.Store.DelayCommits(3, time.Second)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := d.Topics.Unload(t.Context(), tp.Name()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, err := tp.Subscribe(t.Context(), subscription.Request{Subscription: "s", Durable: true}, &brokertest.Receiver{}); !errors.Is(err, serr.ServiceNotReady) {
			t.Errorf("subscribing to a topic that is unloaded: %v", err)
		}
		wg.Wait()
		if again := d.Topic("t"); again == tp {
			t.Fatal("the unloaded topic was given out again")
		}
		if err := d.Topics.Unload(t.Context(), name(t, "never")); err != nil {
			t.Fatalf("unloading what is not loaded: %v", err)
		}
	})
}

// A topic that another owner has taken is closed, and its clients with it, so that they look for the new owner.
func TestATopicThatWasTakenOverIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		tp := d.Topic("t")
		p, err := brokertest.Produce(t.Context(), tp, topic.ProducerRequest{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := brokertest.Subscribe(t.Context(), tp, subscription.Request{Subscription: "s", Durable: true})
		if err != nil {
			t.Fatal(err)
		}
		p.SendText("", "before")
		synctest.Wait()
		old := d.Topics
		d.Crash()
		if last, err := d.Topic("t").LastMessageID(t.Context()); err != nil || last.Position != p.Results()[0].Position {
			t.Fatalf("the new owner's last message is %v: %v", last, err)
		}
		p.SendText("", "after")
		synctest.Wait()
		if rs := p.Results(); len(rs) != 2 || rs[1].Err == nil || !p.Closed() || !c.Closed() {
			t.Fatalf("outcomes %v, producer closed %v, consumer closed %v", rs, p.Closed(), c.Closed())
		}
		if _, ok := old.Loaded(tp.Name()); ok {
			t.Fatal("the former owner still has the topic")
		}
	})
}

func TestAClosedRegistryRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		r := d.Topics
		d.Topic("t")
		d.Restart()
		if _, err := r.Topic(t.Context(), name(t, "t"), topics.Options{}); !errors.Is(err, serr.ServiceNotReady) {
			t.Fatalf("a closed registry: %v", err)
		}
	})
}

// A deleted topic does not come back because its former producers reconnect; new clients may make it anew.
func TestReconnectingDoesNotBringATopicBack(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		n := d.Topic("t").Name()
		if err := d.Topics.Delete(t.Context(), n, true); err != nil {
			t.Fatal(err)
		}
		comeback := topics.Options{Create: true, Comeback: true}
		if _, err := d.Topics.Topic(t.Context(), n, comeback); !errors.Is(err, serr.TopicNotFound) {
			t.Fatalf("coming back at once: %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := d.Topics.Topic(t.Context(), n, comeback); err != nil {
			t.Fatalf("coming back after a minute: %v", err)
		}
		if err := d.Topics.Delete(t.Context(), n, true); err != nil {
			t.Fatal(err)
		}
		d.Topic("t")
		if _, err := d.Topics.Topic(t.Context(), n, comeback); err != nil {
			t.Fatalf("coming back to what a new client has made: %v", err)
		}
	})
}

// A topic whose deletion was cut short is gone for its users, and can be made anew.
func TestAHalfDeletedTopicIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, d *brokertest.Domain) {
		n := d.Topic("t").Name()
		if err := d.Topics.Unload(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		it, err := d.Store.Get(t.Context(), chain.Key(n))
		if err != nil {
			t.Fatal(err)
		}
		rec, err := chain.Decode(it.Value)
		if err != nil {
			t.Fatal(err)
		}
		rec = rec.Clone()
		rec.State, rec.StateSince = chain.Deleted, 1
		b, err := rec.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Store.Commit(t.Context(), raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put(it.Key, b)}}); err != nil {
			t.Fatal(err)
		}
		names, err := d.Topics.List(t.Context(), n.NamespaceName())
		if err != nil || len(names) != 0 {
			t.Fatalf("listed %v: %v", names, err)
		}
		if ok, err := d.Topics.Exists(t.Context(), n); ok || err != nil {
			t.Fatalf("exists %v: %v", ok, err)
		}
		if _, err := d.Topics.Topic(t.Context(), n, topics.Options{}); !errors.Is(err, serr.TopicNotFound) {
			t.Fatalf("using it: %v", err)
		}
		d.Topic("t")
	})
}
