package conn_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/broker/internal/conn"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs"
)

const aTopic = "persistent://public/default/t"

func TestHandshake(t *testing.T) {
	for _, tc := range []struct{ client, want int32 }{{0, 0}, {20, 20}, {21, 21}, {99, 21}} {
		p := dial(t, newDomain(), conn.Config{MaxMessageSize: 1 << 20})
		p.send(&pb.CommandConnect{ClientVersion: new("x"), ProtocolVersion: &tc.client})
		c := want[*pb.CommandConnected](p)
		f := c.GetFeatureFlags()
		if c.GetProtocolVersion() != tc.want || c.GetMaxMessageSize() != 1<<20 || !bytes.HasPrefix([]byte(c.GetServerVersion()), []byte("Pulsar Server")) ||
			!f.GetSupportsGetPartitionedMetadataWithoutAutoCreation() || f.GetSupportsTopicWatchers() {
			t.Errorf("client %d: %v", tc.client, c)
		}
		p.write(wire.AppendPing(nil))
		if c := p.must(); c.Type != wire.TypePong {
			t.Errorf("ping is answered by %v", c.Type)
		}
	}
}

func TestReceiptsComeInOrder(t *testing.T) { synctest.Test(t, receiptsComeInOrder) }

func receiptsComeInOrder(t *testing.T) {
	d := newDomain()
	d.hold = true
	p := connect(t, d, conn.Config{})
	p.produce(1, aTopic)
	var frames []byte
	for i := range uint64(100) {
		frames = append(frames, sendFrame(1, i, 10)...)
	}
	p.write(frames)
	ft := d.topic(aTopic)
	synctest.Wait()
	if n := ft.waiting(); n != 100 {
		t.Fatalf("%d sends have reached the topic", n)
	}
	go ft.release()
	for i := range uint64(100) {
		if r := p.receipt(); r.ProducerID != 1 || r.SequenceID != i || r.ID.Ledger != 7 || r.ID.Entry != int64(i) {
			t.Fatalf("receipt %d is %+v", i, r)
		}
	}
	// The stored bytes are those sent after the command, to the bit.
	sent := sendFrame(1, 3, 10)
	if got := ft.stored[3]; !bytes.HasSuffix(sent, got) || !bytes.HasPrefix(got, []byte{0x0e, 0x01}) {
		t.Errorf("stored %x of %x", got, sent)
	}
}

