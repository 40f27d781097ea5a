package topicname

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Key is the topic's place in metadata keys: "tenant/namespace/domain/topic", the topic escaped with
// EscapeKey. The keys of one namespace, and of one domain in it, share a prefix that ends with '/'.
func (n Name) Key() string {
	return n.Tenant + "/" + n.Namespace + "/" + n.Domain.String() + "/" + EscapeKey(n.Local)
}

// ParseKey is the inverse of Key.
func ParseKey(s string) (Name, error) {
	p := strings.Split(s, "/")
	if len(p) != 4 {
		return Name{}, fmt.Errorf("%w: topic key %q", ErrInvalid, s)
	}
	d, err := ParseDomain(p[2])
	if err != nil {
		return Name{}, fmt.Errorf("topic key %q: %w", s, err)
	}
	local, err := UnescapeKey(p[3])
	if err != nil {
		return Name{}, fmt.Errorf("topic key %q: %w", s, err)
	}
	return Make(d, p[0], p[1], local)
}

const upperHex = "0123456789ABCDEF"

// EscapeKey makes a segment of a metadata key of any text: '/', '%', NUL and the other control bytes become
// %XX. It is injective.
func EscapeKey(s string) string {
	return escape(s, func(_ int, c byte) bool { return c == '/' || c == '%' || isControl(c) })
}

// UnescapeKey is the inverse of EscapeKey; it takes nothing that EscapeKey would not have made.
func UnescapeKey(s string) (string, error) {
	v, ok := unescape(s)
	if !ok || EscapeKey(v) != s {
		return "", fmt.Errorf("%w: key segment %q", ErrInvalid, s)
	}
	return v, nil
}

// MaxFileNameBytes is the limit of a file's name in all file systems of today.
const MaxFileNameBytes = 255

const hashMark = "%~"

// FileName is the name of the topic's file in its namespace's directory: see EncodeFileName.
func (n Name) FileName() string { return EncodeFileName(n.Local) }

// EncodeFileName makes a file name of any text: '/', '%', '@', NUL and the other control bytes, and a '.' at
// the start, become %XX, so that '@' and a leading '.' stay free for the file tree's own names. What is then
// longer than MaxFileNameBytes becomes "%~" and the SHA-256 of s in hex, which only a search can turn back.
func EncodeFileName(s string) string {
	e := escape(s, func(i int, c byte) bool {
		return c == '/' || c == '%' || c == '@' || isControl(c) || i == 0 && c == '.'
	})
	if len(e) <= MaxFileNameBytes {
		return e
	}
	sum := sha256.Sum256([]byte(s))
	return hashMark + hex.EncodeToString(sum[:])
}

// DecodeFileName is the inverse of EncodeFileName. With hashed set, the name is a digest: its text is the
// one whose EncodeFileName equals name, to be found among the existing ones. Names that EncodeFileName does
// not make are ErrInvalid, so that every topic has one file name only.
func DecodeFileName(name string) (s string, hashed bool, err error) {
	if h, ok := strings.CutPrefix(name, hashMark); ok {
		if b, err := hex.DecodeString(h); err == nil && len(b) == sha256.Size && h == strings.ToLower(h) {
			return "", true, nil
		}
		return "", false, fmt.Errorf("%w: file name %q", ErrInvalid, name)
	}
	v, ok := unescape(name)
	if !ok || EncodeFileName(v) != name {
		return "", false, fmt.Errorf("%w: file name %q", ErrInvalid, name)
	}
	return v, false, nil
}

func isControl(c byte) bool { return c < 0x20 || c == 0x7f }

func escape(s string, must func(i int, c byte) bool) string {
	n := 0
	for i := range len(s) {
		if must(i, s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	b := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; must(i, c) {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

func unescape(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		hi, lo := strings.IndexByte(upperHex, s[i+1]), strings.IndexByte(upperHex, s[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	return string(b), true
}
