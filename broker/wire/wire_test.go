package wire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
)

// base serializes with the generated types what the hand-written code is compared with.
func base(t testing.TB, c *pb.BaseCommand) []byte {
	t.Helper()
	b, err := c.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// command is the command part of a whole frame, whose lengths it checks.
func command(t testing.TB, frame []byte, payload int) []byte {
	t.Helper()
	if got := int(binary.BigEndian.Uint32(frame)); got != len(frame)-4+payload {
		t.Fatalf("total is %d, want %d", got, len(frame)-4+payload)
	}
	frame = append(bytes.Clone(frame), make([]byte, payload)...)
	c, rest, err := wire.SplitFrame(frame)
	if err != nil || len(rest) != payload {
		t.Fatalf("split: %v, %d bytes left", err, len(rest))
	}
	return c
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes were made by hand from the protocol's description, so that both codecs cannot share an error.
func TestGoldenCommands(t *testing.T) {
	for _, tc := range []struct {
		name, hex string
		check     func(c *wire.Command) bool
	}{
		{"ping", "08 12 92 01 00", func(c *wire.Command) bool { return c.Type == wire.TypePing }},
		{"ping without its command", "08 12", func(c *wire.Command) bool { return c.Type == wire.TypePing }},
		{"connect", "08 02 12 05 0a 01 78 20 15", func(c *wire.Command) bool {
			m := c.Body.(*pb.CommandConnect)
			return m.GetClientVersion() == "x" && m.GetProtocolVersion() == 21
		}},
		{"connect before its type", "12 03 0a 01 78 08 02", func(c *wire.Command) bool {
			return c.Body.(*pb.CommandConnect).GetClientVersion() == "x"
		}},
		{"connect with unknown fields", "08 02 98 06 07 12 06 0a 01 78 c0 3e 01", func(c *wire.Command) bool {
			return c.Body.(*pb.CommandConnect).GetClientVersion() == "x"
		}},
		{"send", "08 06 32 0c 08 07 10 ac 02 18 0a 30 b5 02 38 01", func(c *wire.Command) bool {
			return reflect.DeepEqual(c.Send, wire.Send{ProducerID: 7, SequenceID: 300, Messages: 10, HighestSequenceID: 309, IsChunk: true})
		}},
		{"flow", "08 0b 5a 05 08 03 10 e8 07", func(c *wire.Command) bool {
			return c.Flow == wire.Flow{ConsumerID: 3, Permits: 1000}
		}},
		{"ack with an unpacked and a packed set", "08 0a 52 1c 08 01 10 00 1a 0a 08 04 10 05 28 03 28 01 30 02 1a 08 08 04 10 06 2a 02 07 01 40 09", func(c *wire.Command) bool {
			a := c.Ack
			return a.ConsumerID == 1 && !a.Cumulative && a.HasRequest && a.RequestID == 9 && a.ValidationError == -1 &&
				reflect.DeepEqual(a.IDs, []wire.MessageID{
					{Ledger: 4, Entry: 5, Partition: -1, BatchIndex: -1, BatchSize: 2, AckSet: []int64{3, 1}},
					{Ledger: 4, Entry: 6, Partition: -1, BatchIndex: -1, AckSet: []int64{7, 1}},
				})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var c wire.Command
			if err := c.Decode(unhex(t, tc.hex)); err != nil {
				t.Fatal(err)
			}
			if !tc.check(&c) {
				t.Errorf("decoded %+v, body %v", c, c.Body)
			}
		})
	}
}

func TestBadCommandsAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name, hex string
		want      error
	}{
		{"empty", "", wire.ErrMalformed},
		{"no type", "12 03 0a 01 78", wire.ErrMalformed},
		{"type 1", "08 01", wire.ErrUnknownCommand},
		{"type 45", "08 2d", wire.ErrUnknownCommand},
		{"a scalable-topic command of Pulsar 5", "08 46 b2 04 02 08 01", wire.ErrUnknownCommand},
		{"type 2^32+6", "08 86 80 80 80 10", wire.ErrUnknownCommand},
		{"type without its command", "08 02", wire.ErrMalformed},
		{"type with another's command", "08 02 32 04 08 07 10 01", wire.ErrMalformed},
		{"connect without client_version", "08 02 12 02 20 15", wire.ErrMalformed},
		{"send without producer_id", "08 06 32 02 10 01", wire.ErrMalformed},
		{"send without sequence_id", "08 06 32 02 08 01", wire.ErrMalformed},
		{"send with producer_id of a wrong type", "08 06 32 05 0a 01 78 10 01", wire.ErrMalformed},
		{"flow without permits", "08 0b 5a 02 08 03", wire.ErrMalformed},
		{"ack without type", "08 0a 52 02 08 01", wire.ErrMalformed},
		{"ack of an unknown type", "08 0a 52 04 08 01 10 02", wire.ErrMalformed},
		{"ack with half a message id", "08 0a 52 08 08 01 10 00 1a 02 08 04", wire.ErrMalformed},
		{"length beyond the end", "08 06 32 7f 08 07", wire.ErrMalformed},
		{"varint beyond the end", "08 06 32 02 08 ff", wire.ErrMalformed},
		{"varint of eleven bytes", "08 ff ff ff ff ff ff ff ff ff ff 01", wire.ErrMalformed},
		{"field number 0", "08 06 02 00", wire.ErrMalformed},
		{"group", "08 06 0b 0c", wire.ErrMalformed},
		{"two commands", "08 0b 5a 04 08 03 10 01 5a 04 08 03 10 01", wire.ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var c wire.Command
			if err := c.Decode(unhex(t, tc.hex)); !errors.Is(err, tc.want) {
				t.Errorf("Decode = %v, want %v", err, tc.want)
			}
		})
	}
}

