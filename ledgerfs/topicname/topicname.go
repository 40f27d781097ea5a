// Package topicname is the names of topics and namespaces: parsing, printing, partitions, and the forms
// that a name takes in REST paths, metadata keys and files.
//
// A full name is "domain://tenant/namespace/local", the domain being persistent or non-persistent. Two short
// forms name persistent topics: "tenant/namespace/local", and "local" alone, which is
// persistent://public/default/local. Tenant and namespace are of the letters [-=:.\w]; the local name is any
// non-blank text without '/'. The old names with a cluster in them are refused, as Pulsar does from 5.0 on
// (PIP-457).
//
// Everything here is pure and may be called by any goroutine.
package topicname

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrInvalid is wrapped by every error of this package: the text is not a name of the asked kind.
var ErrInvalid = errors.New("invalid name")

// Limits of names in bytes. Pulsar has none; with these the metadata key of a cursor, which holds a tenant, a
// namespace, a topic and a subscription, each byte of the last two possibly escaped to three, stays below the
// store's limit for keys.
const (
	MaxTenantBytes       = 256
	MaxNamespaceBytes    = 256
	MaxLocalBytes        = 512
	MaxSubscriptionBytes = 512
)

// The tenant and namespace of a topic that is named by its local name alone.
const (
	DefaultTenant    = "public"
	DefaultNamespace = "default"
)

const partitionMark = "-partition-"

// A Domain says whether a topic's messages are stored.
type Domain uint8

// The domains.
const (
	Persistent Domain = iota
	NonPersistent
)

// String is the domain as it stands in names.
func (d Domain) String() string {
	if d == NonPersistent {
		return "non-persistent"
	}
	return "persistent"
}

// ParseDomain is the inverse of Domain.String.
func ParseDomain(s string) (Domain, error) {
	switch s {
	case "persistent":
		return Persistent, nil
	case "non-persistent":
		return NonPersistent, nil
	}
	return 0, fmt.Errorf("%w: topic domain %q", ErrInvalid, s)
}

// A Namespace names a namespace. It is comparable, and usable as a map key.
type Namespace struct {
	Tenant string
	Local  string
}

// ParseNamespace reads "tenant/namespace".
func ParseNamespace(s string) (Namespace, error) {
	t, l, ok := strings.Cut(s, "/")
	if !ok {
		return Namespace{}, fmt.Errorf("%w: namespace %q: want tenant/namespace", ErrInvalid, s)
	}
	return MakeNamespace(t, l)
}

// MakeNamespace is the namespace of the two parts, checked.
func MakeNamespace(tenant, local string) (Namespace, error) {
	if err := CheckTenant(tenant); err != nil {
		return Namespace{}, err
	}
	if !isEntity(local, MaxNamespaceBytes) {
		return Namespace{}, fmt.Errorf("%w: namespace %q", ErrInvalid, local)
	}
	return Namespace{tenant, local}, nil
}

// String is "tenant/namespace".
func (n Namespace) String() string { return n.Tenant + "/" + n.Local }

// Topic is the topic of this namespace with that local name, checked.
func (n Namespace) Topic(d Domain, local string) (Name, error) {
	return Make(d, n.Tenant, n.Local, local)
}

// CheckTenant reports ErrInvalid unless s can name a tenant.
func CheckTenant(s string) error {
	if !isEntity(s, MaxTenantBytes) {
		return fmt.Errorf("%w: tenant %q", ErrInvalid, s)
	}
	return nil
}

// CheckCluster reports ErrInvalid unless s can name a cluster.
func CheckCluster(s string) error {
	if !isEntity(s, MaxTenantBytes) {
		return fmt.Errorf("%w: cluster %q", ErrInvalid, s)
	}
	return nil
}

// CheckSubscription reports ErrInvalid unless s can name a subscription: any valid UTF-8 without NUL, not
// empty.
func CheckSubscription(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: subscription name is empty", ErrInvalid)
	case len(s) > MaxSubscriptionBytes:
		return fmt.Errorf("%w: subscription name of %d bytes, limit %d", ErrInvalid, len(s), MaxSubscriptionBytes)
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%w: subscription %q is not text", ErrInvalid, s)
	}
	return nil
}

// isEntity is Pulsar's rule for the names of tenants, namespaces and clusters, without its empty name.
func isEntity(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '_', c == '-', c == '=', c == ':', c == '.':
		default:
			return false
		}
	}
	return true
}

// A Name names a topic, or one partition of a partitioned topic. It is comparable, and usable as a map key.
// Parse and Make give valid names only; the zero Name is none.
type Name struct {
	Domain    Domain
	Tenant    string
	Namespace string
	Local     string
}