// Each mistake gets the protocol's answer, ends at most its own connection, and a second connection that shares
// topics with it goes on.
func TestBadInput(t *testing.T) {
	simple := func(command []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(4+len(command)))
		return append(binary.BigEndian.AppendUint32(b, uint32(len(command))), command...)
	}
	corrupt := sendFrame(1, 9, 100)
	corrupt[len(corrupt)-1] ^= 1
	noMeta := (&wire.Send{ProducerID: 1, SequenceID: 9, Messages: 1}).AppendFrame(nil, 4)
	ended := func(kind error) func(t *testing.T, p *peer) {
		return func(t *testing.T, p *peer) {
			if err := p.wantEnd(); !errors.Is(err, kind) || !conn.Refused(err) {
				t.Errorf("Serve = %v, want %v", err, kind)
			}
		}
	}
	failed := func(code pb.ServerError) func(t *testing.T, p *peer) {
		return func(t *testing.T, p *peer) {
			if e := want[*pb.CommandError](p); e.GetError() != code || e.GetRequestId() != 5 || e.GetMessage() == "" {
				t.Errorf("got %v, want %v", e, code)
			}
		}
	}
	id, req := new(uint64(77)), new(uint64(5))
	badName := new("persistent://a/b/c/d/e")
	for _, tc := range []struct {
		name  string
		bytes []byte
		check func(t *testing.T, p *peer)
	}{
		{"frame shorter than its command", []byte{0, 0, 0, 6, 0, 0, 0, 99, 8, 18}, ended(wire.ErrMalformed)},
		{"frame without a command", []byte{0, 0, 0, 2, 8, 18}, ended(wire.ErrMalformed)},
		{"oversized frame", []byte{0, 0x50, 0x28, 0x41, 0}, ended(wire.ErrFrameTooLarge)},
		{"enormous frame", []byte{0xff, 0xff, 0xff, 0xff}, ended(wire.ErrFrameTooLarge)},
		{"unknown command", simple([]byte{8, 45}), ended(wire.ErrUnknownCommand)},
		{"missing required field", simple([]byte{8, 4, 34, 2, 10, 0}), ended(wire.ErrMalformed)},
		{"garbage", simple([]byte("GET / HTTP/1.1")), ended(wire.ErrMalformed)},
		{"second CONNECT", wire.AppendFrame(nil, &pb.CommandConnect{ClientVersion: new("x")}), ended(conn.ErrProtocol)},
		{"a broker's command", wire.AppendFrame(nil, &pb.CommandSuccess{RequestId: req}), ended(conn.ErrProtocol)},
		{"a broker's receipt", (&wire.SendReceipt{}).AppendFrame(nil), ended(conn.ErrProtocol)},
		{"send for no producer", sendFrame(99, 1, 1), ended(conn.ErrProtocol)},
		{"send without payload", (&wire.Send{ProducerID: 1, Messages: 1}).AppendFrame(nil, 0), ended(wire.ErrMalformed)},
		{"send with metadata beyond its end", append(noMeta, 0, 0, 0, 9), ended(wire.ErrMalformed)},
		{"wrong checksum", corrupt, func(t *testing.T, p *peer) {
			e := want[*pb.CommandSendError](p)
			if e.GetError() != pb.ServerError_ChecksumError || e.GetSequenceId() != 9 || e.GetProducerId() != 1 {
				t.Errorf("got %v", e)
			}
			p.write(sendFrame(1, 10, 5)) // the connection stays
			if r := p.receipt(); r.SequenceID != 10 {
				t.Errorf("receipt %+v", r)
			}
		}},
		{"lookup of an illegal name", wire.AppendFrame(nil, &pb.CommandLookupTopic{Topic: badName, RequestId: req}), func(t *testing.T, p *peer) {
			if r := want[*pb.CommandLookupTopicResponse](p); r.GetResponse() != pb.CommandLookupTopicResponse_Failed || r.GetError() != pb.ServerError_InvalidTopicName {
				t.Errorf("got %v", r)
			}
		}},
		{"partitions of an illegal name", wire.AppendFrame(nil, &pb.CommandPartitionedTopicMetadata{Topic: badName, RequestId: req}), func(t *testing.T, p *peer) {
			if r := want[*pb.CommandPartitionedTopicMetadataResponse](p); r.GetResponse() != pb.CommandPartitionedTopicMetadataResponse_Failed || r.GetError() != pb.ServerError_InvalidTopicName {
				t.Errorf("got %v", r)
			}
		}},
		{"producer on an illegal name", wire.AppendFrame(nil, &pb.CommandProducer{Topic: badName, ProducerId: id, RequestId: req}), failed(pb.ServerError_InvalidTopicName)},
		{"subscribe to an illegal name", wire.AppendFrame(nil, &pb.CommandSubscribe{Topic: badName, ConsumerId: id, RequestId: req, Subscription: new("s"), SubType: pb.CommandSubscribe_Shared.Enum()}), failed(pb.ServerError_InvalidTopicName)},
		{"subscribe without a name", wire.AppendFrame(nil, &pb.CommandSubscribe{Topic: new(aTopic), ConsumerId: id, RequestId: req, Subscription: new(""), SubType: pb.CommandSubscribe_Shared.Enum()}), failed(pb.ServerError_NotAllowedError)},
		{"subscribe to a busy subscription", wire.AppendFrame(nil, &pb.CommandSubscribe{Topic: new(aTopic), ConsumerId: id, RequestId: req, Subscription: new("taken"), SubType: pb.CommandSubscribe_Exclusive.Enum()}), failed(pb.ServerError_ConsumerBusy)},
		{"topics of an illegal namespace", wire.AppendFrame(nil, &pb.CommandGetTopicsOfNamespace{Namespace: new("a"), RequestId: req}), failed(pb.ServerError_InvalidTopicName)},
		{"seek of no consumer", wire.AppendFrame(nil, &pb.CommandSeek{ConsumerId: id, RequestId: req}), failed(pb.ServerError_MetadataError)},
		{"unsubscribe of no consumer", wire.AppendFrame(nil, &pb.CommandUnsubscribe{ConsumerId: id, RequestId: req}), failed(pb.ServerError_MetadataError)},
		{"last message id of no consumer", wire.AppendFrame(nil, &pb.CommandGetLastMessageId{ConsumerId: id, RequestId: req}), failed(pb.ServerError_MetadataError)},
		{"stats of no consumer", wire.AppendFrame(nil, &pb.CommandConsumerStats{ConsumerId: id, RequestId: req}), func(t *testing.T, p *peer) {
			if r := want[*pb.CommandConsumerStatsResponse](p); r.GetErrorCode() != pb.ServerError_ConsumerNotFound {
				t.Errorf("got %v", r)
			}
		}},
		{"ack of no consumer that asks for an answer", (&wire.Ack{ConsumerID: 77, HasRequest: true, RequestID: 5, ValidationError: -1}).AppendFrame(nil), func(t *testing.T, p *peer) {
			if r := want[*pb.CommandAckResponse](p); r.GetError() != pb.ServerError_ConsumerNotFound || r.GetRequestId() != 5 {
				t.Errorf("got %v", r)
			}
		}},
		{"transaction", wire.AppendFrame(nil, &pb.CommandNewTxn{RequestId: req}), failed(pb.ServerError_NotAllowedError)},
		{"coordinator", wire.AppendFrame(nil, &pb.CommandTcClientConnectRequest{RequestId: req, TcId: new(uint64(0))}), failed(pb.ServerError_NotAllowedError)},
		{"topic watcher", wire.AppendFrame(nil, &pb.CommandWatchTopicList{RequestId: req, WatcherId: id, Namespace: new("a/b"), TopicsPattern: new(".*")}), failed(pb.ServerError_NotAllowedError)},
		{"schema of a topic without one", wire.AppendFrame(nil, &pb.CommandGetSchema{RequestId: req, Topic: new(aTopic)}), func(t *testing.T, p *peer) {
			if r := want[*pb.CommandGetSchemaResponse](p); r.GetErrorCode() != pb.ServerError_TopicNotFound {
				t.Errorf("got %v", r)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDomain()
			other := connect(t, d, conn.Config{})
			other.produce(1, aTopic)
			p := connect(t, d, conn.Config{})
			p.produce(1, aTopic)
			p.write(tc.bytes)
			tc.check(t, p)
			other.write(sendFrame(1, 42, 10))
			if r := other.receipt(); r.SequenceID != 42 {
				t.Errorf("the other connection got %+v", r)
			}
		})
	}
}

