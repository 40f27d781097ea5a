package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/daybook/daybook/broker/client"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/server"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/raftmeta/metatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a broker over storage in memory.
func start(t testing.TB, cfg server.Config) *server.Server {
	t.Helper()
	s, _ := startOn(t, cfg)
	return s
}

// startOn is start, with the bookie that the broker stores on.
func startOn(t testing.TB, cfg server.Config) (*server.Server, *ledgertest.Bookie) {
	t.Helper()
	cfg.Listen, cfg.HTTPListen = "127.0.0.1:0", "127.0.0.1:0"
	log := slog.New(slog.DiscardHandler)
	store := metatest.New()
	bookie := ledgertest.NewCluster(1).At(0)
	ledgers := ledger.New(ledger.Config{Store: store, Bookies: ledger.Single(bookie.Member(), bookie), Logger: log})
	s, err := server.New(cfg, server.Deps{Meta: store, Ledgers: ledgers, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		ledgers.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return s, bookie
}

func connect(t testing.TB, url string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// limit is a context that bounds a whole test.
func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	ctx := limit(t)
	c := connect(t, start(t, server.Config{}).ServiceURL())
	sent := []client.Message{
		{Value: []byte("plain")},
		{Value: []byte("with a key"), Key: "k"},
		{Value: []byte("with all"), Key: "k", OrderingKey: []byte("o"), Properties: map[string]string{"a": "1", "b": "2"}, EventTime: time.UnixMilli(1234567890123)},
		{Value: []byte{}},
		{Null: true, Key: "gone"},
		{Value: []byte(strings.Repeat("long ", 10_000))},
	}
	for _, compression := range []message.Compression{message.None, message.LZ4, message.ZLib, message.ZStd, message.Snappy} {
		for _, batch := range []int{0, 4} {
			t.Run(fmt.Sprintf("%v batches of %d", compression, batch), func(t *testing.T) {
				topic := fmt.Sprintf("as-sent-%v-%d", compression, batch)
				k, err := c.Subscribe(ctx, client.ConsumerConfig{Topic: topic, Subscription: "s"})
				check(t, err)
				defer k.Close(ctx)
				p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: topic, Compression: compression, BatchMessages: batch, Name: "me"})
				check(t, err)
				defer p.Close(ctx)
				var mu sync.Mutex
				var ids []client.MessageID
				for _, m := range sent {
					check(t, p.SendAsync(ctx, m, func(id client.MessageID, err error) {
						mu.Lock()
						defer mu.Unlock()
						if err != nil {
							t.Error(err)
						}
						ids = append(ids, id)
					}))
				}
				check(t, p.Flush(ctx))
				for i, want := range sent {
					got, err := k.Receive(ctx)
					check(t, err)
					if string(got.Value) != string(want.Value) || got.Null != want.Null || got.Key != want.Key || got.HasKey != (want.Key != "") ||
						string(got.OrderingKey) != string(want.OrderingKey) || len(got.Properties) != len(want.Properties) || got.Properties["b"] != want.Properties["b"] ||
						!got.EventTime.Equal(want.EventTime) || got.ProducerName != "me" || got.SequenceID != uint64(i) || got.Index != int64(i) {
						t.Errorf("message %d is %+v, want %+v", i, got, want)
					}
					if got.ID != ids[i] {
						t.Errorf("message %d has id %v, its sender was told %v", i, got.ID, ids[i])
					}
					if (got.ID.Batch >= 0) != (batch > 0 && len(want.Value) < 100_000) {
						t.Errorf("message %d has id %v", i, got.ID)
					}
					k.Ack(got)
				}
			})
		}
	}
}

// put publishes n messages, each its number, in batches.
func put(t testing.TB, ctx context.Context, c *client.Client, topic string, n, batch int) {
	t.Helper()
	p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: topic, BatchMessages: batch})
	check(t, err)
	for i := range n {
		check(t, p.SendAsync(ctx, client.Message{Value: fmt.Append(nil, i)}, func(_ client.MessageID, err error) {
			if err != nil {
				t.Error(err)
			}
		}))
	}
	check(t, p.Close(ctx))
}

