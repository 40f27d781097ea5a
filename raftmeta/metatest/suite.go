package metatest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daybook/daybook/raftmeta"
)

// patience is how long the suite waits for what must happen.
const patience = 20 * time.Second

// Suite checks that a Store keeps the promises of package raftmeta. open makes an empty store, which it closes
// with t.Cleanup. A store that also has the method Compact(ctx, Revision) error is asked to drop events, and
// one with Close() error is closed.
func Suite(t *testing.T, open func(t *testing.T) raftmeta.Store) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *kit)
	}{
		{"EmptyStore", emptyStore},
		{"RevisionsCountChanges", revisionsCountChanges},
		{"ItemsTellTheirHistory", itemsTellTheirHistory},
		{"ConditionsDecide", conditionsDecide},
		{"OperationsSeeThoseBefore", operationsSeeThoseBefore},
		{"FailedTransactionChangesNothing", failedTransactionChangesNothing},
		{"ConcurrentCASLosesNothing", concurrentCAS},
		{"RangesAreOrderedAndBounded", ranges},
		{"DeleteRange", deleteRange},
		{"SequencesNeverRepeat", sequences},
		{"LimitsAreKept", limits},
		{"ValuesAreCopied", valuesAreCopied},
		{"SessionOwnsItsKeys", sessionOwnsItsKeys},
		{"HigherIncarnationSupersedes", higherIncarnationSupersedes},
		{"SessionOptionsAreChecked", sessionOptions},
		{"WatchSeesEveryChangeInOrder", watchInOrder},
		{"WatchIsAtomicAndFiltered", watchAtomic},
		{"WatchResumes", watchResumes},
		{"WatchFromTheFuture", watchFuture},
		{"SlowWatchLosesNothing", slowWatch},
		{"WatchSeesSessionsEnd", watchSessionEnd},
		{"WatchBookmarks", watchBookmarks},
		{"WatchBelowTheKeptIsCompacted", watchCompacted},
		{"WatchEnds", watchEnds},
		{"ContextEndsCalls", contextEndsCalls},
		{"ClosedStoreAnswersNothing", closedStore},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c.run(t, &kit{T: t, ctx: ctx, s: open(t)})
		})
	}
}

// A kit is a store under test with short forms for what must succeed.
type kit struct {
	*testing.T
	ctx context.Context
	s   raftmeta.Store
}

func (k *kit) commit(txn raftmeta.Txn) raftmeta.TxnResult {
	k.Helper()
	r, err := k.s.Commit(k.ctx, txn)
	if err != nil {
		k.Fatalf("Commit: %v", err)
	}
	return r
}

func (k *kit) do(ops ...raftmeta.Op) raftmeta.TxnResult {
	k.Helper()
	r := k.commit(raftmeta.Txn{Then: ops})
	if !r.OK {
		k.Fatalf("a transaction without conditions answered OK = false")
	}
	return r
}

func (k *kit) put(key, value string) raftmeta.Revision {
	k.Helper()
	return k.do(raftmeta.Put(key, []byte(value))).Rev
}

func (k *kit) get(key string) raftmeta.Item {
	k.Helper()
	it, err := k.s.Get(k.ctx, key)
	if err != nil {
		k.Fatalf("Get(%q): %v", key, err)
	}
	if it.Key != key {
		k.Fatalf("Get(%q) returned key %q", key, it.Key)
	}
	return it
}

func (k *kit) absent(key string) {
	k.Helper()
	if it, err := k.s.Get(k.ctx, key); !errors.Is(err, raftmeta.ErrNotFound) {
		k.Fatalf("Get(%q) = %v, %v, want ErrNotFound", key, it, err)
	}
}

func (k *kit) value(key, want string) {
	k.Helper()
	if got := string(k.get(key).Value); got != want {
		k.Fatalf("%q is %q, want %q", key, got, want)
	}
}

func (k *kit) rev() raftmeta.Revision {
	k.Helper()
	_, rev, err := k.s.Range(k.ctx, "", "", 0)
	if err != nil {
		k.Fatalf("Range: %v", err)
	}
	return rev
}