// Every message of the generated package is a command or part of one, and every command has its type.
func TestEveryCommandRoundTrips(t *testing.T) {
	fields := (&pb.BaseCommand{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Name() == "type" {
			continue
		}
		if _, ok := pb.BaseCommand_Type_name[int32(f.Number())]; !ok {
			t.Errorf("field %v has number %d, which is no type", f.Name(), f.Number())
		}
	}
	if got, want := fields.Len()-1, len(pb.BaseCommand_Type_name); got != want {
		t.Errorf("%d commands, %d types", got, want)
	}
	sub := &pb.CommandSubscribe{
		Topic: new("t"), Subscription: new("s"), SubType: pb.CommandSubscribe_Failover.Enum(), ConsumerId: new(uint64(1)), RequestId: new(uint64(2)),
		StartMessageId: &pb.MessageIdData{LedgerId: new(uint64(3)), EntryId: new(uint64(4))},
		KeySharedMeta:  &pb.KeySharedMeta{KeySharedMode: pb.KeySharedMode_STICKY.Enum(), HashRanges: []*pb.IntRange{{Start: new(int32(1)), End: new(int32(9))}}},
	}
	var c wire.Command
	if err := c.Decode(command(t, wire.AppendFrame(nil, sub), 0)); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(c.Body.(proto.Message), sub) {
		t.Errorf("got %v, want %v", c.Body, sub)
	}
	for _, frame := range [][]byte{wire.AppendPing(nil), wire.AppendPong(nil)} {
		if err := c.Decode(command(t, frame, 0)); err != nil || c.Body != nil {
			t.Errorf("ping or pong: %v, body %v", err, c.Body)
		}
	}
}

// What the hand-written encoders make is what the generated decoders read, and back.
func TestHotCodecsAgreeWithGenerated(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		id := func(name string) wire.MessageID {
			return wire.MessageID{
				Ledger: rapid.Int64().Draw(rt, name+" ledger"), Entry: rapid.Int64().Draw(rt, name+" entry"),
				Partition:  rapid.Int32Range(-1, 1<<30).Draw(rt, name+" partition"),
				BatchIndex: rapid.Int32Range(-1, 1<<30).Draw(rt, name+" index"),
				BatchSize:  rapid.Int32Range(0, 1<<30).Draw(rt, name+" size"),
				AckSet:     rapid.SliceOfN(rapid.Int64(), 0, 3).Draw(rt, name+" set"),
			}
		}
		u64 := func(name string) uint64 { return rapid.Uint64().Draw(rt, name) }
		flag := func(name string) bool { return rapid.Bool().Draw(rt, name) }

		s := wire.Send{ProducerID: u64("p"), SequenceID: u64("s"), HighestSequenceID: u64("h"), Messages: rapid.Int32().Draw(rt, "n"),
			InTxn: flag("txn"), IsChunk: flag("chunk"), Marker: flag("marker")}
		if s.InTxn {
			s.TxnLeast, s.TxnMost = u64("least"), u64("most")
		}
		r := wire.SendReceipt{ProducerID: u64("p"), SequenceID: u64("s"), HighestSequenceID: u64("h"), ID: id("receipt")}
		m := wire.Message{ConsumerID: u64("c"), ID: id("message"), RedeliveryCount: rapid.Uint32().Draw(rt, "count"),
			AckSet: rapid.SliceOfN(rapid.Int64(), 0, 3).Draw(rt, "set"), Epoch: u64("epoch")}
		a := wire.Ack{ConsumerID: u64("c"), Cumulative: flag("cumulative"), ValidationError: rapid.Int32Range(-1, 4).Draw(rt, "validation"),
			HasRequest: flag("request"), InTxn: flag("txn")}
		for i := range rapid.IntRange(0, 4).Draw(rt, "ids") {
			a.IDs = append(a.IDs, id(fmt.Sprint("ack ", i)))
		}
		if a.HasRequest {
			a.RequestID = u64("request")
		}
		if a.InTxn {
			a.TxnLeast, a.TxnMost = u64("least"), u64("most")
		}
		fl := wire.Flow{ConsumerID: u64("c"), Permits: rapid.Uint32().Draw(rt, "permits")}

		payload := rapid.IntRange(0, 1000).Draw(rt, "payload")
		for _, f := range []struct {
			frame   []byte
			payload int
			same    func(c *wire.Command) bool
		}{
			{s.AppendFrame(nil, payload), payload, func(c *wire.Command) bool { return reflect.DeepEqual(c.Send, s) }},
			{r.AppendFrame(nil), 0, func(c *wire.Command) bool { return sameID(c.Receipt.ID, r.ID) && c.Receipt.SequenceID == r.SequenceID }},
			{m.AppendFrame(nil, payload), payload, func(c *wire.Command) bool {
				return sameID(c.Message.ID, m.ID) && sameWords(c.Message.AckSet, m.AckSet) && c.Message.Epoch == m.Epoch
			}},
			{a.AppendFrame(nil), 0, func(c *wire.Command) bool {
				for i := range a.IDs {
					if !sameID(c.Ack.IDs[i], a.IDs[i]) {
						return false
					}
				}
				return len(c.Ack.IDs) == len(a.IDs) && c.Ack.ValidationError == a.ValidationError && c.Ack.RequestID == a.RequestID && c.Ack.Cumulative == a.Cumulative
			}},
			{fl.AppendFrame(nil), 0, func(c *wire.Command) bool { return c.Flow == fl }},
		} {
			b := command(t, f.frame, f.payload)
			var c wire.Command
			if err := c.Decode(b); err != nil {
				rt.Fatal(err)
			}
			if !f.same(&c) {
				rt.Fatalf("%v does not survive: %+v", c.Type, c)
			}
			agree(rt, b, &c)
		}
	})
}