func TestNothingBeforeConnect(t *testing.T) {
	p := dial(t, newDomain(), conn.Config{})
	p.write([]byte{0, 0x10, 0, 0}) // 1 MiB: within the limit of later frames
	if err := p.wantEnd(); !errors.Is(err, wire.ErrFrameTooLarge) {
		t.Errorf("a large first frame: Serve = %v, want ErrFrameTooLarge", err)
	}
	for _, frame := range [][]byte{
		wire.AppendPing(nil), sendFrame(1, 1, 1),
		wire.AppendFrame(nil, &pb.CommandLookupTopic{Topic: new(aTopic), RequestId: new(uint64(1))}),
	} {
		p := dial(t, newDomain(), conn.Config{})
		p.write(frame)
		if err := p.wantEnd(); !errors.Is(err, conn.ErrProtocol) {
			t.Errorf("Serve = %v, want ErrProtocol", err)
		}
	}
}

func TestSilentClientIsCutAfterTwoIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		p := connect(t, d, conn.Config{})
		p.produce(1, aTopic)
		start := time.Now()
		go func() { // it reads, so that the PING gets through, but does not answer
			for {
				if _, err := p.nc.Read(make([]byte, 100)); err != nil {
					return
				}
			}
		}()
		err := <-p.done
		p.done <- err
		if !errors.Is(err, conn.ErrIdle) {
			t.Errorf("Serve = %v, want ErrIdle", err)
		}
		if got := time.Since(start); got != 60*time.Second {
			t.Errorf("cut after %v, want 60s", got)
		}
		if n := len(d.topic(aTopic).producers); n != 0 {
			t.Errorf("%d producers are left", n)
		}
	})
}

func TestHalfOpenClientIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		p := connect(t, d, conn.Config{})
		p.subscribe(1, aTopic)
		start := time.Now()
		err := <-p.done // it neither reads nor writes: the PING itself does not get out
		p.done <- err
		if !errors.Is(err, conn.ErrIdle) {
			t.Errorf("Serve = %v, want ErrIdle", err)
		}
		if got := time.Since(start); got < 60*time.Second || got > 62*time.Second {
			t.Errorf("cut after %v, want 60s and the time to write what is left", got)
		}
		if _, _, _, closed := d.topic(aTopic).consumer(1).get(); !closed {
			t.Error("the consumer is left behind")
		}
	})
}

func TestLivingClientStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t, newDomain(), conn.Config{})
		go func() {
			for {
				if _, _, err := p.recv(); err != nil { // answers PINGs
					return
				}
			}
		}()
		time.Sleep(time.Hour)
		select {
		case err := <-p.done:
			t.Fatalf("cut: %v", err)
		default:
		}
		p.nc.Close()
	})
}

func TestHandshakeHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, newDomain(), conn.Config{})
		start := time.Now()
		if err := p.wantEnd(); !errors.Is(err, conn.ErrHandshake) {
			t.Errorf("Serve = %v, want ErrHandshake", err)
		}
		if got := time.Since(start); got != 30*time.Second {
			t.Errorf("cut after %v, want 30s", got)
		}
	})
}

func TestProducerLifecycle(t *testing.T) {
	d := newDomain()
	p := connect(t, d, conn.Config{})
	create := func(id, request uint64, name string) {
		p.send(&pb.CommandProducer{Topic: new(aTopic), ProducerId: &id, RequestId: &request, ProducerName: &name})
	}
	create(1, 10, "a")
	if s := want[*pb.CommandProducerSuccess](p); s.GetProducerName() != "a" || s.GetRequestId() != 10 || s.GetLastSequenceId() != -1 || s.SchemaVersion == nil || len(s.SchemaVersion) != 0 || !s.GetProducerReady() {
		t.Errorf("success %v", s)
	}
	create(1, 11, "a") // again, as clients do after a timeout
	if s := want[*pb.CommandProducerSuccess](p); s.GetRequestId() != 11 || s.GetProducerName() != "a" {
		t.Errorf("success %v", s)
	}
	create(2, 12, "a")
	if e := want[*pb.CommandError](p); e.GetError() != pb.ServerError_ProducerBusy || e.GetRequestId() != 12 {
		t.Errorf("error %v", e)
	}
	p.send(&pb.CommandCloseProducer{ProducerId: new(uint64(1)), RequestId: new(uint64(13))})
	if s := want[*pb.CommandSuccess](p); s.GetRequestId() != 13 {
		t.Errorf("success %v", s)
	}
	create(2, 14, "a") // the name is free again
	want[*pb.CommandProducerSuccess](p)
	p.send(&pb.CommandCloseProducer{ProducerId: new(uint64(99)), RequestId: new(uint64(15))}) // one that never was
	want[*pb.CommandSuccess](p)
	p.write(sendFrame(1, 0, 1)) // closed by the client: a mistake
	if err := p.wantEnd(); !errors.Is(err, conn.ErrProtocol) {
		t.Errorf("Serve = %v", err)
	}
	if n := len(d.topic(aTopic).producers); n != 0 {
		t.Errorf("%d producers are left", n)
	}
}

