package filetree

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// MaxPathBytes bounds the paths that the service takes.
const MaxPathBytes = 4096

// A View is one face of a topic; the chain's records use the same numbers.
type View = chain.View

// The faces of a topic.
const (
	ViewLine   = chain.ViewLine   // `<topic>`: one message a line
	ViewNDJSON = chain.ViewNDJSON // `<topic>@/ndjson`: one JSON object a message
)

// viewName is the view's name in paths: "line" or "ndjson".
func viewName(v View) string {
	if v == ViewLine {
		return "line"
	}
	return "ndjson"
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

// A Path is a parsed path of the tree. Parts that the Kind does not have are empty.
type Path struct {
	Kind                     Kind
	Tenant, Namespace, Topic string // as they are, not encoded; of a hashed part its entry name
	View                     View   // of KindTopic
	hashed                   uint8  // bit 1<<n: part n is a digest, which only a listing can resolve
}

// Dir reports whether the path names a directory.
func (p Path) Dir() bool { return p.Kind != KindTopic }

// Name is the topic of a KindTopic or KindFaces. Errors wrap ENOENT: no topic can have that name.
func (p Path) Name() (topicname.Name, error) {
	n, err := topicname.Make(topicname.Persistent, p.Tenant, p.Namespace, p.Topic)
	if err != nil {
		return n, fmt.Errorf("%w: %w", ENOENT, err)
	}
	return n, nil
}

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
	parts := strings.Split(strings.TrimSuffix(s[1:], "/"), "/")
	local, faces := "", false
	if len(parts) > 2 {
		local, faces = strings.CutSuffix(parts[2], "@")
	}
	into := [3]*string{&p.Tenant, &p.Namespace, &p.Topic}
	for i, part := range parts[:min(len(parts), 3)] {
		if i == 2 {
			part = local
		}
		name, hashed, err := topicname.DecodeFileName(part)
		if err != nil || part == "" {
			return Path{}, fmt.Errorf("name %q: %w", part, ENOENT)
		}
		if hashed {
			name = part
			p.hashed |= 1 << i
		}
		*into[i] = name
	}
	switch {
	case len(parts) == 1:
		p.Kind = KindTenant
	case len(parts) == 2:
		p.Kind = KindNamespace
	case len(parts) == 3 && !faces:
		p.Kind = KindTopic
	case len(parts) == 3:
		p.Kind = KindFaces
	case !faces || len(parts) > 4 && parts[3] == "ndjson":
		return Path{}, fmt.Errorf("path %q: %w", s, ENOTDIR)
	case len(parts) == 4 && parts[3] == "ndjson":
		p.Kind, p.View = KindTopic, ViewNDJSON
	default:
		return Path{}, fmt.Errorf("path %q: %w", s, ENOENT)
	}
	return p, nil
}

// String is the inverse of ParsePath.
func (p Path) String() string {
	s := ""
	for i, part := range [3]string{p.Tenant, p.Namespace, p.Topic} {
		if i >= int(p.Kind) {
			break
		}
		if p.hashed&(1<<i) == 0 {
			part = topicname.EncodeFileName(part)
		}
		s += "/" + part
	}
	switch {
	case p.Kind == KindRoot:
		return "/"
	case p.Kind == KindFaces:
		return s + "@"
	case p.Kind == KindTopic && p.View != ViewLine:
		return s + "@/" + viewName(p.View)
	}
	return s
}

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