func sameWords(a, b []int64) bool {
	return len(a) == len(b) && (len(a) == 0 || reflect.DeepEqual(a, b))
}

func sameID(a, b wire.MessageID) bool {
	sets := sameWords(a.AckSet, b.AckSet)
	a.AckSet, b.AckSet = nil, nil
	return sets && reflect.DeepEqual(a, b)
}

type fataler interface{ Fatalf(string, ...any) }

// agree checks a hot command against what the generated code reads from the same bytes.
func agree(t fataler, b []byte, c *wire.Command) {
	var g pb.BaseCommand
	if err := g.UnmarshalVT(b); err != nil {
		t.Fatalf("generated code refuses what was decoded as %v: %v", c.Type, err)
	}
	if int32(g.GetType()) != int32(c.Type) {
		t.Fatalf("type %v, generated %v", c.Type, g.GetType())
	}
	id := func(got wire.MessageID, want *pb.MessageIdData) {
		if uint64(got.Ledger) != want.GetLedgerId() || uint64(got.Entry) != want.GetEntryId() || got.Partition != want.GetPartition() ||
			got.BatchIndex != want.GetBatchIndex() || got.BatchSize != want.GetBatchSize() || !sameWords(got.AckSet, want.GetAckSet()) {
			t.Fatalf("message id %+v, generated %v", got, want)
		}
	}
	switch c.Type {
	case wire.TypeSend:
		s, w := c.Send, g.Send
		if s.ProducerID != w.GetProducerId() || s.SequenceID != w.GetSequenceId() || s.Messages != w.GetNumMessages() || s.HighestSequenceID != w.GetHighestSequenceId() ||
			s.TxnLeast != w.GetTxnidLeastBits() || s.TxnMost != w.GetTxnidMostBits() || s.IsChunk != w.GetIsChunk() || s.Marker != w.GetMarker() {
			t.Fatalf("send %+v, generated %v", s, w)
		}
	case wire.TypeSendReceipt:
		r, w := c.Receipt, g.SendReceipt
		if r.ProducerID != w.GetProducerId() || r.SequenceID != w.GetSequenceId() || r.HighestSequenceID != w.GetHighestSequenceId() {
			t.Fatalf("receipt %+v, generated %v", r, w)
		}
		if w.MessageId != nil {
			id(r.ID, w.MessageId)
		}
	case wire.TypeMessage:
		m, w := c.Message, g.Message
		if m.ConsumerID != w.GetConsumerId() || m.RedeliveryCount != w.GetRedeliveryCount() || m.Epoch != w.GetConsumerEpoch() || !sameWords(m.AckSet, w.GetAckSet()) {
			t.Fatalf("message %+v, generated %v", m, w)
		}
		id(m.ID, w.MessageId)
	case wire.TypeAck:
		a, w := c.Ack, g.Ack
		if a.ConsumerID != w.GetConsumerId() || a.Cumulative != (w.GetAckType() == pb.CommandAck_Cumulative) || a.RequestID != w.GetRequestId() ||
			a.HasRequest != (w.RequestId != nil) || len(a.IDs) != len(w.GetMessageId()) || a.TxnLeast != w.GetTxnidLeastBits() || a.TxnMost != w.GetTxnidMostBits() {
			t.Fatalf("ack %+v, generated %v", a, w)
		}
		for i := range a.IDs {
			id(a.IDs[i], w.MessageId[i])
		}
	case wire.TypeFlow:
		if c.Flow.ConsumerID != g.Flow.GetConsumerId() || c.Flow.Permits != g.Flow.GetMessagePermits() {
			t.Fatalf("flow %+v, generated %v", c.Flow, g.Flow)
		}
	}
}