func (k *kit) keys(start, end string, limit int) []string {
	k.Helper()
	items, _, err := k.s.Range(k.ctx, start, end, limit)
	if err != nil {
		k.Fatalf("Range: %v", err)
	}
	keys := []string{}
	for _, it := range items {
		keys = append(keys, it.Key)
	}
	return keys
}

func (k *kit) session(node string, incarnation int64) raftmeta.Session {
	k.Helper()
	ses, err := k.s.OpenSession(k.ctx, raftmeta.SessionOptions{Node: node, Incarnation: incarnation})
	if err != nil {
		k.Fatalf("OpenSession(%q, %d): %v", node, incarnation, err)
	}
	return ses
}

func (k *kit) watch(prefix string, after raftmeta.Revision) raftmeta.Watcher {
	k.Helper()
	w, err := k.s.Watch(k.ctx, prefix, after)
	if err != nil {
		k.Fatalf("Watch(%q, %d): %v", prefix, after, err)
	}
	k.Cleanup(w.Close)
	return w
}

// next returns the next batch with events.
func (k *kit) next(w raftmeta.Watcher) raftmeta.WatchBatch {
	k.Helper()
	for {
		b, err := w.Next(k.ctx)
		if err != nil {
			k.Fatalf("Next: %v", err)
		}
		if len(b.Events) > 0 {
			return b
		}
	}
}

