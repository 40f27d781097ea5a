package standalone

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/daybook/daybook/broker/client"
	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

const (
	// producerIdle is how long the producer of a file that nobody writes is kept: while it is there the topic
	// counts as in use.
	producerIdle = 5 * time.Second
	// maxProducers bounds the producers that are kept for later writes.
	maxProducers = 1024
)

// A publisher appends what is written to files: an ordinary client of this broker, with one producer for each
// topic that is being written.
type publisher struct {
	client *client.Client
	mu     struct {
		sync.Mutex
		producers map[topicname.Name]*fileProducer
		sweep     *time.Timer // runs while there are producers
		closed    bool
	}
}

// A fileProducer is the producer of one topic. Its fields but ready and producer are guarded by the publisher's mutex.
type fileProducer struct {
	ready    chan struct{} // closed once producer or err is set
	producer *client.Producer
	err      error
	users    int
	used     time.Time
}

func newPublisher(serviceURL string) (*publisher, error) {
	c, err := client.New(client.Config{URL: serviceURL})
	if err != nil {
		return nil, err
	}
	p := &publisher{client: c}
	p.mu.producers = map[topicname.Name]*fileProducer{}
	return p, nil
}

var errPublisherClosed = fmt.Errorf("the server is stopping: %w", filetree.ENOTCONN)

// Append implements filetree.Publisher.
func (p *publisher) Append(ctx context.Context, name topicname.Name, records [][]byte) (acked int, err error) {
	f, err := p.take(ctx, name)
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex
	var failed error
	all := make(chan struct{})
	left := len(records)
	done := func(_ client.MessageID, err error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case failed != nil:
		case err != nil:
			failed = err
		default:
			acked++
		}
		if left--; left == 0 {
			close(all)
		}
	}
	for i, r := range records {
		// The producer keeps the message until it is acknowledged; the caller's buffer is its own.
		err := f.producer.SendAsync(ctx, client.Message{Value: append([]byte(nil), r...)}, done)
		if err != nil {
			mu.Lock()
			if failed == nil {
				failed = err
			}
			if left -= len(records) - i; left == 0 {
				close(all)
			}
			mu.Unlock()
			break
		}
	}
	var late error
	if len(records) > 0 {
		select {
		case <-all:
		case <-ctx.Done():
			late = fmt.Errorf("no answer for a message: %w", filetree.ETIMEDOUT)
		}
	}
	mu.Lock()
	n, failure := acked, failed
	mu.Unlock()
	if failure == nil {
		failure = late
	}
	p.give(name, f, failure != nil)
	switch {
	case failure == nil:
		return n, nil
	case errors.Is(failure, client.ErrTooLarge):
		return n, fmt.Errorf("%w: %w", failure, filetree.EMSGSIZE)
	case errors.Is(failure, client.ErrClosed):
		return n, fmt.Errorf("%w: %w", failure, filetree.ETIMEDOUT)
	case failure == late:
		return n, failure
	}
	return n, asErrno(failure)
}

// take is the topic's producer, made if there is none; give returns it.
func (p *publisher) take(ctx context.Context, name topicname.Name) (*fileProducer, error) {
	p.mu.Lock()
	if p.mu.closed {
		p.mu.Unlock()
		return nil, errPublisherClosed
	}
	f := p.mu.producers[name]
	if f == nil {
		f = &fileProducer{ready: make(chan struct{})}
		p.mu.producers[name] = f
		if p.mu.sweep == nil {
			p.mu.sweep = time.AfterFunc(producerIdle, p.closeIdle)
		}
		go p.open(name, f)
	}
	f.users++
	p.mu.Unlock()
	select {
	case <-f.ready:
	case <-ctx.Done():
		p.give(name, f, false)
		return nil, fmt.Errorf("producer for %s: %w", name, asErrno(ctx.Err()))
	}
	if f.err != nil {
		p.give(name, f, true)
		return nil, asErrno(f.err)
	}
	return f, nil
}

// open makes the producer; it ends with the operation timeout of the client at the latest.
func (p *publisher) open(name topicname.Name, f *fileProducer) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	f.producer, f.err = p.client.NewProducer(ctx, client.ProducerConfig{Topic: name.String(), NoRetry: true})
	close(f.ready)
}

func (p *publisher) give(name topicname.Name, f *fileProducer, broken bool) {
	p.mu.Lock()
	f.users--
	f.used = time.Now()
	if broken && p.mu.producers[name] == f {
		delete(p.mu.producers, name) // the next write makes another
	}
	last := f.users == 0 && p.mu.producers[name] != f
	p.mu.Unlock()
	if last {
		f.close()
	}
}

// close closes a producer that nobody uses any more, without waiting for it.
func (f *fileProducer) close() {
	go func() {
		<-f.ready
		if f.producer != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = f.producer.Close(ctx) // nothing is in flight: its users have had their answers or given up
		}
	}()
}

func (p *publisher) closeIdle() {
	p.mu.Lock()
	var idle []*fileProducer
	now := time.Now()
	for name, f := range p.mu.producers {
		if f.users == 0 && (now.Sub(f.used) >= producerIdle || len(p.mu.producers) > maxProducers) {
			delete(p.mu.producers, name)
			idle = append(idle, f)
		}
	}
	if len(p.mu.producers) > 0 && !p.mu.closed {
		p.mu.sweep.Reset(producerIdle)
	} else {
		p.mu.sweep = nil
	}
	p.mu.Unlock()
	for _, f := range idle {
		f.close()
	}
}

func (p *publisher) close(context.Context) error {
	p.mu.Lock()
	p.mu.closed = true
	if p.mu.sweep != nil {
		p.mu.sweep.Stop()
	}
	p.mu.Unlock()
	p.client.Close()
	return nil
}
