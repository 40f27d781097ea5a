package conn_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"

	"github.com/daybook/daybook/broker/internal/conn"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
)

// Whatever a client sends after CONNECT, serving it ends when the client leaves, nothing panics, and the topic is
// left without its producers and consumers.
func FuzzServe(f *testing.F) {
	seed := func(parts ...[]byte) { f.Add(bytes.Join(parts, nil)) }
	producer := wire.AppendFrame(nil, &pb.CommandProducer{Topic: new("t"), ProducerId: new(uint64(1)), RequestId: new(uint64(1))})
	consumer := wire.AppendFrame(nil, &pb.CommandSubscribe{Topic: new("t"), ConsumerId: new(uint64(1)), RequestId: new(uint64(2)), Subscription: new("s"), SubType: pb.CommandSubscribe_Failover.Enum()})
	seed(wire.AppendPing(nil), wire.AppendPong(nil))
	seed(producer, sendFrame(1, 0, 10), producer, wire.AppendFrame(nil, &pb.CommandCloseProducer{ProducerId: new(uint64(1)), RequestId: new(uint64(3))}), sendFrame(1, 1, 10))
	seed(consumer, (&wire.Flow{ConsumerID: 1, Permits: 5}).AppendFrame(nil),
		(&wire.Ack{ConsumerID: 1, ValidationError: -1, HasRequest: true, RequestID: 4, IDs: []wire.MessageID{{Ledger: 1, Entry: 1, Partition: -1, BatchIndex: -1, AckSet: []int64{1}}}}).AppendFrame(nil),
		wire.AppendFrame(nil, &pb.CommandSeek{ConsumerId: new(uint64(1)), RequestId: new(uint64(5)), MessageId: &pb.MessageIdData{LedgerId: new(uint64(1)), EntryId: new(uint64(1))}}),
		consumer, wire.AppendFrame(nil, &pb.CommandUnsubscribe{ConsumerId: new(uint64(1)), RequestId: new(uint64(6))}))
	seed(wire.AppendFrame(nil, &pb.CommandGetTopicsOfNamespace{Namespace: new("public/default"), RequestId: new(uint64(1)), TopicsPattern: new("(a")}),
		wire.AppendFrame(nil, &pb.CommandLookupTopic{Topic: new("x"), RequestId: new(uint64(1))}),
		wire.AppendFrame(nil, &pb.CommandGetOrCreateSchema{Topic: new("x"), RequestId: new(uint64(1)), Schema: &pb.Schema{Name: new("s"), Type: pb.Schema_Avro.Enum(), SchemaData: []byte("{}")}}),
		wire.AppendFrame(nil, &pb.CommandNewTxn{RequestId: new(uint64(1))}))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDomain()
		server, client := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- conn.Serve(context.Background(), pipeConn{server}, conn.Config{}, d, quiet()) }()
		go io.Copy(io.Discard, client)
		client.Write(wire.AppendFrame(nil, &pb.CommandConnect{ClientVersion: new("fuzz"), ProtocolVersion: new(int32(20))}))
		client.Write(b)
		client.Close()
		<-done
		for name, ft := range d.topics {
			if len(ft.producers) != 0 {
				t.Errorf("%s is left with producers", name)
			}
			for id, k := range ft.consumers {
				if _, _, _, closed := k.get(); !closed {
					t.Errorf("%s is left with consumer %d", name, id)
				}
			}
		}
	})
}