func (k *kit) fails(what string, err, want error) {
	k.Helper()
	if !errors.Is(err, want) {
		k.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

func (k *kit) equal(what string, got, want any) {
	k.Helper()
	if !reflect.DeepEqual(got, want) {
		k.Fatalf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
}

// brief writes events as "+key=value" and "-key".
func brief(events []raftmeta.Event) string {
	var b strings.Builder
	for _, e := range events {
		if e.Deleted {
			fmt.Fprintf(&b, "-%s ", e.Item.Key)
		} else {
			fmt.Fprintf(&b, "+%s=%s ", e.Item.Key, e.Item.Value)
		}
	}
	return strings.TrimSpace(b.String())
}

func emptyStore(_ *testing.T, k *kit) {
	k.equal("revision", k.rev(), raftmeta.Revision(0))
	k.equal("keys", k.keys("", "\xff\xff", 0), []string{})
	k.absent("a")
}

func revisionsCountChanges(_ *testing.T, k *kit) {
	k.equal("first put", k.put("a", "1"), raftmeta.Revision(1))
	k.equal("two puts", k.do(raftmeta.Put("a", nil), raftmeta.Put("b", nil)).Rev, raftmeta.Revision(2))
	k.equal("same value", k.put("b", ""), raftmeta.Revision(3))
	k.equal("delete of nothing", k.do(raftmeta.Delete("none")).Rev, raftmeta.Revision(3))
	k.equal("empty", k.do().Rev, raftmeta.Revision(3))
	r := k.commit(raftmeta.Txn{If: []raftmeta.Cond{raftmeta.Present("none")}, Then: []raftmeta.Op{raftmeta.Put("x", nil)}})
	k.equal("false condition", r, raftmeta.TxnResult{Rev: 3})
	k.equal("delete", k.do(raftmeta.Delete("a")).Rev, raftmeta.Revision(4))
	k.equal("sequence", k.do(raftmeta.Next("s", 1)).Rev, raftmeta.Revision(5))
	k.equal("put and delete", k.do(raftmeta.Put("t", nil), raftmeta.Delete("t")).Rev, raftmeta.Revision(6))
	k.equal("revision", k.rev(), raftmeta.Revision(6))
}

func itemsTellTheirHistory(_ *testing.T, k *kit) {
	k.put("other", "")
	k.put("a", "1")
	k.equal("first", k.get("a"), raftmeta.Item{Key: "a", Value: []byte("1"), Created: 2, Mod: 2, Version: 1})
	k.put("other", "")
	k.put("a", "2")
	k.equal("second", k.get("a"), raftmeta.Item{Key: "a", Value: []byte("2"), Created: 2, Mod: 4, Version: 2})
	k.do(raftmeta.Put("a", []byte("3")), raftmeta.Put("a", []byte("4")))
	k.equal("twice in one", k.get("a"), raftmeta.Item{Key: "a", Value: []byte("4"), Created: 2, Mod: 5, Version: 4})
	k.do(raftmeta.Delete("a"))
	k.put("a", "5")
	k.equal("anew", k.get("a"), raftmeta.Item{Key: "a", Value: []byte("5"), Created: 7, Mod: 7, Version: 1})
	items, rev, err := k.s.Range(k.ctx, "a", "b", 0)
	if err != nil {
		k.Fatal(err)
	}
	k.equal("range", items, []raftmeta.Item{k.get("a")})
	k.equal("revision of range", rev, raftmeta.Revision(7))
}

func conditionsDecide(_ *testing.T, k *kit) {
	k.put("a", "1")
	k.put("a", "2") // mod 2, version 2
	for _, c := range []struct {
		cond raftmeta.Cond
		want bool
	}{
		{raftmeta.Absent("a"), false}, {raftmeta.Absent("b"), true},
		{raftmeta.Present("a"), true}, {raftmeta.Present("b"), false},
		{raftmeta.ModIs("a", 2), true}, {raftmeta.ModIs("a", 1), false}, {raftmeta.ModIs("a", 3), false},
		{raftmeta.ModIs("a", 0), false}, {raftmeta.ModIs("b", 0), true}, {raftmeta.ModIs("b", 2), false},
		{raftmeta.VersionIs("a", 2), true}, {raftmeta.VersionIs("a", 1), false}, {raftmeta.VersionIs("b", 0), false},
		{raftmeta.NoneUnder("a"), false}, {raftmeta.NoneUnder("a/"), true}, {raftmeta.NoneUnder("b"), true}, {raftmeta.NoneUnder("to"), false},
		{raftmeta.Cond{Key: "b", Kind: raftmeta.CondMod}, true},
	} {
		r := k.commit(raftmeta.Txn{
			If:   []raftmeta.Cond{raftmeta.Present("a"), c.cond},
			Then: []raftmeta.Op{raftmeta.Put("took", []byte("then"))},
			Else: []raftmeta.Op{raftmeta.Put("took", []byte("else")), raftmeta.Delete("none")},
		})
		want, results := "else", 2
		if c.want {
			want, results = "then", 1
		}
		if r.OK != c.want || len(r.Results) != results {
			k.Errorf("%+v: OK = %v with %d results, want %v with %d", c.cond, r.OK, len(r.Results), c.want, results)
		}
		k.value("took", want)
	}
}

func operationsSeeThoseBefore(_ *testing.T, k *kit) {
	k.put("p/1", "")
	r := k.do(
		raftmeta.Put("p/2", []byte("x")),
		raftmeta.DeleteRange("p/", "p0"),
		raftmeta.Put("p/2", []byte("y")),
		raftmeta.Delete("p/1"),
		raftmeta.Put("p/3", nil),
		raftmeta.Delete("p/3"),
		raftmeta.Next("s", 5),
		raftmeta.Next("s", 1),
	)
	k.equal("results", r.Results, []raftmeta.OpResult{{}, {N: 2}, {}, {N: 0}, {}, {N: 1}, {N: 1}, {N: 6}})
	k.equal("keys", k.keys("p/", "p0", 0), []string{"p/2"})
	k.equal("put after its delete", k.get("p/2"), raftmeta.Item{Key: "p/2", Value: []byte("y"), Created: 2, Mod: 2, Version: 1})
}

func failedTransactionChangesNothing(_ *testing.T, k *kit) {
	k.put("text", "no sequence")
	before := k.rev()
	_, err := k.s.Commit(k.ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("a", nil), raftmeta.Next("text", 1)}})
	k.fails("Next of a text", err, raftmeta.ErrInvalid)
	_, err = k.s.Commit(k.ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("a", nil), raftmeta.PutEphemeral("b", nil, 1<<40)}})
	k.fails("put of no session", err, raftmeta.ErrSessionExpired)
	k.absent("a")
	k.equal("revision", k.rev(), before)
	k.put("a", "")
	k.equal("revision", k.rev(), before+1)
}