func numbers(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

func TestReaderPositions(t *testing.T) {
	ctx := limit(t)
	c := connect(t, start(t, server.Config{}).ServiceURL())
	for _, batch := range []int{0, 3} {
		t.Run(fmt.Sprintf("batches of %d", batch), func(t *testing.T) {
			topic := fmt.Sprintf("positions-%d", batch)
			put(t, ctx, c, topic, 10, batch)
			all := func(cfg client.ReaderConfig) (values []string, ids []client.MessageID) {
				t.Helper()
				cfg.Topic, cfg.Queue = topic, 4
				r, err := c.NewReader(ctx, cfg)
				check(t, err)
				defer r.Close(ctx)
				for {
					has, err := r.HasNext(ctx)
					check(t, err)
					if !has {
						return values, ids
					}
					m, err := r.Next(ctx)
					check(t, err)
					values, ids = append(values, string(m.Value)), append(ids, m.ID)
				}
			}
			values, ids := all(client.ReaderConfig{})
			if !slices.Equal(values, numbers(10)) {
				t.Fatalf("from the earliest: %v", values)
			}
			if values, _ := all(client.ReaderConfig{Start: client.Latest}); len(values) != 0 {
				t.Errorf("from the latest: %v", values)
			}
			for i := range 10 {
				if values, _ := all(client.ReaderConfig{Start: ids[i]}); !slices.Equal(values, numbers(10)[i+1:]) {
					t.Errorf("after %v: %v", ids[i], values)
				}
				if values, _ := all(client.ReaderConfig{Start: ids[i], Inclusive: true}); !slices.Equal(values, numbers(10)[i:]) {
					t.Errorf("at %v: %v", ids[i], values)
				}
			}
			r, err := c.NewReader(ctx, client.ReaderConfig{Topic: topic})
			check(t, err)
			defer r.Close(ctx)
			for _, i := range []int{7, 2, 9, 0} {
				check(t, r.Seek(ctx, ids[i]))
				m, err := r.Next(ctx)
				check(t, err)
				want := i // the entry, from its first message on
				if batch > 0 {
					want = i - int(ids[i].Batch)
				}
				if string(m.Value) != fmt.Sprint(want) && string(m.Value) != fmt.Sprint(i) {
					t.Errorf("after the seek to %v: %s", ids[i], m.Value)
				}
			}
			check(t, r.SeekTime(ctx, time.Now().Add(-time.Hour)))
			if m, err := r.Next(ctx); err != nil || string(m.Value) != "0" {
				t.Errorf("after the seek to an hour ago: %v, %v", m, err)
			}
			check(t, r.SeekTime(ctx, time.Now().Add(time.Hour)))
			put(t, ctx, c, topic, 1, 0)
			if m, err := r.Next(ctx); err != nil || m.SequenceID != 0 || m.ID == ids[0] {
				t.Errorf("after the seek to the end: %v, %v", m, err)
			}
		})
	}
}

func TestNackRedelivers(t *testing.T) {
	ctx := limit(t)
	c := connect(t, start(t, server.Config{}).ServiceURL())
	k, err := c.Subscribe(ctx, client.ConsumerConfig{Topic: "nack", Subscription: "s", Type: client.Shared})
	check(t, err)
	put(t, ctx, c, "nack", 2, 0)
	m, err := k.Receive(ctx)
	check(t, err)
	k.Nack(m)
	seen := map[string]uint32{}
	for len(seen) < 2 {
		m, err := k.Receive(ctx)
		check(t, err)
		seen[string(m.Value)] = m.RedeliveryCount
		k.Ack(m)
	}
	if seen["0"] != 1 || seen["1"] != 0 {
		t.Errorf("redelivery counts %v", seen)
	}
	check(t, k.Unsubscribe(ctx))
	check(t, k.Close(ctx))
}

func TestPartitionedTopic(t *testing.T) {
	ctx := limit(t)
	s := start(t, server.Config{AutoPartitions: 3})
	c := connect(t, s.ServiceURL())
	if n, err := c.Partitions(ctx, "parts"); n != 3 || err != nil {
		t.Fatalf("partitions %d, %v", n, err)
	}
	k, err := c.Subscribe(ctx, client.ConsumerConfig{Topic: "parts", Subscription: "s"})
	check(t, err)
	p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "parts"})
	check(t, err)
	for i := range 30 {
		_, err := p.Send(ctx, client.Message{Value: fmt.Append(nil, i), Key: fmt.Sprint("key", i%5)})
		check(t, err)
		_, err = p.Send(ctx, client.Message{Value: fmt.Append(nil, "x", i)})
		check(t, err)
	}
	partition, last, used := map[string]int32{}, map[string]int{}, map[int32]bool{}
	for range 60 {
		m, err := k.Receive(ctx)
		check(t, err)
		used[m.ID.Partition] = true
		if m.HasKey {
			if at, ok := partition[m.Key]; ok && at != m.ID.Partition {
				t.Errorf("key %s is in partitions %d and %d", m.Key, at, m.ID.Partition)
			}
			partition[m.Key] = m.ID.Partition
			var i int
			fmt.Sscan(string(m.Value), &i)
			if before, ok := last[m.Key]; ok && i <= before {
				t.Errorf("key %s: %d after %d", m.Key, i, before)
			}
			last[m.Key] = i
		}
		k.Ack(m)
	}
	if len(used) != 3 {
		t.Errorf("only partitions %v were used", used)
	}
	topics, err := c.Topics(ctx, "public/default")
	check(t, err)
	if len(topics) != 3 {
		t.Errorf("topics %v", topics)
	}
	check(t, p.Close(ctx))
	check(t, k.Close(ctx))
}