func TestSendsToAProducerThatTheBrokerClosedAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		p := connect(t, d, conn.Config{})
		p.send(&pb.CommandProducer{Topic: new(aTopic), ProducerId: new(uint64(1)), RequestId: new(uint64(1)), ProducerName: new("a")})
		want[*pb.CommandProducerSuccess](p)
		ft := d.topic(aTopic)
		fp := ft.producer("a")
		fp.Close()
		fp.sink.CloseProducer(nil)
		if c := want[*pb.CommandCloseProducer](p); c.GetProducerId() != 1 {
			t.Errorf("got %v", c)
		}
		p.write(sendFrame(1, 0, 1))
		p.produce(1, aTopic) // the answer shows that the connection lives
		if len(ft.stored) != 0 {
			t.Error("the send was stored")
		}
		fp = ft.producer("fake-0")
		fp.Close()
		fp.sink.CloseProducer(nil)
		want[*pb.CommandCloseProducer](p)
		go func() {
			time.Sleep(65 * time.Second)
			p.nc.Write(sendFrame(1, 0, 1)) // far too late
		}()
		if err := p.wantEnd(); !errors.Is(err, conn.ErrProtocol) {
			t.Errorf("Serve = %v, want ErrProtocol", err)
		}
	})
}

func TestClosingWhileCreatingReleases(t *testing.T) {
	d := newDomain()
	d.gate = make(chan struct{})
	p := connect(t, d, conn.Config{})
	p.send(&pb.CommandProducer{Topic: new(aTopic), ProducerId: new(uint64(1)), RequestId: new(uint64(1)), ProducerName: new("a")})
	p.send(&pb.CommandProducer{Topic: new(aTopic), ProducerId: new(uint64(1)), RequestId: new(uint64(2)), ProducerName: new("a")})
	if e := want[*pb.CommandError](p); e.GetError() != pb.ServerError_ServiceNotReady || e.GetRequestId() != 2 {
		t.Errorf("second creation: %v", e)
	}
	p.send(&pb.CommandCloseProducer{ProducerId: new(uint64(1)), RequestId: new(uint64(3))})
	want[*pb.CommandSuccess](p)
	p.send(&pb.CommandSubscribe{Topic: new(aTopic), ConsumerId: new(uint64(1)), RequestId: new(uint64(4)), Subscription: new("s"), SubType: pb.CommandSubscribe_Shared.Enum()})
	p.send(&pb.CommandCloseConsumer{ConsumerId: new(uint64(1)), RequestId: new(uint64(5))})
	want[*pb.CommandSuccess](p)
	close(d.gate)
	p.produce(2, aTopic)
	p.nc.Close()
	p.done <- <-p.done
	ft := d.topic(aTopic)
	if n := len(ft.producers); n != 0 {
		t.Errorf("%d producers are left", n)
	}
	if k := ft.consumer(1); k != nil {
		if _, _, _, closed := k.get(); !closed {
			t.Error("the consumer is left behind")
		}
	}
}

func TestConnectionLostWhileCreatingReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		d.gate = make(chan struct{})
		p := connect(t, d, conn.Config{})
		p.send(&pb.CommandProducer{Topic: new(aTopic), ProducerId: new(uint64(1)), RequestId: new(uint64(1))})
		synctest.Wait()
		p.nc.Close()
		err := <-p.done // the request is given up
		p.done <- err
		if err != nil {
			t.Errorf("Serve = %v, want nil for a client that left", err)
		}
	})
}

func TestWaitForExclusiveIsAnsweredTwice(t *testing.T) {
	d := newDomain()
	ft := d.topic(aTopic)
	ft.waitFirst = true
	p := connect(t, d, conn.Config{})
	p.send(&pb.CommandProducer{Topic: new(aTopic), ProducerId: new(uint64(1)), RequestId: new(uint64(8)), ProducerName: new("a"), ProducerAccessMode: pb.ProducerAccessMode_WaitForExclusive.Enum()})
	if s := want[*pb.CommandProducerSuccess](p); s.GetProducerReady() || s.GetRequestId() != 8 {
		t.Errorf("first answer %v", s)
	}
	ft.producer("a").sink.ProducerReady(nil, topic.ProducerInfo{Name: "a", LastSequenceID: -1, TopicEpoch: new(uint64(3)), Ready: true}, nil)
	if s := want[*pb.CommandProducerSuccess](p); !s.GetProducerReady() || s.GetRequestId() != 8 || s.GetTopicEpoch() != 3 {
		t.Errorf("second answer %v", s)
	}
	p.write(sendFrame(1, 0, 1))
	p.receipt()
}

func TestWaitForExclusiveCanFail(t *testing.T) {
	d := newDomain()
	ft := d.topic(aTopic)
	ft.waitFirst = true
	p := connect(t, d, conn.Config{})
	p.send(&pb.CommandProducer{Topic: new(aTopic), ProducerId: new(uint64(1)), RequestId: new(uint64(8)), ProducerName: new("a"), ProducerAccessMode: pb.ProducerAccessMode_WaitForExclusive.Enum()})
	want[*pb.CommandProducerSuccess](p)
	ft.producer("a").sink.ProducerReady(nil, topic.ProducerInfo{}, serr.ProducerFenced.Errorf("fenced"))
	if e := want[*pb.CommandError](p); e.GetError() != pb.ServerError_ProducerFenced || e.GetRequestId() != 8 {
		t.Errorf("got %v", e)
	}
}

func entry(index byte, brokerEntry bool, body int) []byte {
	var b []byte
	if brokerEntry {
		b = []byte{0x0e, 0x02, 0, 0, 0, 2, 0x10, index}
	}
	return append(b, stored(body)...)
}

