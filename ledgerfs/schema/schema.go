// Package schema is the stored schemas of topics: their types as Pulsar names and numbers them, their stored
// records, when two of them are the same, and the decoding of values that were written with them.
//
// A topic's schemas are numbered from 0. A message carries the number of its schema as 8 bytes big-endian. A
// partitioned topic has one list of schemas for all its partitions, and the persistent and the non-persistent
// topic of one name share theirs, as in Pulsar.
//
// Everything here is pure, checks its input, and may be called by any goroutine.
package schema

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/daybook/daybook/ledgerfs/schema/schemapb"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// Errors, wrapped with what was wrong.
var (
	// ErrInvalid: the schema's definition is not one of its type.
	ErrInvalid = errors.New("invalid schema")
	// ErrValue: the value was not written with the schema.
	ErrValue = errors.New("value does not fit its schema")
	// ErrUnsupported: values of the type cannot be decoded.
	ErrUnsupported = errors.New("schema type cannot be decoded")
	// ErrCorrupt: the stored bytes are not a record.
	ErrCorrupt = errors.New("schema record is damaged")
)

// A Type is the type of a schema, with the numbers of Pulsar's SchemaType.
type Type int32

// The types.
const (
	None           Type = 0
	String         Type = 1
	JSON           Type = 2
	Protobuf       Type = 3
	Avro           Type = 4
	Boolean        Type = 5
	Int8           Type = 6
	Int16          Type = 7
	Int32          Type = 8
	Int64          Type = 9
	Float          Type = 10
	Double         Type = 11
	Date           Type = 12
	Time           Type = 13
	Timestamp      Type = 14
	KeyValue       Type = 15
	Instant        Type = 16
	LocalDate      Type = 17
	LocalTime      Type = 18
	LocalDateTime  Type = 19
	ProtobufNative Type = 20
	External       Type = 21
	Bytes          Type = -1
	Auto           Type = -2
	AutoConsume    Type = -3
	AutoPublish    Type = -4
)

var typeNames = map[Type]string{
	None: "NONE", String: "STRING", JSON: "JSON", Protobuf: "PROTOBUF", Avro: "AVRO", Boolean: "BOOLEAN",
	Int8: "INT8", Int16: "INT16", Int32: "INT32", Int64: "INT64", Float: "FLOAT", Double: "DOUBLE", Date: "DATE",
	Time: "TIME", Timestamp: "TIMESTAMP", KeyValue: "KEY_VALUE", Instant: "INSTANT", LocalDate: "LOCAL_DATE",
	LocalTime: "LOCAL_TIME", LocalDateTime: "LOCAL_DATE_TIME", ProtobufNative: "PROTOBUF_NATIVE",
	External: "EXTERNAL", Bytes: "BYTES", Auto: "AUTO", AutoConsume: "AUTO_CONSUME", AutoPublish: "AUTO_PUBLISH",
}

var typesByName = func() map[string]Type {
	m := make(map[string]Type, len(typeNames))
	for t, n := range typeNames {
		m[n] = t
	}
	return m
}()

// String is the type's name in the admin API.
func (t Type) String() string {
	if n, ok := typeNames[t]; ok {
		return n
	}
	return "SCHEMA_TYPE(" + strconv.Itoa(int(t)) + ")"
}

// ParseType is the inverse of Type.String.
func ParseType(s string) (Type, error) {
	t, ok := typesByName[s]
	if !ok {
		return None, fmt.Errorf("%w: type %q", ErrInvalid, s)
	}
	return t, nil
}

// The numbers of the client protocol are those of Type but for these.
const (
	wireAutoConsume = 21
	wireExternal    = 22
)

// FromWire is the type of a number of the client protocol (Schema.Type), which has no BYTES: it is None there.
func FromWire(n int32) (Type, error) {
	switch {
	case n == wireAutoConsume:
		return AutoConsume, nil
	case n == wireExternal:
		return External, nil
	case n < 0 || n > int32(ProtobufNative):
		return None, fmt.Errorf("%w: type number %d", ErrInvalid, n)
	}
	return Type(n), nil
}

// Wire is the inverse of FromWire. Types without a number of their own are None there, as BYTES is.
func (t Type) Wire() int32 {
	switch {
	case t == AutoConsume:
		return wireAutoConsume
	case t == External:
		return wireExternal
	case t < 0:
		return int32(None)
	}
	return int32(t)
}

// IsStruct says that the definition describes fields.
func (t Type) IsStruct() bool {
	return t == Avro || t == JSON || t == Protobuf || t == ProtobufNative
}

// HasAvroDefinition says that the definition is an Avro schema.
func (t Type) HasAvroDefinition() bool { return t == Avro || t == JSON || t == Protobuf }

// HasSchema says that messages of the type have a schema to be stored: not so NONE and BYTES, which are plain
// bytes, and the AUTO types, which ask for what there is.
func (t Type) HasSchema() bool { return t > None }

// MaxDataBytes bounds a definition.
const MaxDataBytes = 512 << 10

// An Info is a schema as a client sends it.
type Info struct {
	Type       Type
	Data       []byte
	Properties map[string]string
}

// Validate reports ErrInvalid if the definition is too large, or not of the form that its type has.
func (i *Info) Validate() error {
	if len(i.Data) > MaxDataBytes {
		return fmt.Errorf("%w: definition of %d bytes, limit %d", ErrInvalid, len(i.Data), MaxDataBytes)
	}
	if _, ok := typeNames[i.Type]; !ok {
		return fmt.Errorf("%w: type %d", ErrInvalid, i.Type)
	}
	switch {
	case i.Type.HasAvroDefinition():
		if len(i.Data) == 0 && i.Type == JSON {
			return nil // a JSON schema that says nothing of its fields
		}
		if _, err := canonicalAvro(i.Data); err != nil {
			return err
		}
	case i.Type == KeyValue:
		k, v, err := i.KeyValue()
		if err != nil {
			return err
		}
		if err := k.Validate(); err != nil {
			return fmt.Errorf("key: %w", err)
		}
		if err := v.Validate(); err != nil {
			return fmt.Errorf("value: %w", err)
		}
	}
	return nil
}

