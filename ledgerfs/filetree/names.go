package filetree

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

// MaxNameBytes is the longest name of a directory entry, the kernel's NAME_MAX.
const MaxNameBytes = 255

// MaxPathBytes bounds the paths that the service takes.
const MaxPathBytes = 4096

// hashedPrefix starts the entry name of a tenant, namespace or topic whose encoded name would be too long.
// No other encoded name starts with it: '%' is always followed by two hex digits.
const hashedPrefix = "%~"

// A Name names a topic: the parts of persistent://Tenant/Namespace/Topic, as they are, not encoded.
type Name struct {
	Tenant, Namespace, Topic string
}

// String is the topic's full name, "persistent://tenant/namespace/topic".
func (n Name) String() string {
	return "persistent://" + n.Tenant + "/" + n.Namespace + "/" + n.Topic
}

// A View is one face of a topic.
type View uint8

// The faces of a topic.
const (
	ViewLine   View = iota // `<topic>`: one message a line
	ViewNDJSON             // `<topic>@/ndjson`: one JSON object a message
	viewCount
)

// String is the view's name in paths and stored records: "line" or "ndjson".
func (v View) String() string {
	switch v {
	case ViewLine:
		return "line"
	case ViewNDJSON:
		return "ndjson"
	}
	return fmt.Sprintf("view-%d", uint8(v))
}

// Kind says which place of the tree a Path names.
type Kind uint8

// The places of the tree.
const (
	KindRoot      Kind = iota // /
	KindTenant                // /<tenant>
	KindNamespace             // /<tenant>/<namespace>
	KindTopic                 // a face of a topic: a file
	KindFaces                 // /<tenant>/<namespace>/<topic>@
)

// A Path is a parsed path of the tree. Parts that the Kind does not have are empty. A part may be a hashed
// name ("%~…"), which only a listing can resolve.
type Path struct {
	Kind Kind
	Name Name
	View View // of KindTopic
}

// Dir reports whether the path names a directory.
func (p Path) Dir() bool { return p.Kind != KindTopic }

// ParsePath parses an absolute slash-separated path ("/", "/t/ns/topic", "/t/ns/topic@/ndjson"). Only the one
// encoded form of a name is taken. Errors wrap ENOENT (no such place is possible), ENOTDIR or EINVAL.
func ParsePath(s string) (Path, error) {
	var p Path
	if len(s) > MaxPathBytes || !strings.HasPrefix(s, "/") {
		return p, fmt.Errorf("path of %d bytes: %w", len(s), EINVAL)
	}
	if s == "/" {
		return p, nil
	}
	s = strings.TrimSuffix(s[1:], "/")
	parts := strings.Split(s, "/")
	var err error
	if p.Name.Tenant, err = decodePart(parts[0]); err != nil {
		return Path{}, err
	}
	p.Kind = KindTenant
	if len(parts) == 1 {
		return p, nil
	}
	if p.Name.Namespace, err = decodePart(parts[1]); err != nil {
		return Path{}, err
	}
	p.Kind = KindNamespace
	if len(parts) == 2 {
		return p, nil
	}
	local, faces := strings.CutSuffix(parts[2], "@")
	if p.Name.Topic, err = decodePart(local); err != nil {
		return Path{}, err
	}
	switch {
	case len(parts) == 3 && !faces:
		p.Kind = KindTopic
	case len(parts) == 3:
		p.Kind = KindFaces
	case !faces:
		return Path{}, fmt.Errorf("path %q: %w", s, ENOTDIR)
	case len(parts) == 4 && parts[3] == "ndjson":
		p.Kind, p.View = KindTopic, ViewNDJSON
	case len(parts) > 4 && parts[3] == "ndjson":
		return Path{}, fmt.Errorf("path %q: %w", s, ENOTDIR)
	default:
		return Path{}, fmt.Errorf("path %q: %w", s, ENOENT)
	}
	return p, nil
}

