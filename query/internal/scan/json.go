package scan

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/daybook/daybook/query/internal/value"
)

var (
	errJSON = errors.New("value is not valid JSON")
	errType = errors.New("value does not fit the schema")
)

const maxJSONDepth = 200

// A span is where a wanted field lies in a message.
type span struct {
	from, to int
	set      bool
	escaped  bool // a string with backslashes
	high     bool // a string with bytes beyond ASCII
}

// jsonProjector takes wanted fields out of JSON objects in one forward pass. It remembers the order of keys
// of the message before, checks the whole of each message, and keeps nothing of a message between calls.
type jsonProjector struct {
	fields []*node
	keys   map[string]int
	spans  []span
	guess  []guess
}

type guess struct {
	key  string // with the closing quote
	want int    // -1: skipped
}

func newJSONProjector(fields []*node) *jsonProjector {
	p := &jsonProjector{fields: fields, keys: map[string]int{}, spans: make([]span, len(fields))}
	for i, f := range fields {
		p.keys[f.name] = i
	}
	return p
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// scan finds the spans of the wanted fields; it fails if the message is not one JSON object.
func (p *jsonProjector) scan(b []byte) error {
	clear(p.spans)
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return errJSON
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		if space(b, i+1) != len(b) {
			return errJSON
		}
		return nil
	}
	for n := 0; ; n++ {
		if i >= len(b) || b[i] != '"' {
			return errJSON
		}
		i++
		want := -1
		if n < len(p.guess) && p.guess[n].key != "" && len(b)-i > len(p.guess[n].key) && string(b[i:i+len(p.guess[n].key)]) == p.guess[n].key {
			want = p.guess[n].want
			i += len(p.guess[n].key)
		} else {
			end, esc, _ := endOfString(b, i)
			if end < 0 {
				return errJSON
			}
			key := b[i:end]
			if esc {
				var s string
				if json.Unmarshal(b[i-1:end+1], &s) != nil {
					return errJSON
				}
				key = []byte(s)
			}
			if w, ok := p.keys[string(key)]; ok {
				want = w
			}
			if !esc && n < 256 {
				for len(p.guess) <= n {
					p.guess = append(p.guess, guess{})
				}
				p.guess[n] = guess{string(b[i : end+1]), want}
			}
			i = end + 1
		}
		if i >= len(b) || b[i] != ':' {
			if i = space(b, i); i >= len(b) || b[i] != ':' {
				return errJSON
			}
		}
		i++
		if i < len(b) && b[i] <= ' ' {
			i = space(b, i)
		}
		if i >= len(b) {
			return errJSON
		}
		from := i
		esc, high := false, false
		if b[i] == '"' {
			end, e, h := endOfString(b, i+1)
			if end < 0 || e && !json.Valid(b[i:end+1]) {
				return errJSON
			}
			i, esc, high = end+1, e, h
		} else if i = skipValue(b, i, 0); i < 0 {
			return errJSON
		}
		if want >= 0 {
			p.spans[want] = span{from, i, true, esc, high}
		}
		if i < len(b) && b[i] <= ' ' {
			i = space(b, i)
		}
		if i >= len(b) {
			return errJSON
		}
		if b[i] == '}' {
			if i+1 != len(b) && space(b, i+1) != len(b) {
				return errJSON
			}
			return nil
		}
		if b[i] != ',' {
			return errJSON
		}
		i++
		if i < len(b) && b[i] <= ' ' {
			i = space(b, i)
		}
	}
}

const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// endOfString finds the closing quote of a string that begins at i; -1 if there is none or a control
// character is in it. It tells whether there are backslashes, and bytes beyond ASCII.
func endOfString(b []byte, i int) (end int, escaped, high bool) {
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		q, s := w^(lows*'"'), w^(lows*'\\')
		// Bits of bytes that are a quote, a backslash, below 0x20, or beyond ASCII; exact up to the first one.
		m := (q-lows)&^q | (s-lows)&^s | (w-lows*0x20)&^w | w
		if m &= highs; m == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(m) / 8
		switch c := b[i]; {
		case c == '"':
			return i, escaped, high
		case c == '\\':
			escaped = true
			if i += 2; i > len(b) {
				return -1, false, false
			}
		case c < 0x20:
			return -1, false, false
		default:
			if c >= utf8.RuneSelf {
				high = true
			}
			i++
		}
	}
	for ; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i, escaped, high
		case c == '\\':
			escaped = true
			i++
		case c < 0x20:
			return -1, false, false
		case c >= utf8.RuneSelf:
			high = true
		}
	}
	return -1, false, false
}

