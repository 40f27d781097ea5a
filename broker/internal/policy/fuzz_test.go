package policy

import (
	"errors"
	"testing"

	"github.com/daybook/daybook/broker/internal/policy/policypb"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

func FuzzRecords(f *testing.F) {
	add := func(b []byte, err error) {
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add((&policypb.Tenant{Format: recordFormat, AdminRoles: []string{"a"}, AllowedClusters: []string{"standalone"}}).MarshalVT())
	add((&policypb.Namespace{Format: recordFormat}).MarshalVT())
	add((&policypb.PartitionedTopic{Format: recordFormat, Partitions: 3, Properties: map[string]string{"a": "b"}}).MarshalVT())
	add((&policypb.PartitionedTopic{Format: recordFormat + 1, Partitions: 3}).MarshalVT())
	f.Add([]byte{8})
	n, err := topicname.Parse("t")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		typed := func(err error) {
			if err != nil && !errors.Is(err, serr.MetadataError) {
				t.Fatalf("untyped error %v", err)
			}
		}
		_, err := decodeTenant("public", b)
		typed(err)
		_, err = decodeNamespace(n.NamespaceName(), b)
		typed(err)
		p, err := decodePartitioned(n, b)
		typed(err)
		if err == nil && p.Partitions < 1 {
			t.Fatalf("a partitioned topic of %d partitions", p.Partitions)
		}
	})
}
