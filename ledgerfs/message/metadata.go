package message

import (
	"fmt"
	"iter"
)

// A Compression is how an entry's payload is compressed. The values are the protocol's.
type Compression uint8

// The compressions of the protocol.
const (
	None Compression = iota
	LZ4
	ZLib
	ZStd
	Snappy
)

// String is the protocol's name.
func (c Compression) String() string {
	if names := [...]string{"NONE", "LZ4", "ZLIB", "ZSTD", "SNAPPY"}; int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("COMPRESSION(%d)", uint8(c))
}

// The types of markers: entries that the broker or a replicator wrote for itself.
const (
	MarkerReplicatedSnapshotRequest  = 10
	MarkerReplicatedSnapshotResponse = 11
	MarkerReplicatedSnapshot         = 12
	MarkerReplicatedUpdate           = 13
	MarkerTxnCommitting              = 20
	MarkerTxnCommit                  = 21
	MarkerTxnAbort                   = 22
)

// A TxnID names a transaction.
type TxnID struct{ Most, Least uint64 }

// Metadata is MessageMetadata, as scanned from an entry. Its slices alias the entry.
type Metadata struct {
	// Raw is the protobuf form, from which properties and the rarer lists are read on demand.
	Raw []byte

	ProducerName []byte
	SequenceID   uint64
	// HighestSequenceID is that of the last message of a batch; 0 if unset.
	HighestSequenceID uint64
	PublishTime       int64 // ms, set by the producer
	EventTime         int64 // ms, set by the application; 0 is none
	// DeliverAt is when the message may be delivered, in ms; valid if HasDeliverAt.
	DeliverAt    int64
	HasDeliverAt bool

	// Key is the partition key of a message outside a batch: text, or base64 of bytes if KeyBase64.
	Key         []byte
	HasKey      bool
	KeyBase64   bool
	NullKey     bool // the key half of a key/value message is null
	OrderingKey []byte
	NullValue   bool

	Compression      Compression
	UncompressedSize uint32

	// NumMessages is num_messages_in_batch where it is set; without it the payload is one value.
	NumMessages int32
	HasBatch    bool

	SchemaVersion []byte
	SchemaID      []byte
	Encrypted     bool
	HasProperties bool

	// MarkerType is valid if IsMarker.
	MarkerType int32
	IsMarker   bool

	TxnID  TxnID
	HasTxn bool

	ReplicatedFrom []byte
	Replicated     bool // replicate_to is set: see ReplicateTo

	// The chunks of a message share UUID and SequenceID; the chunk's index is ChunkID.
	UUID           []byte
	NumChunks      int32
	TotalChunkSize int32
	ChunkID        int32
}

// IsChunk says that the payload is a part of a message's value.
func (m *Metadata) IsChunk() bool { return m.NumChunks > 1 }

// Count is the number of messages that the entry holds, at least 1. A chunk counts as a message.
func (m *Metadata) Count() int {
	if m.HasBatch {
		return int(m.NumMessages)
	}
	return 1
}

// ParseMetadata scans a MessageMetadata without anything around it, as commands carry it.
func ParseMetadata(b []byte) (Metadata, error) {
	var m Metadata
	err := m.parse(b)
	return m, err
}