func concurrentCAS(_ *testing.T, k *kit) {
	const workers, each = 8, 25
	k.put("n", "\x00")
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				it, err := k.s.Get(k.ctx, "n")
				if err != nil {
					k.Error(err)
					return
				}
				r, err := k.s.Commit(k.ctx, raftmeta.Txn{
					If:   []raftmeta.Cond{raftmeta.ModIs("n", it.Mod)},
					Then: []raftmeta.Op{raftmeta.Put("n", []byte{it.Value[0] + 1})},
				})
				if err != nil {
					k.Error(err)
					return
				}
				if r.OK {
					done++
					if after, err := k.s.Get(k.ctx, "n"); err != nil || after.Mod < r.Rev {
						k.Errorf("read %v, %v after a commit at %d", after, err, r.Rev)
					}
				}
			}
		})
	}
	wg.Wait()
	it := k.get("n")
	k.equal("value", int(it.Value[0]), workers*each)
	k.equal("version", it.Version, int64(workers*each+1))
}

func ranges(_ *testing.T, k *kit) {
	all := []string{"a", "a/", "a/1", "a/10", "a/2", "a0", "b", "ä"}
	for _, i := range []int{3, 0, 7, 5, 1, 6, 2, 4} {
		k.put(all[i], all[i])
	}
	k.equal("all", k.keys("", "\xff\xff\xff\xff", 0), all)
	k.equal("prefix", k.keys("a/", raftmeta.PrefixEnd("a/"), 0), []string{"a/", "a/1", "a/10", "a/2"})
	k.equal("bounds", k.keys("a/1", "b", 0), []string{"a/1", "a/10", "a/2", "a0"})
	k.equal("limit", k.keys("", "\xff", 3), []string{"a", "a/", "a/1"})
	k.equal("limit not reached", k.keys("b", "\xff", 9), []string{"b", "ä"})
	k.equal("empty", k.keys("b", "b", 0), []string{})
	k.equal("reversed", k.keys("b", "a", 0), []string{})
	k.equal("no end", k.keys("a", "", 0), []string{})
	var paged []string
	for start := ""; ; {
		page := k.keys(start, "\xff", 3)
		paged = append(paged, page...)
		if len(page) < 3 {
			break
		}
		start = page[2] + "\x00"
	}
	k.equal("pages", paged, all)
}

func deleteRange(_ *testing.T, k *kit) {
	for _, key := range []string{"a", "b/1", "b/2", "b/3", "c"} {
		k.put(key, "")
	}
	k.equal("result", k.do(raftmeta.DeleteRange("b/", raftmeta.PrefixEnd("b/"))).Results, []raftmeta.OpResult{{N: 3}})
	k.equal("keys", k.keys("", "\xff", 0), []string{"a", "c"})
	k.equal("nothing left", k.do(raftmeta.DeleteRange("b/", "c")).Results, []raftmeta.OpResult{{N: 0}})
	k.equal("reversed", k.do(raftmeta.DeleteRange("d", "a")).Results, []raftmeta.OpResult{{N: 0}})
	k.equal("to the end", k.do(raftmeta.DeleteRange("", raftmeta.PrefixEnd(""))).Results, []raftmeta.OpResult{{N: 2}})
}

func sequences(_ *testing.T, k *kit) {
	k.equal("first", k.do(raftmeta.Next("s", 1)).Results[0].N, int64(1))
	k.equal("block", k.do(raftmeta.Next("s", 1000)).Results[0].N, int64(2))
	k.equal("value", k.get("s").Value, binary.BigEndian.AppendUint64(nil, 1001))
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				r, err := k.s.Commit(k.ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("s", 2)}})
				if err != nil {
					k.Error(err)
					return
				}
				mu.Lock()
				for _, n := range []int64{r.Results[0].N, r.Results[0].N + 1} {
					if seen[n] || n < 1002 || n > 1401 {
						k.Errorf("number %d was handed out twice or is out of order", n)
					}
					seen[n] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	_, err := k.s.Commit(k.ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("s", 1<<63-1)}})
	k.fails("overflow", err, raftmeta.ErrInvalid)
	k.equal("after the overflow", k.do(raftmeta.Next("s", 1)).Results[0].N, int64(1402))
}

