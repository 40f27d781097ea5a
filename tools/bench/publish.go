package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"
	plog "github.com/apache/pulsar-client-go/pulsar/log"
)

// A load is what the official client is asked to do.
type load struct {
	service string
	topic   string
	mode    string
	size    int
	time    time.Duration
	codec   pulsar.CompressionType
}

// modeNames lists what a load can be.
const modeNames = `batched (the client's defaults), plain (no batching), sync (one at a time), keyed (batched by key, a
thousand keys), tail (batched, with a consumer that acknowledges each message, at most 20000 messages behind: received
messages, from send to receipt)`

// A tail load has at most tailWindow messages on their way, so that what is measured is what can be sustained and
// not how fast a backlog grows. Producer and consumer tell each other after every tailStep messages.
const (
	tailWindow = 20_000
	tailStep   = 100
)

// benchKeys is the number of keys of a keyed load.
const benchKeys = 1000

// A figure is what came of a load.
type figure struct {
	rate     float64 // messages a second that came to their end: acknowledged, or with tail received
	p50, p99 time.Duration
}

func (f figure) String() string {
	return fmt.Sprintf("%9.0f msg/s  p50 %8.3f ms  p99 %8.3f ms", f.rate, f.p50.Seconds()*1e3, f.p99.Seconds()*1e3)
}

// A tally counts the messages that come to their end between begin and end.
type tally struct {
	begin, end time.Time
	mu         sync.Mutex
	count      int
	times      []time.Duration
}

// add counts a message; start is when it was sent, zero if that is not known.
func (t *tally) add(start time.Time) {
	now := time.Now()
	if now.Before(t.begin) || now.After(t.end) {
		return
	}
	t.mu.Lock()
	t.count++
	if !start.IsZero() {
		t.times = append(t.times, now.Sub(start))
	}
	t.mu.Unlock()
}

func (t *tally) figure() figure {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.Sort(t.times)
	return figure{float64(t.count) / t.end.Sub(t.begin).Seconds(), quantile(t.times, 0.5), quantile(t.times, 0.99)}
}

// publish runs one load to its end: warm-up of a tenth of the time, then the measurement.
func publish(ctx context.Context, l load) (figure, error) {
	o := pulsar.ProducerOptions{Topic: l.topic, MaxPendingMessages: 5000, SendTimeout: -1, CompressionType: l.codec}
	switch l.mode {
	case "batched", "tail":
	case "plain", "sync":
		o.DisableBatching = true
	case "keyed":
		o.BatcherBuilderType = pulsar.KeyBasedBatchBuilder
	default:
		return figure{}, fmt.Errorf("no load is called %q; there are %s", l.mode, modeNames)
	}
	client, err := pulsar.NewClient(pulsar.ClientOptions{
		URL: l.service, Logger: plog.NewLoggerWithSlog(slog.New(slog.NewTextHandler(io.Discard, nil))),
	})
	if err != nil {
		return figure{}, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, l.time+l.time/10+60*time.Second)
	defer cancel()

	begin := time.Now().Add(l.time / 10)
	t := &tally{begin: begin, end: begin.Add(l.time)}
	var failed atomic.Pointer[error]
	fail := func(err error) { failed.CompareAndSwap(nil, &err) }
	window := make(chan struct{}, tailWindow/tailStep)
	if l.mode == "tail" {
		consumer, err := client.Subscribe(pulsar.ConsumerOptions{Topic: l.topic, SubscriptionName: "bench"})
		if err != nil {
			return figure{}, err
		}
		receiving, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { tail(receiving, consumer, window, t, fail) })
		defer func() {
			stop()
			wg.Wait()
			consumer.Close()
		}()
	}
	producer, err := client.CreateProducer(o)
	if err != nil {
		return figure{}, err
	}
	defer producer.Close()

	payload := make([]byte, l.size)
	for i := range payload {
		payload[i] = byte('a' + i%26)
	}
	keys := make([]string, benchKeys)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%d", i)
	}
	done := func(start time.Time, err error) {
		switch {
		case err != nil:
			fail(err)
		case l.mode != "tail":
			t.add(start)
		}
	}
	n := 0
	for start := time.Now(); start.Before(t.end) && failed.Load() == nil && ctx.Err() == nil; start = time.Now() {
		msg := &pulsar.ProducerMessage{Payload: payload}
		n++
		switch l.mode {
		case "sync":
			_, err := producer.Send(ctx, msg)
			done(start, err)
			continue
		case "keyed":
			msg.Key = keys[n%len(keys)]
		case "tail":
			if n%tailStep == 0 {
				select {
				case window <- struct{}{}:
				case <-time.After(time.Minute):
					return figure{}, errors.New("nothing was received for a minute")
				}
			}
			if n%stamped == 0 && l.size >= 8 {
				msg.Payload = slices.Clone(payload)
				binary.BigEndian.PutUint64(msg.Payload, uint64(start.UnixNano()))
			}
		}
		producer.SendAsync(ctx, msg, func(_ pulsar.MessageID, _ *pulsar.ProducerMessage, err error) { done(start, err) })
	}
	if err := producer.FlushWithCtx(ctx); err != nil {
		return figure{}, err
	}
	if e := failed.Load(); e != nil {
		return figure{}, *e
	}
	return t.figure(), nil
}

// stamped says which messages of a tail load carry the time at which they were sent: every so manieth. The
// others begin with a letter, which no such time does in this century.
const stamped = 16

// tail receives and acknowledges until ctx ends.
func tail(ctx context.Context, c pulsar.Consumer, window <-chan struct{}, t *tally, fail func(error)) {
	for n := 1; ; n++ {
		m, err := c.Receive(ctx)
		if err != nil {
			if ctx.Err() == nil {
				fail(err)
			}
			return
		}
		var start time.Time
		if p := m.Payload(); len(p) >= 8 && p[0] < 'a' {
			start = time.Unix(0, int64(binary.BigEndian.Uint64(p)))
		}
		t.add(start)
		if n%tailStep == 0 {
			<-window
		}
		if err := c.Ack(m); err != nil {
			fail(err)
			return
		}
	}
}

func runPublish(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("bench publish", flag.ContinueOnError)
	l := load{}
	fs.StringVar(&l.service, "service", "pulsar://127.0.0.1:6650", "the broker")
	fs.StringVar(&l.topic, "topic", fmt.Sprintf("bench-%d", time.Now().UnixNano()), "the topic")
	fs.StringVar(&l.mode, "mode", "batched", modeNames)
	fs.IntVar(&l.size, "size", 1024, "bytes a message")
	fs.DurationVar(&l.time, "time", 10*time.Second, "how long")
	fs.Func("compression", "lz4 or zstd; none without it", func(name string) error {
		switch name {
		case "lz4":
			l.codec = pulsar.LZ4
		case "zstd":
			l.codec = pulsar.ZSTD
		default:
			return errors.New("neither lz4 nor zstd")
		}
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	f, err := publish(ctx, l)
	if err != nil {
		return err
	}
	fmt.Printf("%-8s %5d B  %v\n", l.mode, l.size, f)
	return nil
}
