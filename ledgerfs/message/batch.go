package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
)

// A Message is one message of an entry.
type Message struct {
	// Entry is the entry that holds the message.
	Entry *Entry
	// BatchIndex is the message's place in its batch, -1 outside a batch.
	BatchIndex int
	// Index is the message's index in the topic, -1 if the broker stored none.
	Index int64
	// SequenceID is the producer's number for the message.
	SequenceID  uint64
	PublishTime int64 // ms, set by the producer
	EventTime   int64 // ms, set by the application; 0 is none
	// Key is the partition key: text, or base64 of bytes if KeyBase64. It is valid if HasKey.
	Key         []byte
	HasKey      bool
	KeyBase64   bool
	NullKey     bool
	OrderingKey []byte
	// Value is the message's bytes; empty if Null.
	Value []byte
	Null  bool
	// Opaque says that Value is the entry's whole payload as it is stored, which may be a batch: it is
	// Encrypted, or, from Shown only, could not be taken apart.
	Opaque    bool
	Encrypted bool
	// CompactedOut says that compaction has removed the message and left its place in the batch.
	CompactedOut bool

	props      []byte // the protobuf message that holds the properties
	propsField uint64
}

// Properties are the message's properties in the order in which they are stored.
func (m *Message) Properties() iter.Seq2[[]byte, []byte] { return pairs(m.props, m.propsField) }

// HasProperties says whether Properties yields any.
func (m *Message) HasProperties() bool {
	for range m.Properties() {
		return true
	}
	return false
}

// DefaultMaxUncompressed bounds what a Decoder without a limit of its own makes of one payload, in bytes.
const DefaultMaxUncompressed = 64 << 20

// A Decoder decompresses and takes batches apart. The zero Decoder is ready; it keeps scratch space between
// entries and is for one goroutine.
type Decoder struct {
	// MaxUncompressed is the largest payload in bytes that is decompressed; DefaultMaxUncompressed if 0.
	MaxUncompressed int

	scratch []byte
	msg     Message
	zlib    zlibReader
}

// Messages yields the messages of e in order, then nothing or one error, which ends it. A message is valid
// until the next one; its slices alias e if the payload is not compressed, and else the decoder's scratch
// space, valid until the decoder's next use.
//
// A marker has no messages. An encrypted entry yields one message, whose value is the encrypted payload,
// whatever it holds. A chunk is ErrChunk.
func (d *Decoder) Messages(e *Entry) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		md := &e.Meta
		if md.IsMarker {
			return
		}
		if md.IsChunk() {
			yield(nil, ErrChunk)
			return
		}
		m := &d.msg
		if !md.HasBatch || md.Encrypted {
			value := e.Payload
			if !md.Encrypted {
				var err error
				if value, err = d.Payload(e); err != nil {
					yield(nil, err)
					return
				}
			}
			*m = Message{
				Entry: e, BatchIndex: -1, Index: e.FirstIndex(), SequenceID: md.SequenceID,
				PublishTime: md.PublishTime, EventTime: md.EventTime,
				Key: md.Key, HasKey: md.HasKey, KeyBase64: md.KeyBase64, NullKey: md.NullKey, OrderingKey: md.OrderingKey,
				Value: value, Null: md.NullValue, Opaque: md.Encrypted, Encrypted: md.Encrypted,
				propsField: 4,
			}
			if md.HasProperties {
				m.props = md.Raw
			}
			if m.Null && !m.Encrypted {
				m.Value = nil
			}
			yield(m, nil)
			return
		}
		b, err := d.Payload(e)
		if err != nil {
			yield(nil, err)
			return
		}
		n, first := int(md.NumMessages), e.FirstIndex()
		for i := range n {
			if b, err = m.cut(b); err != nil {
				yield(nil, fmt.Errorf("message %d of %d of a batch: %w", i, n, err))
				return
			}
			m.Entry, m.BatchIndex, m.Index, m.PublishTime = e, i, -1, md.PublishTime
			if first >= 0 {
				m.Index = first + int64(i)
			}
			if m.SequenceID == noSequence {
				m.SequenceID = md.SequenceID + uint64(i)
			}
			if !yield(m, nil) {
				return
			}
		}
		// Bytes after the last message are nobody's; clients ignore them too.
	}
}

// Shown yields what readers of text see of e. It is Messages, but for an entry that cannot be taken apart
// (damaged by its producer, or too large), where the messages before the fault are followed by one that is
// Opaque: what is stored is never left out, and the same bytes are always shown alike. A chunk shows nothing
// by itself; see Assembler.
func (d *Decoder) Shown(e *Entry) iter.Seq[*Message] {
	return func(yield func(*Message) bool) {
		for m, err := range d.Messages(e) {
			switch {
			case err == nil:
				if !yield(m) {
					return
				}
			case !errors.Is(err, ErrChunk):
				md := &e.Meta
				d.msg = Message{
					Entry: e, BatchIndex: -1, Index: e.Broker.Index, SequenceID: md.SequenceID,
					PublishTime: md.PublishTime, EventTime: md.EventTime, Value: e.Payload, Opaque: true,
				}
				yield(&d.msg)
				return
			}
		}
	}
}

const noSequence = ^uint64(0)

// cut takes the first message off a batch.
func (m *Message) cut(b []byte) (rest []byte, err error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: %d bytes where its size should be", ErrMalformed, len(b))
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, fmt.Errorf("%w: metadata of %d bytes in %d", ErrMalformed, n, len(b))
	}
	*m = Message{SequenceID: noSequence, propsField: 1}
	size := int64(-1)
	s := scanner{b: b[:n:n]}
	for s.next() {
		switch s.field {
		case 1:
			m.props = s.b
			s.bytes()
		case 2:
			m.Key, m.HasKey = s.bytes(), true
		case 3:
			size = int64(int32(s.varint()))
		case 4:
			m.CompactedOut = s.varint() != 0
		case 5:
			m.EventTime = int64(s.varint())
		case 6:
			m.KeyBase64 = s.varint() != 0
		case 7:
			m.OrderingKey = s.bytes()
		case 8:
			m.SequenceID = s.varint()
		case 9:
			m.Null = s.varint() != 0
		case 10:
			m.NullKey = s.varint() != 0
		}
	}
	b = b[n:]
	switch {
	case s.bad:
		return nil, fmt.Errorf("%w: its metadata at byte %d", ErrMalformed, s.i)
	case size < 0:
		// A null value has size -1 in some clients and 0 in others.
		if !m.Null {
			return nil, fmt.Errorf("%w: no size of its value", ErrMalformed)
		}
		size = 0
	case size > int64(len(b)):
		return nil, fmt.Errorf("%w: value of %d bytes in %d", ErrMalformed, size, len(b))
	}
	if !m.Null {
		m.Value = b[:size:size]
	}
	return b[size:], nil
}