func TestDelivery(t *testing.T) {
	for _, wants := range []bool{false, true} {
		t.Run(fmt.Sprintf("broker entry metadata %v", wants), func(t *testing.T) {
			d := newDomain()
			p := dial(t, d, conn.Config{})
			p.send(&pb.CommandConnect{ClientVersion: new("x"), ProtocolVersion: new(int32(20)), FeatureFlags: &pb.FeatureFlags{SupportsBrokerEntryMetadata: &wants}})
			want[*pb.CommandConnected](p)
			p.subscribe(4, aTopic+"-partition-3")
			p.write((&wire.Flow{ConsumerID: 4, Permits: 10}).AppendFrame(nil))
			p.write((&wire.Flow{ConsumerID: 99, Permits: 10}).AppendFrame(nil)) // nobody: ignored
			p.write((&wire.Ack{ConsumerID: 4, ValidationError: -1, HasRequest: true, RequestID: 9, IDs: []wire.MessageID{
				{Ledger: 7, Entry: 1, Partition: -1, BatchIndex: -1}, {Ledger: 7, Entry: 2, Partition: -1, BatchIndex: -1, AckSet: []int64{6}},
			}}).AppendFrame(nil))
			if r := want[*pb.CommandAckResponse](p); r.GetRequestId() != 9 || r.GetConsumerId() != 4 || r.Error != nil || r.Message != nil {
				t.Errorf("ack response %v", r)
			}
			p.write((&wire.Ack{ConsumerID: 4, ValidationError: -1, Cumulative: true, IDs: []wire.MessageID{{Ledger: 7, Entry: -1, Partition: -1, BatchIndex: -1}}}).AppendFrame(nil))
			p.send(&pb.CommandRedeliverUnacknowledgedMessages{ConsumerId: new(uint64(4)), MessageIds: []*pb.MessageIdData{{LedgerId: new(uint64(7)), EntryId: new(uint64(5))}}})
			p.send(&pb.CommandConsumerStats{ConsumerId: new(uint64(4)), RequestId: new(uint64(10))})
			if r := want[*pb.CommandConsumerStatsResponse](p); r.GetAvailablePermits() != 10 || r.GetMsgBacklog() != 5 || r.GetType() != "Shared" {
				t.Errorf("stats %v", r)
			}
			k := d.topic(aTopic + "-partition-3").consumer(4)
			permits, acks, redel, _ := k.get()
			if permits != 10 || !reflect.DeepEqual(acks, []subscription.Ack{
				{IDs: []subscription.AckID{{Position: ledgerfs.Position{Ledger: 7, Entry: 1}}, {Position: ledgerfs.Position{Ledger: 7, Entry: 2}, AckSet: []int64{6}}}},
				{Cumulative: true, IDs: []subscription.AckID{{Position: ledgerfs.Position{Ledger: 7, Entry: -1}}}},
			}) || !reflect.DeepEqual(redel, [][]subscription.AckID{{{Position: ledgerfs.Position{Ledger: 7, Entry: 5}}}}) {
				t.Errorf("permits %d, acks %v, redeliveries %v", permits, acks, redel)
			}

			small, large := entry(1, true, 10), entry(2, true, 100_000)
			if !k.sink.Deliver(nil, []subscription.Message{
				{Position: ledgerfs.Position{Ledger: 7, Entry: 0}, Payload: small, RedeliveryCount: 2, AckSet: []int64{5}, Epoch: 3},
				{Position: ledgerfs.Position{Ledger: 7, Entry: 1}, Payload: large},
				{Position: ledgerfs.Position{Ledger: 7, Entry: 2}, Payload: small},
			}) {
				t.Error("not writable")
			}
			for i, stored := range [][]byte{small, large, small} {
				c, payload, err := p.recv()
				if err != nil || c.Type != wire.TypeMessage {
					t.Fatalf("received %v, %v", c, err)
				}
				m := c.Message
				if m.ConsumerID != 4 || m.ID.Ledger != 7 || m.ID.Entry != int64(i) || m.ID.Partition != 3 {
					t.Errorf("message %d is %+v", i, m)
				}
				if i == 0 && (m.RedeliveryCount != 2 || m.Epoch != 3 || !reflect.DeepEqual(m.AckSet, []int64{5})) {
					t.Errorf("message %d is %+v", i, m)
				}
				sent := stored
				if !wants {
					sent = stored[8:]
				}
				if !bytes.Equal(payload, sent) {
					t.Errorf("message %d: %d bytes of payload, want %d", i, len(payload), len(sent))
				}
			}
		})
	}
}

