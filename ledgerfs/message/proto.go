package message

import "encoding/binary"

const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// A scanner walks over the fields of one protobuf message. It sets bad, and stops, at what is no protobuf:
// cut-off fields, sizes beyond the input, groups, and known fields of another wire type than they have.
type scanner struct {
	b     []byte
	i     int
	field uint64
	wire  uint8
	num   uint64 // of wireVarint
	data  []byte // of wireBytes
	bad   bool
}

func (s *scanner) next() bool {
	if s.bad || s.i >= len(s.b) {
		return false
	}
	tag, ok := s.uvarint()
	s.field, s.wire = tag>>3, uint8(tag&7)
	if !ok || s.field == 0 || s.field > 1<<29-1 {
		s.bad = true
		return false
	}
	switch s.wire {
	case wireVarint:
		if s.num, ok = s.uvarint(); ok {
			return true
		}
	case wireBytes:
		n, ok := s.uvarint()
		if ok && n <= uint64(len(s.b)-s.i) {
			end := s.i + int(n)
			s.data, s.i = s.b[s.i:end:end], end
			return true
		}
	case wireFixed64:
		if len(s.b)-s.i >= 8 {
			s.i += 8
			return true
		}
	case wireFixed32:
		if len(s.b)-s.i >= 4 {
			s.i += 4
			return true
		}
	}
	s.bad = true
	return false
}

// uvarint is binary.Uvarint with its fast case inlined.
func (s *scanner) uvarint() (uint64, bool) {
	if s.i < len(s.b) && s.b[s.i] < 0x80 {
		s.i++
		return uint64(s.b[s.i-1]), true
	}
	v, n := binary.Uvarint(s.b[s.i:])
	if n <= 0 {
		return 0, false
	}
	s.i += n
	return v, true
}

// varint is the number of the current field, which must have one.
func (s *scanner) varint() uint64 {
	if s.wire != wireVarint {
		s.bad = true
	}
	return s.num
}

func (s *scanner) bytes() []byte {
	if s.wire != wireBytes {
		s.bad = true
		return nil
	}
	return s.data
}

func appendUint(dst []byte, field int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(field)<<3|wireVarint), v)
}

func appendBool(dst []byte, field int, v bool) []byte {
	if !v {
		return dst
	}
	return appendUint(dst, field, 1)
}

func appendBytes[T string | []byte](dst []byte, field int, v T) []byte {
	dst = binary.AppendUvarint(dst, uint64(field)<<3|wireBytes)
	dst = binary.AppendUvarint(dst, uint64(len(v)))
	return append(dst, v...)
}

// appendPair appends a KeyValue{1 key, 2 value} as field.
func appendPair(dst []byte, field int, key, value string) []byte {
	dst = binary.AppendUvarint(dst, uint64(field)<<3|wireBytes)
	dst = binary.AppendUvarint(dst, uint64(2+uvarintLen(len(key))+len(key)+uvarintLen(len(value))+len(value)))
	dst = appendBytes(dst, 1, key)
	return appendBytes(dst, 2, value)
}

func uvarintLen(n int) int {
	l := 1
	for v := uint(n); v >= 0x80; v >>= 7 {
		l++
	}
	return l
}
