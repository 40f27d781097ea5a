package compat

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"

	"github.com/daybook/daybook/tests/cluster"
)

const (
	kills            = 20
	messagesPerRound = 5_000
	// ackWindow is how long before a kill an acknowledgement may have been answered and still be lost.
	ackWindow = 100 * time.Millisecond
)

// A sent message: when it was sent, when and at which id it was acknowledged.
type sent struct {
	at, ackedAt time.Time
	id          string
}

// The server is killed in mid-stream again and again. Each acknowledged message is there exactly once, at
// its acknowledged id, with its bytes; a second copy exists only of a send that was without receipt when
// the server died; readers, the file and SQL agree; and what a consumer acknowledged longer than the
// flush interval before the kill does not come again.
func TestKillInMidStream(t *testing.T) {
	s := cluster.Start(t, cluster.Options{Mount: filepath.Join(t.TempDir(), "mnt")})
	client := newClient(t, s)
	const topic = "killed"
	file := filepath.Join(s.Mount(), "public", "default", topic)

	var mu sync.Mutex // guards log and killedAt
	log := map[string]*sent{}
	var killedAt []time.Time

	var producers []pulsar.Producer
	var names []string
	for _, f := range flavours(false) {
		o := f.opts
		o.Topic = topic
		o.SendTimeout = -1
		p, err := client.CreateProducer(o)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		producers, names = append(producers, p), append(names, f.name)
	}

	acks := newAcker(t, newClient(t, s), topic)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var worst time.Duration
	for round := range kills {
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		killAfter := messagesPerRound/10 + rnd.IntN(messagesPerRound*8/10)
		reached := make(chan struct{})
		acked := 0
		var senders sync.WaitGroup
		each := messagesPerRound / len(producers)
		for i, p := range producers {
			senders.Go(func() {
				for n := range each {
					m := &pulsar.ProducerMessage{Payload: payload(names[i], round*each+n), Key: fmt.Sprintf("key-%d", n%keys)}
					rec := &sent{at: time.Now()}
					mu.Lock()
					log[string(m.Payload)] = rec
					mu.Unlock()
					p.SendAsync(ctx, m, func(mid pulsar.MessageID, m *pulsar.ProducerMessage, err error) {
						if err != nil {
							t.Errorf("round %d: send %q: %v", round, m.Payload, err)
							return
						}
						mu.Lock()
						rec.ackedAt, rec.id = time.Now(), id(mid)
						if acked++; acked == killAfter {
							close(reached)
						}
						mu.Unlock()
					})
				}
				if err := p.FlushWithCtx(ctx); err != nil {
					t.Errorf("round %d: flush: %v", round, err)
				}
			})
		}
		select {
		case <-reached:
		case <-ctx.Done():
			t.Fatalf("round %d: only %d acknowledged", round, acked)
		}
		killed := time.Now()
		mu.Lock()
		killedAt = append(killedAt, killed)
		mu.Unlock()
		acks.killed(killed)
		s.Kill()
		s.Restart()
		senders.Wait()
		cancel()
		if t.Failed() {
			return
		}

		stored := readAll(t, client, topic)
		mu.Lock()
		check(t, round, log, stored, killedAt)
		mu.Unlock()
		if n := lines(t, file); n != len(stored) {
			t.Errorf("round %d: the file has %d lines, a reader sees %d messages", round, n, len(stored))
		}
		if n := count(t, s, topic); n != len(stored) {
			t.Errorf("round %d: SQL counts %d, a reader sees %d messages", round, n, len(stored))
		}
		acks.wait(t, len(stored))
		worst = max(worst, acks.worst())
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills, %d messages; oldest acknowledgement that was lost: %v before its kill", kills, len(log), worst)
	if worst > ackWindow {
		t.Errorf("an acknowledgement given %v before the kill was lost; %v at most", worst, ackWindow)
	}
}

// check compares what was acknowledged with what is stored (id → payload).
func check(t *testing.T, round int, log map[string]*sent, stored map[string]string, killedAt []time.Time) {
	t.Helper()
	copies := map[string]int{}
	for mid, p := range stored {
		copies[p]++
		if log[p] == nil {
			t.Errorf("round %d: %s holds %q, which nobody sent", round, mid, p)
		}
	}
	for p, rec := range log {
		if rec.id == "" {
			continue
		}
		if got := stored[rec.id]; got != p {
			t.Errorf("round %d: acknowledged %q at %s, there is %q", round, p, rec.id, got)
		}
		if copies[p] > 1 && !slices.ContainsFunc(killedAt, func(k time.Time) bool { return rec.at.Before(k) && rec.ackedAt.After(k) }) {
			t.Errorf("round %d: %d copies of %q, which had its receipt before any kill", round, copies[p], p)
		}
	}
}

// readAll reads a topic from its first message to its last as a new reader: id → payload.
func readAll(t *testing.T, client pulsar.Client, topic string) map[string]string {
	t.Helper()
	r, err := client.CreateReader(pulsar.ReaderOptions{Topic: topic, StartMessageID: pulsar.EarliestMessageID()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx := context60(t)
	all := map[string]string{}
	for r.HasNext() {
		m, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("read %s after %d messages: %v", topic, len(all), err)
		}
		mid := id(m.ID())
		if old, twice := all[mid]; twice {
			t.Fatalf("reader: %s twice: %q and %q", mid, old, m.Payload())
		}
		all[mid] = string(m.Payload())
	}
	return all
}

// An acker consumes a topic, acknowledges each message and waits for the answer, and notes which messages
// come again although their acknowledgement had been answered.
type acker struct {
	mu       sync.Mutex
	answered map[string]time.Time // id → when the acknowledgement was answered
	kill     time.Time
	lost     []time.Duration
}

func newAcker(t *testing.T, client pulsar.Client, topic string) *acker {
	t.Helper()
	a := &acker{answered: map[string]time.Time{}}
	c, err := client.Subscribe(pulsar.ConsumerOptions{
		Topic: topic, SubscriptionName: "acker", Type: pulsar.Shared, AckWithResponse: true,
		SubscriptionInitialPosition:    pulsar.SubscriptionPositionEarliest,
		AckGroupingOptions:             &pulsar.AckGroupingOptions{MaxSize: 0, MaxTime: 0},
		EnableBatchIndexAcknowledgment: true,
		// After it has reconnected the client asks for a whole queue although its queue still holds messages. If that
		// overflows, its reader waits for room in the queue, and so never reads the answers that Ack waits for.
		ReceiverQueueSize: 4 * messagesPerRound,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var receivers sync.WaitGroup
	t.Cleanup(func() { cancel(); receivers.Wait(); c.Close() })
	// Acknowledging waits for an answer, so several do it at once.
	for range 32 {
		receivers.Go(func() {
			for {
				m, err := c.Receive(ctx)
				if err != nil {
					return
				}
				mid := id(m.ID())
				a.mu.Lock()
				if at, ok := a.answered[mid]; ok && at.Before(a.kill) {
					a.lost = append(a.lost, a.kill.Sub(at))
				}
				delete(a.answered, mid)
				a.mu.Unlock()
				for c.Ack(m) != nil { // the server is down: until it is back
					if ctx.Err() != nil {
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
				a.mu.Lock()
				a.answered[mid] = time.Now()
				a.mu.Unlock()
			}
		})
	}
	return a
}

func (a *acker) killed(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kill = at
}

// wait until n messages have been acknowledged.
func (a *acker) wait(t *testing.T, n int) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		a.mu.Lock()
		have := len(a.answered)
		a.mu.Unlock()
		if have >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d of %d messages consumed and acknowledged", have, n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (a *acker) worst() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.lost) == 0 {
		return 0
	}
	return slices.Max(a.lost)
}
