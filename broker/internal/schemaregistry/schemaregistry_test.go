package schemaregistry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/schema"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metatest"
)

var orders = topicname.Name{Tenant: "public", Namespace: "default", Local: "orders"}

func record(fields string) schema.Info {
	return schema.Info{Type: schema.Avro, Data: []byte(`{"type":"record","name":"R","fields":[` + fields + `]}`), Properties: map[string]string{"a": "b"}}
}

func TestVersionsAreKeptAndGoOn(t *testing.T) {
	ctx := context.Background()
	meta := metatest.New()
	r := New(meta, func() time.Time { return time.UnixMilli(77) })
	put := func(i schema.Info, want int64) {
		t.Helper()
		if v, err := r.Put(ctx, orders, i, "ann"); err != nil || v != want {
			t.Fatalf("Put = %d, %v; want %d", v, err, want)
		}
	}
	if _, err := r.Latest(ctx, orders); !errors.Is(err, serr.TopicNotFound) {
		t.Errorf("Latest of nothing: %v", err)
	}
	if _, err := r.Delete(ctx, orders); !errors.Is(err, serr.TopicNotFound) {
		t.Errorf("Delete of nothing: %v", err)
	}
	a := record(`{"name":"a","type":"int"}`)
	put(a, 0)
	put(a, 0)
	put(record(`{"name" : "a",  "doc":"said better", "type":"int"}`), 0)
	if v, err := r.Put(ctx, orders.WithPartition(3), a, ""); v != 0 || err != nil {
		t.Errorf("a partition has schemas of its own: %d, %v", v, err)
	}
	for _, other := range []schema.Info{record(`{"name":"a","type":"long"}`), {Type: schema.JSON, Data: a.Data}, {Type: schema.String}} {
		if _, err := r.Put(ctx, orders, other, ""); !errors.Is(err, serr.IncompatibleSchema) {
			t.Errorf("Put of another schema: %v, want IncompatibleSchema", err)
		}
		if err := r.Check(ctx, orders, other); !errors.Is(err, serr.IncompatibleSchema) {
			t.Errorf("Check of another schema: %v, want IncompatibleSchema", err)
		}
	}
	if err := r.Check(ctx, orders, a); err != nil {
		t.Errorf("Check of the same: %v", err)
	}
	s, err := r.Latest(ctx, orders)
	if err != nil || s.Version != 0 || s.User != "ann" || s.Created != 77 || string(s.Data) != string(a.Data) || s.Properties["a"] != "b" || s.Type != schema.Avro {
		t.Errorf("Latest = %+v, %v", s, err)
	}
	if v, err := r.Delete(ctx, orders); v != 1 || err != nil {
		t.Errorf("Delete = %d, %v; want 1", v, err)
	}
	if _, err := r.Get(ctx, orders, 0); !errors.Is(err, serr.TopicNotFound) {
		t.Errorf("Get of a deleted one: %v", err)
	}
	if s, err := r.Decoder(ctx, orders, 0); err != nil || string(s.Data) != string(a.Data) {
		t.Errorf("messages with a deleted schema cannot be decoded: %v", err)
	}
	put(schema.Info{Type: schema.Int32}, 2)
	if all, err := r.Versions(ctx, orders); err != nil || len(all) != 1 || all[0].Version != 2 {
		t.Errorf("Versions = %v, %v; want the one since the deletion", all, err)
	}
}

func TestBadSchemasAreRefused(t *testing.T) {
	r := New(metatest.New(), time.Now)
	for name, i := range map[string]schema.Info{
		"bytes":          {Type: schema.Bytes},
		"auto":           {Type: schema.AutoConsume},
		"no JSON":        {Type: schema.Avro, Data: []byte("{")},
		"no Avro":        {Type: schema.Avro, Data: []byte("1")},
		"two":            {Type: schema.Avro, Data: []byte(`"int" "int"`)},
		"cut off":        {Type: schema.KeyValue, Data: []byte{0, 0, 0, 9}},
		"key/value deep": {Type: schema.KeyValue, Data: make([]byte, 8), Properties: map[string]string{"key.schema.type": "KEY_VALUE"}},
		"too large":      {Type: schema.Protobuf, Data: []byte(strings.Repeat(" ", schema.MaxDataBytes) + `"int"`)},
	} {
		if _, err := r.Put(context.Background(), orders, i, ""); !errors.Is(err, serr.IncompatibleSchema) || serr.From(err).Status != 422 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPutsAtOnceGiveOneVersionEach(t *testing.T) {
	r := New(metatest.New(), time.Now)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			v, err := r.Put(context.Background(), orders, record(`{"name":"a","type":"int"}`), fmt.Sprint(i))
			if v != 0 || err != nil {
				t.Errorf("Put = %d, %v", v, err)
			}
		})
	}
	wg.Wait()
	all, err := r.Versions(context.Background(), orders)
	if err != nil || len(all) != 1 {
		t.Errorf("%d versions, %v; want 1", len(all), err)
	}
}

func TestForgetLeavesNothing(t *testing.T) {
	ctx := context.Background()
	meta := metatest.New()
	r := New(meta, time.Now)
	other := orders
	other.Local = "orders2"
	for _, n := range []topicname.Name{orders, other} {
		if _, err := r.Put(ctx, n, schema.Info{Type: schema.String}, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Forget(ctx, orders); err != nil {
		t.Fatal(err)
	}
	items, _, err := meta.Range(ctx, "schemas/", raftmeta.PrefixEnd("schemas/"), 0)
	if err != nil || len(items) != 2 || !strings.HasSuffix(items[0].Key, "/orders2") {
		t.Errorf("left: %v, %v; want those of the other topic", items, err)
	}
}

func TestDamagedRecordsAreErrors(t *testing.T) {
	ctx := context.Background()
	meta := metatest.New()
	r := New(meta, time.Now)
	if _, err := meta.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put(schema.IndexKey(orders), []byte{0xff})}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Latest(ctx, orders); !errors.Is(err, schema.ErrCorrupt) || !errors.Is(err, serr.MetadataError) {
		t.Errorf("Latest over a damaged index: %v", err)
	}
	if _, err := r.Put(ctx, orders, schema.Info{Type: schema.String}, ""); !errors.Is(err, serr.MetadataError) {
		t.Errorf("Put over a damaged index: %v", err)
	}
}
