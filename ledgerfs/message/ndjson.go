package message

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/daybook/daybook/ledgerfs"
)

// AppendNDJSON appends the message as one JSON object on one line, with its newline. pos is the position of
// its entry. The fields, always in this order:
//
//	"id"        "ledger:entry", in a batch "ledger:entry:index"
//	"ts"        publish time in ms since 1970
//	"event"     event time in ms, if there is one
//	"key"       partition key, if there is one; "keyb64" if it is bytes
//	"props"     properties as an object, if there are any
//	"producer"  name of the producer
//	"seq"       its sequence id
//	"encrypted" true, if so
//	"v"         the value: null, or what decoded holds, or the payload itself if it is a JSON object or array,
//	            its white space taken out
//	"text"      or else the payload, if it is UTF-8
//	"b64"       or else base64 of the payload
//
// decoded is the value as JSON, valid and compact, if a schema decoded it, nil if not.
func AppendNDJSON(dst []byte, pos ledgerfs.Position, m *Message, decoded []byte) []byte {
	md := &m.Entry.Meta
	dst = append(dst, `{"id":"`...)
	dst = strconv.AppendInt(dst, int64(pos.Ledger), 10)
	dst = append(dst, ':')
	dst = strconv.AppendInt(dst, int64(pos.Entry), 10)
	if m.BatchIndex >= 0 {
		dst = append(dst, ':')
		dst = strconv.AppendInt(dst, int64(m.BatchIndex), 10)
	}
	dst = append(dst, `","ts":`...)
	dst = strconv.AppendInt(dst, m.PublishTime, 10)
	if m.EventTime != 0 {
		dst = append(dst, `,"event":`...)
		dst = strconv.AppendInt(dst, m.EventTime, 10)
	}
	if m.HasKey {
		if keyIsText(m) {
			dst = append(dst, `,"key":`...)
			dst = appendJSONString(dst, m.Key)
		} else {
			dst = append(dst, `,"keyb64":"`...)
			if m.KeyBase64 && isBase64(m.Key) {
				dst = append(dst, m.Key...)
			} else {
				dst = base64.StdEncoding.AppendEncode(dst, m.Key)
			}
			dst = append(dst, '"')
		}
	}
	sep := `,"props":{`
	for k, v := range m.Properties() {
		dst = append(dst, sep...)
		dst = appendJSONString(dst, k)
		dst = append(dst, ':')
		dst = appendJSONString(dst, v)
		sep = ","
	}
	if sep == "," {
		dst = append(dst, '}')
	}
	dst = append(dst, `,"producer":`...)
	dst = appendJSONString(dst, md.ProducerName)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, m.SequenceID, 10)
	if m.Encrypted {
		dst = append(dst, `,"encrypted":true`...)
	}
	switch form, _ := valueForm(m, decoded); form {
	case valueNull:
		dst = append(dst, `,"v":null`...)
	case valueDecoded:
		dst = append(dst, `,"v":`...)
		dst = append(dst, decoded...)
	case valueJSON:
		dst = append(dst, `,"v":`...)
		dst = appendCompact(dst, m.Value)
	case valueText:
		dst = append(dst, `,"text":`...)
		dst = appendJSONString(dst, m.Value)
	case valueBytes:
		dst = append(dst, `,"b64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, m.Value)
		dst = append(dst, '"')
	}
	return append(dst, '}', '\n')
}

// NDJSONLen is the number of bytes that AppendNDJSON appends.
func NDJSONLen(pos ledgerfs.Position, m *Message, decoded []byte) int {
	n := len(`{"id":":","ts":,"producer":,"seq":}`+"\n") + intLen(int64(pos.Ledger)) + intLen(int64(pos.Entry)) +
		intLen(m.PublishTime) + jsonStringLen(m.Entry.Meta.ProducerName) + uintLen(m.SequenceID)
	if m.BatchIndex >= 0 {
		n += 1 + intLen(int64(m.BatchIndex))
	}
	if m.EventTime != 0 {
		n += len(`,"event":`) + intLen(m.EventTime)
	}
	if m.HasKey {
		switch {
		case keyIsText(m):
			n += len(`,"key":`) + jsonStringLen(m.Key)
		case m.KeyBase64 && isBase64(m.Key):
			n += len(`,"keyb64":""`) + len(m.Key)
		default:
			n += len(`,"keyb64":""`) + base64.StdEncoding.EncodedLen(len(m.Key))
		}
	}
	props := 0
	for k, v := range m.Properties() {
		n += jsonStringLen(k) + 1 + jsonStringLen(v)
		props++
	}
	if props > 0 {
		n += len(`,"props":{}`) + props - 1
	}
	if m.Encrypted {
		n += len(`,"encrypted":true`)
	}
	switch form, size := valueForm(m, decoded); form {
	case valueNull:
		n += len(`,"v":null`)
	case valueDecoded:
		n += len(`,"v":`) + len(decoded)
	case valueJSON:
		n += len(`,"v":`) + size
	case valueText:
		n += len(`,"text":`) + jsonStringLen(m.Value)
	case valueBytes:
		n += len(`,"b64":""`) + base64.StdEncoding.EncodedLen(len(m.Value))
	}
	return n
}

type valueKind uint8

const (
	valueNull valueKind = iota
	valueDecoded
	valueJSON
	valueText
	valueBytes
)

// valueForm says how the value is shown, and for valueJSON its size.
func valueForm(m *Message, decoded []byte) (valueKind, int) {
	switch {
	case m.Opaque:
		return valueBytes, 0
	case m.Null:
		return valueNull, 0
	case decoded != nil:
		return valueDecoded, 0
	case !utf8.Valid(m.Value):
		return valueBytes, 0
	}
	if v := bytes.TrimLeft(m.Value, " \t\r\n"); len(v) > 0 && (v[0] == '{' || v[0] == '[') {
		if n, ok := compactLen(m.Value); ok {
			return valueJSON, n
		}
	}
	return valueText, 0
}

func keyIsText(m *Message) bool { return !m.KeyBase64 && utf8.Valid(m.Key) }

func isBase64(b []byte) bool {
	if len(b)%4 != 0 {
		return false
	}
	pad := 0
	for i, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '+', c == '/':
			if pad > 0 {
				return false
			}
		case c == '=' && i >= len(b)-2:
			pad++
		default:
			return false
		}
	}
	return true
}

func intLen(v int64) int {
	if v < 0 {
		return 1 + uintLen(-uint64(v))
	}
	return uintLen(uint64(v))
}

func uintLen(v uint64) int {
	n := 1
	for ; v >= 10; v /= 10 {
		n++
	}
	return n
}

// ParseNDJSON reads an object as AppendNDJSON writes it into a message to be published. Fields that a
// producer cannot set ("id", "ts", "producer", "seq") are checked and left out; so are unknown ones. Of
// "v", "text" and "b64" there must be one; "v" stands for its JSON text, compact.
func ParseNDJSON(line []byte) (Outgoing, error) {
	var in struct {
		ID       *string         `json:"id"`
		TS       *int64          `json:"ts"`
		Event    int64           `json:"event"`
		Key      *string         `json:"key"`
		KeyB64   *string         `json:"keyb64"`
		Props    json.RawMessage `json:"props"`
		Producer *string         `json:"producer"`
		Seq      uint64          `json:"seq"`
		V        json.RawMessage `json:"v"`
		Text     *string         `json:"text"`
		B64      *string         `json:"b64"`
	}
	bad := func(err error) (Outgoing, error) {
		return Outgoing{}, fmt.Errorf("%w: message as JSON: %w", ErrMalformed, err)
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return bad(err)
	}
	m := Outgoing{EventTime: in.Event, SequenceID: in.Seq}
	switch {
	case in.Key != nil && in.KeyB64 != nil:
		return bad(fmt.Errorf(`both "key" and "keyb64"`))
	case in.Key != nil:
		m.Key, m.HasKey = *in.Key, true
	case in.KeyB64 != nil:
		if !isBase64([]byte(*in.KeyB64)) {
			return bad(fmt.Errorf(`"keyb64" is not base64`))
		}
		m.Key, m.HasKey, m.KeyBase64 = *in.KeyB64, true, true
	}
	if len(in.Props) > 0 && string(in.Props) != "null" {
		d := json.NewDecoder(bytes.NewReader(in.Props))
		if t, err := d.Token(); err != nil || t != json.Delim('{') {
			return bad(fmt.Errorf(`"props" is not an object`))
		}
		for d.More() {
			k, err1 := d.Token()
			v, err2 := d.Token()
			ks, ok1 := k.(string)
			vs, ok2 := v.(string)
			if err1 != nil || err2 != nil || !ok1 || !ok2 {
				return bad(fmt.Errorf(`"props" has a value that is not a string`))
			}
			m.Properties = append(m.Properties, Property{ks, vs})
		}
	}
	values := 0
	if in.V != nil {
		values++
		if m.Null = string(in.V) == "null"; !m.Null {
			m.Value = appendCompact(nil, in.V)
		}
	}
	if in.Text != nil {
		values++
		m.Value = []byte(*in.Text)
	}
	if in.B64 != nil {
		values++
		v, err := decodeBase64([]byte(*in.B64))
		if err != nil {
			return bad(err)
		}
		m.Value = v
	}
	if values != 1 {
		return bad(fmt.Errorf(`%d of "v", "text" and "b64", want one`, values))
	}
	return m, nil
}
