// Package message is the stored form of messages: it takes entries apart into metadata, batches and values,
// and puts them together again.
//
// An entry of a topic's ledger is what the broker knows of it, then the bytes that the producer sent:
//
//	entry    := broker? checksum? metadataSize u32 | MessageMetadata | payload
//	broker   := 0x0e02 u16 | size u32 | BrokerEntryMetadata      (broker time, index of the last message)
//	checksum := 0x0e01 u16 | crc32c u32                           of all that follows it
//	payload  := compressed?( batch | value )                      or either of them encrypted
//	batch    := ( size u32 | SingleMessageMetadata | value )*
//
// Numbers are big-endian; the metadata messages are protobuf (PulsarApi.proto) and scanned in place.
//
// # Promises
//
// Parse allocates nothing, and nothing here trusts its input: every size is checked against the bytes that
// are there, decompression is bounded by the size that the metadata names and by the decoder's limit, and
// what does not hold is ErrMalformed, ErrChecksum or ErrTooLarge. Decoded values alias the entry, or the
// decoder's scratch space until its next use.
//
// How a message looks as text, for files and for people, is AppendLine and AppendNDJSON.
package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The errors of this package, wrapped with what was wrong.
var (
	// ErrMalformed: the bytes are no entry.
	ErrMalformed = errors.New("malformed entry")
	// ErrChecksum: the producer's checksum does not match.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrTooLarge: a payload is larger, when decompressed, than the decoder's limit.
	ErrTooLarge = errors.New("payload too large")
	// ErrChunk: the entry is a part of a larger message; see Assembler.
	ErrChunk = errors.New("entry is a chunk of a message")
)

const (
	magicChecksum    = 0x0e01
	magicBrokerEntry = 0x0e02
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A BrokerEntry is what the broker adds to an entry when it stores it.
type BrokerEntry struct {
	// Timestamp is the broker's time when it took the entry, in ms.
	Timestamp int64
	// Index is the index of the entry's last message in the topic, counted over all its ledgers from 0.
	Index int64
}

// An Entry is a parsed entry. Its slices alias the bytes it was parsed from.
type Entry struct {
	// Broker is what the broker added; without HasBroker both are -1.
	Broker    BrokerEntry
	HasBroker bool
	// Checksum is the producer's CRC32C of Checked.
	Checksum    uint32
	HasChecksum bool
	Checked     []byte
	Meta        Metadata
	// Payload is the value or batch as the producer sent it, perhaps compressed and encrypted.
	Payload []byte
}

// Parse reads an entry into e, of which nothing is kept. It verifies the structure down to the metadata, not
// the checksum (see Entry.Verify), nor the payload.
func (e *Entry) Parse(b []byte) error {
	*e = Entry{Broker: BrokerEntry{-1, -1}}
	block, rest, err := cutBrokerEntry(b)
	if err != nil {
		return err
	}
	if block != nil {
		e.HasBroker = true
		if err := e.Broker.parse(block); err != nil {
			return err
		}
	}
	if len(rest) >= 6 && binary.BigEndian.Uint16(rest) == magicChecksum {
		e.HasChecksum, e.Checksum = true, binary.BigEndian.Uint32(rest[2:])
		rest = rest[6:]
	}
	e.Checked = rest
	if len(rest) < 4 {
		return fmt.Errorf("%w: %d bytes where the metadata's size should be", ErrMalformed, len(rest))
	}
	n := binary.BigEndian.Uint32(rest)
	if rest = rest[4:]; uint64(n) > uint64(len(rest)) {
		return fmt.Errorf("%w: metadata of %d bytes in %d", ErrMalformed, n, len(rest))
	}
	e.Payload = rest[n:]
	return e.Meta.parse(rest[:n:n])
}

// Verify reports ErrChecksum if the producer sent a checksum and it does not match.
func (e *Entry) Verify() error {
	if !e.HasChecksum {
		return nil
	}
	if sum := crc32.Checksum(e.Checked, castagnoli); sum != e.Checksum {
		return fmt.Errorf("%w: %08x, the producer sent %08x", ErrChecksum, sum, e.Checksum)
	}
	return nil
}

// Count is the number of messages in the entry: what its index advances by. It is at least 1.
func (e *Entry) Count() int { return e.Meta.Count() }

// FirstIndex is the index of the entry's first message in the topic, -1 if the broker stored none.
func (e *Entry) FirstIndex() int64 {
	if e.Broker.Index < 0 {
		return -1
	}
	return e.Broker.Index - int64(e.Count()) + 1
}

// cutBrokerEntry splits off the broker's block; block is nil if there is none.
func cutBrokerEntry(b []byte) (block, rest []byte, err error) {
	if len(b) < 2 || binary.BigEndian.Uint16(b) != magicBrokerEntry {
		return nil, b, nil
	}
	if len(b) < 6 {
		return nil, nil, fmt.Errorf("%w: broker metadata cut off", ErrMalformed)
	}
	n := binary.BigEndian.Uint32(b[2:])
	if uint64(n) > uint64(len(b)-6) {
		return nil, nil, fmt.Errorf("%w: broker metadata of %d bytes in %d", ErrMalformed, n, len(b)-6)
	}
	return b[6 : 6+n : 6+n], b[6+n:], nil
}

// StripBrokerEntry is the entry as its producer sent it. It does not look further than the broker's block.
func StripBrokerEntry(b []byte) ([]byte, error) {
	_, rest, err := cutBrokerEntry(b)
	return rest, err
}

// ParseBrokerEntry reads the broker's block alone; ok says whether there is one.
func ParseBrokerEntry(b []byte) (be BrokerEntry, ok bool, err error) {
	be = BrokerEntry{-1, -1}
	block, _, err := cutBrokerEntry(b)
	if err != nil || block == nil {
		return be, false, err
	}
	if err := be.parse(block); err != nil {
		return BrokerEntry{-1, -1}, false, err
	}
	return be, true, nil
}

// MaxBrokerEntryBytes is the most that AppendBrokerEntry appends.
const MaxBrokerEntryBytes = 6 + 2*(1+binary.MaxVarintLen64)

// AppendBrokerEntry appends the broker's block, to be followed by the producer's bytes.
func AppendBrokerEntry(dst []byte, be BrokerEntry) []byte {
	dst = append(dst, magicBrokerEntry>>8, magicBrokerEntry&0xff, 0, 0, 0, 0)
	start := len(dst)
	dst = appendUint(dst, 1, uint64(be.Timestamp))
	dst = appendUint(dst, 2, uint64(be.Index))
	binary.BigEndian.PutUint32(dst[start-4:], uint32(len(dst)-start))
	return dst
}

func (be *BrokerEntry) parse(b []byte) error {
	*be = BrokerEntry{-1, -1}
	s := scanner{b: b}
	for s.next() {
		switch s.field {
		case 1:
			be.Timestamp = int64(s.varint())
		case 2:
			be.Index = int64(s.varint())
		}
	}
	if s.bad || be.Timestamp < -1 || be.Index < -1 {
		return fmt.Errorf("%w: broker metadata", ErrMalformed)
	}
	return nil
}