func limits(_ *testing.T, k *kit) {
	long := strings.Repeat("k", raftmeta.MaxKeyBytes)
	big := make([]byte, raftmeta.MaxValueBytes)
	k.do(raftmeta.Put(long, big))
	k.equal("big value", len(k.get(long).Value), raftmeta.MaxValueBytes)
	many := make([]raftmeta.Op, raftmeta.MaxTxnOps)
	for i := range many {
		many[i] = raftmeta.Delete("m")
	}
	k.do(many...)
	manyConds := make([]raftmeta.Cond, raftmeta.MaxTxnOps+1)
	for i := range manyConds {
		manyConds[i] = raftmeta.Absent("m")
	}
	var huge []raftmeta.Op
	for i := range raftmeta.MaxTxnBytes/len(big) + 1 {
		huge = append(huge, raftmeta.Put(fmt.Sprint("huge", i), big))
	}
	before := k.rev()
	for name, txn := range map[string]raftmeta.Txn{
		"long key":          {Then: []raftmeta.Op{raftmeta.Put(long+"k", nil)}},
		"empty key":         {Then: []raftmeta.Op{raftmeta.Put("", nil)}},
		"NUL":               {Then: []raftmeta.Op{raftmeta.Put("a\x00b", nil)}},
		"no UTF-8":          {Then: []raftmeta.Op{raftmeta.Put("a\xff", nil)}},
		"delete of no key":  {Then: []raftmeta.Op{raftmeta.Delete("")}},
		"condition, no key": {If: []raftmeta.Cond{raftmeta.Absent("")}},
		"big value":         {Then: []raftmeta.Op{raftmeta.Put("a", append(big, 0))}},
		"big else":          {Else: []raftmeta.Op{raftmeta.Put("a", append(big, 0))}},
		"many operations":   {Then: append(many, raftmeta.Delete("m"))},
		"many conditions":   {If: manyConds},
		"many bytes":        {Then: huge},
		"Next by nothing":   {Then: []raftmeta.Op{raftmeta.Next("a", 0)}},
		"Next backwards":    {Then: []raftmeta.Op{raftmeta.Next("a", -1)}},
		"Next and Put":      {Then: []raftmeta.Op{raftmeta.Next("a", 1), raftmeta.Put("a", nil)}},
		"no kind":           {Then: []raftmeta.Op{{Key: "a"}}},
		"no condition kind": {If: []raftmeta.Cond{{Key: "a"}}},
	} {
		_, err := k.s.Commit(k.ctx, txn)
		k.fails(name, err, raftmeta.ErrInvalid)
	}
	_, err := k.s.Get(k.ctx, "")
	k.fails("Get of no key", err, raftmeta.ErrInvalid)
	k.equal("revision", k.rev(), before)
}

func valuesAreCopied(_ *testing.T, k *kit) {
	v := []byte("before")
	w := k.watch("", 0)
	k.do(raftmeta.Put("a", v))
	copy(v, "after ")
	k.value("a", "before")
	k.equal("event", brief(k.next(w).Events), "+a=before")
}

func sessionOwnsItsKeys(_ *testing.T, k *kit) {
	a, b := k.session("a", 1), k.session("b", 1)
	if a.ID() == 0 || a.ID() == b.ID() {
		k.Fatalf("sessions %d and %d", a.ID(), b.ID())
	}
	k.do(
		raftmeta.PutEphemeral("e/1", nil, a.ID()), raftmeta.PutEphemeral("e/2", nil, a.ID()),
		raftmeta.PutEphemeral("e/3", nil, b.ID()), raftmeta.Put("p", nil),
		raftmeta.PutEphemeral("made persistent", nil, a.ID()),
		raftmeta.PutEphemeral("given to b", nil, a.ID()),
		raftmeta.Put("taken", nil),
		raftmeta.PutEphemeral("deleted and made anew", nil, a.ID()),
	)
	k.equal("owner", k.get("e/1").Session, a.ID())
	k.do(
		raftmeta.Put("made persistent", nil), raftmeta.PutEphemeral("given to b", nil, b.ID()),
		raftmeta.PutEphemeral("taken", nil, a.ID()), raftmeta.Delete("deleted and made anew"),
	)
	k.do(raftmeta.Put("deleted and made anew", nil))
	if err := a.Close(k.ctx); err != nil {
		k.Fatalf("Close: %v", err)
	}
	k.equal("keys", k.keys("", "\xff", 0), []string{"deleted and made anew", "e/3", "given to b", "made persistent", "p"})
	select {
	case <-a.Lost():
	default:
		k.Error("a closed session is not lost")
	}
	select {
	case <-b.Lost():
		k.Error("the other session is lost")
	default:
	}
	_, err := k.s.Commit(k.ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.PutEphemeral("e/1", nil, a.ID())}})
	k.fails("put of an ended session", err, raftmeta.ErrSessionExpired)
	if err := a.Close(k.ctx); err != nil {
		k.Fatalf("second Close: %v", err)
	}
}

