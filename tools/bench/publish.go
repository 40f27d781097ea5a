package main

import (
	"context"
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

// A load is what the official client is asked to publish.
type load struct {
	service string
	topic   string
	mode    string // batched, plain or sync
	size    int
	time    time.Duration
}

// A figure is what came of a load.
type figure struct {
	rate     float64 // acknowledged messages a second
	p50, p99 time.Duration
}

func (f figure) String() string {
	return fmt.Sprintf("%9.0f msg/s  p50 %8.3f ms  p99 %8.3f ms", f.rate, f.p50.Seconds()*1e3, f.p99.Seconds()*1e3)
}

// publish runs one load to its end: warm-up of a tenth of the time, then the measurement.
func publish(ctx context.Context, l load) (figure, error) {
	client, err := pulsar.NewClient(pulsar.ClientOptions{
		URL: l.service, Logger: plog.NewLoggerWithSlog(slog.New(slog.NewTextHandler(io.Discard, nil))),
	})
	if err != nil {
		return figure{}, err
	}
	defer client.Close()
	o := pulsar.ProducerOptions{Topic: l.topic, MaxPendingMessages: 5000, SendTimeout: -1}
	o.DisableBatching = l.mode != "batched"
	producer, err := client.CreateProducer(o)
	if err != nil {
		return figure{}, err
	}
	defer producer.Close()

	payload := make([]byte, l.size)
	for i := range payload {
		payload[i] = byte('a' + i%26)
	}
	ctx, cancel := context.WithTimeout(ctx, l.time+l.time/10+60*time.Second)
	defer cancel()
	begin := time.Now().Add(l.time / 10)
	end := begin.Add(l.time)
	var mu sync.Mutex
	var times []time.Duration
	var failed atomic.Pointer[error]
	done := func(start time.Time, err error) {
		if err != nil {
			failed.CompareAndSwap(nil, &err)
			return
		}
		if now := time.Now(); now.After(begin) && now.Before(end) {
			mu.Lock()
			times = append(times, now.Sub(start))
			mu.Unlock()
		}
	}
	for start := time.Now(); start.Before(end) && failed.Load() == nil && ctx.Err() == nil; start = time.Now() {
		msg := &pulsar.ProducerMessage{Payload: payload}
		if l.mode == "sync" {
			_, err := producer.Send(ctx, msg)
			done(start, err)
			continue
		}
		producer.SendAsync(ctx, msg, func(_ pulsar.MessageID, _ *pulsar.ProducerMessage, err error) { done(start, err) })
	}
	if err := producer.FlushWithCtx(ctx); err != nil {
		return figure{}, err
	}
	if e := failed.Load(); e != nil {
		return figure{}, *e
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(times)
	return figure{float64(len(times)) / l.time.Seconds(), quantile(times, 0.5), quantile(times, 0.99)}, nil
}

func runPublish(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("bench publish", flag.ContinueOnError)
	l := load{}
	fs.StringVar(&l.service, "service", "pulsar://127.0.0.1:6650", "the broker")
	fs.StringVar(&l.topic, "topic", fmt.Sprintf("bench-%d", time.Now().UnixNano()), "the topic")
	fs.StringVar(&l.mode, "mode", "batched", "batched, plain (no batching) or sync (one at a time)")
	fs.IntVar(&l.size, "size", 1024, "bytes a message")
	fs.DurationVar(&l.time, "time", 10*time.Second, "how long")
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
