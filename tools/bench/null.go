package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"

	"google.golang.org/protobuf/proto"

	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
)

// serveNull speaks as much of the protocol as a producer needs, acknowledges every message at once and
// stores nothing: what a client reaches against it is the client's own ceiling. It returns when ctx ends.
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
			_ = serveNullConn(nc, "pulsar://"+ln.Addr().String())
		}()
	}
}

func serveNullConn(nc net.Conn, url string) error {
	r := wire.NewReader(nc, wire.MaxFrame(wire.DefaultMaxMessageSize))
	var cmd wire.Command
	var frames [][]byte
	var out []byte
	entry := map[uint64]int64{}
	for {
		var err error
		if frames, err = r.Next(frames[:0]); err != nil {
			return err
		}
		out = out[:0]
		for _, f := range frames {
			head, _, err := wire.SplitFrame(f)
			if err != nil {
				return err
			}
			if err := cmd.Decode(head); err != nil {
				return err
			}
			switch cmd.Type {
			case wire.TypeSend:
				s := &cmd.Send
				rc := wire.SendReceipt{ProducerID: s.ProducerID, SequenceID: s.SequenceID, HighestSequenceID: s.HighestSequenceID,
					ID: wire.MessageID{Ledger: 1, Entry: entry[s.ProducerID], Partition: -1, BatchIndex: -1}}
				entry[s.ProducerID]++
				out = rc.AppendFrame(out)
				continue
			case wire.TypePing:
				out = wire.AppendPong(out)
				continue
			}
			switch c := cmd.Body.(type) {
			case *pb.CommandConnect:
				out = wire.AppendFrame(out, &pb.CommandConnected{
					ServerVersion: proto.String("null"), ProtocolVersion: proto.Int32(min(c.GetProtocolVersion(), wire.ProtocolVersion)),
					MaxMessageSize: proto.Int32(wire.DefaultMaxMessageSize),
				})
			case *pb.CommandPartitionedTopicMetadata:
				out = wire.AppendFrame(out, &pb.CommandPartitionedTopicMetadataResponse{
					RequestId: c.RequestId, Partitions: proto.Uint32(0), Response: pb.CommandPartitionedTopicMetadataResponse_Success.Enum(),
				})
			case *pb.CommandLookupTopic:
				out = wire.AppendFrame(out, &pb.CommandLookupTopicResponse{
					RequestId: c.RequestId, BrokerServiceUrl: proto.String(url), Authoritative: proto.Bool(true),
					Response: pb.CommandLookupTopicResponse_Connect.Enum(),
				})
			case *pb.CommandProducer:
				out = wire.AppendFrame(out, &pb.CommandProducerSuccess{
					RequestId: c.RequestId, ProducerName: proto.String(fmt.Sprintf("null-%d", c.GetProducerId())), LastSequenceId: proto.Int64(-1),
				})
			case *pb.CommandCloseProducer:
				out = wire.AppendFrame(out, &pb.CommandSuccess{RequestId: c.RequestId})
			default:
				return fmt.Errorf("command %v: the null broker serves producers only", cmd.Type)
			}
		}
		if _, err := nc.Write(out); err != nil {
			return err
		}
	}
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