func TestConsumerLifecycle(t *testing.T) {
	d := newDomain()
	p := connect(t, d, conn.Config{})
	subscribe := func(request uint64, typ pb.CommandSubscribe_SubType) {
		p.send(&pb.CommandSubscribe{Topic: new(aTopic), ConsumerId: new(uint64(1)), RequestId: &request, Subscription: new("s"), SubType: &typ,
			Durable: new(false), StartMessageId: &pb.MessageIdData{LedgerId: new(^uint64(0)), EntryId: new(^uint64(0))}})
	}
	subscribe(1, pb.CommandSubscribe_Failover)
	if s := want[*pb.CommandSuccess](p); s.GetRequestId() != 1 {
		t.Errorf("success %v", s)
	}
	if a := want[*pb.CommandActiveConsumerChange](p); !a.GetIsActive() { // not before the success
		t.Errorf("change %v", a)
	}
	ft := d.topic(aTopic)
	if r := ft.consumer(1).req; r.Start == nil || *r.Start != subscription.EarliestID || r.Durable || r.Subscription != "s" {
		t.Errorf("request %+v", r)
	}
	subscribe(2, pb.CommandSubscribe_Failover)
	if s := want[*pb.CommandSuccess](p); s.GetRequestId() != 2 {
		t.Errorf("again: %v", s)
	}
	p.send(&pb.CommandGetLastMessageId{ConsumerId: new(uint64(1)), RequestId: new(uint64(3))})
	if r := want[*pb.CommandGetLastMessageIdResponse](p); int64(r.GetLastMessageId().GetEntryId()) != -1 || r.ConsumerMarkDeletePosition == nil || r.ConsumerMarkDeletePosition.GetLedgerId() != 7 {
		t.Errorf("last message id %v", r)
	}
	// A seek closes the consumer, and the client subscribes again with the same id.
	p.send(&pb.CommandSeek{ConsumerId: new(uint64(1)), RequestId: new(uint64(4)), MessageId: &pb.MessageIdData{LedgerId: new(uint64(7)), EntryId: new(uint64(1))}})
	if c := want[*pb.CommandCloseConsumer](p); c.GetConsumerId() != 1 {
		t.Errorf("close %v", c)
	}
	if s := want[*pb.CommandSuccess](p); s.GetRequestId() != 4 {
		t.Errorf("seek %v", s)
	}
	subscribe(5, pb.CommandSubscribe_Exclusive)
	if s := want[*pb.CommandSuccess](p); s.GetRequestId() != 5 {
		t.Errorf("success %v", s)
	}
	if ft.consumer(1).req.Type != subscription.Exclusive {
		t.Error("the second subscribe did not reach the topic")
	}
	p.send(&pb.CommandUnsubscribe{ConsumerId: new(uint64(1)), RequestId: new(uint64(6))})
	want[*pb.CommandSuccess](p)
	p.send(&pb.CommandCloseConsumer{ConsumerId: new(uint64(1)), RequestId: new(uint64(7))})
	want[*pb.CommandSuccess](p)
}

func TestLookupPartitionsTopicsAndSchemas(t *testing.T) {
	d := newDomain()
	d.partitions["persistent://public/default/parts"] = 3
	p := connect(t, d, conn.Config{})
	req := new(uint64(1))
	p.send(&pb.CommandLookupTopic{Topic: new("t"), RequestId: req, AdvertisedListenerName: new("")})
	if r := want[*pb.CommandLookupTopicResponse](p); r.GetResponse() != pb.CommandLookupTopicResponse_Connect || r.GetBrokerServiceUrl() != "pulsar://127.0.0.1:6650" || r.GetRequestId() != 1 {
		t.Errorf("lookup %v", r)
	}
	p.send(&pb.CommandLookupTopic{Topic: new("t"), RequestId: req, AdvertisedListenerName: new("nowhere")})
	if r := want[*pb.CommandLookupTopicResponse](p); r.GetResponse() != pb.CommandLookupTopicResponse_Failed || r.GetError() != pb.ServerError_ServiceNotReady {
		t.Errorf("lookup %v", r)
	}
	p.send(&pb.CommandPartitionedTopicMetadata{Topic: new("parts"), RequestId: req})
	if r := want[*pb.CommandPartitionedTopicMetadataResponse](p); r.GetPartitions() != 3 || r.GetResponse() != pb.CommandPartitionedTopicMetadataResponse_Success {
		t.Errorf("partitions %v", r)
	}
	p.send(&pb.CommandPartitionedTopicMetadata{Topic: new("nobody/ns/t"), RequestId: req})
	if r := want[*pb.CommandPartitionedTopicMetadataResponse](p); r.GetError() != pb.ServerError_TopicNotFound {
		t.Errorf("partitions %v", r)
	}

	topics := func(pattern, hash *string) *pb.CommandGetTopicsOfNamespaceResponse {
		p.send(&pb.CommandGetTopicsOfNamespace{Namespace: new("public/default"), RequestId: req, TopicsPattern: pattern, TopicsHash: hash})
		return want[*pb.CommandGetTopicsOfNamespaceResponse](p)
	}
	if r := topics(nil, nil); len(r.Topics) != 0 || r.GetTopicsHash() != "00000000" || !r.GetChanged() {
		t.Errorf("no topics: %v", r)
	}
	d.topic("my-topic")
	if r := topics(nil, nil); !reflect.DeepEqual(r.Topics, []string{"persistent://public/default/my-topic"}) || r.GetTopicsHash() != "10bbf5f6" || r.GetFiltered() {
		t.Errorf("one topic: %v", r)
	}
	if r := topics(nil, new("10bbf5f6")); len(r.Topics) != 0 || r.GetChanged() {
		t.Errorf("unchanged: %v", r)
	}
	d.topic("other-partition-1")
	if r := topics(new("persistent://public/default/oth.*r"), nil); !reflect.DeepEqual(r.Topics, []string{"persistent://public/default/other-partition-1"}) || !r.GetFiltered() {
		t.Errorf("pattern: %v", r)
	}
	if r := topics(new("public/default/(?!x).*"), nil); len(r.Topics) != 2 || r.GetFiltered() {
		t.Errorf("a pattern that only Java understands: %v", r)
	}

	// Bytes are no schema, but clients want a version for them that they can ask for.
	p.send(&pb.CommandGetOrCreateSchema{RequestId: req, Topic: new("my-topic"), Schema: &pb.Schema{Name: new("b"), Type: pb.Schema_None.Enum(), SchemaData: []byte{}}})
	bytesVersion := want[*pb.CommandGetOrCreateSchemaResponse](p)
	if bytesVersion.ErrorCode != nil || bytesVersion.SchemaVersion == nil || len(d.schemas) != 0 {
		t.Errorf("get or create for bytes: %v, stored %v", bytesVersion, d.schemas)
	}
	p.send(&pb.CommandGetSchema{RequestId: req, Topic: new("my-topic"), SchemaVersion: bytesVersion.SchemaVersion})
	if r := want[*pb.CommandGetSchemaResponse](p); r.ErrorCode != nil || r.GetSchema().GetType() != pb.Schema_None {
		t.Errorf("get for bytes: %v", r)
	}

	schema := &pb.Schema{Name: new("s"), Type: pb.Schema_Json.Enum(), SchemaData: []byte("{}"), Properties: []*pb.KeyValue{{Key: new("k"), Value: new("v")}}}
	p.send(&pb.CommandGetOrCreateSchema{RequestId: req, Topic: new("my-topic"), Schema: schema})
	if r := want[*pb.CommandGetOrCreateSchemaResponse](p); binary.BigEndian.Uint64(r.GetSchemaVersion()) != 0 || r.ErrorCode != nil {
		t.Errorf("get or create: %v", r)
	}
	p.send(&pb.CommandGetSchema{RequestId: req, Topic: new("my-topic")})
	if r := want[*pb.CommandGetSchemaResponse](p); string(r.GetSchema().GetSchemaData()) != "{}" || r.GetSchema().GetType() != pb.Schema_Json || len(r.GetSchema().GetProperties()) != 1 {
		t.Errorf("get: %v", r)
	}
	p.send(&pb.CommandProducer{Topic: new("my-topic"), ProducerId: new(uint64(1)), RequestId: req, Schema: schema})
	if r := want[*pb.CommandProducerSuccess](p); len(r.SchemaVersion) != 8 {
		t.Errorf("producer with a schema: %v", r)
	}
	other := &pb.Schema{Name: new("s"), Type: pb.Schema_Json.Enum(), SchemaData: []byte("{other}")}
	p.send(&pb.CommandProducer{Topic: new("my-topic"), ProducerId: new(uint64(2)), RequestId: req, Schema: other})
	if r := want[*pb.CommandError](p); r.GetError() != pb.ServerError_IncompatibleSchema {
		t.Errorf("producer with another schema: %v", r)
	}
	p.send(&pb.CommandSubscribe{Topic: new("my-topic"), ConsumerId: new(uint64(2)), RequestId: req, Subscription: new("s"), SubType: pb.CommandSubscribe_Shared.Enum(), Schema: other})
	if r := want[*pb.CommandError](p); r.GetError() != pb.ServerError_IncompatibleSchema {
		t.Errorf("consumer with another schema: %v", r)
	}
	p.send(&pb.CommandSubscribe{Topic: new("absent"), ConsumerId: new(uint64(2)), RequestId: req, Subscription: new("s"), SubType: pb.CommandSubscribe_Shared.Enum(), ForceTopicCreation: new(false)})
	if r := want[*pb.CommandError](p); r.GetError() != pb.ServerError_TopicNotFound {
		t.Errorf("consumer that must not create: %v", r)
	}
}

