package mount

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/filetree/filetreetest"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// testFS is a file system over a node, without a kernel.
func testFS(t testing.TB, n *filetreetest.Node) *fileSystem {
	t.Helper()
	tree := filetree.New(filetree.Config{Topics: n, Entries: n, Publisher: n, Log: slog.New(slog.DiscardHandler)})
	s := httptest.NewServer(filetree.NewService(tree))
	c, err := filetree.NewClient(filetree.ClientConfig{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	f := newFS(Config{Client: c, Log: slog.New(slog.DiscardHandler), deadlines: deadlines{}.orDefault()})
	t.Cleanup(func() {
		f.close(0)
		c.Close()
		s.Close()
		tree.Close()
	})
	return f
}

// However a handle's bytes are cut into writes, its records are what lies between newlines.
func FuzzRecordsAreWhatLiesBetweenNewlines(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), []byte{1, 2})
	f.Add([]byte("\n\n"), []byte{})
	f.Add([]byte("no newline"), []byte{3})
	f.Fuzz(func(t *testing.T, text, cuts []byte) {
		w := newWriter(&fileSystem{}, "/p", 0, 0)
		w.mu.sending = true // nothing is sent: the queue shows the records
		rest := text
		for _, c := range cuts {
			n := min(int(c), len(rest))
			piece := bytes.Clone(rest[:n])
			w.mu.Lock()
			w.takeInLocked(piece)
			w.mu.Unlock()
			clear(piece) // the kernel's buffer is used again
			rest = rest[n:]
		}
		w.mu.Lock()
		w.takeInLocked(rest)
		w.mu.Unlock()
		w.publishRest()
		want := strings.Split(string(text), "\n")
		if want[len(want)-1] == "" {
			want = want[:len(want)-1]
		}
		if len(w.mu.queue) != len(want) {
			t.Fatalf("%q cut at %v: %d records, want %d", text, cuts, len(w.mu.queue), len(want))
		}
		for i, r := range w.mu.queue {
			if string(r) != want[i] {
				t.Fatalf("%q cut at %v: record %d is %q, want %q", text, cuts, i, r, want[i])
			}
		}
	})
}

// A handle's reads, in any order and size, with read-ahead and growth, return the file's bytes.
func TestReaderReturnsTheFilesBytes(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	f := testFS(t, n)
	topic := n.Topic(filetreetest.Name("log"))
	var model []byte
	grow := func(lines int) {
		var batch []string
		for range lines {
			l := strconv.Itoa(len(model)) + strings.Repeat("-", len(model)%900)
			batch = append(batch, l)
			model = append(append(model, l...), '\n')
		}
		topic.PublishBatch(0, batch...)
	}
	grow(6000) // some windows
	rapid.Check(t, func(rt *rapid.T) {
		r := newReader(f, "/public/default/log", 0)
		defer r.close()
		next := 0
		for range rapid.IntRange(1, 6).Draw(rt, "reads") {
			off := next
			if rapid.IntRange(0, 3).Draw(rt, "jump") == 0 {
				off = rapid.IntRange(0, len(model)).Draw(rt, "off")
			}
			size := rapid.OneOf(rapid.IntRange(1, 9000), rapid.Just(512<<10), rapid.Just(1<<20)).Draw(rt, "size")
			got, err := r.read(context.Background(), int64(off), size)
			if want := model[off:min(off+size, len(model))]; err != nil || !bytes.Equal(got, want) {
				rt.Fatalf("read %d at %d of %d: %d bytes, %v, want %d", size, off, len(model), len(got), err, len(want))
			}
			if next = off + len(got); next == len(model) {
				grow(1)
			}
		}
	})
}

// After a record has failed, nothing that was written before the failure was reported is stored behind it.
func TestNothingOvertakesAFailedRecord(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	f := testFS(t, n)
	n.Topic(filetreetest.Name("log"))
	release, sent := make(chan struct{}), make(chan struct{})
	calls := 0
	n.OnAppend(func(_ topicname.Name, rs [][]byte) (int, error) {
		if calls++; calls == 2 {
			close(sent)
			<-release
			return 0, filetree.ENOSPC
		}
		return len(rs), nil
	})
	w := newWriter(f, "/public/default/log", 0x400, 0) // O_APPEND
	ctx := t.Context()
	write := func(s string) error {
		_, err := w.write(ctx, []byte(s), 0, 0x400, 1)
		return err
	}
	if err := write("first\n"); err != nil {
		t.Fatal(err)
	}
	if err := write("fails\n"); err != nil { // in the background by now
		t.Fatal(err)
	}
	<-sent
	if err := write("behind it\n"); err != nil {
		t.Fatal(err)
	}
	close(release)
	if err := w.wait(ctx); !errors.Is(err, filetree.ENOSPC) {
		t.Errorf("wait = %v, want ENOSPC", err)
	}
	if err := w.wait(ctx); err != nil {
		t.Errorf("second wait = %v: an error is reported once", err)
	}
	if err := write("after the report\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.wait(ctx); err != nil {
		t.Fatal(err)
	}
	r := newReader(f, "/public/default/log", 0)
	defer r.close()
	if b, err := r.read(ctx, 0, 1000); err != nil || string(b) != "first\nafter the report\n" {
		t.Errorf("the topic holds %q, %v", b, err)
	}
}

// The first record of a handle is acknowledged before write returns; later ones are not waited for.
func TestOnlyTheFirstWriteWaits(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	f := testFS(t, n)
	n.Topic(filetreetest.Name("log"))
	acks := make(chan struct{}, 10)
	n.OnAppend(func(_ topicname.Name, rs [][]byte) (int, error) {
		<-acks
		return len(rs), nil
	})
	w := newWriter(f, "/public/default/log", 0, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := w.write(ctx, []byte("one\n"), 0, 0x400, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("first write without an acknowledgement = %v, want its deadline", err)
	}
	acks <- struct{}{}
	if err := w.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := w.write(t.Context(), []byte("two\nthree\n"), 4, 0, 1); n != 10 || err != nil {
		t.Fatalf("second write = %d, %v, want it to return at once", n, err)
	}
	if _, err := w.write(t.Context(), []byte("x\n"), 3, 0, 1); !errors.Is(err, filetree.EPERM) {
		t.Errorf("write before the end = %v, want EPERM", err)
	}
	acks <- struct{}{}
	acks <- struct{}{}
	if err := w.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A signal that the process survives must not fail what is done in a moment anyway.
func TestInterruptedRequestHasAGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancel := make(chan struct{})
		ctx, done := request(cancel, time.Minute)
		defer done()
		close(cancel)
		start := time.Now()
		<-ctx.Done()
		if d := time.Since(start); d != interruptGrace || ctx.Err() != context.Canceled {
			t.Errorf("it ended after %v with %v; want %v and Canceled", d, ctx.Err(), interruptGrace)
		}
		ctx, done = request(nil, time.Second)
		defer done()
		<-ctx.Done()
		if ctx.Err() != context.DeadlineExceeded {
			t.Errorf("without an interruption it ended with %v", ctx.Err())
		}
	})
}
