package standalone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/client"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/server"
	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// startNode runs a whole server in this process, on free ports.
func startNode(t *testing.T) *node {
	t.Helper()
	n := &node{log: slog.New(slog.DiscardHandler), fatal: make(chan error, 1)}
	t.Cleanup(n.stop)
	o := Options{DataDir: t.TempDir(), Listen: "127.0.0.1"}
	if err := n.start(t.Context(), o, server.Config{Cluster: nodeName, Listen: "127.0.0.1:0", HTTPListen: "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	return n
}

// values reads count messages of a topic from its beginning.
func values(t *testing.T, url, topic string, count int) [][]byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := client.New(client.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.NewReader(ctx, client.ReaderConfig{Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for range count {
		m, err := r.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m.Value)
	}
	return out
}

// A record that the broker does not take must not hide that those before it are stored: who is told otherwise writes
// them again.
func TestRecordsBeforeARefusedOneCount(t *testing.T) {
	n := startNode(t)
	p, err := newPublisher(n.broker.ServiceURL())
	if err != nil {
		t.Fatal(err)
	}
	defer p.close(t.Context())
	name, err := topicname.Parse("appended")
	if err != nil {
		t.Fatal(err)
	}
	var want [][]byte
	for round := range 20 {
		records := [][]byte{[]byte("a"), []byte("b"), bytes.Repeat([]byte("x"), 6<<20), []byte("behind")}
		acked, err := p.Append(t.Context(), name, records)
		if acked != 2 || filetree.ErrnoOf(err) != filetree.EMSGSIZE {
			t.Fatalf("round %d: %d records acknowledged, %v; want 2 and EMSGSIZE", round, acked, err)
		}
		want = append(want, records[:2]...)
	}
	if acked, err := p.Append(t.Context(), name, [][]byte{[]byte("end")}); acked != 1 || err != nil {
		t.Fatalf("the next append: %d, %v", acked, err)
	}
	got := values(t, n.broker.ServiceURL(), "appended", len(want)+1)
	for i, w := range append(want, []byte("end")) {
		if !bytes.Equal(got[i], w) {
			t.Fatalf("message %d is %q, want %q", i, got[i], w)
		}
	}
}

func TestAppendAfterTheEndOfTheServer(t *testing.T) {
	n := startNode(t)
	p, err := newPublisher(n.broker.ServiceURL())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	name, err := topicname.Parse("appended")
	if err != nil {
		t.Fatal(err)
	}
	if acked, err := p.Append(t.Context(), name, [][]byte{nil}); acked != 0 || filetree.ErrnoOf(err) != filetree.ENOTCONN {
		t.Errorf("%d, %v; want ENOTCONN", acked, err)
	}
}

func TestAppendCountsUpToTheFirstFailure(t *testing.T) {
	full := serr.PersistenceError.Errorf("no space is left")
	for _, c := range []struct {
		name     string
		records  int
		outcomes map[int]error // in any order; nil is an acknowledgement
		refused  int           // -1: none
		refusal  error
		acked    int
		errno    filetree.Errno
		done     bool
	}{
		{"nothing", 0, nil, -1, nil, 0, "", true},
		{"all", 2, map[int]error{0: nil, 1: nil}, -1, nil, 2, "", true},
		{"none has an answer", 2, nil, -1, nil, 0, filetree.ETIMEDOUT, false},
		{"the second has no answer", 2, map[int]error{0: nil}, -1, nil, 1, filetree.ETIMEDOUT, false},
		{"an answer behind one that is missing", 2, map[int]error{1: nil}, -1, nil, 0, filetree.ETIMEDOUT, false},
		{"full", 3, map[int]error{0: nil, 1: full, 2: full}, -1, nil, 1, filetree.ENOSPC, true},
		{"acknowledged after a refusal", 3, map[int]error{0: nil, 1: nil}, 2, client.ErrTooLarge, 2, filetree.EMSGSIZE, true},
		{"unanswered before a refusal", 3, map[int]error{0: nil}, 2, client.ErrTooLarge, 1, filetree.ETIMEDOUT, false},
		{"interrupted", 2, nil, 0, context.Canceled, 0, filetree.ECANCELED, true},
		{"sent twice", 1, map[int]error{0: errors.Join(client.ErrUnknownOutcome, full)}, -1, nil, 0, filetree.ETIMEDOUT, true},
		{"sent and closed", 1, map[int]error{0: errors.Join(client.ErrUnknownOutcome, client.ErrClosed)}, -1, nil, 0, filetree.ETIMEDOUT, true},
		{"anything else", 1, map[int]error{0: io.ErrUnexpectedEOF}, -1, nil, 0, filetree.EIO, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAppend(c.records)
			if c.refused >= 0 {
				a.refused(c.refused, c.refusal)
			}
			for i, err := range c.outcomes {
				a.outcome(i, err)
			}
			acked, err := a.result()
			if acked != c.acked || filetree.ErrnoOf(err) != c.errno {
				t.Errorf("%d, %v; want %d and %q", acked, err, c.acked, c.errno)
			}
			select {
			case <-a.all:
				if !c.done {
					t.Error("it ended although a record has no outcome")
				}
			default:
				if c.done {
					t.Error("it waits although every record has its outcome")
				}
			}
		})
	}
}
