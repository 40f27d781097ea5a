package message

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A Property is a name and a value that the application attached to a message.
type Property struct{ Key, Value string }

// An Outgoing is a message to be written.
type Outgoing struct {
	SequenceID uint64
	EventTime  int64 // ms; 0 is none
	// Key is the partition key. With KeyBase64 it is the base64 form of bytes. It is written if HasKey,
	// or if it is not empty.
	Key         string
	HasKey      bool
	KeyBase64   bool
	NullKey     bool
	OrderingKey []byte
	Properties  []Property
	Value       []byte
	Null        bool // the value is null: Value is not written
}

// A Header is what all messages of an entry have in common.
type Header struct {
	ProducerName  string
	PublishTime   int64 // ms
	SchemaVersion []byte
	Compression   Compression
	DeliverAt     int64 // ms; 0 is at once. Not for batches
	TxnID         TxnID
	HasTxn        bool
	// The entry is chunk ChunkID of NumChunks of a message of TotalChunkSize bytes, if NumChunks > 1.
	UUID           string
	NumChunks      int
	TotalChunkSize int
	ChunkID        int
	// MarkerType is written if it is not 0.
	MarkerType int
	// NoChecksum leaves the checksum out, as the oldest clients do.
	NoChecksum bool
}

// AppendSingle appends an entry that holds one message outside a batch, as a producer sends it.
func AppendSingle(dst []byte, h *Header, m *Outgoing) ([]byte, error) {
	var value []byte
	if !m.Null {
		value = m.Value
	}
	return appendEntry(dst, h, value, func(dst []byte) []byte {
		dst = appendHeader(dst, h, m.SequenceID)
		for _, p := range m.Properties {
			dst = appendPair(dst, 4, p.Key, p.Value)
		}
		if m.HasKey || m.Key != "" {
			dst = appendBytes(dst, 6, m.Key)
		}
		if h.Compression != None {
			dst = appendUint(dst, 8, uint64(h.Compression))
		}
		if h.Compression != None || h.NumChunks > 1 {
			dst = appendUint(dst, 9, uint64(len(value)))
		}
		if m.EventTime != 0 {
			dst = appendUint(dst, 12, uint64(m.EventTime))
		}
		dst = appendBool(dst, 17, m.KeyBase64)
		if len(m.OrderingKey) > 0 {
			dst = appendBytes(dst, 18, m.OrderingKey)
		}
		dst = appendBool(dst, 25, m.Null)
		return appendBool(dst, 30, m.NullKey)
	})
}

// AppendBatch appends an entry that holds the messages, at least one, as a batch, as a producer sends it.
func AppendBatch(dst []byte, h *Header, messages []Outgoing) ([]byte, error) {
	if len(messages) == 0 {
		return nil, fmt.Errorf("append batch: no messages")
	}
	size := 0
	for i := range messages {
		size += 32 + len(messages[i].Key) + len(messages[i].Value)
	}
	batch := make([]byte, 0, size)
	for i := range messages {
		batch = AppendBatched(batch, &messages[i])
	}
	return AppendBatchOf(dst, h, batch, len(messages), messages[0].SequenceID, messages[len(messages)-1].SequenceID)
}

// AppendBatched appends one message in the form that it has inside a batch.
func AppendBatched(dst []byte, m *Outgoing) []byte {
	dst = append(dst, 0, 0, 0, 0)
	start := len(dst)
	for _, p := range m.Properties {
		dst = appendPair(dst, 1, p.Key, p.Value)
	}
	if m.HasKey || m.Key != "" {
		dst = appendBytes(dst, 2, m.Key)
	}
	size := len(m.Value)
	if m.Null {
		size = 0
	}
	dst = appendUint(dst, 3, uint64(size))
	if m.EventTime != 0 {
		dst = appendUint(dst, 5, uint64(m.EventTime))
	}
	dst = appendBool(dst, 6, m.KeyBase64)
	if len(m.OrderingKey) > 0 {
		dst = appendBytes(dst, 7, m.OrderingKey)
	}
	dst = appendUint(dst, 8, m.SequenceID)
	dst = appendBool(dst, 9, m.Null)
	dst = appendBool(dst, 10, m.NullKey)
	binary.BigEndian.PutUint32(dst[start-4:], uint32(len(dst)-start))
	if m.Null {
		return dst
	}
	return append(dst, m.Value...)
}

// AppendBatchOf appends an entry whose payload is batch: n messages as AppendBatched made them, the first and
// the last having these sequence ids.
func AppendBatchOf(dst []byte, h *Header, batch []byte, n int, first, last uint64) ([]byte, error) {
	return appendEntry(dst, h, batch, func(dst []byte) []byte {
		dst = appendHeader(dst, h, first)
		if h.Compression != None {
			dst = appendUint(dst, 8, uint64(h.Compression))
			dst = appendUint(dst, 9, uint64(len(batch)))
		}
		dst = appendUint(dst, 11, uint64(n))
		return appendUint(dst, 24, last)
	})
}

// appendHeader appends the fields of MessageMetadata that come from h.
func appendHeader(dst []byte, h *Header, sequence uint64) []byte {
	dst = appendBytes(dst, 1, h.ProducerName)
	dst = appendUint(dst, 2, sequence)
	dst = appendUint(dst, 3, uint64(h.PublishTime))
	if len(h.SchemaVersion) > 0 {
		dst = appendBytes(dst, 16, h.SchemaVersion)
	}
	if h.DeliverAt != 0 {
		dst = appendUint(dst, 19, uint64(h.DeliverAt))
	}
	if h.MarkerType != 0 {
		dst = appendUint(dst, 20, uint64(h.MarkerType))
	}
	if h.HasTxn {
		dst = appendUint(dst, 22, h.TxnID.Least)
		dst = appendUint(dst, 23, h.TxnID.Most)
	}
	if h.NumChunks > 1 {
		dst = appendBytes(dst, 26, h.UUID)
		dst = appendUint(dst, 27, uint64(h.NumChunks))
		dst = appendUint(dst, 28, uint64(h.TotalChunkSize))
		dst = appendUint(dst, 29, uint64(h.ChunkID))
	}
	return dst
}

func appendEntry(dst []byte, h *Header, payload []byte, metadata func([]byte) []byte) ([]byte, error) {
	if !h.NoChecksum {
		dst = append(dst, magicChecksum>>8, magicChecksum&0xff, 0, 0, 0, 0)
	}
	checked := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = metadata(dst)
	binary.BigEndian.PutUint32(dst[checked:], uint32(len(dst)-checked-4))
	if h.Compression == None {
		dst = append(dst, payload...)
	} else {
		var err error
		if dst, err = compress(dst, h.Compression, payload); err != nil {
			return nil, err
		}
	}
	if !h.NoChecksum {
		binary.BigEndian.PutUint32(dst[checked-4:], crc32.Checksum(dst[checked:], castagnoli))
	}
	return dst, nil
}