func higherIncarnationSupersedes(_ *testing.T, k *kit) {
	old := k.session("node", 7)
	other := k.session("other", 7)
	k.do(raftmeta.PutEphemeral("mine", nil, old.ID()), raftmeta.PutEphemeral("other", nil, other.ID()))
	for _, lower := range []int64{7, 6, -1} {
		_, err := k.s.OpenSession(k.ctx, raftmeta.SessionOptions{Node: "node", Incarnation: lower})
		k.fails("lower incarnation", err, raftmeta.ErrSessionExpired)
	}
	k.get("mine")
	start := time.Now()
	young := k.session("node", 8)
	k.absent("mine")
	k.get("other")
	select {
	case <-old.Lost():
	case <-k.ctx.Done():
		k.Fatal("the superseded session is not lost")
	}
	if d := time.Since(start); d > 3*time.Second {
		k.Errorf("superseding took %v: it waited for the TTL", d)
	}
	k.do(raftmeta.PutEphemeral("mine", nil, young.ID()))
	if err := old.Close(k.ctx); err != nil {
		k.Fatalf("Close of a superseded session: %v", err)
	}
	k.get("mine")
	_, err := k.s.Commit(k.ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.PutEphemeral("mine", nil, old.ID())}})
	k.fails("put of a superseded session", err, raftmeta.ErrSessionExpired)
	if err := young.Close(k.ctx); err != nil {
		k.Fatal(err)
	}
	k.session("node", 8) // nobody is alive to object
}

func sessionOptions(_ *testing.T, k *kit) {
	for name, o := range map[string]raftmeta.SessionOptions{
		"no node":   {Incarnation: 1},
		"short TTL": {Node: "n", TTL: time.Millisecond},
		"long TTL":  {Node: "n", TTL: 2 * time.Hour},
	} {
		_, err := k.s.OpenSession(k.ctx, o)
		k.fails(name, err, raftmeta.ErrInvalid)
	}
}

func watchInOrder(_ *testing.T, k *kit) {
	w := k.watch("k/", 0)
	const n = 50
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if _, err := k.s.Commit(k.ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("k/a", []byte{byte(i)})}}); err != nil {
				k.Error(err)
			}
			if _, err := k.s.Commit(k.ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("other", nil)}}); err != nil {
				k.Error(err)
			}
		}
	})
	for i := range n {
		b := k.next(w)
		k.equal("batch", b, raftmeta.WatchBatch{Rev: raftmeta.Revision(2*i + 1), Events: []raftmeta.Event{{Item: raftmeta.Item{
			Key: "k/a", Value: []byte{byte(i)}, Created: 1, Mod: raftmeta.Revision(2*i + 1), Version: int64(i + 1),
		}}}})
	}
	wg.Wait()
}

func watchAtomic(_ *testing.T, k *kit) {
	ab, b, all := k.watch("a/", 0), k.watch("a/b", 0), k.watch("", 0)
	k.do(raftmeta.Put("x", nil))
	r := k.do(
		raftmeta.Put("a/b1", []byte("1")), raftmeta.Put("z", nil), raftmeta.Put("a/c", []byte("2")),
		raftmeta.Delete("a/b1"), raftmeta.Delete("a/none"), raftmeta.Put("a/b2", []byte("3")), raftmeta.DeleteRange("a/", "a/c0"),
	)
	want := map[raftmeta.Watcher]string{
		ab:  "+a/b1=1 +a/c=2 -a/b1 +a/b2=3 -a/b2 -a/c",
		b:   "+a/b1=1 -a/b1 +a/b2=3 -a/b2",
		all: "+a/b1=1 +z= +a/c=2 -a/b1 +a/b2=3 -a/b2 -a/c",
	}
	k.equal("first of all", brief(k.next(all).Events), "+x=")
	for w, want := range want {
		got := k.next(w)
		k.equal("revision", got.Rev, r.Rev)
		k.equal("events", brief(got.Events), want)
		for _, e := range got.Events {
			if e.Deleted && !reflect.DeepEqual(e.Item, raftmeta.Item{Key: e.Item.Key, Mod: r.Rev}) {
				k.Errorf("deletion shows %+v", e.Item)
			}
		}
	}
}

