package wire

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// A MessageID is a MessageIdData. Ledger and Entry are the wire's unsigned numbers as signed ones, as Pulsar
// means them: 2^64-1 is -1.
type MessageID struct {
	Ledger, Entry int64
	Partition     int32   // -1 if not set
	BatchIndex    int32   // -1 if not set
	BatchSize     int32   // 0 if not set
	AckSet        []int64 // words of a bit set: a set bit is a message that is not acknowledged
}

// A Send is the command SEND.
type Send struct {
	ProducerID, SequenceID uint64
	// HighestSequenceID is the last sequence id of a batch, 0 if not set.
	HighestSequenceID uint64
	Messages          int32 // 1 if not set
	TxnLeast, TxnMost uint64
	InTxn             bool // the transaction id is set
	IsChunk, Marker   bool
}

// A SendReceipt is the command SEND_RECEIPT.
type SendReceipt struct {
	ProducerID, SequenceID, HighestSequenceID uint64
	ID                                        MessageID
}

// A Message is the command MESSAGE.
type Message struct {
	ConsumerID      uint64
	ID              MessageID
	RedeliveryCount uint32
	// AckSet holds the messages of the batch that are still to be delivered; empty means all.
	AckSet []int64
	Epoch  uint64 // consumer epoch, 0 if not set
}

// An Ack is the command ACK.
type Ack struct {
	ConsumerID uint64
	Cumulative bool
	IDs        []MessageID
	// RequestID is to be answered with ACK_RESPONSE if HasRequest.
	RequestID         uint64
	HasRequest        bool
	TxnLeast, TxnMost uint64
	InTxn             bool
	// ValidationError says why the consumer threw the message away, -1 if it did not.
	ValidationError int32

	sets []int64 // backs the AckSets of IDs
}

// A Flow is the command FLOW.
type Flow struct {
	ConsumerID uint64
	Permits    uint32
}

// Wire types of protobuf.
const (
	wtVarint  = 0
	wtFixed64 = 1
	wtBytes   = 2
	wtGroup   = 3
	wtFixed32 = 5
)

// A field is one field of a message: v is the value of a varint, b that of bytes.
type field struct {
	num  int
	wire uint8
	v    uint64
	b    []byte
}

// next reads the field at the start of b and returns what follows it. Groups are refused: the protocol has
// none, and none of its known senders makes one.
func next(b []byte) (f field, rest []byte, err error) {
	tag, n := uvarint(b)
	if n == 0 {
		return f, nil, errField
	}
	b = b[n:]
	f.num, f.wire = int(tag>>3), uint8(tag&7)
	if tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return f, nil, errField
	}
	switch f.wire {
	case wtVarint:
		v, n := uvarint(b)
		if n == 0 {
			return f, nil, errField
		}
		f.v = v
		return f, b[n:], nil
	case wtBytes:
		l, n := uvarint(b)
		if n == 0 || l > uint64(len(b)-n) {
			return f, nil, errField
		}
		f.b = b[n : n+int(l)]
		return f, b[n+int(l):], nil
	case wtFixed64:
		if len(b) < 8 {
			return f, nil, errField
		}
		f.v = binary.LittleEndian.Uint64(b)
		return f, b[8:], nil
	case wtFixed32:
		if len(b) < 4 {
			return f, nil, errField
		}
		f.v = uint64(binary.LittleEndian.Uint32(b))
		return f, b[4:], nil
	}
	return f, nil, errField
}

var errField = fmt.Errorf("%w: bad field", ErrMalformed)

// uvarint reads a varint of at most 10 bytes; n is 0 if there is none.
func uvarint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	var shift uint
	for i := 0; i < len(b) && i < 10; i++ {
		c := b[i]
		if c < 0x80 {
			if i == 9 && c > 1 {
				return 0, 0
			}
			return v | uint64(c)<<shift, i + 1
		}
		v |= uint64(c&0x7f) << shift
		shift += 7
	}
	return 0, 0
}

func errMissing(what string) error { return fmt.Errorf("%w: %s not set", ErrMalformed, what) }

