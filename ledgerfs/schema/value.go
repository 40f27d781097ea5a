package schema

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// The properties of a KeyValue schema.
const (
	propEncoding      = "kv.encoding.type"
	propKeyType       = "key.schema.type"
	propKeyProps      = "key.schema.properties"
	propValueType     = "value.schema.type"
	propValueProps    = "value.schema.properties"
	encodingSeparated = "SEPARATED"
)

// Separated says, of a KeyValue schema, that the key is the message's key and not part of its value.
func (i *Info) Separated() bool { return i.Properties[propEncoding] == encodingSeparated }

// KeyValue takes a KeyValue schema apart into that of the key and that of the value.
func (i *Info) KeyValue() (key, value Info, err error) {
	if i.Type != KeyValue {
		return Info{}, Info{}, fmt.Errorf("%w: %v is not a key/value schema", ErrInvalid, i.Type)
	}
	k, v, err := SplitKeyValue(i.Data)
	if err != nil {
		return Info{}, Info{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if key, err = i.half(k, propKeyType, propKeyProps); err != nil {
		return Info{}, Info{}, err
	}
	if value, err = i.half(v, propValueType, propValueProps); err != nil {
		return Info{}, Info{}, err
	}
	return key, value, nil
}

func (i *Info) half(data []byte, propType, propProps string) (Info, error) {
	h := Info{Type: Bytes, Data: data}
	if n := i.Properties[propType]; n != "" {
		t, err := ParseType(n)
		if err != nil {
			return Info{}, err
		}
		if t == KeyValue {
			return Info{}, fmt.Errorf("%w: key/value within key/value", ErrInvalid)
		}
		h.Type = t
	}
	if p := i.Properties[propProps]; p != "" {
		if err := json.Unmarshal([]byte(p), &h.Properties); err != nil {
			return Info{}, fmt.Errorf("%w: %s: %w", ErrInvalid, propProps, err)
		}
	}
	return h, nil
}

// SplitKeyValue takes the bytes of an inline key/value pair apart, which is also how the definition of a
// KeyValue schema holds its two definitions: key size i32 | key | value size i32 | value. A part of size -1 is
// nil: null.
func SplitKeyValue(b []byte) (key, value []byte, err error) {
	if key, b, err = cutPart(b); err != nil {
		return nil, nil, fmt.Errorf("key: %w", err)
	}
	if value, b, err = cutPart(b); err != nil {
		return nil, nil, fmt.Errorf("value: %w", err)
	}
	if len(b) > 0 {
		return nil, nil, fmt.Errorf("%w: %d bytes after the value", ErrValue, len(b))
	}
	return key, value, nil
}

// AppendKeyValue is the inverse of SplitKeyValue: nil is null.
func AppendKeyValue(dst, key, value []byte) []byte {
	for _, p := range [][]byte{key, value} {
		if p == nil {
			dst = binary.BigEndian.AppendUint32(dst, math.MaxUint32)
			continue
		}
		dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(p))), p...)
	}
	return dst
}

func cutPart(b []byte) (part, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, fmt.Errorf("%w: %d bytes where its size should be", ErrValue, len(b))
	}
	n := int32(binary.BigEndian.Uint32(b))
	b = b[4:]
	switch {
	case n == -1:
		return nil, b, nil
	case n < 0 || int64(n) > int64(len(b)):
		return nil, nil, fmt.Errorf("%w: %d bytes in %d", ErrValue, n, len(b))
	}
	return b[:n:n], b[n:], nil
}

// AppendJSON appends a value as compact JSON. key is the message's key as bytes, which a separated key/value
// schema takes its key from; otherwise it is not looked at. On error dst comes back as it was.
//
// Numbers and booleans are themselves, except that non-finite floats are strings. Dates and times are ISO 8601
// strings, in UTC where they are moments. Bytes are base64. A key/value pair is an object with the fields "key"
// and "value".
func (i *Info) AppendJSON(dst, key, value []byte) ([]byte, error) {
	start := len(dst)
	out, err := i.appendJSON(dst, key, value)
	if err != nil {
		return dst[:start], err
	}
	return out, nil
}

func (i *Info) appendJSON(dst, key, value []byte) ([]byte, error) {
	switch i.Type {
	case JSON:
		if !utf8.Valid(value) {
			return dst, fmt.Errorf("%w: not UTF-8", ErrValue)
		}
		out := bytes.NewBuffer(dst)
		if err := json.Compact(out, value); err != nil {
			return dst, fmt.Errorf("%w: not JSON: %w", ErrValue, err)
		}
		return out.Bytes(), nil
	case KeyValue:
		ki, vi, err := i.KeyValue()
		if err != nil {
			return dst, err
		}
		if !i.Separated() {
			if key, value, err = SplitKeyValue(value); err != nil {
				return dst, err
			}
		}
		dst = append(dst, `{"key":`...)
		if dst, err = ki.appendPart(dst, key); err != nil {
			return dst, fmt.Errorf("key: %w", err)
		}
		dst = append(dst, `,"value":`...)
		if dst, err = vi.appendPart(dst, value); err != nil {
			return dst, fmt.Errorf("value: %w", err)
		}
		return append(dst, '}'), nil
	}
	return appendPrimitive(dst, i.Type, value)
}

