package mledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// MaxPrefix is the longest prefix that is written before an entry.
const MaxPrefix = 6 + 2*(1+10)

const prefixMagic = 0x0e02

// ErrPrefix: an entry does not begin with the broker's metadata.
var ErrPrefix = errors.New("entry has no valid broker metadata")

// A Prefix is the broker's metadata of an entry, stored before the producer's bytes:
//
//	0x0e02 u16 | size u32 | BrokerEntryMetadata{ 1: broker_timestamp, 2: index } as protobuf of that size
type Prefix struct {
	Time  int64 // of the broker, ms since 1970
	Index int64 // of the entry's last message; of a marker that of the message before it; -1 if there is none
}

func (p Prefix) size() int {
	n := 6 + 1 + varintLen(uint64(p.Time))
	if p.Index >= 0 {
		n += 1 + varintLen(uint64(p.Index))
	}
	return n
}

func varintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// AppendPrefix appends the stored form of p to dst.
func AppendPrefix(dst []byte, p Prefix) []byte {
	dst = binary.BigEndian.AppendUint16(dst, prefixMagic)
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.size()-6))
	dst = append(dst, 1<<3)
	dst = binary.AppendUvarint(dst, uint64(p.Time))
	if p.Index >= 0 {
		dst = append(dst, 2<<3)
		dst = binary.AppendUvarint(dst, uint64(p.Index))
	}
	return dst
}

// CutPrefix splits a stored entry into the broker's prefix and the producer's bytes, which alias it. It fails
// with ErrPrefix if the prefix is damaged or missing.
func CutPrefix(entry []byte) (p Prefix, rest []byte, err error) {
	if len(entry) < 6 || binary.BigEndian.Uint16(entry) != prefixMagic {
		return p, nil, fmt.Errorf("%w: no magic number", ErrPrefix)
	}
	n := binary.BigEndian.Uint32(entry[2:])
	if uint64(n) > uint64(len(entry)-6) {
		return p, nil, fmt.Errorf("%w: %d bytes of metadata in an entry of %d", ErrPrefix, n, len(entry))
	}
	b := entry[6 : 6+n]
	p.Index = -1
	for len(b) > 0 {
		tag, k := binary.Uvarint(b)
		if k <= 0 {
			return p, nil, fmt.Errorf("%w: damaged tag", ErrPrefix)
		}
		b = b[k:]
		v, k := binary.Uvarint(b)
		switch {
		case tag&7 == 0 && k > 0: // varint
			b = b[k:]
		case tag&7 == 1 && len(b) >= 8:
			b = b[8:]
		case tag&7 == 5 && len(b) >= 4:
			b = b[4:]
		case tag&7 == 2 && k > 0 && v <= uint64(len(b)-k):
			b = b[k+int(v):]
		default:
			return p, nil, fmt.Errorf("%w: damaged field %d", ErrPrefix, tag>>3)
		}
		switch tag {
		case 1 << 3:
			p.Time = int64(v)
		case 2 << 3:
			p.Index = int64(v)
		}
	}
	return p, entry[6+n:], nil
}