func TestFailuresThatCannotPassAreReportedAtOnce(t *testing.T) {
	ctx := limit(t)
	c := connect(t, start(t, server.Config{NoAutoTopicCreation: true, MaxMessageSize: 10_000}).ServiceURL())
	if _, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "absent"}); !errors.Is(err, serr.TopicNotFound) {
		t.Errorf("producer on a topic that does not exist: %v", err)
	}
	if _, err := c.Subscribe(ctx, client.ConsumerConfig{Topic: "nobody/here/t", Subscription: "s"}); !errors.Is(err, serr.TopicNotFound) {
		t.Errorf("consumer in a namespace that does not exist: %v", err)
	}
	if _, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "a/b/c/d"}); err == nil {
		t.Error("an illegal name is taken")
	}
	for _, url := range []string{"", "http://x:1", "pulsar://", "pulsar://:"} {
		if _, err := client.New(client.Config{URL: url}); err == nil {
			t.Errorf("URL %q is taken", url)
		}
	}
	c = connect(t, start(t, server.Config{MaxMessageSize: 10_000}).ServiceURL())
	p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "t"})
	check(t, err)
	if _, err := p.Send(ctx, client.Message{Value: make([]byte, 10_001)}); !errors.Is(err, client.ErrTooLarge) {
		t.Errorf("a message above the limit: %v", err)
	}
	_, err = p.Send(ctx, client.Message{Value: make([]byte, 9_900)})
	check(t, err)
	check(t, p.Close(ctx))
	if _, err := p.Send(ctx, client.Message{}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("send after close: %v", err)
	}
	schema := &client.Schema{Name: "s", Type: pb.Schema_Json, Data: []byte(`{"type":"record","name":"r","fields":[{"name":"a","type":"int"}]}`)}
	p, err = c.NewProducer(ctx, client.ProducerConfig{Topic: "typed", Schema: schema})
	check(t, err)
	check(t, p.Close(ctx))
	schema.Data = []byte(`{"type":"record","name":"r","fields":[{"name":"b","type":"int"}]}`)
	if _, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "typed", Schema: schema}); !errors.Is(err, serr.IncompatibleSchema) {
		t.Errorf("producer with another schema: %v", err)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	addr := l.Addr().String()
	l.Close() // nobody is there
	c := connect(t, "pulsar://"+addr)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "t"}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("NewProducer = %v, want the cause", err)
	}
	c = connect(t, start(t, server.Config{}).ServiceURL())
	r, err := c.NewReader(limit(t), client.ReaderConfig{Topic: "empty"})
	check(t, err)
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next = %v", err)
	}
	check(t, r.Close(limit(t)))
}

// A cutter is the connections of a client, to be cut.
type cutter struct {
	mu    sync.Mutex
	conns []*cutConn
}

// A cutConn is a connection on which, once it is mute, nothing comes any more.
type cutConn struct {
	net.Conn
	mute atomic.Bool
}

func (c *cutConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.mute.Load() {
			return n, err
		}
	}
}

func (x *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	c := &cutConn{Conn: nc}
	x.conns = append(x.conns, c)
	return c, nil
}

// mute has nothing more come over the connections that there are.
func (x *cutter) mute() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.conns {
		c.mute.Store(true)
	}
}

func (x *cutter) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.conns {
		c.Close()
	}
	x.conns = nil
}

// connect is a client whose connections x can cut.
func (x *cutter) connect(t testing.TB, url string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: url, Dial: x.dial})
	check(t, err)
	t.Cleanup(c.Close)
	return c
}