func (s *Send) decode(b []byte) error {
	*s = Send{Messages: 1}
	var have uint8
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		if f.wire != wtVarint {
			continue
		}
		switch f.num {
		case 1:
			s.ProducerID, have = f.v, have|1
		case 2:
			s.SequenceID, have = f.v, have|2
		case 3:
			s.Messages = int32(f.v)
		case 4:
			s.TxnLeast, s.InTxn = f.v, true
		case 5:
			s.TxnMost, s.InTxn = f.v, true
		case 6:
			s.HighestSequenceID = f.v
		case 7:
			s.IsChunk = f.v != 0
		case 8:
			s.Marker = f.v != 0
		}
	}
	if have != 3 {
		return errMissing("producer_id or sequence_id of SEND")
	}
	return nil
}

func (r *SendReceipt) decode(b []byte) error {
	*r = SendReceipt{ID: MessageID{Ledger: -1, Entry: -1, Partition: -1, BatchIndex: -1}}
	var have uint8
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case f.num == 1 && f.wire == wtVarint:
			r.ProducerID, have = f.v, have|1
		case f.num == 2 && f.wire == wtVarint:
			r.SequenceID, have = f.v, have|2
		case f.num == 3 && f.wire == wtBytes:
			if have&4 != 0 {
				return errField
			}
			if _, err := r.ID.decode(f.b, nil); err != nil {
				return err
			}
			have |= 4
		case f.num == 4 && f.wire == wtVarint:
			r.HighestSequenceID = f.v
		}
	}
	if have&3 != 3 {
		return errMissing("producer_id or sequence_id of SEND_RECEIPT")
	}
	return nil
}

func (m *Message) decode(b []byte) error {
	*m = Message{AckSet: m.AckSet[:0]}
	var have uint8
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case f.num == 1 && f.wire == wtVarint:
			m.ConsumerID, have = f.v, have|1
		case f.num == 2 && f.wire == wtBytes:
			if have&2 != 0 {
				return errField
			}
			if _, err := m.ID.decode(f.b, nil); err != nil {
				return err
			}
			have |= 2
		case f.num == 3 && f.wire == wtVarint:
			m.RedeliveryCount = uint32(f.v)
		case f.num == 4:
			if m.AckSet, err = appendWords(m.AckSet, f); err != nil {
				return err
			}
		case f.num == 5 && f.wire == wtVarint:
			m.Epoch = f.v
		}
	}
	if have != 3 {
		return errMissing("consumer_id or message_id of MESSAGE")
	}
	return nil
}

func (a *Ack) decode(b []byte) error {
	*a = Ack{IDs: a.IDs[:0], sets: a.sets[:0], ValidationError: -1}
	var have uint8
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case f.num == 1 && f.wire == wtVarint:
			a.ConsumerID, have = f.v, have|1
		case f.num == 2 && f.wire == wtVarint:
			if f.v > 1 {
				return fmt.Errorf("%w: ack type %d", ErrMalformed, f.v)
			}
			a.Cumulative, have = f.v == 1, have|2
		case f.num == 3 && f.wire == wtBytes:
			var id MessageID
			if a.sets, err = id.decode(f.b, a.sets); err != nil {
				return err
			}
			a.IDs = append(a.IDs, id)
		case f.num == 4 && f.wire == wtVarint:
			a.ValidationError = int32(f.v)
		case f.num == 6 && f.wire == wtVarint:
			a.TxnLeast, a.InTxn = f.v, true
		case f.num == 7 && f.wire == wtVarint:
			a.TxnMost, a.InTxn = f.v, true
		case f.num == 8 && f.wire == wtVarint:
			a.RequestID, a.HasRequest = f.v, true
		}
	}
	if have != 3 {
		return errMissing("consumer_id or ack_type of ACK")
	}
	return nil
}

func (fl *Flow) decode(b []byte) error {
	*fl = Flow{}
	var have uint8
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case f.num == 1 && f.wire == wtVarint:
			fl.ConsumerID, have = f.v, have|1
		case f.num == 2 && f.wire == wtVarint:
			fl.Permits, have = uint32(f.v), have|2
		}
	}
	if have != 3 {
		return errMissing("consumer_id or messagePermits of FLOW")
	}
	return nil
}

