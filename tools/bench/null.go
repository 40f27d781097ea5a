package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
)

// serveNull speaks as much of the protocol as producers and consumers on one connection need, stores nothing,
// and acknowledges every message at once, or when a consumer of its topic has been sent it: what a client
// reaches against it is the client's own ceiling. It returns when ctx ends.
func serveNull(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() {
			stop := context.AfterFunc(ctx, func() { nc.Close() })
			defer stop()
			defer nc.Close()
			c := nullConn{url: "pulsar://" + ln.Addr().String(), topics: map[string]*nullTopic{},
				producers: map[uint64]*nullTopic{}, consumers: map[uint64]*nullTopic{}}
			_ = c.serve(nc)
		}()
	}
}

// A nullConn is one connection. Topics are its own: its consumers get what its producers send.
type nullConn struct {
	url                  string
	topics               map[string]*nullTopic
	producers, consumers map[uint64]*nullTopic // by id
	out                  []byte
}

// A nullTopic has at most one consumer, and keeps what waits for its permits.
type nullTopic struct {
	entries  int64
	consumed bool
	consumer uint64
	permits  int64
	waiting  []nullMessage
}

type nullMessage struct {
	receipt  wire.SendReceipt
	messages int64
	payload  []byte
}

func (c *nullConn) topic(name string) *nullTopic {
	t := c.topics[name]
	if t == nil {
		t = &nullTopic{}
		c.topics[name] = t
	}
	return t
}

func (c *nullConn) serve(nc net.Conn) error {
	r := wire.NewReader(nc, wire.MaxFrame(wire.DefaultMaxMessageSize))
	var cmd wire.Command
	var frames [][]byte
	for {
		var err error
		if frames, err = r.Next(frames[:0]); err != nil {
			return err
		}
		c.out = c.out[:0]
		for _, f := range frames {
			head, payload, err := wire.SplitFrame(f)
			if err != nil {
				return err
			}
			if err := cmd.Decode(head); err != nil {
				return err
			}
			if err := c.handle(&cmd, payload); err != nil {
				return err
			}
		}
		if _, err := nc.Write(c.out); err != nil {
			return err
		}
	}
}

func (c *nullConn) send(s *wire.Send, payload []byte) error {
	t := c.producers[s.ProducerID]
	if t == nil {
		return fmt.Errorf("producer %d does not exist", s.ProducerID)
	}
	rc := wire.SendReceipt{ProducerID: s.ProducerID, SequenceID: s.SequenceID, HighestSequenceID: s.HighestSequenceID,
		ID: wire.MessageID{Ledger: 1, Entry: t.entries, Partition: -1, BatchIndex: -1}}
	t.entries++
	if !t.consumed {
		c.out = rc.AppendFrame(c.out)
		return nil
	}
	t.waiting = append(t.waiting, nullMessage{rc, int64(s.Messages), payload})
	c.deliver(t)
	return nil
}

func (c *nullConn) deliver(t *nullTopic) {
	n := 0
	for ; n < len(t.waiting) && t.permits > 0; n++ {
		m := &t.waiting[n]
		w := wire.Message{ConsumerID: t.consumer, ID: m.receipt.ID}
		c.out = append(w.AppendFrame(c.out, len(m.payload)), m.payload...)
		c.out = m.receipt.AppendFrame(c.out)
		t.permits -= m.messages
	}
	t.waiting = slices.Delete(t.waiting, 0, n)
}

func (c *nullConn) handle(cmd *wire.Command, payload []byte) error {
	switch cmd.Type {
	case wire.TypeSend:
		return c.send(&cmd.Send, payload)
	case wire.TypeFlow:
		if t := c.consumers[cmd.Flow.ConsumerID]; t != nil {
			t.permits += int64(cmd.Flow.Permits)
			c.deliver(t)
		}
		return nil
	case wire.TypeAck:
		if a := &cmd.Ack; a.HasRequest {
			c.out = wire.AppendFrame(c.out, &pb.CommandAckResponse{ConsumerId: &a.ConsumerID, RequestId: &a.RequestID})
		}
		return nil
	case wire.TypePing:
		c.out = wire.AppendPong(c.out)
		return nil
	case wire.TypePong:
		return nil
	}
	switch m := cmd.Body.(type) {
	case *pb.CommandConnect:
		c.out = wire.AppendFrame(c.out, &pb.CommandConnected{
			ServerVersion: proto.String("null"), ProtocolVersion: proto.Int32(min(m.GetProtocolVersion(), wire.ProtocolVersion)),
			MaxMessageSize: proto.Int32(wire.DefaultMaxMessageSize),
		})
	case *pb.CommandPartitionedTopicMetadata:
		c.out = wire.AppendFrame(c.out, &pb.CommandPartitionedTopicMetadataResponse{
			RequestId: m.RequestId, Partitions: proto.Uint32(0), Response: pb.CommandPartitionedTopicMetadataResponse_Success.Enum(),
		})
	case *pb.CommandLookupTopic:
		c.out = wire.AppendFrame(c.out, &pb.CommandLookupTopicResponse{
			RequestId: m.RequestId, BrokerServiceUrl: proto.String(c.url), Authoritative: proto.Bool(true),
			Response: pb.CommandLookupTopicResponse_Connect.Enum(),
		})
	case *pb.CommandProducer:
		c.producers[m.GetProducerId()] = c.topic(m.GetTopic())
		c.out = wire.AppendFrame(c.out, &pb.CommandProducerSuccess{
			RequestId: m.RequestId, ProducerName: proto.String(fmt.Sprintf("null-%d", m.GetProducerId())), LastSequenceId: proto.Int64(-1),
		})
	case *pb.CommandSubscribe:
		t := c.topic(m.GetTopic())
		t.consumed, t.consumer = true, m.GetConsumerId()
		c.consumers[t.consumer] = t
		c.out = wire.AppendFrame(c.out, &pb.CommandSuccess{RequestId: m.RequestId})
	case *pb.CommandCloseProducer:
		c.out = wire.AppendFrame(c.out, &pb.CommandSuccess{RequestId: m.RequestId})
	case *pb.CommandCloseConsumer:
		if t := c.consumers[m.GetConsumerId()]; t != nil {
			t.consumed, t.waiting = false, nil
		}
		c.out = wire.AppendFrame(c.out, &pb.CommandSuccess{RequestId: m.RequestId})
	default:
		return fmt.Errorf("command %v is not served by the null broker", cmd.Type)
	}
	return nil
}

func runNull(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("bench null", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:16650", "address")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Printf("pulsar://%s acknowledges and forgets\n", ln.Addr())
	if err := serveNull(ctx, ln); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
