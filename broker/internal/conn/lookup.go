package conn

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

func (c *connection) handleLookup(m *pb.CommandLookupTopic) {
	request := m.GetRequestId()
	refuse := func(err error) {
		e := serr.From(err)
		c.logFailure(e)
		c.send(&pb.CommandLookupTopicResponse{
			RequestId: &request, Response: pb.CommandLookupTopicResponse_Failed.Enum(), Error: wireCode(e), Message: &e.Text,
		})
	}
	name, err := parseTopic(m.GetTopic())
	if err != nil {
		refuse(err)
		return
	}
	c.request(func(ctx context.Context) func() {
		r, err := c.domain.Lookup(ctx, LookupRequest{
			Topic: name, Listener: m.GetAdvertisedListenerName(), Authoritative: m.GetAuthoritative(), Local: c.nc.LocalAddr(),
		})
		return func() {
			if err != nil {
				refuse(err)
				return
			}
			kind := pb.CommandLookupTopicResponse_Connect
			if r.Redirect {
				kind = pb.CommandLookupTopicResponse_Redirect
			}
			c.send(&pb.CommandLookupTopicResponse{
				RequestId: &request, Response: &kind, Authoritative: &r.Authoritative,
				BrokerServiceUrl: notEmpty(r.URL), BrokerServiceUrlTls: notEmpty(r.URLTLS), ProxyThroughServiceUrl: new(false),
			})
		}
	}, func(e *serr.Error) { refuse(e) })
}

// notEmpty is nil for an empty string.
func notEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (c *connection) handlePartitions(m *pb.CommandPartitionedTopicMetadata) {
	request := m.GetRequestId()
	refuse := func(err error) {
		e := serr.From(err)
		c.logFailure(e)
		c.send(&pb.CommandPartitionedTopicMetadataResponse{
			RequestId: &request, Response: pb.CommandPartitionedTopicMetadataResponse_Failed.Enum(), Error: wireCode(e), Message: &e.Text,
		})
	}
	name, err := parseTopic(m.GetTopic())
	if err != nil {
		refuse(err)
		return
	}
	c.request(func(ctx context.Context) func() {
		n, err := c.domain.Partitions(ctx, name, m.GetMetadataAutoCreationEnabled())
		return func() {
			if err != nil {
				refuse(err)
				return
			}
			c.send(&pb.CommandPartitionedTopicMetadataResponse{
				RequestId: &request, Response: pb.CommandPartitionedTopicMetadataResponse_Success.Enum(), Partitions: new(uint32(n)),
			})
		}
	}, func(e *serr.Error) { refuse(e) })
}

// maxPattern is the length up to which the broker applies a client's pattern; beyond, the client does.
const maxPattern = 50

func (c *connection) handleTopics(m *pb.CommandGetTopicsOfNamespace) {
	request := m.GetRequestId()
	ns, err := topicname.ParseNamespace(m.GetNamespace())
	if err != nil {
		c.fail(request, serr.InvalidTopicName.Errorf("%s", err.Error()))
		return
	}
	mode := m.GetMode()
	c.request(func(ctx context.Context) func() {
		names, err := c.domain.List(ctx, ns)
		var topics []string
		filter := topicFilter(m.GetTopicsPattern())
		for _, n := range names {
			kept := mode == pb.CommandGetTopicsOfNamespace_ALL ||
				(mode == pb.CommandGetTopicsOfNamespace_PERSISTENT) == (n.Domain == topicname.Persistent)
			if kept && (filter == nil || filter(n)) {
				topics = append(topics, n.String())
			}
		}
		slices.Sort(topics)
		hash := topicsHash(topics)
		return func() {
			if err != nil {
				c.fail(request, err)
				return
			}
			r := &pb.CommandGetTopicsOfNamespaceResponse{
				RequestId: &request, Topics: topics, TopicsHash: &hash, Filtered: new(filter != nil), Changed: new(true),
			}
			if m.TopicsHash != nil && m.GetTopicsHash() == hash {
				r.Topics, r.Changed = nil, new(false)
			}
			c.send(r)
		}
	}, func(e *serr.Error) { c.fail(request, e) })
}

