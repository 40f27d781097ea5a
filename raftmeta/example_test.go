package raftmeta_test

import (
	"context"
	"fmt"
	"log"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metatest"
)

// A value is replaced only if nobody else has replaced it meanwhile, and whoever watches sees the change.
func Example() {
	ctx := context.Background()
	store := metatest.New()
	defer store.Close()

	if _, err := store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("topics/orders", []byte("open"))}}); err != nil {
		log.Fatal(err)
	}
	items, rev, err := store.Range(ctx, "topics/", raftmeta.PrefixEnd("topics/"), 0)
	if err != nil {
		log.Fatal(err)
	}
	w, err := store.Watch(ctx, "topics/", rev)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()

	replace := raftmeta.Txn{
		If:   []raftmeta.Cond{raftmeta.ModIs("topics/orders", items[0].Mod)},
		Then: []raftmeta.Op{raftmeta.Put("topics/orders", []byte("sealed")), raftmeta.Next("seq/seals", 1)},
	}
	for range 2 { // the second comes too late
		r, err := store.Commit(ctx, replace)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("replaced:", r.OK)
	}
	b, err := w.Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("revision %d: %s is %s\n", b.Rev, b.Events[0].Item.Key, b.Events[0].Item.Value)
	// Output:
	// replaced: true
	// replaced: false
	// revision 2: topics/orders is sealed
}

// A key of a session shows that its owner is alive. A node that has restarted replaces its former session at
// once.
func ExampleStore_OpenSession() {
	ctx := context.Background()
	store := metatest.New()
	defer store.Close()

	for incarnation := range int64(2) {
		s, err := store.OpenSession(ctx, raftmeta.SessionOptions{Node: "broker-7", Incarnation: incarnation})
		if err != nil {
			log.Fatal(err)
		}
		r, err := store.Commit(ctx, raftmeta.Txn{
			If:   []raftmeta.Cond{raftmeta.Absent("brokers/7")},
			Then: []raftmeta.Op{raftmeta.PutEphemeral("brokers/7", []byte("10.0.0.7:6650"), s.ID())},
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("announced:", r.OK)
	}
	// Output:
	// announced: true
	// announced: true
}