// Connections are cut while messages are on their way: each that was acknowledged is there, in order, and a
// reader that loses its own connections returns each entry once.
func TestNothingIsLostWithConnections(t *testing.T) {
	ctx := limit(t)
	url := start(t, server.Config{}).ServiceURL()
	var publishing, reading cutter
	const n = 3000
	p, err := publishing.connect(t, url).NewProducer(ctx, client.ProducerConfig{Topic: "cuts", BatchMessages: 10})
	check(t, err)
	r, err := reading.connect(t, url).NewReader(ctx, client.ReaderConfig{Topic: "cuts", Queue: 50})
	check(t, err)
	var mu sync.Mutex
	acked := map[client.MessageID]string{}
	var producing sync.WaitGroup
	producing.Go(func() {
		for i := range n {
			value := fmt.Sprint(i)
			err := p.SendAsync(ctx, client.Message{Value: []byte(value)}, func(id client.MessageID, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("message %s: %v", value, err)
				}
				acked[id] = value
			})
			if err != nil {
				t.Error(err)
				return
			}
			if i%500 == 250 {
				publishing.cut()
			}
		}
		if err := p.Flush(ctx); err != nil {
			t.Error(err)
		}
	})
	got := map[client.MessageID]string{}
	var last client.MessageID
	next := 0 // the number not seen yet
	for next < n {
		m, err := r.Next(ctx)
		check(t, err)
		if got[m.ID] != "" {
			t.Fatalf("message %v came twice", m.ID)
		}
		got[m.ID] = string(m.Value)
		if len(got) > 1 && !(last.Ledger < m.ID.Ledger || last.Ledger == m.ID.Ledger && (last.Entry < m.ID.Entry || last.Entry == m.ID.Entry && last.Batch < m.ID.Batch)) {
			t.Fatalf("message %v after %v", m.ID, last)
		}
		last = m.ID
		var i int
		fmt.Sscan(string(m.Value), &i)
		if i > next {
			t.Fatalf("number %d after %d", i, next-1)
		}
		next = max(next, i+1) // lower ones are copies of sends that were not acknowledged
		if i%700 == 350 {
			reading.cut()
		}
	}
	producing.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(acked) != n {
		t.Errorf("%d messages were acknowledged, want %d", len(acked), n)
	}
	for id, v := range acked {
		if got[id] != v {
			t.Errorf("acknowledged as %v: %q, read %q", id, v, got[id])
		}
	}
	check(t, p.Close(ctx))
	check(t, r.Close(ctx))
}

// While storage takes nothing, a producer fails its messages or keeps them, as it was told; once there is room
// again both go on, and nothing is out of order.
func TestStorageIsFull(t *testing.T) {
	ctx := limit(t)
	s, bookie := startOn(t, server.Config{})
	c := connect(t, s.ServiceURL())
	fails, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "full", NoRetry: true})
	check(t, err)
	keeps, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "full"})
	check(t, err)
	_, err = fails.Send(ctx, client.Message{Value: []byte("before")})
	check(t, err)
	bookie.Full()
	if _, err := fails.Send(ctx, client.Message{Value: []byte("lost")}); !errors.Is(err, serr.PersistenceError) {
		t.Errorf("Send = %v, want PersistenceError", err)
	}
	kept := make(chan error, 20)
	for i := range 20 {
		check(t, keeps.SendAsync(ctx, client.Message{Value: fmt.Append(nil, i)}, func(_ client.MessageID, err error) { kept <- err }))
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := keeps.Flush(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush = %v while nothing can be stored", err)
	}
	bookie.Heal()
	check(t, keeps.Flush(ctx))
	for range 20 {
		check(t, <-kept)
	}
	_, err = fails.Send(ctx, client.Message{Value: []byte("after")})
	check(t, err)
	r, err := c.NewReader(ctx, client.ReaderConfig{Topic: "full"})
	check(t, err)
	for _, want := range slices.Concat([]string{"before"}, numbers(20), []string{"after"}) {
		m, err := r.Next(ctx)
		check(t, err)
		if string(m.Value) != want {
			t.Fatalf("read %q, want %q", m.Value, want)
		}
	}
	check(t, r.Close(ctx))
	check(t, keeps.Close(ctx))
	check(t, fails.Close(ctx))
}

// A send whose connection was lost may have been stored. If sending it again fails, the broker's answer is about the
// second copy alone, and the error says so; the answer to a first sending is definite.
func TestFailureAfterALostConnectionIsNoPromise(t *testing.T) {
	ctx := limit(t)
	s, bookie := startOn(t, server.Config{})
	var x cutter
	p, err := x.connect(t, s.ServiceURL()).NewProducer(ctx, client.ProducerConfig{Topic: "unsure", NoRetry: true})
	check(t, err)
	_, err = p.Send(ctx, client.Message{Value: []byte("first")})
	check(t, err)
	x.mute()
	outcome := make(chan error, 1)
	check(t, p.SendAsync(ctx, client.Message{Value: []byte("unsure")}, func(_ client.MessageID, err error) { outcome <- err }))
	r, err := connect(t, s.ServiceURL()).NewReader(ctx, client.ReaderConfig{Topic: "unsure"})
	check(t, err)
	for range 2 { // then it is stored
		_, err := r.Next(ctx)
		check(t, err)
	}
	check(t, r.Close(ctx))
	bookie.Full()
	x.cut()
	if err := <-outcome; !errors.Is(err, client.ErrUnknownOutcome) {
		t.Errorf("after a lost connection: %v, want ErrUnknownOutcome", err)
	}
	if _, err := p.Send(ctx, client.Message{Value: []byte("full")}); !errors.Is(err, serr.PersistenceError) || errors.Is(err, client.ErrUnknownOutcome) {
		t.Errorf("refused at the first sending: %v, want a plain PersistenceError", err)
	}
	check(t, p.Close(ctx))
}