func (m *Metadata) parse(b []byte) error {
	*m = Metadata{Raw: b}
	var required uint8
	s := scanner{b: b}
	for s.next() {
		switch s.field {
		case 1:
			m.ProducerName = s.bytes()
			required |= 1
		case 2:
			m.SequenceID = s.varint()
			required |= 2
		case 3:
			m.PublishTime = int64(s.varint())
			required |= 4
		case 4:
			m.HasProperties = true
			s.bytes()
		case 5:
			m.ReplicatedFrom = s.bytes()
		case 6:
			m.Key, m.HasKey = s.bytes(), true
		case 7:
			m.Replicated = true
			s.bytes()
		case 8:
			v := s.varint()
			if v > uint64(Snappy) {
				return fmt.Errorf("%w: compression %d", ErrMalformed, v)
			}
			m.Compression = Compression(v)
		case 9:
			m.UncompressedSize = uint32(s.varint())
		case 11:
			m.NumMessages, m.HasBatch = int32(s.varint()), true
		case 12:
			m.EventTime = int64(s.varint())
		case 13:
			m.Encrypted = true
			s.bytes()
		case 16:
			m.SchemaVersion = s.bytes()
		case 17:
			m.KeyBase64 = s.varint() != 0
		case 18:
			m.OrderingKey = s.bytes()
		case 19:
			m.DeliverAt, m.HasDeliverAt = int64(s.varint()), true
		case 20:
			m.MarkerType, m.IsMarker = int32(s.varint()), true
		case 22:
			m.TxnID.Least, m.HasTxn = s.varint(), true
		case 23:
			m.TxnID.Most, m.HasTxn = s.varint(), true
		case 24:
			m.HighestSequenceID = s.varint()
		case 25:
			m.NullValue = s.varint() != 0
		case 26:
			m.UUID = s.bytes()
		case 27:
			m.NumChunks = int32(s.varint())
		case 28:
			m.TotalChunkSize = int32(s.varint())
		case 29:
			m.ChunkID = int32(s.varint())
		case 30:
			m.NullKey = s.varint() != 0
		case 32:
			m.SchemaID = s.bytes()
		}
	}
	switch {
	case s.bad:
		return fmt.Errorf("%w: message metadata at byte %d", ErrMalformed, s.i)
	case required != 7:
		return fmt.Errorf("%w: message metadata lacks a required field", ErrMalformed)
	case m.HasBatch && m.NumMessages < 1:
		return fmt.Errorf("%w: batch of %d messages", ErrMalformed, m.NumMessages)
	case m.IsChunk() && (m.ChunkID < 0 || m.ChunkID >= m.NumChunks || m.TotalChunkSize < 0):
		return fmt.Errorf("%w: chunk %d of %d, %d bytes in all", ErrMalformed, m.ChunkID, m.NumChunks, m.TotalChunkSize)
	}
	return nil
}

// Properties are the properties of a message outside a batch, in the order in which they are stored.
func (m *Metadata) Properties() iter.Seq2[[]byte, []byte] {
	if !m.HasProperties {
		return pairs(nil, 4)
	}
	return pairs(m.Raw, 4)
}

// ReplicateTo are the clusters to which the message is to be replicated, if its producer named any.
func (m *Metadata) ReplicateTo() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		s := scanner{b: m.Raw}
		for s.next() {
			if s.field == 7 && !yield(s.bytes()) {
				return
			}
		}
	}
}

// CompactedBatchIndexes are the indexes of a batch's messages that compaction has kept, empty if it was not
// compacted.
func (m *Metadata) CompactedBatchIndexes() iter.Seq[int32] {
	return func(yield func(int32) bool) {
		s := scanner{b: m.Raw}
		for s.next() {
			if s.field != 31 {
				continue
			}
			if s.wire == wireVarint {
				if !yield(int32(s.num)) {
					return
				}
				continue
			}
			for p := (scanner{b: s.bytes()}); p.i < len(p.b); { // packed
				v, ok := p.uvarint()
				if !ok || !yield(int32(v)) {
					return
				}
			}
		}
	}
}

// pairs iterates over the KeyValue messages that b, a protobuf message, has in a field.
func pairs(b []byte, field uint64) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		s := scanner{b: b}
		for s.next() {
			if s.field != field {
				continue
			}
			var k, v []byte
			p := scanner{b: s.bytes()}
			for p.next() {
				switch p.field {
				case 1:
					k = p.bytes()
				case 2:
					v = p.bytes()
				}
			}
			if !yield(k, v) {
				return
			}
		}
	}
}