// A client that publishes faster than storage takes it is not read any more; it goes on when storage does.
func TestPublishingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		d.hold = true
		p := connect(t, d, conn.Config{MaxPendingPublish: 10_000})
		p.produce(1, aTopic)
		written := make(chan int, 1)
		go func() {
			n := 0
			for ; n < 1000; n++ {
				if _, err := p.nc.Write(sendFrame(1, uint64(n), 1000)); err != nil {
					break
				}
			}
			written <- n
		}()
		ft := d.topic(aTopic)
		synctest.Wait()
		if n := ft.waiting(); n < 6 || n > 300 { // the bound and what was read with it
			t.Fatalf("%d sends are waiting", n)
		}
		time.Sleep(5 * time.Minute) // the silence is ours: nobody is cut
		for got := uint64(0); got < 1000; {
			synctest.Wait()
			n := ft.waiting()
			if n == 0 || n > 300 {
				t.Fatalf("%d sends are waiting after %d", n, got)
			}
			go ft.release()
			for range n {
				if r := p.receipt(); r.SequenceID != got {
					t.Fatalf("receipt %d, want %d", r.SequenceID, got)
				}
				got++
			}
		}
		if n := <-written; n != 1000 {
			t.Errorf("%d sends were written", n)
		}
	})
}

// A million messages of a few bytes are bounded by what it costs to keep track of them.
func TestTinyMessagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		d.hold = true
		p := connect(t, d, conn.Config{MaxPendingPublish: 1 << 20})
		p.produce(1, aTopic)
		const chunk = 1000
		go func() {
			for n := 0; n < 20*chunk; n += chunk {
				var frames []byte
				for i := range chunk {
					frames = append(frames, sendFrame(1, uint64(n+i), 1)...)
				}
				if _, err := p.nc.Write(frames); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		if n := d.topic(aTopic).waiting(); n < 1000 || n > 10_000 {
			t.Fatalf("%d sends of one byte are waiting", n)
		}
	})
}

