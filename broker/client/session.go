package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
)

// A receiver is a producer or consumer that a session tells what comes for it. The methods are called by the
// session's reader, one at a time, and must not wait.
type receiver interface {
	receipt(*wire.SendReceipt)
	sendError(*pb.CommandSendError)
	message(m *wire.Message, payload []byte)
	ackResponse(*pb.CommandAckResponse)
	// closed: the broker has closed the producer or consumer. The session's end is seen by session.done.
	closed(s *session)
}

// keepOutgoing is the largest buffer that is kept for what is written next.
const keepOutgoing = 1 << 20

// A session is one connection to a broker.
type session struct {
	c          *Client
	nc         net.Conn
	in         *wire.Reader
	maxMessage int
	done       chan struct{} // closed when the session has ended
	heard      atomic.Bool   // something has come since the last look

	out struct {
		sync.Mutex
		cond   *sync.Cond // for the writer
		buf    []byte
		closed bool
	}
	mu struct {
		sync.Mutex
		ended    bool
		nextID   uint64
		requests map[uint64]chan answer
		// Producers and consumers by their ids, which are unique in the client.
		receivers map[uint64]receiver
	}
}

type answer struct {
	body wire.Body
	err  error
}

// handshake connects over nc.
func handshake(ctx context.Context, c *Client, nc net.Conn) (*session, error) {
	if d, ok := ctx.Deadline(); ok {
		nc.SetDeadline(d)
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	_, err := nc.Write(wire.AppendFrame(nil, &pb.CommandConnect{
		ClientVersion: new("Daybook"), ProtocolVersion: new(int32(wire.ProtocolVersion)), AuthMethodName: new("none"),
		FeatureFlags: &pb.FeatureFlags{SupportsBrokerEntryMetadata: new(true)},
	}))
	if err != nil {
		return nil, err
	}
	in := wire.NewReader(nc, wire.MaxFrame(wire.DefaultMaxMessageSize))
	frames, err := in.Next(nil)
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	command, _, err := wire.SplitFrame(frames[0])
	if err != nil {
		return nil, err
	}
	var cmd wire.Command
	if err := cmd.Decode(command); err != nil {
		return nil, err
	}
	if !stop() {
		return nil, ctx.Err()
	}
	nc.SetDeadline(time.Time{})
	s := &session{c: c, nc: nc, in: in, done: make(chan struct{})}
	switch m := cmd.Body.(type) {
	case *pb.CommandConnected:
		s.maxMessage = int(m.GetMaxMessageSize())
	case *pb.CommandError:
		return nil, wireError(m.GetError(), m.GetMessage())
	default:
		return nil, fmt.Errorf("handshake: broker answered %v", cmd.Type)
	}
	if s.maxMessage <= 0 {
		s.maxMessage = wire.DefaultMaxMessageSize
	}
	in.SetMaxFrame(wire.MaxFrame(max(s.maxMessage, wire.DefaultMaxMessageSize)))
	s.out.cond = sync.NewCond(&s.out)
	s.mu.requests = map[uint64]chan answer{}
	s.mu.receivers = map[uint64]receiver{}
	return s, nil
}

// run serves the session until it ends.
func (s *session) run() {
	stop := context.AfterFunc(s.c.ctx, func() { s.nc.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(s.writeAll)
	wg.Go(s.keepAlive)
	err := s.readAll()
	s.c.log.Debug("connection ended", "broker", s.nc.RemoteAddr().String(), "err", err)
	s.nc.Close()
	close(s.done)

	s.mu.Lock()
	s.mu.ended = true
	requests := s.mu.requests
	s.mu.requests = nil
	s.mu.Unlock()
	for _, ch := range requests {
		ch <- answer{err: errLost}
	}
	s.out.Lock()
	s.out.closed = true
	s.out.Unlock()
	s.out.cond.Signal()
	wg.Wait()
}

// end makes the session end.
func (s *session) end() { s.nc.Close() }

func (s *session) keepAlive() {
	tick := time.NewTicker(s.c.cfg.KeepAlive)
	defer tick.Stop()
	for pinged := false; ; {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		if !s.heard.Swap(false) && pinged {
			s.end()
			return
		}
		pinged = true
		s.post(wire.AppendPing(nil))
	}
}

// writeAll writes what gathers, all of it at a time.
func (s *session) writeAll() {
	var spare []byte
	for {
		s.out.Lock()
		for len(s.out.buf) == 0 && !s.out.closed {
			s.out.cond.Wait()
		}
		if s.out.closed {
			s.out.Unlock()
			return
		}
		b := s.out.buf
		s.out.buf = spare[:0]
		s.out.Unlock()
		if _, err := s.nc.Write(b); err != nil {
			s.end()
		}
		if spare = b; cap(spare) > keepOutgoing {
			spare = nil
		}
	}
}

// post queues a frame without waiting. What gathers is bounded by those who send: producers by what they have
// pending, the rest by being small and few.
func (s *session) post(frame []byte) {
	s.out.Lock()
	if !s.out.closed {
		s.out.buf = append(s.out.buf, frame...)
	}
	s.out.Unlock()
	s.out.cond.Signal()
}

// request sends the command that command makes and waits for the answer to its id. Answers that report a
// failure in the protocol's general form are errors.
func (s *session) request(ctx context.Context, command func(id uint64) wire.Body) (wire.Body, error) {
	ch := make(chan answer, 2) // a producer that waits for exclusive access is answered twice
	s.mu.Lock()
	if s.mu.ended {
		s.mu.Unlock()
		return nil, errLost
	}
	s.mu.nextID++
	id := s.mu.nextID
	s.mu.requests[id] = ch
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.mu.requests, id)
		s.mu.Unlock()
	}()
	s.post(wire.AppendFrame(nil, command(id)))
	for {
		select {
		case a := <-ch:
			if p, ok := a.body.(*pb.CommandProducerSuccess); ok && !p.GetProducerReady() {
				continue
			}
			return a.body, a.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// register has r told what comes for the producer or consumer of that id; false if the session has ended.
func (s *session) register(id uint64, r receiver) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.ended {
		return false
	}
	s.mu.receivers[id] = r
	return true
}

func (s *session) unregister(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.receivers, id)
}

func (s *session) receiver(id uint64) receiver {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.receivers[id]
}

func (s *session) answered(id uint64, body wire.Body, err error) {
	s.mu.Lock()
	ch := s.mu.requests[id]
	s.mu.Unlock()
	if ch != nil {
		select {
		case ch <- answer{body, err}:
		default: // a broker that answers more often than it should
		}
	}
}

func (s *session) readAll() error {
	var frames [][]byte
	var cmd wire.Command
	for {
		var err error
		if frames, err = s.in.Next(frames[:0]); err != nil {
			return err
		}
		s.heard.Store(true)
		for _, f := range frames {
			command, payload, err := wire.SplitFrame(f)
			if err == nil {
				err = cmd.Decode(command)
			}
			if errors.Is(err, wire.ErrUnknownCommand) {
				continue // of a newer broker
			}
			if err != nil {
				return err
			}
			s.handle(&cmd, payload)
		}
		clear(frames)
	}
}

func (s *session) handle(cmd *wire.Command, payload []byte) {
	switch cmd.Type {
	case wire.TypeSendReceipt:
		if r := s.receiver(cmd.Receipt.ProducerID); r != nil {
			r.receipt(&cmd.Receipt)
		}
		return
	case wire.TypeMessage:
		if r := s.receiver(cmd.Message.ConsumerID); r != nil {
			r.message(&cmd.Message, payload)
		}
		return
	case wire.TypePing:
		s.post(wire.AppendPong(nil))
		return
	}
	switch m := cmd.Body.(type) {
	case *pb.CommandSendError:
		if r := s.receiver(m.GetProducerId()); r != nil {
			r.sendError(m)
		}
	case *pb.CommandAckResponse:
		if r := s.receiver(m.GetConsumerId()); r != nil {
			r.ackResponse(m)
		}
	case *pb.CommandCloseProducer:
		if r := s.receiver(m.GetProducerId()); r != nil {
			r.closed(s)
		}
	case *pb.CommandCloseConsumer:
		if r := s.receiver(m.GetConsumerId()); r != nil {
			r.closed(s)
		}
	case *pb.CommandError:
		s.answered(m.GetRequestId(), nil, wireError(m.GetError(), m.GetMessage()))
	case *pb.CommandSuccess:
		s.answered(m.GetRequestId(), m, nil)
	case *pb.CommandProducerSuccess:
		s.answered(m.GetRequestId(), m, nil)
	case *pb.CommandLookupTopicResponse:
		s.answered(m.GetRequestId(), m, nil)
	case *pb.CommandPartitionedTopicMetadataResponse:
		s.answered(m.GetRequestId(), m, nil)
	case *pb.CommandGetTopicsOfNamespaceResponse:
		s.answered(m.GetRequestId(), m, nil)
	case *pb.CommandGetLastMessageIdResponse:
		s.answered(m.GetRequestId(), m, nil)
	}
}