func (i *Info) appendPart(dst, b []byte) ([]byte, error) {
	if b == nil {
		return append(dst, "null"...), nil
	}
	return i.appendJSON(dst, nil, b)
}

func appendPrimitive(dst []byte, t Type, b []byte) ([]byte, error) {
	n, fixed := sizeOf(t)
	if fixed && len(b) != n {
		return dst, fmt.Errorf("%w: %v of %d bytes", ErrValue, t, len(b))
	}
	switch t {
	case None, Bytes:
		return appendBase64(dst, b), nil
	case String:
		if !utf8.Valid(b) {
			return dst, fmt.Errorf("%w: STRING is not UTF-8", ErrValue)
		}
		return appendString(dst, string(b)), nil
	case Boolean:
		return strconv.AppendBool(dst, b[0] != 0), nil
	case Int8:
		return strconv.AppendInt(dst, int64(int8(b[0])), 10), nil
	case Int16:
		return strconv.AppendInt(dst, int64(int16(binary.BigEndian.Uint16(b))), 10), nil
	case Int32:
		return strconv.AppendInt(dst, int64(int32(binary.BigEndian.Uint32(b))), 10), nil
	case Int64:
		return strconv.AppendInt(dst, int64(binary.BigEndian.Uint64(b)), 10), nil
	case Float:
		return appendFloat(dst, float64(math.Float32frombits(binary.BigEndian.Uint32(b))), 32), nil
	case Double:
		return appendFloat(dst, math.Float64frombits(binary.BigEndian.Uint64(b)), 64), nil
	case Date, Timestamp:
		return appendMoment(dst, time.UnixMilli(int64(binary.BigEndian.Uint64(b)))), nil
	case Time:
		return appendTimeOfDay(dst, time.UnixMilli(int64(binary.BigEndian.Uint64(b)))), nil
	case Instant:
		nanos := int32(binary.BigEndian.Uint32(b[8:]))
		if nanos < 0 || nanos >= 1e9 {
			return dst, fmt.Errorf("%w: INSTANT with %d ns", ErrValue, nanos)
		}
		return appendMoment(dst, time.Unix(int64(binary.BigEndian.Uint64(b)), int64(nanos))), nil
	case LocalDate:
		d, err := epochDay(b)
		if err != nil {
			return dst, err
		}
		return appendFormat(dst, d, "2006-01-02"), nil
	case LocalTime:
		d, err := nanoOfDay(b)
		if err != nil {
			return dst, err
		}
		return appendTimeOfDay(dst, time.Unix(0, int64(d))), nil
	case LocalDateTime:
		d, err := epochDay(b)
		if err != nil {
			return dst, err
		}
		n, err := nanoOfDay(b[8:])
		if err != nil {
			return dst, err
		}
		return appendFormat(dst, d.Add(n), "2006-01-02T15:04:05.999999999"), nil
	}
	return dst, fmt.Errorf("%w: %v", ErrUnsupported, t)
}

// sizeOf is the size of values of t, if it is fixed.
func sizeOf(t Type) (int, bool) {
	switch t {
	case Boolean, Int8:
		return 1, true
	case Int16:
		return 2, true
	case Int32, Float:
		return 4, true
	case Int64, Double, Date, Time, Timestamp, LocalDate, LocalTime:
		return 8, true
	case Instant:
		return 12, true
	case LocalDateTime:
		return 16, true
	}
	return 0, false
}

// maxEpochDay keeps dates within the four digits that ISO 8601 has for years without further agreement.
const maxEpochDay = 2932896 // 9999-12-31

func epochDay(b []byte) (time.Time, error) {
	d := int64(binary.BigEndian.Uint64(b))
	if d < -719528 || d > maxEpochDay { // 0000-01-01
		return time.Time{}, fmt.Errorf("%w: day %d", ErrValue, d)
	}
	return time.Unix(d*86400, 0).UTC(), nil
}

func nanoOfDay(b []byte) (time.Duration, error) {
	n := int64(binary.BigEndian.Uint64(b))
	if n < 0 || n >= int64(24*time.Hour) {
		return 0, fmt.Errorf("%w: %d ns of a day", ErrValue, n)
	}
	return time.Duration(n), nil
}

func appendMoment(dst []byte, t time.Time) []byte {
	return appendFormat(dst, t, "2006-01-02T15:04:05.999999999Z07:00")
}

func appendTimeOfDay(dst []byte, t time.Time) []byte {
	return appendFormat(dst, t, "15:04:05.999999999")
}

func appendFormat(dst []byte, t time.Time, layout string) []byte {
	dst = append(dst, '"')
	dst = t.UTC().AppendFormat(dst, layout)
	return append(dst, '"')
}

func appendFloat(dst []byte, f float64, bits int) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(strconv.AppendFloat(append(dst, '"'), f, 'g', -1, bits), '"')
	}
	return strconv.AppendFloat(dst, f, 'g', -1, bits)
}

func appendBase64(dst, b []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(dst, '"'), b), '"')
}

func appendString(dst []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("schema: a string as JSON: %v", err)) // cannot fail
	}
	return append(dst, b...)
}