// appendPayload appends checksum, metadata and body.
func appendPayload(dst, metadata, body []byte) []byte {
	summed := binary.BigEndian.AppendUint32(nil, uint32(len(metadata)))
	summed = append(append(summed, metadata...), body...)
	dst = append(dst, 0x0e, 0x01)
	return append(binary.BigEndian.AppendUint32(dst, wire.Checksum(summed)), summed...)
}

func TestPayloadParts(t *testing.T) {
	meta, body := []byte("meta"), []byte("the body")
	p := appendPayload(nil, meta, body)
	entry := append(unhex(t, "0e02 00000002 0807"), p...)
	got, err := wire.ParsePayload(entry)
	if err != nil || string(got.Metadata) != "meta" || string(got.Body) != "the body" || !bytes.Equal(got.BrokerEntry, []byte{8, 7}) || !got.Checksummed {
		t.Fatalf("ParsePayload = %+v, %v", got, err)
	}
	if err := got.Verify(); err != nil {
		t.Fatal(err)
	}
	if rest, err := wire.SkipBrokerEntry(entry); err != nil || !bytes.Equal(rest, p) {
		t.Errorf("SkipBrokerEntry = %x, %v", rest, err)
	}
	plain, err := wire.ParsePayload(unhex(t, "00000001 61 62"))
	if err != nil || plain.Checksummed || string(plain.Metadata) != "a" || string(plain.Body) != "b" || plain.Verify() != nil {
		t.Errorf("without checksum: %+v, %v", plain, err)
	}
	for i := 6; i < len(p); i++ { // every byte under the checksum
		bad := bytes.Clone(p)
		bad[i] ^= 0x10
		if q, err := wire.ParsePayload(bad); err == nil && !errors.Is(q.Verify(), wire.ErrChecksum) {
			t.Fatalf("a changed byte %d goes unnoticed", i)
		}
	}
	for _, s := range []string{"", "0e01 00", "0e02 0000", "0e02 000000ff 00", "0000000a 61", "0e01 00000000 ffffffff"} {
		if _, err := wire.ParsePayload(unhex(t, s)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("ParsePayload(%q) = %v, want ErrMalformed", s, err)
		}
	}
	if got := wire.Checksum([]byte("123456789")); got != 0xe3069283 {
		t.Errorf("Checksum is %08x, want the check value of CRC32C", got)
	}
}