func watchResumes(_ *testing.T, k *kit) {
	for i := range 10 {
		k.put(fmt.Sprintf("k/%d", i%3), fmt.Sprint(i))
	}
	items, rev, err := k.s.Range(k.ctx, "k/", "k0", 0)
	if err != nil || len(items) != 3 || rev != 10 {
		k.Fatalf("Range = %v, %d, %v", items, rev, err)
	}
	w := k.watch("k/", rev)
	k.put("k/9", "new")
	k.equal("from the range's revision", k.next(w).Rev, raftmeta.Revision(11))
	for after := range raftmeta.Revision(11) {
		w := k.watch("k/", after)
		for want := after + 1; want <= 11; want++ {
			k.equal("resumed batch", k.next(w).Rev, want)
		}
		w.Close()
	}
}

func watchFuture(_ *testing.T, k *kit) {
	w := k.watch("k", 3)
	for i := range 5 {
		k.put("k", fmt.Sprint(i))
	}
	b, err := w.Next(k.ctx)
	if err != nil {
		k.Fatal(err)
	}
	k.equal("first", []any{b.Rev, brief(b.Events)}, []any{raftmeta.Revision(4), "+k=3"})
	k.equal("second", k.next(w).Rev, raftmeta.Revision(5))
}

func slowWatch(_ *testing.T, k *kit) {
	const n = 1500 // more than any queue of one watcher should hold
	w := k.watch("k", 0)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range n / 10 {
				if _, err := k.s.Commit(k.ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("k", 1)}}); err != nil {
					k.Error(err)
					return
				}
			}
		})
	}
	k.equal("first", k.next(w).Rev, raftmeta.Revision(1)) // then sleeps until all is written
	wg.Wait()
	for rev := raftmeta.Revision(2); rev <= n; rev++ {
		b := k.next(w)
		if b.Rev != rev || len(b.Events) != 1 || b.Events[0].Item.Version != int64(rev) {
			k.Fatalf("batch %+v, want revision %d", b, rev)
		}
	}
}

func watchSessionEnd(_ *testing.T, k *kit) {
	ses := k.session("n", 1)
	k.do(raftmeta.PutEphemeral("e/2", nil, ses.ID()), raftmeta.PutEphemeral("e/1", nil, ses.ID()))
	w := k.watch("e/", k.rev())
	k.session("n", 2)
	b := k.next(w)
	k.equal("events", []any{b.Rev, brief(b.Events)}, []any{raftmeta.Revision(2), "-e/1 -e/2"})
}

func watchBookmarks(_ *testing.T, k *kit) {
	w := k.watch("quiet/", 0)
	k.put("noise", "")
	b, err := w.Next(k.ctx)
	if err != nil {
		k.Fatalf("Next: %v", err)
	}
	k.equal("bookmark", b, raftmeta.WatchBatch{Rev: 1})
	k.put("quiet/a", "")
	k.equal("change after a bookmark", k.next(w).Rev, raftmeta.Revision(2))
}