// decode reads a MessageIdData. The ack set goes to the end of sets, which is returned grown; an earlier
// AckSet stays valid where sets has to move.
func (id *MessageID) decode(b []byte, sets []int64) ([]int64, error) {
	*id = MessageID{Partition: -1, BatchIndex: -1}
	start := len(sets)
	var have uint8
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return sets, err
		}
		b = rest
		switch {
		case f.num == 1 && f.wire == wtVarint:
			id.Ledger, have = int64(f.v), have|1
		case f.num == 2 && f.wire == wtVarint:
			id.Entry, have = int64(f.v), have|2
		case f.num == 3 && f.wire == wtVarint:
			id.Partition = int32(f.v)
		case f.num == 4 && f.wire == wtVarint:
			id.BatchIndex = int32(f.v)
		case f.num == 5:
			if sets, err = appendWords(sets, f); err != nil {
				return sets, err
			}
		case f.num == 6 && f.wire == wtVarint:
			id.BatchSize = int32(f.v)
		}
	}
	if have != 3 {
		return sets, errMissing("ledgerId or entryId of a message id")
	}
	if len(sets) > start {
		id.AckSet = sets[start:len(sets):len(sets)]
	}
	return sets, nil
}

// appendWords reads a repeated int64, packed or not.
func appendWords(dst []int64, f field) ([]int64, error) {
	switch f.wire {
	case wtVarint:
		return append(dst, int64(f.v)), nil
	case wtBytes:
		for b := f.b; len(b) > 0; {
			v, n := uvarint(b)
			if n == 0 {
				return dst, errField
			}
			dst, b = append(dst, int64(v)), b[n:]
		}
	}
	return dst, nil
}

