package filetree_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/filetree/filetreetest"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
	"github.com/daybook/daybook/raftmeta/metatest"
)

// A store is real topics on bookies in memory.
type store struct {
	t       *testing.T
	meta    *metatest.Store
	bookies *ledgertest.Cluster
}

func (s *store) Candidates(context.Context) ([]ledger.Candidate, error) {
	var cs []ledger.Candidate
	for _, m := range s.bookies.Members() {
		cs = append(cs, ledger.Candidate{Member: m, Free: 1 << 30})
	}
	return cs, nil
}

func (s *store) Bookie(m ledgerfs.Member) (ledgerfs.Bookie, error) { return s.bookies.Dial(m), nil }

// An owner is one life of a topic's owner, with its tree.
type owner struct {
	*mledger.Ledger
	name topicname.Name
	tree *filetree.Tree
	stop func()
}

func (s *store) own(name topicname.Name) *owner {
	s.t.Helper()
	c := ledger.New(ledger.Config{Store: s.meta, Bookies: s, Logger: quiet, AddTimeout: 5 * time.Second, CallTimeout: 5 * time.Second})
	f := mledger.New(mledger.Config{Client: c, Store: s.meta, Logger: quiet})
	l, err := f.OpenOrCreate(s.t.Context(), name, mledger.Options{RetainTime: -1, RetainBytes: -1})
	if err != nil {
		s.t.Fatal(err)
	}
	o := &owner{Ledger: l, name: name}
	o.tree = filetree.New(filetree.Config{Topics: o, Entries: filetree.ReadBookies(topicread.New(c)), Log: quiet})
	o.stop = func() {
		o.tree.Close()
		if err := f.Close(context.Background()); err != nil {
			s.t.Error(err)
		}
		c.Close()
	}
	return o
}

func (o *owner) Tenants(context.Context) ([]string, error) { return []string{"public"}, nil }
func (o *owner) Namespaces(context.Context, string) ([]string, error) {
	return []string{"default"}, nil
}
func (o *owner) Topics(context.Context, string, string) ([]string, error) {
	return []string{o.name.Local}, nil
}
func (o *owner) Create(context.Context, topicname.Name) error { return filetree.EACCES }
func (o *owner) Open(_ context.Context, n topicname.Name) (filetree.Topic, error) {
	if n != o.name {
		return nil, filetree.ENOENT
	}
	return ownedTopic{o.Ledger}, nil
}

type ownedTopic struct{ *mledger.Ledger }

func (t ownedTopic) Fence(context.Context) (chain.Fence, error) { return t.Ledger.Fence(), nil }
func (t ownedTopic) Close()                                     {}
func (t ownedTopic) Notify(fn func()) func() {
	l := &listener{fn}
	t.Listen(l)
	return func() { t.Unlisten(l) }
}

type listener struct{ fn func() }

func (l *listener) Grown(*mledger.Ledger) { l.fn() }

type waiter chan error

func (w waiter) AppendCompleted(_ *mledger.Append, err error) { w <- err }

func (o *owner) publish(t *testing.T, values ...string) {
	t.Helper()
	done := make(waiter, len(values))
	for i, v := range values {
		b, err := message.AppendSingle(nil, &message.Header{ProducerName: "p", PublishTime: 1_700_000_000_000 + int64(i)}, &message.Outgoing{Value: []byte(v)})
		if err != nil {
			t.Fatal(err)
		}
		o.Append(&mledger.Append{Payload: b, Messages: 1, LeastPublishTime: 1_700_000_000_000, GreatestPublishTime: 1_700_000_000_000 + int64(i), Done: done})
	}
	for range values {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// Over managed ledgers and bookies: every acknowledged message is in the very next stat and read, lengths
// survive the owner, and retention takes text from the front alone.
func TestStoredTopicsAreFiles(t *testing.T) {
	t.Parallel()
	s := &store{t: t, meta: metatest.New(), bookies: ledgertest.NewCluster(1)}
	defer s.meta.Close()
	name := filetreetest.Name("t")
	o := s.own(name)
	if a, err := o.tree.Stat(t.Context(), path); err != nil || a.Size() != 0 {
		t.Fatalf("stat of an empty topic = %+v, %v", a, err)
	}
	var want strings.Builder
	var firstLedger int64
	for l := range 4 {
		for i := range 50 {
			v := fmt.Sprintf("ledger %d message %d %s", l, i, strings.Repeat("·", i))
			o.publish(t, v)
			want.WriteString(v + "\n")
			a, err := o.tree.Stat(t.Context(), path)
			if err != nil || a.Size() != int64(want.Len()) {
				t.Fatalf("stat after an acknowledgement = %+v, %v, want size %d", a, err, want.Len())
			}
		}
		if l == 0 {
			firstLedger = int64(want.Len())
		}
		if l < 3 {
			if err := o.Roll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := readAll(t, o.tree, path); got != want.String() {
		t.Fatalf("text has %d bytes, want %d", len(got), want.Len())
	}
	before, err := o.tree.Stat(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	o.stop()

	o = s.own(name)
	defer func() { o.stop() }()
	a, err := o.tree.Stat(t.Context(), path)
	if err != nil || a.Size() != before.Size() || a.Ino != before.Ino || a.Gen != before.Gen || !a.Mtime.Equal(before.Mtime) {
		t.Fatalf("after a restart: %+v, %v, before: %+v", a, err, before)
	}
	recorded := 0
	for _, l := range o.Ledger.Fence().Record.Ledgers {
		if l.Text[filetree.ViewLine].Known {
			recorded++
		}
	}
	if recorded < 4 {
		t.Errorf("the lengths of %d ledgers are recorded, want 4", recorded)
	}
	o.publish(t, "after the restart")
	want.WriteString("after the restart\n")
	if got := readAll(t, o.tree, path); got != want.String() {
		t.Fatalf("text after a restart has %d bytes, want %d", len(got), want.Len())
	}
	if err := o.Truncate(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, err = o.tree.Stat(t.Context(), path)
	if err != nil || a.End != int64(want.Len()) || a.Base <= firstLedger {
		t.Fatalf("after trimming: %+v, %v, want text to %d", a, err, want.Len())
	}
	if got := readAll(t, o.tree, path); got != want.String()[a.Base:] {
		t.Errorf("text after trimming = %q", got)
	}
	if _, _, err := o.tree.ReadAt(t.Context(), nil, path, a.Gen, 0, 10); !errors.Is(err, filetree.ESTALE) {
		t.Errorf("read of trimmed text: %v, want ESTALE", err)
	}
	o.stop()
	o = s.own(name)
	// How much text lay before the ledger that is open now is not stored: offsets begin anew, and the old ones
	// are refused.
	b, err := o.tree.Stat(t.Context(), path)
	if err != nil || b.Size() != a.Size() || b.Ino != a.Ino {
		t.Errorf("after another restart: %+v, %v, before: %+v", b, err, a)
	}
	if got := readAll(t, o.tree, path); got != want.String()[a.Base:] {
		t.Errorf("text after another restart = %q", got)
	}
	if got, _, err := o.tree.ReadAt(t.Context(), nil, path, a.Gen, a.Base, 10); !errors.Is(err, filetree.ESTALE) && string(got) != want.String()[a.Base:a.Base+10] {
		t.Errorf("read at an old offset = %q, %v", got, err)
	}
}