// skipValue checks a value and gives the place behind it, -1 if it is not valid.
func skipValue(b []byte, i, depth int) int {
	if i >= len(b) || depth > maxJSONDepth {
		return -1
	}
	switch c := b[i]; c {
	case '"':
		end, esc, _ := endOfString(b, i+1)
		if end < 0 || esc && !json.Valid(b[i:end+1]) {
			return -1
		}
		return end + 1
	case '{', '[':
		shut := c + 2 // '}' and ']' are two behind their opening
		i = space(b, i+1)
		if i < len(b) && b[i] == shut {
			return i + 1
		}
		for {
			if c == '{' {
				if i >= len(b) || b[i] != '"' {
					return -1
				}
				if i = skipValue(b, i, depth+1); i < 0 {
					return -1
				}
				if i = space(b, i); i >= len(b) || b[i] != ':' {
					return -1
				}
				i = space(b, i+1)
			}
			if i = skipValue(b, i, depth+1); i < 0 {
				return -1
			}
			if i = space(b, i); i >= len(b) {
				return -1
			}
			if b[i] == shut {
				return i + 1
			}
			if b[i] != ',' {
				return -1
			}
			i = space(b, i+1)
		}
	case 't':
		return literal(b, i, "true")
	case 'f':
		return literal(b, i, "false")
	case 'n':
		return literal(b, i, "null")
	}
	return skipNumber(b, i)
}

func literal(b []byte, i int, s string) int {
	if len(b)-i < len(s) || string(b[i:i+len(s)]) != s {
		return -1
	}
	return i + len(s)
}

func skipNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	digits := func() bool {
		from := i
		for i < len(b) && b[i]-'0' <= 9 {
			i++
		}
		return i > from
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return -1
		}
	}
	return i
}

// project appends the wanted fields of a message to the columns. A message that is not a JSON object gives
// nulls and errJSON; a field that does not fit its type a null, and errType in the end.
func (p *jsonProjector) project(b []byte, cols []*value.Vec) error {
	if err := p.scan(b); err != nil {
		for _, c := range cols {
			c.AppendNull()
		}
		return err
	}
	var bad error
	for k, s := range p.spans {
		c := cols[k]
		if !s.set {
			c.AppendNull()
			continue
		}
		if !appendJSON(c, p.fields[k], b[s.from:s.to], s) {
			if string(b[s.from:s.to]) != "null" {
				bad = errType
			}
			c.AppendNull()
		}
	}
	return bad
}

func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// appendJSON appends one value; false, with nothing appended, if it does not fit or is null.
func appendJSON(c *value.Vec, n *node, b []byte, s span) bool {
	for n.kind == nUnion {
		if n.main < 0 {
			return false
		}
		n = n.branches[n.main]
	}
	switch c.Type.Kind {
	case value.Varchar:
		if b[0] != '"' {
			if n.typ.Kind == value.Varchar && n.logical == "decimal" && (b[0] == '-' || b[0]-'0' <= 9) {
				c.AppendString(text(b))
				break
			}
			return false
		}
		str := b[1 : len(b)-1]
		if s.escaped {
			var out string
			if json.Unmarshal(b, &out) != nil {
				return false
			}
			c.AppendString(out)
			break
		}
		if s.high && !utf8.Valid(str) || len(str) == 0 {
			if len(str) > 0 {
				return false
			}
			c.AppendString("")
			break
		}
		c.AppendString(text(str))
	case value.Varbinary:
		v, ok := boxJSON(n, b)
		if !ok || v == nil {
			return false
		}
		c.AppendString(v.(string))
	case value.Boolean:
		switch string(b) {
		case "true":
			c.AppendInt(1)
		case "false":
			c.AppendInt(0)
		default:
			return false
		}
	case value.Integer, value.BigInt, value.Timestamp, value.Date, value.Time:
		v, ok := parseInt(b)
		if !ok || n.kind == nInt && (v < math.MinInt32 || v > math.MaxInt32) {
			return false
		}
		c.AppendInt(v)
	case value.Real, value.Double:
		v, ok := parseFloat(b)
		if !ok {
			return false
		}
		if c.Type.Kind == value.Real {
			v = float64(float32(v))
		}
		c.AppendFloat(v)
	default:
		v, ok := boxJSON(n, b)
		if !ok || v == nil {
			return false
		}
		c.Append(v)
		return true
	}
	return true
}