// sizeUvarint is the number of bytes of v as a varint.
func sizeUvarint(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// sizeField is the size of a varint field with a number below 16.
func sizeField(v uint64) int { return 1 + sizeUvarint(v) }

func appendField(dst []byte, num int, v uint64) []byte {
	return binary.AppendUvarint(append(dst, byte(num<<3|wtVarint)), v)
}

func (id *MessageID) size() int {
	n := sizeField(uint64(id.Ledger)) + sizeField(uint64(id.Entry))
	if id.Partition >= 0 {
		n += sizeField(uint64(id.Partition))
	}
	if id.BatchIndex >= 0 {
		n += sizeField(uint64(id.BatchIndex))
	}
	for _, w := range id.AckSet {
		n += sizeField(uint64(w))
	}
	if id.BatchSize > 0 {
		n += sizeField(uint64(id.BatchSize))
	}
	return n
}

func (id *MessageID) append(dst []byte) []byte {
	dst = appendField(dst, 1, uint64(id.Ledger))
	dst = appendField(dst, 2, uint64(id.Entry))
	if id.Partition >= 0 {
		dst = appendField(dst, 3, uint64(id.Partition))
	}
	if id.BatchIndex >= 0 {
		dst = appendField(dst, 4, uint64(id.BatchIndex))
	}
	for _, w := range id.AckSet {
		dst = appendField(dst, 5, uint64(w))
	}
	if id.BatchSize > 0 {
		dst = appendField(dst, 6, uint64(id.BatchSize))
	}
	return dst
}

// appendHead appends what a frame begins with, for a command of type t whose body has size bytes and is
// followed by payload bytes: both lengths, the type, and the tag and length of the body.
func appendHead(dst []byte, t Type, size, payload int) []byte {
	command := 2 + sizeUvarint(uint64(t)<<3) + sizeUvarint(uint64(size)) + size
	dst = binary.BigEndian.AppendUint32(dst, uint32(4+command+payload))
	dst = binary.BigEndian.AppendUint32(dst, uint32(command))
	dst = append(dst, 1<<3|wtVarint, byte(t))
	dst = binary.AppendUvarint(dst, uint64(t)<<3|wtBytes)
	return binary.AppendUvarint(dst, uint64(size))
}

// AppendFrame appends the head of a SEND frame, to be followed by payload bytes.
func (s *Send) AppendFrame(dst []byte, payload int) []byte {
	size := sizeField(s.ProducerID) + sizeField(s.SequenceID)
	if s.Messages != 1 {
		size += sizeField(uint64(s.Messages))
	}
	if s.InTxn {
		size += sizeField(s.TxnLeast) + sizeField(s.TxnMost)
	}
	if s.HighestSequenceID != 0 {
		size += sizeField(s.HighestSequenceID)
	}
	if s.IsChunk {
		size += 2
	}
	if s.Marker {
		size += 2
	}
	dst = appendHead(dst, TypeSend, size, payload)
	dst = appendField(dst, 1, s.ProducerID)
	dst = appendField(dst, 2, s.SequenceID)
	if s.Messages != 1 {
		dst = appendField(dst, 3, uint64(s.Messages))
	}
	if s.InTxn {
		dst = appendField(dst, 4, s.TxnLeast)
		dst = appendField(dst, 5, s.TxnMost)
	}
	if s.HighestSequenceID != 0 {
		dst = appendField(dst, 6, s.HighestSequenceID)
	}
	if s.IsChunk {
		dst = appendField(dst, 7, 1)
	}
	if s.Marker {
		dst = appendField(dst, 8, 1)
	}
	return dst
}

// AppendFrame appends the whole SEND_RECEIPT frame.
func (r *SendReceipt) AppendFrame(dst []byte) []byte {
	id := r.ID.size()
	size := sizeField(r.ProducerID) + sizeField(r.SequenceID) + 1 + sizeUvarint(uint64(id)) + id
	if r.HighestSequenceID != 0 {
		size += sizeField(r.HighestSequenceID)
	}
	dst = appendHead(dst, TypeSendReceipt, size, 0)
	dst = appendField(dst, 1, r.ProducerID)
	dst = appendField(dst, 2, r.SequenceID)
	dst = binary.AppendUvarint(append(dst, 3<<3|wtBytes), uint64(id))
	dst = r.ID.append(dst)
	if r.HighestSequenceID != 0 {
		dst = appendField(dst, 4, r.HighestSequenceID)
	}
	return dst
}

// AppendFrame appends the head of a MESSAGE frame, to be followed by payload bytes.
func (m *Message) AppendFrame(dst []byte, payload int) []byte {
	id := m.ID.size()
	size := sizeField(m.ConsumerID) + 1 + sizeUvarint(uint64(id)) + id
	if m.RedeliveryCount != 0 {
		size += sizeField(uint64(m.RedeliveryCount))
	}
	for _, w := range m.AckSet {
		size += sizeField(uint64(w))
	}
	if m.Epoch != 0 {
		size += sizeField(m.Epoch)
	}
	dst = appendHead(dst, TypeMessage, size, payload)
	dst = appendField(dst, 1, m.ConsumerID)
	dst = binary.AppendUvarint(append(dst, 2<<3|wtBytes), uint64(id))
	dst = m.ID.append(dst)
	if m.RedeliveryCount != 0 {
		dst = appendField(dst, 3, uint64(m.RedeliveryCount))
	}
	for _, w := range m.AckSet {
		dst = appendField(dst, 4, uint64(w))
	}
	if m.Epoch != 0 {
		dst = appendField(dst, 5, m.Epoch)
	}
	return dst
}

// AppendFrame appends the whole ACK frame.
func (a *Ack) AppendFrame(dst []byte) []byte {
	size := sizeField(a.ConsumerID) + 2
	for i := range a.IDs {
		n := a.IDs[i].size()
		size += 1 + sizeUvarint(uint64(n)) + n
	}
	if a.ValidationError >= 0 {
		size += sizeField(uint64(a.ValidationError))
	}
	if a.InTxn {
		size += sizeField(a.TxnLeast) + sizeField(a.TxnMost)
	}
	if a.HasRequest {
		size += sizeField(a.RequestID)
	}
	dst = appendHead(dst, TypeAck, size, 0)
	dst = appendField(dst, 1, a.ConsumerID)
	kind := byte(0)
	if a.Cumulative {
		kind = 1
	}
	dst = append(dst, 2<<3|wtVarint, kind)
	for i := range a.IDs {
		dst = binary.AppendUvarint(append(dst, 3<<3|wtBytes), uint64(a.IDs[i].size()))
		dst = a.IDs[i].append(dst)
	}
	if a.ValidationError >= 0 {
		dst = appendField(dst, 4, uint64(a.ValidationError))
	}
	if a.InTxn {
		dst = appendField(dst, 6, a.TxnLeast)
		dst = appendField(dst, 7, a.TxnMost)
	}
	if a.HasRequest {
		dst = appendField(dst, 8, a.RequestID)
	}
	return dst
}

// AppendFrame appends the whole FLOW frame.
func (fl *Flow) AppendFrame(dst []byte) []byte {
	size := sizeField(fl.ConsumerID) + sizeField(uint64(fl.Permits))
	dst = appendHead(dst, TypeFlow, size, 0)
	dst = appendField(dst, 1, fl.ConsumerID)
	return appendField(dst, 2, uint64(fl.Permits))
}