// topicFilter is the client's pattern as a filter; nil if there is none or the client has to apply it. The
// pattern is matched against the whole name without its domain, a partition counting as its partitioned
// topic. It is a Java expression: what Go's syntax does not have (PCRE features of unbounded cost) is left
// to the client.
func topicFilter(pattern string) func(topicname.Name) bool {
	if pattern == "" || len(pattern) > maxPattern {
		return nil
	}
	if domain, rest, ok := strings.Cut(pattern, "://"); ok {
		for _, d := range []string{"non-persistent", "persistent"} {
			if prefix, ok := strings.CutSuffix(domain, d); ok {
				pattern = prefix + rest
				break
			}
		}
	}
	re, err := regexp.Compile(`^(?:` + pattern + `)$`)
	if err != nil {
		return nil
	}
	return func(n topicname.Name) bool {
		_, path, _ := strings.Cut(n.Base().String(), "://")
		return re.MatchString(path)
	}
}

// topicsHash is the hash of a sorted list of topics by which a client notices changes: the CRC32C of the
// names joined by commas, as the hex digits of its little-endian bytes.
func topicsHash(sorted []string) string {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], wire.Checksum([]byte(strings.Join(sorted, ","))))
	return hex.EncodeToString(b[:])
}

// givenSchema is the schema that a client sent; false if it sent none, bytes, which are none, or leaves it open
// (AUTO_CONSUME).
func givenSchema(s *pb.Schema) (Schema, bool) {
	if s == nil || s.GetType() == pb.Schema_AutoConsume || s.GetType() == pb.Schema_None {
		return Schema{}, false
	}
	return Schema{Name: s.GetName(), Type: int32(s.GetType()), Data: s.GetSchemaData(), Properties: properties(s.Properties)}, true
}

func (c *connection) handleGetSchema(m *pb.CommandGetSchema) {
	request := m.GetRequestId()
	refuse := func(err error) {
		e := serr.From(err)
		c.logFailure(e)
		c.send(&pb.CommandGetSchemaResponse{RequestId: &request, ErrorCode: wireCode(e), ErrorMessage: &e.Text})
	}
	name, err := parseTopic(m.GetTopic())
	if err != nil {
		refuse(err)
		return
	}
	if m.SchemaVersion != nil && len(m.SchemaVersion) == 0 {
		// The version that handleGetOrCreateSchema gave for bytes.
		c.send(&pb.CommandGetSchemaResponse{
			RequestId: &request, SchemaVersion: []byte{},
			Schema: &pb.Schema{Name: &name.Local, Type: pb.Schema_None.Enum(), SchemaData: []byte{}},
		})
		return
	}
	c.request(func(ctx context.Context) func() {
		s, version, err := c.domain.GetSchema(ctx, name, m.GetSchemaVersion())
		return func() {
			if err != nil {
				refuse(err)
				return
			}
			w := &pb.Schema{Name: &s.Name, Type: pb.Schema_Type(s.Type).Enum(), SchemaData: s.Data}
			if w.SchemaData == nil {
				w.SchemaData = []byte{}
			}
			for k, v := range s.Properties {
				w.Properties = append(w.Properties, &pb.KeyValue{Key: &k, Value: &v})
			}
			c.send(&pb.CommandGetSchemaResponse{RequestId: &request, Schema: w, SchemaVersion: version})
		}
	}, func(e *serr.Error) { refuse(e) })
}

func (c *connection) handleGetOrCreateSchema(m *pb.CommandGetOrCreateSchema) {
	request := m.GetRequestId()
	refuse := func(err error) {
		e := serr.From(err)
		c.logFailure(e)
		c.send(&pb.CommandGetOrCreateSchemaResponse{RequestId: &request, ErrorCode: wireCode(e), ErrorMessage: &e.Text})
	}
	name, err := parseTopic(m.GetTopic())
	if err != nil {
		refuse(err)
		return
	}
	c.request(func(ctx context.Context) func() {
		_, err := c.domain.Topic(ctx, name, Existing)
		version := []byte{} // stays empty for bytes, which have no schema: messages then name none
		if s, ok := givenSchema(m.Schema); ok && err == nil {
			version, err = c.domain.PutSchema(ctx, name, s)
		}
		return func() {
			if err != nil {
				refuse(err)
				return
			}
			c.send(&pb.CommandGetOrCreateSchemaResponse{RequestId: &request, SchemaVersion: version})
		}
	}, func(e *serr.Error) { refuse(e) })
}