func TestLargestMessage(t *testing.T) {
	ctx := limit(t)
	c := connect(t, start(t, server.Config{}).ServiceURL())
	p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "large"})
	check(t, err)
	r, err := c.NewReader(ctx, client.ReaderConfig{Topic: "large"})
	check(t, err)
	value := make([]byte, 5<<20-100)
	for i := range value {
		value[i] = byte(i * 7)
	}
	for range 3 {
		_, err := p.Send(ctx, client.Message{Value: value})
		check(t, err)
		m, err := r.Next(ctx)
		check(t, err)
		if !bytes.Equal(m.Value, value) {
			t.Fatal("the value has changed")
		}
	}
	if _, err := p.Send(ctx, client.Message{Value: make([]byte, 5<<20)}); !errors.Is(err, client.ErrTooLarge) {
		t.Errorf("Send = %v, want ErrTooLarge", err)
	}
	check(t, r.Close(ctx))
	check(t, p.Close(ctx))
}

func TestConsumerGoesOnWhereItsAcknowledgementsEnd(t *testing.T) {
	ctx := limit(t)
	s := start(t, server.Config{})
	c := connect(t, s.ServiceURL())
	k, err := c.Subscribe(ctx, client.ConsumerConfig{Topic: "resume", Subscription: "s", Queue: 10})
	check(t, err)
	put(t, ctx, c, "resume", 100, 0)
	for i := range 40 {
		m, err := k.Receive(ctx)
		check(t, err)
		if string(m.Value) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, m.Value)
		}
		if i < 30 {
			k.Ack(m)
		}
	}
	check(t, k.Close(ctx))
	k, err = c.Subscribe(ctx, client.ConsumerConfig{Topic: "resume", Subscription: "s", Type: client.Failover})
	check(t, err)
	var last *client.Received
	for i := 30; i < 100; i++ {
		if last, err = k.Receive(ctx); err != nil || string(last.Value) != fmt.Sprint(i) {
			t.Fatalf("message %d is %v, %v", i, last, err)
		}
	}
	k.AckCumulative(last)
	check(t, k.Close(ctx))
	k, err = c.Subscribe(ctx, client.ConsumerConfig{Topic: "resume", Subscription: "s"})
	check(t, err)
	put(t, ctx, c, "resume", 1, 0)
	if m, err := k.Receive(ctx); err != nil || string(m.Value) != "0" || m.ID == last.ID {
		t.Errorf("after all is acknowledged: %v, %v", m, err)
	}
	check(t, k.Close(ctx))
}

func TestMessageIDText(t *testing.T) {
	for s, want := range map[string]client.MessageID{
		"7:42":       {Ledger: 7, Entry: 42, Batch: -1, Partition: -1},
		"7:42:-1":    {Ledger: 7, Entry: 42, Batch: -1, Partition: -1},
		"7:42:3":     {Ledger: 7, Entry: 42, Batch: -1, Partition: 3},
		"7:42:3:9":   {Ledger: 7, Entry: 42, Batch: 9, Partition: 3},
		"earliest":   client.Earliest,
		"latest":     client.Latest,
		"-1:-1:-1:0": {Ledger: -1, Entry: -1, Batch: 0, Partition: -1},
	} {
		got, err := client.ParseMessageID(s)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", s, got, err, want)
		}
		if again, err := client.ParseMessageID(got.String()); err != nil || again != got {
			t.Errorf("%q does not survive: %v, %v", got.String(), again, err)
		}
	}
	for _, s := range []string{"", "7", "7:", "a:b", "1:2:3:4:5", "1:2:99999999999"} {
		if _, err := client.ParseMessageID(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func Example() {
	ctx := context.Background()
	c, err := client.New(client.Config{URL: "pulsar://localhost:6650"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "orders"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close(ctx)
	id, err := p.Send(ctx, client.Message{Key: "42", Value: []byte(`{"amount":7}`)})
	fmt.Println("stored as", id, err)
}