func TestReaderCutsFramesHoweverTheyArrive(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var stream []byte
		var want [][]byte
		for range rapid.IntRange(0, 30).Draw(rt, "frames") {
			n := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(0, 9000), rapid.Just(100_000)).Draw(rt, "size")
			f := bytes.Repeat([]byte{byte(len(want))}, n)
			want = append(want, f)
			stream = append(binary.BigEndian.AppendUint32(stream, uint32(n)), f...)
		}
		cut := rapid.IntRange(0, len(stream)).Draw(rt, "cut")
		var src io.Reader = bytes.NewReader(stream[:cut])
		switch rapid.IntRange(0, 3).Draw(rt, "reader") {
		case 0:
			src = iotest.HalfReader(src)
		case 1:
			src = iotest.DataErrReader(src)
		case 2:
			src = iotest.OneByteReader(io.LimitReader(src, 5000))
			cut = min(cut, 5000)
		}
		r := wire.NewReader(src, 100_000)
		var got [][]byte
		var err error
		for err == nil {
			n := len(got)
			if got, err = r.Next(got); err == nil && len(got) == n {
				rt.Fatal("Next returned nothing")
			}
		}
		off, whole := 0, 0
		for whole < len(want) && off+4+len(want[whole]) <= cut {
			off += 4 + len(want[whole])
			whole++
		}
		wantErr := io.EOF
		if off < cut {
			wantErr = io.ErrUnexpectedEOF
		}
		if err != wantErr || len(got) != whole {
			rt.Fatalf("%d frames and %v, want %d and %v", len(got), err, whole, wantErr)
		}
		for i := range got { // all kept to the end: no slab was written twice
			if !bytes.Equal(got[i][4:], want[i]) {
				rt.Fatalf("frame %d changed after it was returned", i)
			}
		}
	})
}

func TestReaderRefusesLargeFramesAfterThoseBefore(t *testing.T) {
	max := wire.MaxFrame(wire.DefaultMaxMessageSize)
	if max != 5_253_120 {
		t.Errorf("frame limit %d, want Pulsar's 5253120", max)
	}
	stream := append(wire.AppendPing(nil), unhex(t, "00502841")...) // 5253121
	r := wire.NewReader(bytes.NewReader(stream), max)
	frames, err := r.Next(nil)
	if err != nil || len(frames) != 1 {
		t.Fatalf("the frame before: %v, %v", frames, err)
	}
	if _, err := r.Next(nil); !errors.Is(err, wire.ErrFrameTooLarge) {
		t.Fatalf("Next = %v, want ErrFrameTooLarge", err)
	}
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"0812920100", "080212050a01782015", "0806320c080710ac02180a30b5023801", "080b5a05080310e807",
		"080a521c080110001a0a08041005280328013002 1a08080410062a0207014009", "08073a08080110021a0208ff", "08094a0a0801120408041005180320ff01",
	} {
		f.Add(unhex(f, s))
	}
	f.Add(base(f, &pb.BaseCommand{Type: pb.BaseCommand_SUCCESS.Enum(), Success: &pb.CommandSuccess{RequestId: new(uint64(1))}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c wire.Command
		if err := c.Decode(b); err != nil {
			if !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, wire.ErrUnknownCommand) {
				t.Fatalf("error without a kind: %v", err)
			}
			return
		}
		// The generated code is stricter about wire types of fields that it knows: those are not compared.
		if (&pb.BaseCommand{}).UnmarshalVT(b) == nil {
			agree(t, b, &c)
		}
	})
}

func FuzzPayload(f *testing.F) {
	f.Add(appendPayload(nil, []byte("m"), []byte("b")))
	f.Add(unhex(f, "0e0200000002080700000001616200"))
	f.Add(unhex(f, "00000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.ParsePayload(b)
		if err != nil {
			return
		}
		_ = p.Verify()
		if len(p.Metadata)+len(p.Body)+4 != len(p.Summed) {
			t.Fatalf("parts %d and %d of %d bytes", len(p.Metadata), len(p.Body), len(p.Summed))
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add(append(wire.AppendPing(nil), wire.AppendPong(nil)...))
	f.Add(unhex(f, "00000000 00000001 ff 7fffffff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := wire.NewReader(bytes.NewReader(b), 1000)
		var frames [][]byte
		var err error
		for err == nil {
			frames, err = r.Next(frames)
		}
		var again []byte
		for _, fr := range frames {
			again = append(again, fr...)
			if c, _, err := wire.SplitFrame(fr); err == nil && len(c) > len(fr) {
				t.Fatal("command longer than its frame")
			}
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatal("the frames are not the stream")
		}
	})
}