// Parse reads a full or short name.
func Parse(s string) (Name, error) {
	d, rest, full := strings.Cut(s, "://")
	if !full {
		switch p := strings.Split(s, "/"); len(p) {
		case 1:
			return Make(Persistent, DefaultTenant, DefaultNamespace, s)
		case 3:
			return Make(Persistent, p[0], p[1], p[2])
		}
		return Name{}, fmt.Errorf("%w: short topic name %q: want <tenant>/<namespace>/<topic> or <topic>", ErrInvalid, s)
	}
	domain, err := ParseDomain(d)
	if err != nil {
		return Name{}, fmt.Errorf("topic %q: %w", s, err)
	}
	switch p := strings.SplitN(rest, "/", 4); len(p) {
	case 3:
		return Make(domain, p[0], p[1], p[2])
	case 4:
		return Name{}, fmt.Errorf("%w: topic %q: names with a cluster are not supported; "+
			"want <domain>://<tenant>/<namespace>/<topic>", ErrInvalid, s)
	}
	return Name{}, fmt.Errorf("%w: topic %q: want <domain>://<tenant>/<namespace>/<topic>", ErrInvalid, s)
}

// Make is the name of the four parts, checked.
func Make(d Domain, tenant, namespace, local string) (Name, error) {
	if _, err := MakeNamespace(tenant, namespace); err != nil {
		return Name{}, err
	}
	if err := checkLocal(local); err != nil {
		return Name{}, err
	}
	return Name{d, tenant, namespace, local}, nil
}

func checkLocal(s string) error {
	switch {
	case strings.TrimFunc(s, unicode.IsSpace) == "":
		return fmt.Errorf("%w: topic name %q is blank", ErrInvalid, s)
	case len(s) > MaxLocalBytes:
		return fmt.Errorf("%w: topic name of %d bytes, limit %d", ErrInvalid, len(s), MaxLocalBytes)
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%w: topic name %q is not text", ErrInvalid, s)
	case strings.IndexByte(s, '/') >= 0:
		return fmt.Errorf("%w: topic name %q holds a '/'", ErrInvalid, s)
	}
	return nil
}

// String is the full name.
func (n Name) String() string {
	return n.Domain.String() + "://" + n.Tenant + "/" + n.Namespace + "/" + n.Local
}

// NamespaceName is the namespace of the topic.
func (n Name) NamespaceName() Namespace { return Namespace{n.Tenant, n.Namespace} }

// Partition is the index of the partition that n names by its "-partition-N", -1 if none. As in Pulsar the
// index has no leading zeros and fits 31 bits.
func (n Name) Partition() int {
	i := strings.LastIndex(n.Local, partitionMark)
	if i < 0 {
		return -1
	}
	s := n.Local[i+len(partitionMark):]
	v, err := strconv.ParseUint(s, 10, 31)
	if err != nil || (len(s) > 1 && s[0] == '0') {
		return -1
	}
	return int(v)
}

// Base is the partitioned topic of which n is a partition, or n itself.
func (n Name) Base() Name {
	if n.Partition() >= 0 {
		n.Local = n.Local[:strings.LastIndex(n.Local, partitionMark)]
	}
	return n
}

// WithPartition names partition i >= 0 of the partitioned topic n.
func (n Name) WithPartition(i int) Name {
	n.Local += partitionMark + strconv.Itoa(i)
	return n
}

// CanCreate reports ErrInvalid for names that exist only for topics made elsewhere: clients trim a whole
// name before they use it, so that a topic with blanks at the end of its name could never be addressed, and
// "-partition-N" on nothing has no partitioned topic.
func (n Name) CanCreate() error {
	if n.Local != strings.TrimRightFunc(n.Local, unicode.IsSpace) {
		return fmt.Errorf("%w: topic name %q ends with blanks", ErrInvalid, n.Local)
	}
	if n.Base().Local == "" {
		return fmt.Errorf("%w: topic name %q is a partition of nothing", ErrInvalid, n.Local)
	}
	return nil
}

// RESTPath is the part of admin paths that names the topic, "persistent/tenant/namespace/topic", the topic
// escaped as a form value: what Java's URLEncoder makes of it, which all Pulsar clients use.
func (n Name) RESTPath() string {
	return n.Domain.String() + "/" + n.Tenant + "/" + n.Namespace + "/" + url.QueryEscape(n.Local)
}

// UnescapeREST is the inverse of the escaping of RESTPath for one segment of a path, where '+' is a blank.
func UnescapeREST(s string) (string, error) {
	v, err := url.QueryUnescape(s)
	if err != nil {
		return "", fmt.Errorf("%w: path segment %q: %w", ErrInvalid, s, err)
	}
	return v, nil
}