func parseInt(b []byte) (int64, bool) {
	i, neg := 0, false
	if b[0] == '-' {
		neg = true
		i = 1
	}
	if len(b)-i > 18 || len(b) == i {
		if v, err := strconv.ParseInt(text(b), 10, 64); err == nil {
			return v, true
		}
		return wholeFloat(b)
	}
	v := int64(0)
	for ; i < len(b); i++ {
		d := b[i] - '0'
		if d > 9 {
			return wholeFloat(b)
		}
		v = v*10 + int64(d)
	}
	if neg {
		v = -v
	}
	return v, true
}

// wholeFloat takes 1.0 and 1e3 as integers.
func wholeFloat(b []byte) (int64, bool) {
	if b[0] != '-' && b[0]-'0' > 9 {
		return 0, false
	}
	f, err := strconv.ParseFloat(text(b), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

var tens = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18}

func parseFloat(b []byte) (float64, bool) {
	i, neg := 0, false
	if b[0] == '-' {
		neg = true
		i = 1
	}
	mant, frac, point := uint64(0), 0, false
	if len(b)-i <= 17 {
		for ; i < len(b); i++ {
			d := b[i] - '0'
			if d <= 9 {
				mant = mant*10 + uint64(d)
				if point {
					frac++
				}
			} else if b[i] == '.' && !point {
				point = true
			} else {
				break
			}
		}
		// Both are exact as doubles, so that their quotient is the nearest double.
		if i == len(b) && mant < 1<<53 {
			f := float64(mant) / tens[frac]
			if neg {
				f = -f
			}
			return f, true
		}
	}
	if b[0] == '"' { // Jackson writes what JSON cannot as strings
		switch string(b) {
		case `"NaN"`:
			return math.NaN(), true
		case `"Infinity"`:
			return math.Inf(1), true
		case `"-Infinity"`:
			return math.Inf(-1), true
		}
		return 0, false
	}
	if b[0] != '-' && b[0]-'0' > 9 {
		return 0, false
	}
	f, err := strconv.ParseFloat(text(b), 64)
	return f, err == nil
}

// boxJSON decodes a nested value as value.Vec.Get gives it; nil is null.
func boxJSON(n *node, b []byte) (any, bool) {
	if string(b) == "null" {
		return nil, true
	}
	switch n.kind {
	case nUnion:
		if n.main < 0 {
			return nil, false
		}
		return boxJSON(n.branches[n.main], b)
	case nBoolean:
		if string(b) == "true" || string(b) == "false" {
			return string(b) == "true", true
		}
		return nil, false
	case nInt, nLong:
		v, ok := parseInt(b)
		return v, ok
	case nFloat, nDouble:
		v, ok := parseFloat(b)
		if n.kind == nFloat {
			v = float64(float32(v))
		}
		return v, ok
	case nString, nEnum, nBytes, nFixed:
		if b[0] != '"' {
			return nil, false
		}
		var s string
		if json.Unmarshal(b, &s) != nil {
			return nil, false
		}
		if n.typ.Kind == value.Varbinary {
			if d, err := base64.StdEncoding.DecodeString(s); err == nil {
				return string(d), true
			}
		}
		return s, true
	case nArray:
		var l []json.RawMessage
		if json.Unmarshal(b, &l) != nil {
			return nil, false
		}
		out := make([]any, len(l))
		for i, e := range l {
			v, ok := boxJSON(n.elem, e)
			if !ok {
				return nil, false
			}
			out[i] = v
		}
		return out, true
	case nMap:
		var m map[string]json.RawMessage
		if json.Unmarshal(b, &m) != nil {
			return nil, false
		}
		out := value.Pairs{}
		for _, k := range sortedKeys(m) {
			v, ok := boxJSON(n.elem, m[k])
			if !ok {
				return nil, false
			}
			out = append(out, value.Pair{Key: k, Value: v})
		}
		return out, true
	case nRecord:
		var m map[string]json.RawMessage
		if json.Unmarshal(b, &m) != nil {
			return nil, false
		}
		out := make([]any, len(n.fields))
		for i, f := range n.fields {
			if e, ok := m[f.name]; ok {
				if out[i], ok = boxJSON(f, e); !ok {
					return nil, false
				}
			}
		}
		return out, true
	}
	return nil, false
}
