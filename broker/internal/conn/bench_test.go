package conn_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/daybook/daybook/broker/internal/conn"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// nullTopic acknowledges every send at once and stores nothing: what is left is the cost of the connection.
type nullTopic struct{ *fakeTopic }

type nullProducer struct {
	sink topic.ProducerSink
	n    int64
}

func (p *nullProducer) Send(s topic.Send) {
	p.n++
	p.sink.SendCompleted(nil, topic.SendResult{SequenceID: s.SequenceID, Position: ledgerfs.Position{Ledger: 1, Entry: ledgerfs.EntryID(p.n)}})
}
func (p *nullProducer) Close() {}

func (nullTopic) AddProducer(_ context.Context, _ topic.ProducerRequest, sink topic.ProducerSink) (conn.Producer, topic.ProducerInfo, error) {
	return &nullProducer{sink: sink}, topic.ProducerInfo{Name: "p", LastSequenceID: -1, Ready: true}, nil
}

type nullDomain struct {
	*domain
	t nullTopic
}

func (d nullDomain) Topic(context.Context, topicname.Name, conn.Use) (conn.Topic, error) {
	return d.t, nil
}

// loopback serves d over TCP and returns the client's end, connected.
func loopback(b *testing.B, d conn.Domain) *peer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	p := &peer{t: b, done: make(chan error, 1)}
	go func() {
		nc, err := l.Accept()
		if err == nil {
			err = conn.Serve(context.Background(), nc, conn.Config{}, d, quiet())
		}
		p.done <- err
	}()
	if p.nc, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		p.nc.Close()
		<-p.done
		l.Close()
	})
	p.r = wire.NewReader(p.nc, 10<<20)
	p.send(&pb.CommandConnect{ClientVersion: new("bench"), ProtocolVersion: new(int32(20))})
	want[*pb.CommandConnected](p)
	return p
}

// BenchmarkPublish is one producer that pipelines over loopback into a topic that stores nothing; an operation
// is one SEND with its receipt.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{100, 1024, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d := newDomain()
			p := loopback(b, nullDomain{d, nullTopic{&fakeTopic{d: d}}})
			p.produce(1, aTopic)
			frame := sendFrame(1, 7, size)
			burst := make([]byte, 0, 256<<10)
			per := 0
			for len(burst)+len(frame) <= cap(burst) {
				burst = append(burst, frame...)
				per++
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for left := b.N; left > 0; left -= per {
					if _, err := p.nc.Write(burst[:min(left, per)*len(frame)]); err != nil {
						return
					}
				}
			}()
			for got := 0; got < b.N; {
				frames, err := p.r.Next(p.next[:0])
				if err != nil {
					b.Fatal(err)
				}
				got += len(frames)
				p.next = frames
			}
			p.next = nil
		})
	}
}

// BenchmarkDispatch delivers to one consumer over loopback; an operation is one message.
func BenchmarkDispatch(b *testing.B) {
	for _, size := range []int{100, 1024, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d := newDomain()
			p := loopback(b, d)
			p.subscribe(1, aTopic)
			k := d.topic(aTopic).consumer(1)
			payload := entry(1, true, size)
			msgs := make([]subscription.Message, 64)
			for i := range msgs {
				msgs[i] = subscription.Message{Position: ledgerfs.Position{Ledger: 1, Entry: ledgerfs.EntryID(i)}, Payload: payload, Messages: 1}
			}
			head := (&wire.Message{ConsumerID: 1, ID: wire.MessageID{Ledger: 1, Partition: -1, BatchIndex: -1}}).AppendFrame(nil, 0)
			total := int64(b.N) * int64(len(head)+len(payload)-8)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for left := b.N; left > 0; left -= len(msgs) {
					if !k.sink.Deliver(nil, msgs[:min(left, len(msgs))]) {
						<-k.resumed
					}
				}
			}()
			if _, err := io.CopyN(io.Discard, p.nc, total); err != nil {
				b.Fatal(err)
			}
		})
	}
}
