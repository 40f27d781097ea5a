package wire_test

import (
	"testing"

	"github.com/daybook/daybook/broker/wire"
)

// hot is one round of each hot codec, ready to run again and again.
func hot(tb testing.TB) map[string]func() {
	var c wire.Command
	dst := make([]byte, 0, 4<<10)
	decode := func(frame []byte) func() {
		b := command(tb, frame, 0)
		return func() {
			if err := c.Decode(b); err != nil {
				tb.Fatal(err)
			}
		}
	}
	send := wire.Send{ProducerID: 3, SequenceID: 1 << 20, Messages: 100, HighestSequenceID: 1<<20 + 99}
	receipt := wire.SendReceipt{ProducerID: 3, SequenceID: 1 << 20, ID: wire.MessageID{Ledger: 1234, Entry: 99999, Partition: -1, BatchIndex: -1}}
	message := wire.Message{ConsumerID: 3, ID: wire.MessageID{Ledger: 1234, Entry: 99999, Partition: 2, BatchIndex: -1}, RedeliveryCount: 1, AckSet: []int64{-1, 1}}
	ack := wire.Ack{ConsumerID: 3, ValidationError: -1}
	for i := range int64(20) {
		ack.IDs = append(ack.IDs, wire.MessageID{Ledger: 7, Entry: i, Partition: -1, BatchIndex: -1, AckSet: []int64{i, -1}})
	}
	flow := wire.Flow{ConsumerID: 3, Permits: 500}
	return map[string]func(){
		"DecodeSend":    decode(send.AppendFrame(nil, 0)),
		"DecodeReceipt": decode(receipt.AppendFrame(nil)),
		"DecodeMessage": decode(message.AppendFrame(nil, 0)),
		"DecodeAck20":   decode(ack.AppendFrame(nil)),
		"DecodeFlow":    decode(flow.AppendFrame(nil)),
		"EncodeSend":    func() { send.AppendFrame(dst, 1024) },
		"EncodeReceipt": func() { receipt.AppendFrame(dst) },
		"EncodeMessage": func() { message.AppendFrame(dst, 1024) },
		"EncodeAck20":   func() { ack.AppendFrame(dst) },
		"EncodeFlow":    func() { flow.AppendFrame(dst) },
	}
}

func TestHotCodecsDoNotAllocate(t *testing.T) {
	for name, f := range hot(t) {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
	p := appendPayload(nil, []byte("\x0a\x01p\x10\x00\x18\x05"), make([]byte, 1024))
	if n := testing.AllocsPerRun(100, func() {
		q, err := wire.ParsePayload(p)
		if err != nil || q.Verify() != nil {
			t.Fatal("the payload is not accepted")
		}
	}); n != 0 {
		t.Errorf("checking a payload allocates %v times", n)
	}
}

func BenchmarkCodec(b *testing.B) {
	for name, f := range hot(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

func BenchmarkCheckPayload1K(b *testing.B) {
	p := appendPayload(nil, []byte("\x0a\x01p\x10\x00\x18\x05"), make([]byte, 1024))
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		q, err := wire.ParsePayload(p)
		if err != nil || q.Verify() != nil {
			b.Fatal("the payload is not accepted")
		}
	}
}