// A Hash identifies a schema among those of a topic: equal ones have the same type and definition.
type Hash [sha256.Size]byte

// Hash is the hash of the type and the definition. Of Avro definitions neither white space nor documentation
// counts; properties never do.
func (i *Info) Hash() Hash {
	h := sha256.New()
	var t [4]byte
	binary.BigEndian.PutUint32(t[:], uint32(i.Type))
	h.Write(t[:])
	data := i.Data
	if i.Type.HasAvroDefinition() {
		if c, err := canonicalAvro(i.Data); err == nil {
			data = c
		}
	}
	h.Write(data)
	var out Hash
	h.Sum(out[:0])
	return out
}

// canonicalAvro is the definition with its JSON in one form: keys sorted, no white space, no "doc".
func canonicalAvro(data []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("%w: definition is not JSON: %w", ErrInvalid, err)
	}
	if d.More() {
		return nil, fmt.Errorf("%w: definition goes on after its JSON", ErrInvalid)
	}
	switch v.(type) {
	case map[string]any, []any, string:
	default:
		return nil, fmt.Errorf("%w: definition is no Avro schema", ErrInvalid)
	}
	out, err := json.Marshal(withoutDoc(v))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return out, nil
}

func withoutDoc(v any) any {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "doc")
		for k, e := range v {
			if k != "default" {
				v[k] = withoutDoc(e)
			}
		}
	case []any:
		for i, e := range v {
			v[i] = withoutDoc(e)
		}
	}
	return v
}

// A Stored is a schema of a topic.
type Stored struct {
	Info
	Version int64
	Created int64 // ms since 1970
	User    string
}

// VersionBytes is how messages and the client protocol name a version.
func VersionBytes(v int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

// ParseVersion is the inverse of VersionBytes.
func ParseVersion(b []byte) (int64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: version of %d bytes", ErrInvalid, len(b))
	}
	v := int64(binary.BigEndian.Uint64(b))
	if v < 0 {
		return 0, fmt.Errorf("%w: version %d", ErrInvalid, v)
	}
	return v, nil
}

// IndexKey is the metadata key of the index of the topic's schemas.
func IndexKey(n topicname.Name) string {
	return "schemas/" + n.Tenant + "/" + n.Namespace + "/" + topicname.EscapeKey(n.Base().Local)
}

// VersionKey is the metadata key of one of the topic's schemas.
func VersionKey(n topicname.Name, version int64) string {
	return fmt.Sprintf("%s/%019d", IndexKey(n), version)
}

const recordFormat = 1

// Encode is the stored form of s.
func (s *Stored) Encode() ([]byte, error) {
	b, err := (&schemapb.Version{
		Format: recordFormat, Version: s.Version, Type: int32(s.Type), Data: s.Data, Properties: s.Properties,
		Created: s.Created, User: s.User,
	}).MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return b, nil
}

// Decode reads what Encode wrote.
func Decode(b []byte) (*Stored, error) {
	var p schemapb.Version
	if err := p.UnmarshalVT(b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if p.Format != recordFormat {
		return nil, fmt.Errorf("%w: format %d", ErrCorrupt, p.Format)
	}
	if _, ok := typeNames[Type(p.Type)]; !ok || p.Version < 0 {
		return nil, fmt.Errorf("%w: type %d, version %d", ErrCorrupt, p.Type, p.Version)
	}
	return &Stored{
		Info:    Info{Type: Type(p.Type), Data: p.Data, Properties: p.Properties},
		Version: p.Version, Created: p.Created, User: p.User,
	}, nil
}

// An Index lists a topic's schemas without their definitions.
type Index struct {
	// Next is the version that the next new schema gets. It never goes back, so that a message never meets
	// another schema under its version.
	Next    int64
	Entries []IndexEntry // ascending by version
}

// An IndexEntry is one schema of an Index.
type IndexEntry struct {
	Version int64
	Hash    Hash
	// Deleted schemas are no longer offered to clients; what was written with them can still be decoded.
	Deleted bool
}

// Encode is the stored form of x.
func (x *Index) Encode() ([]byte, error) {
	p := schemapb.Index{Format: recordFormat, Next: x.Next}
	for i := range x.Entries {
		e := &x.Entries[i]
		p.Entries = append(p.Entries, &schemapb.Index_Entry{Version: e.Version, Hash: e.Hash[:], Deleted: e.Deleted})
	}
	b, err := p.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode schema index: %w", err)
	}
	return b, nil
}

// DecodeIndex reads what Index.Encode wrote.
func DecodeIndex(b []byte) (*Index, error) {
	var p schemapb.Index
	if err := p.UnmarshalVT(b); err != nil {
		return nil, fmt.Errorf("%w: index: %w", ErrCorrupt, err)
	}
	if p.Format != recordFormat {
		return nil, fmt.Errorf("%w: index of format %d", ErrCorrupt, p.Format)
	}
	x := &Index{Next: p.Next}
	last := int64(-1)
	for _, e := range p.Entries {
		if e == nil || e.Version <= last || e.Version >= p.Next || len(e.Hash) != sha256.Size {
			return nil, fmt.Errorf("%w: index entries", ErrCorrupt)
		}
		last = e.Version
		x.Entries = append(x.Entries, IndexEntry{Version: e.Version, Hash: Hash(e.Hash), Deleted: e.Deleted})
	}
	return x, nil
}