func watchCompacted(t *testing.T, k *kit) {
	c, ok := k.s.(interface {
		Compact(context.Context, raftmeta.Revision) error
	})
	if !ok {
		t.Skip("this store drops no events on demand")
	}
	for range 10 {
		k.put("k", "")
	}
	k.do(raftmeta.Delete("k"))
	behind := k.watch("k", 0)
	if err := c.Compact(k.ctx, 6); err != nil {
		k.Fatalf("Compact: %v", err)
	}
	for after := range raftmeta.Revision(6) {
		_, err := k.watch("k", after).Next(k.ctx)
		k.fails(fmt.Sprintf("watch after %d", after), err, raftmeta.ErrCompacted)
	}
	w := k.watch("k", 6)
	for rev := raftmeta.Revision(7); rev <= 11; rev++ {
		b := k.next(w)
		k.equal("kept revision", b.Rev, rev)
		k.equal("deletion", b.Events[0].Deleted, rev == 11)
	}
	_, err := behind.Next(k.ctx)
	k.fails("watch that was behind", err, raftmeta.ErrCompacted)
	if err := c.Compact(k.ctx, 1000); err != nil { // all there is
		k.Fatalf("Compact: %v", err)
	}
	w = k.watch("k", 11)
	k.put("k", "")
	k.equal("after everything was dropped", k.next(w).Rev, raftmeta.Revision(12))
	k.value("k", "")
}

func watchEnds(_ *testing.T, k *kit) {
	w := k.watch("k", 0)
	ctx, cancel := context.WithCancel(k.ctx)
	cancel()
	_, err := w.Next(ctx)
	k.fails("Next with a cancelled context", err, context.Canceled)
	k.put("k", "1")
	k.equal("Next after a cancelled one", k.next(w).Rev, raftmeta.Revision(1))
	done := make(chan error)
	go func() {
		for {
			if _, err := w.Next(k.ctx); err != nil {
				done <- err
				return
			}
		}
	}()
	w.Close()
	k.fails("Next of a closed watcher", <-done, raftmeta.ErrClosed)
	_, err = w.Next(k.ctx)
	k.fails("Next of a closed watcher", err, raftmeta.ErrClosed)
	w.Close()
	_, err = k.s.Watch(k.ctx, "k", -1)
	k.fails("watch after -1", err, raftmeta.ErrInvalid)
}

func contextEndsCalls(_ *testing.T, k *kit) {
	ctx, cancel := context.WithCancel(k.ctx)
	cancel()
	_, err := k.s.Get(ctx, "a")
	k.fails("Get", err, context.Canceled)
	_, _, err = k.s.Range(ctx, "a", "b", 0)
	k.fails("Range", err, context.Canceled)
	_, err = k.s.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("a", nil)}})
	k.fails("Commit", err, context.Canceled)
	_, err = k.s.Watch(ctx, "a", 0)
	k.fails("Watch", err, context.Canceled)
	_, err = k.s.OpenSession(ctx, raftmeta.SessionOptions{Node: "n"})
	k.fails("OpenSession", err, context.Canceled)
	k.equal("revision", k.rev(), raftmeta.Revision(0))
}

func closedStore(t *testing.T, k *kit) {
	c, ok := k.s.(interface{ Close() error })
	if !ok {
		t.Skip("this store has no Close")
	}
	ses := k.session("n", 1)
	w := k.watch("k", 0)
	waiting := make(chan error)
	go func() {
		_, err := w.Next(k.ctx)
		waiting <- err
	}()
	if err := c.Close(); err != nil {
		k.Fatalf("Close: %v", err)
	}
	k.fails("Next", <-waiting, raftmeta.ErrClosed)
	select {
	case <-ses.Lost():
	case <-k.ctx.Done():
		k.Error("the session of a closed store is not lost")
	}
	_, err := k.s.Get(k.ctx, "a")
	k.fails("Get", err, raftmeta.ErrClosed)
	_, _, err = k.s.Range(k.ctx, "a", "b", 0)
	k.fails("Range", err, raftmeta.ErrClosed)
	_, err = k.s.Commit(k.ctx, raftmeta.Txn{})
	k.fails("Commit", err, raftmeta.ErrClosed)
	_, err = k.s.Watch(k.ctx, "a", 0)
	k.fails("Watch", err, raftmeta.ErrClosed)
	_, err = k.s.OpenSession(k.ctx, raftmeta.SessionOptions{Node: "n"})
	k.fails("OpenSession", err, raftmeta.ErrClosed)
	k.fails("Close of a session", ses.Close(k.ctx), raftmeta.ErrClosed)
	if err := c.Close(); err != nil {
		k.Fatalf("second Close: %v", err)
	}
}
