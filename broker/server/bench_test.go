package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/brokertest"
	"github.com/daybook/daybook/broker/server"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs/bookie"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/raftmeta/metatest"
)

// startOnDisk runs a broker over a bookie in a real directory; metadata is in memory.
func startOnDisk(b *testing.B) *server.Server {
	log := slog.New(slog.DiscardHandler)
	meta := metatest.New()
	bk, err := bookie.Open(b.Context(), bookie.Config{ID: "bench", Dir: b.TempDir(), Meta: meta, Log: log, Fatal: func(err error) { b.Error(err) }})
	if err != nil {
		b.Fatal(err)
	}
	ledgers := ledger.New(ledger.Config{Store: meta, Bookies: ledger.Single(bk.Member(), bk), Logger: log})
	s, err := server.New(server.Config{Listen: "127.0.0.1:0", HTTPListen: "127.0.0.1:0"}, server.Deps{Meta: meta, Ledgers: ledgers, Logger: log})
	if err == nil {
		err = s.Start(b.Context())
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			b.Error(err)
		}
		ledgers.Close()
		if err := bk.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// A rawClient sends frames that were made before and counts what comes back: it costs next to nothing itself.
type rawClient struct {
	b      *testing.B
	nc     net.Conn
	r      *wire.Reader
	cmd    wire.Command
	frames [][]byte
}

const benchTopic = "persistent://public/default/bench"

func dial(b *testing.B, s *server.Server) *rawClient {
	nc, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nc.Close() })
	c := &rawClient{b: b, nc: nc, r: wire.NewReader(nc, 10<<20)}
	c.call(&pb.CommandConnect{ClientVersion: new("bench"), ProtocolVersion: new(int32(wire.ProtocolVersion))})
	return c
}

// call sends a command and waits for the one that answers it.
func (c *rawClient) call(m wire.Body) {
	c.b.Helper()
	c.write(wire.AppendFrame(nil, m))
	for done := false; !done; {
		c.next(func(cmd *wire.Command, _ []byte) {
			switch body := cmd.Body.(type) {
			case *pb.CommandError:
				c.b.Fatalf("%T: %s", m, body.GetMessage())
			case *pb.CommandConnected, *pb.CommandProducerSuccess, *pb.CommandSuccess:
				done = true
			}
		})
	}
}

func (c *rawClient) write(frame []byte) {
	if _, err := c.nc.Write(frame); err != nil {
		c.b.Error(err)
	}
}

// next waits for frames and hands them on.
func (c *rawClient) next(handle func(cmd *wire.Command, payload []byte)) {
	var err error
	if c.frames, err = c.r.Next(c.frames[:0]); err != nil {
		c.b.Fatal(err)
	}
	for _, f := range c.frames {
		head, payload, err := wire.SplitFrame(f)
		if err == nil {
			err = c.cmd.Decode(head)
		}
		if err != nil {
			c.b.Fatal(err)
		}
		if c.cmd.Type == wire.TypeSendError {
			c.b.Fatal(c.cmd.Body)
		}
		handle(&c.cmd, payload)
	}
}

// produce makes a producer and returns the frame of a SEND of so many messages of 1000 bytes.
func (c *rawClient) produce(batch int) (frame []byte) {
	c.call(&pb.CommandProducer{ProducerId: new(uint64(1)), RequestId: new(uint64(1)), Topic: new(benchTopic), ProducerName: new("p")})
	value := strings.Repeat("x", 1000)
	payload := brokertest.Entry("p", 0, "", value)
	if batch > 1 {
		values := make([]string, batch)
		for i := range values {
			values[i] = value
		}
		payload = brokertest.Batch("p", 0, values...)
	}
	// A sequence id as long as the topic's index: what goes before the stored message finds its place in the frame.
	send := wire.Send{ProducerID: 1, SequenceID: 1 << 28, Messages: int32(batch)}
	return append(send.AppendFrame(nil, len(payload)), payload...)
}

// BenchmarkPublish is the whole way of a publish: frames over TCP, connection, topic, ledger, a store in a real
// directory, and the receipt. An operation is one SEND; so many are in flight.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		name          string
		batch, window int
	}{{"sync", 1, 1}, {"single", 1, 1000}, {"batch100", 100, 50}} {
		b.Run(c.name, func(b *testing.B) {
			p := dial(b, startOnDisk(b))
			frame := p.produce(c.batch)
			b.SetBytes(int64(1000 * c.batch))
			b.ReportAllocs()
			sent, received := 0, 0
			receive := func() {
				p.next(func(cmd *wire.Command, _ []byte) {
					if cmd.Type == wire.TypeSendReceipt {
						received++
					}
				})
			}
			for b.Loop() {
				for sent-received >= c.window {
					receive()
				}
				p.write(frame)
				sent++
			}
			for received < sent {
				receive()
			}
			b.ReportMetric(float64(sent*c.batch)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkTail is BenchmarkPublish with a consumer that keeps up and acknowledges each entry. An operation is one
// entry, from its SEND to its MESSAGE.
func BenchmarkTail(b *testing.B) {
	for _, c := range []struct {
		typ           pb.CommandSubscribe_SubType
		batch, window int
	}{{pb.CommandSubscribe_Exclusive, 1, 1000}, {pb.CommandSubscribe_Exclusive, 100, 50}, {pb.CommandSubscribe_Key_Shared, 1, 1000}} {
		b.Run(fmt.Sprintf("%s/batch%d", c.typ, c.batch), func(b *testing.B) {
			s := startOnDisk(b)
			p, k := dial(b, s), dial(b, s)
			frame := p.produce(c.batch)
			k.call(&pb.CommandSubscribe{
				Topic: new(benchTopic), Subscription: new("s"), SubType: &c.typ, ConsumerId: new(uint64(1)), RequestId: new(uint64(1)),
			})
			k.write((&wire.Flow{ConsumerID: 1, Permits: 1 << 30}).AppendFrame(nil))
			go func() { // receipts
				var buf [64 << 10]byte
				for {
					if _, err := p.nc.Read(buf[:]); err != nil {
						return
					}
				}
			}()
			b.SetBytes(int64(1000 * c.batch))
			b.ReportAllocs()
			sent, received := 0, 0
			var acks []byte
			receive := func() {
				acks = acks[:0]
				k.next(func(cmd *wire.Command, _ []byte) {
					if cmd.Type == wire.TypeMessage {
						received++
						acks = (&wire.Ack{ConsumerID: 1, IDs: []wire.MessageID{cmd.Message.ID}}).AppendFrame(acks)
					}
				})
				k.write(acks)
			}
			for b.Loop() {
				for sent-received >= c.window {
					receive()
				}
				p.write(frame)
				sent++
			}
			for received < sent {
				receive()
			}
			b.ReportMetric(float64(sent*c.batch)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
