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
	sent := newAppend(len(records))
	for i, r := range records {
		// The producer keeps the message until it is acknowledged; the caller's buffer is its own.
		err := f.producer.SendAsync(ctx, client.Message{Value: append([]byte(nil), r...)}, func(_ client.MessageID, err error) {
			sent.outcome(i, err)
		})
		if err != nil {
			sent.refused(i, err)
			break
		}
	}
	select {
	case <-sent.all:
	case <-ctx.Done():
	}
	acked, err = sent.result()
	p.give(name, f, err != nil)
	return acked, err
}

// An appendCall collects the outcomes of the records of one Append.
type appendCall struct {
	all chan struct{} // closed when every record that was sent has its outcome
	mu  struct {
		sync.Mutex
		outcomes []error // errNoAnswer where there is none yet
		left     int
	}
}

// errNoAnswer is the outcome of a record that was sent and is still waited for.
var errNoAnswer = fmt.Errorf("no answer for a message: %w", filetree.ETIMEDOUT)

func newAppend(records int) *appendCall {
	a := &appendCall{all: make(chan struct{})}
	a.mu.outcomes = make([]error, records)
	for i := range a.mu.outcomes {
		a.mu.outcomes[i] = errNoAnswer
	}
	if a.mu.left = records; records == 0 {
		close(a.all)
	}
	return a
}

func (a *appendCall) outcome(i int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.outcomes[i] = err
	if a.mu.left--; a.mu.left == 0 {
		close(a.all)
	}
}

// refused says that record i and those behind it were not sent.
func (a *appendCall) refused(i int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for j := i; j < len(a.mu.outcomes); j++ {
		a.mu.outcomes[j] = err
		a.mu.left--
	}
	if a.mu.left == 0 {
		close(a.all)
	}
}

// result is how many records were acknowledged, from the first on, and why the next one was not. Those before the
// one that was refused count even if their acknowledgements come after the refusal: who writes them again would
// publish them twice.
func (a *appendCall) result() (acked int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for acked < len(a.mu.outcomes) && a.mu.outcomes[acked] == nil {
		acked++
	}
	if acked == len(a.mu.outcomes) {
		return acked, nil
	}
	return acked, appendErrno(a.mu.outcomes[acked])
}

// appendErrno marks why a record was not acknowledged with an errno: ETIMEDOUT unless it surely was not stored.
func appendErrno(err error) error {
	switch {
	case filetree.ErrnoOf(err) == filetree.ETIMEDOUT:
		return err
	case errors.Is(err, client.ErrUnknownOutcome):
		return fmt.Errorf("%w: %w", err, filetree.ETIMEDOUT)
	case errors.Is(err, client.ErrTooLarge):
		return fmt.Errorf("%w: %w", err, filetree.EMSGSIZE)
	case errors.Is(err, client.ErrClosed):
		return fmt.Errorf("%w: %w", err, filetree.ENOTCONN)
	}
	return asErrno(err)
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
