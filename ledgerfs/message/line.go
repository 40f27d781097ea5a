package message

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// RenderVersion names the rules by which AppendLine and AppendNDJSON make text. Files show their bytes at
// offsets that never change, so a change of the rules is a new version beside this one.
const RenderVersion = 1

// AppendLine appends the message as a line of text, with its newline. The rule can be reversed (ParseLine):
//
//   - text without control bytes other than tabs, that starts with neither `\"` nor `\=`, stands as it is;
//   - other text is `\` and a JSON string;
//   - what is not UTF-8, or is Opaque, is `\=` and base64.
//
// A null value is an empty line.
func AppendLine(dst []byte, m *Message) []byte {
	v := m.Value
	switch lineForm(v, m.Opaque) {
	case formVerbatim:
		dst = append(dst, v...)
	case formQuoted:
		dst = append(dst, '\\')
		dst = appendJSONString(dst, v)
	default:
		dst = append(dst, '\\', '=')
		dst = base64.StdEncoding.AppendEncode(dst, v)
	}
	return append(dst, '\n')
}

// LineLen is the number of bytes that AppendLine appends.
func LineLen(m *Message) int {
	v := m.Value
	switch lineForm(v, m.Opaque) {
	case formVerbatim:
		return len(v) + 1
	case formQuoted:
		return jsonStringLen(v) + 2
	}
	return base64.StdEncoding.EncodedLen(len(v)) + 3
}

// ParseLine is the inverse of AppendLine for a line without its newline. The value aliases line where it
// stands as it is. It takes any JSON string after the `\`, so that people can write such lines.
func ParseLine(line []byte) ([]byte, error) {
	if len(line) < 2 || line[0] != '\\' {
		return line, nil
	}
	switch line[1] {
	case '"':
		var s string
		if err := json.Unmarshal(line[1:], &s); err != nil {
			return nil, fmt.Errorf("%w: line that starts with \\\": %w", ErrMalformed, err)
		}
		return []byte(s), nil
	case '=':
		v, err := decodeBase64(line[2:])
		if err != nil {
			return nil, fmt.Errorf("line that starts with \\=: %w", err)
		}
		return v, nil
	}
	return line, nil
}

// decodeBase64 takes exactly what the standard encoding makes: Go's decoder alone lets line ends pass.
func decodeBase64(b []byte) ([]byte, error) {
	if !isBase64(b) {
		return nil, fmt.Errorf("%w: not base64", ErrMalformed)
	}
	v, err := base64.StdEncoding.Strict().AppendDecode(nil, b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return v, nil
}

type form uint8

const (
	formVerbatim form = iota
	formQuoted
	formBase64
)

func lineForm(v []byte, opaque bool) form {
	if opaque {
		return formBase64
	}
	control, high := classify(v)
	switch {
	case high && !utf8.Valid(v):
		return formBase64
	case control, len(v) >= 2 && v[0] == '\\' && (v[1] == '"' || v[1] == '='):
		return formQuoted
	}
	return formVerbatim
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// classify reports whether v has control bytes (below 0x20 but tab, and 0x7f), and whether it has bytes above
// 0x7f. It looks at many bytes at a time: lines are counted for every message that is published.
func classify(v []byte) (control, high bool) {
	var hi uint64
	for len(v) >= 32 {
		a, b := binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:])
		c, d := binary.LittleEndian.Uint64(v[16:]), binary.LittleEndian.Uint64(v[24:])
		hi |= a | b | c | d
		if (suspects(a)|suspects(b)|suspects(c)|suspects(d))&highs != 0 {
			control = control || hasControl(v[:32]) // a tab is a suspect too
		}
		v = v[32:]
	}
	for _, c := range v {
		control = control || isControl(c)
		hi |= uint64(c)
	}
	return control, hi&highs != 0
}

// suspects has the high bit set of each byte of x that is below 0x20 or is 0x7f; the other bits mean nothing. For
// bytes below 0x80 no sum carries into the next byte: +0x60 sets the high bit unless the byte is below 0x20, and
// +1 sets it for 0x7f.
func suspects(x uint64) uint64 {
	low := x &^ highs
	return (^(low + 0x60*ones) | (low + ones)) &^ x
}

func hasControl(v []byte) bool {
	for _, c := range v {
		if isControl(c) {
			return true
		}
	}
	return false
}

func isControl(c byte) bool { return c < 0x20 && c != '\t' || c == 0x7f }

const lowerHex = "0123456789abcdef"

// appendJSONString appends s as a JSON string of one fixed form: the two-character escapes where JSON has
// them but for '/', \u00xx for the other control bytes and 0x7f, U+FFFD for what is not UTF-8, all else as it
// is.
func appendJSONString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if e := jsonEscape(c); e != 0 {
				dst = append(append(dst, s[from:i]...), '\\', e)
				if e == 'u' {
					dst = append(dst, '0', '0', lowerHex[c>>4], lowerHex[c&15])
				}
				from = i + 1
			}
			i++
			continue
		}
		r, n := decodeRune(s[i:])
		if r == utf8.RuneError && n == 1 {
			dst = append(append(dst, s[from:i]...), "\ufffd"...)
			from = i + 1
		}
		i += n
	}
	return append(append(dst, s[from:]...), '"')
}

// jsonStringLen is the number of bytes that appendJSONString appends.
func jsonStringLen[T string | []byte](s T) int {
	n := len(s) + 2
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch jsonEscape(c) {
			case 0:
			case 'u':
				n += 5
			default:
				n++
			}
			i++
			continue
		}
		r, size := decodeRune(s[i:])
		if r == utf8.RuneError && size == 1 {
			n += 2
		}
		i += size
	}
	return n
}

// jsonEscape is the letter that follows the backslash of the escape for c, 0 if c stands as it is.
func jsonEscape(c byte) byte {
	switch c {
	case '"', '\\':
		return c
	case '\n':
		return 'n'
	case '\r':
		return 'r'
	case '\t':
		return 't'
	case '\b':
		return 'b'
	case '\f':
		return 'f'
	}
	if c < 0x20 || c == 0x7f {
		return 'u'
	}
	return 0
}

func decodeRune[T string | []byte](s T) (rune, int) {
	if len(s) > utf8.UTFMax {
		s = s[:utf8.UTFMax]
	}
	return utf8.DecodeRuneInString(string(s))
}