// String is the inverse of ParsePath.
func (p Path) String() string {
	switch p.Kind {
	case KindTenant:
		return "/" + EncodeName(p.Name.Tenant)
	case KindNamespace:
		return "/" + EncodeName(p.Name.Tenant) + "/" + EncodeName(p.Name.Namespace)
	case KindTopic, KindFaces:
		s := "/" + EncodeName(p.Name.Tenant) + "/" + EncodeName(p.Name.Namespace) + "/" + EncodeName(p.Name.Topic)
		if p.Kind == KindFaces {
			return s + "@"
		}
		if p.View != ViewLine {
			return s + "@/" + p.View.String()
		}
		return s
	}
	return "/"
}

func decodePart(s string) (string, error) {
	n, ok := DecodeName(s)
	if !ok {
		return "", fmt.Errorf("name %q: %w", s, ENOENT)
	}
	return n, nil
}

const upperHex = "0123456789ABCDEF"

// EncodeName is the directory entry of a tenant, namespace or topic: its bytes with '/', '%', '@', control
// bytes and a leading '.' as %XX. A name whose encoding (with the '@' of its faces) would be above MaxNameBytes
// becomes "%~" and its SHA-256; the attribute user.topic.name tells it in full.
func EncodeName(name string) string {
	if !strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '/' || r == '%' || r == '@' }) &&
		!strings.HasPrefix(name, ".") && len(name) < MaxNameBytes {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if c < 0x20 || c == 0x7f || c == '/' || c == '%' || c == '@' || c == '.' && i == 0 {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	if b.Len() < MaxNameBytes {
		return b.String()
	}
	sum := sha256.Sum256([]byte(name))
	return hashedPrefix + base64.RawURLEncoding.EncodeToString(sum[:])
}

// DecodeName is the inverse of EncodeName: it takes exactly the names that EncodeName makes. A hashed name is
// returned as it is; IsHashed tells.
func DecodeName(s string) (name string, ok bool) {
	if s == "" || len(s) >= MaxNameBytes {
		return "", false
	}
	if IsHashed(s) {
		sum, err := base64.RawURLEncoding.Strict().DecodeString(s[len(hashedPrefix):])
		return s, err == nil && len(sum) == sha256.Size
	}
	var b []byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", false
			}
			hi, lo := strings.IndexByte(upperHex, s[i+1]), strings.IndexByte(upperHex, s[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			c = byte(hi<<4 | lo)
			i += 2
		}
		b = append(b, c)
	}
	name = string(b)
	return name, EncodeName(name) == s
}

// IsHashed reports whether an entry name stands for a name too long to be one.
func IsHashed(s string) bool { return strings.HasPrefix(s, hashedPrefix) }

// JunkName reports whether a new file of this name would be an editor's, rsync's or sed's temporary one rather
// than a topic: these are not created.
func JunkName(entry string) bool {
	switch {
	case strings.HasPrefix(entry, "."), strings.HasPrefix(entry, "%2E"),
		strings.HasSuffix(entry, "~"),
		strings.HasPrefix(entry, "#") && strings.HasSuffix(entry, "#"),
		entry == "4913",
		strings.HasSuffix(entry, ".swp"), strings.HasSuffix(entry, ".tmp"):
		return true
	}
	if rest, ok := strings.CutPrefix(entry, "sed"); ok && len(rest) == 6 {
		return !strings.ContainsFunc(rest, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9')
		})
	}
	return false
}

// The root's inode number; FUSE fixes it.
const rootIno = 1

// ino derives an inode number from what a file is: the same on every server and after every restart, another
// one for a topic that was deleted and created again. It is 63 bits, so that no tool takes it for negative, and
// never one of the low numbers that FUSE reserves.
func ino(kind Kind, view View, identity ...[]byte) uint64 {
	if kind == KindRoot {
		return rootIno
	}
	h := sha256.New()
	h.Write([]byte{byte(kind), byte(view)})
	for _, b := range identity {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return binary.BigEndian.Uint64(sum[:])>>1 | 1<<32
}