// What one connection has on its way to storage keeps the others from being read, until it is stored or will
// get no outcome any more.
func TestConnectionsShareABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		d.hold = true
		cfg := conn.Config{Budget: conn.NewBudget(10_000)}
		one, two := connect(t, d, cfg), connect(t, d, cfg)
		one.produce(1, aTopic)
		two.produce(1, aTopic+"2")
		ft, other := d.topic(aTopic), d.topic(aTopic+"2")
		for _, stored := range []bool{true, false} {
			one.write(sendFrame(1, 1, 11_000))
			synctest.Wait()
			two.write(wire.AppendPing(nil)) // of what is read at a time, the first comes through
			if c := two.must(); c.Type != wire.TypePong {
				t.Fatalf("received %v", c.Type)
			}
			go two.write(sendFrame(1, 1, 10))
			synctest.Wait()
			if n := other.waiting(); n != 0 {
				t.Fatalf("%d sends came through a budget that is used up", n)
			}
			if ft.waiting() == 0 {
				t.Fatal("nothing is on its way")
			}
			if cfg.Budget.Used() < 11_000 {
				t.Errorf("used %d", cfg.Budget.Used())
			}
			if stored {
				go ft.release()
				one.receipt()
			} else {
				ft.producer("fake-0").sink.CloseProducer(nil)
				want[*pb.CommandCloseProducer](one)
			}
			synctest.Wait()
			if n := other.waiting(); n != 1 {
				t.Fatalf("%d sends came through", n)
			}
			go other.release()
			two.receipt()
			synctest.Wait()
			if used := cfg.Budget.Used(); used != 0 {
				t.Errorf("%d bytes are still taken", used)
			}
		}
	})
}

// A client that does not read stops dispatch at the bound, and reading: its requests cannot pile up answers.
func TestSendingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		p := connect(t, d, conn.Config{MaxQueued: 100_000})
		p.subscribe(1, aTopic)
		p.write((&wire.Flow{ConsumerID: 1, Permits: 1000}).AppendFrame(nil))
		synctest.Wait()
		k := d.topic(aTopic).consumer(1)
		one := []subscription.Message{{Payload: entry(0, true, 10_000)}}
		sent := 0
		for writable := true; writable; sent++ {
			writable = k.sink.Deliver(nil, one)
			synctest.Wait()
		}
		if sent > 20 {
			t.Fatalf("%d messages of 10 kB were taken at a bound of 100 kB", sent)
		}
		pings := 0
		go func() {
			for ; pings < 1_000_000; pings++ {
				if _, err := p.nc.Write(wire.AppendPing(nil)); err != nil {
					break
				}
			}
		}()
		synctest.Wait()
		if pings > 20_000 {
			t.Fatalf("%d pings were read from a client that reads no answers", pings)
		}
		for range sent {
			if c := p.must(); c.Type != wire.TypeMessage {
				t.Fatalf("received %v", c.Type)
			}
		}
		<-k.resumed
		p.nc.Close()
	})
}

// A client that stops reading while much waits for it is not read either, so that its silence says nothing;
// it is cut because it takes nothing.
func TestClientThatTakesNothingIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		p := connect(t, d, conn.Config{MaxQueued: 100_000})
		p.subscribe(1, aTopic)
		p.write((&wire.Flow{ConsumerID: 1, Permits: 1000}).AppendFrame(nil))
		synctest.Wait()
		start := time.Now()
		k := d.topic(aTopic).consumer(1)
		for k.sink.Deliver(nil, []subscription.Message{{Payload: entry(0, true, 10_000)}}) {
			synctest.Wait()
		}
		err := <-p.done
		p.done <- err
		if !errors.Is(err, conn.ErrIdle) {
			t.Errorf("Serve = %v, want ErrIdle", err)
		}
		if got := time.Since(start); got > 62*time.Second {
			t.Errorf("cut after %v", got)
		}
		if _, _, _, closed := k.get(); !closed {
			t.Error("the consumer is left behind")
		}
	})
}

func TestAliveProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDomain()
		p := connect(t, d, conn.Config{})
		p.subscribe(1, aTopic)
		sink := d.topic(aTopic).consumer(1).sink
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if sink.Alive(ctx) { // it does not answer
			t.Error("a silent client counts as alive")
		}
		go func() {
			for {
				if _, _, err := p.recv(); err != nil {
					return
				}
			}
		}()
		if !sink.Alive(context.Background()) {
			t.Error("a client that answers does not count as alive")
		}
		p.nc.Close()
		synctest.Wait()
		if sink.Alive(context.Background()) {
			t.Error("a client that left counts as alive")
		}
	})
}

func TestServerEndsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, stored := range []bool{true, false} {
			d := newDomain()
			d.hold = true
			ctx, stop := context.WithCancelCause(context.Background())
			p := dialWith(ctx, t, d, conn.Config{})
			p.send(&pb.CommandConnect{ClientVersion: new("x")})
			want[*pb.CommandConnected](p)
			p.produce(1, aTopic)
			p.write(sendFrame(1, 5, 10))
			synctest.Wait()
			start, why := time.Now(), errors.New("stop")
			stop(why)
			synctest.Wait()
			if stored { // what was taken on is answered
				go d.topic(aTopic).release()
				if r := p.receipt(); r.SequenceID != 5 {
					t.Errorf("receipt %+v", r)
				}
			}
			if err := p.wantEnd(); err != why {
				t.Errorf("Serve = %v, want the cause", err)
			}
			if d := time.Since(start); stored && d != 0 || d > time.Second {
				t.Errorf("it took %v", d)
			}
		}
	})
}
