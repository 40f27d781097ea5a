package filetree_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/filetree/filetreetest"
	"github.com/daybook/daybook/ledgerfs/message"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func newTree(t testing.TB, n *filetreetest.Node) *filetree.Tree {
	t.Helper()
	tree := filetree.New(filetree.Config{Topics: n, Entries: n, Publisher: n, Log: quiet})
	t.Cleanup(tree.Close)
	return tree
}

// readAll is the file's text from Base on, read in pieces.
func readAll(t testing.TB, fs fileSystem, path string) string {
	t.Helper()
	ctx := t.Context()
	a, err := fs.Stat(ctx, path)
	if err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	var b []byte
	for {
		var err error
		before := len(b)
		b, _, err = fs.ReadAt(ctx, b, path, a.Gen, a.Base+int64(before), 1000)
		if err != nil {
			t.Fatalf("read %s at %d: %v", path, a.Base+int64(before), err)
		}
		if len(b) == before {
			return string(b)
		}
	}
}

// fileSystem is what Tree and Client have in common.
type fileSystem interface {
	Stat(ctx context.Context, path string) (filetree.Attr, error)
	List(ctx context.Context, path, after string, limit int) ([]filetree.DirEntry, bool, error)
	ReadAt(ctx context.Context, dst []byte, path string, gen uint64, off int64, n int) ([]byte, filetree.Attr, error)
	Append(ctx context.Context, path string, records [][]byte) (int, error)
	Create(ctx context.Context, path string) (filetree.Attr, error)
	Attributes(ctx context.Context, path string) (map[string]string, error)
}

const path = "/public/default/t"

func TestSizeIsTheBytesThatCanBeRead(t *testing.T) {
	n := filetreetest.New()
	tree := newTree(t, n)
	topic := n.Topic(filetreetest.Name("t"))
	if a, err := tree.Stat(t.Context(), path); err != nil || a.Size() != 0 || a.Dir || !a.Writable {
		t.Fatalf("stat of an empty topic: %+v, %v", a, err)
	}
	topic.Publish("one", "", "tab\there", "line\nbreak", "\xff\x00", `\"x`)
	topic.PublishBatch(message.LZ4, "b1", "b2", "b3")
	want := "one\n\ntab\there\n\\\"line\\nbreak\"\n\\=/wA=\n\\\"\\\\\\\"x\"\nb1\nb2\nb3\n"
	a, err := tree.Stat(t.Context(), path)
	if err != nil || a.Size() != int64(len(want)) {
		t.Fatalf("size = %d, %v, want %d", a.Size(), err, len(want))
	}
	if got := readAll(t, tree, path); got != want {
		t.Fatalf("text = %q, want %q", got, want)
	}
	nd := readAll(t, tree, path+"@/ndjson")
	if strings.Count(nd, "\n") != 9 || !strings.Contains(nd, `"text":"one"`) {
		t.Fatalf("ndjson = %s", nd)
	}
	if a, err = tree.Stat(t.Context(), path+"@/ndjson"); err != nil || a.Size() != int64(len(nd)) || a.Writable {
		t.Fatalf("stat of ndjson = %+v, %v, want size %d", a, err, len(nd))
	}
}

func TestChunkedMessageIsShownOnceWhole(t *testing.T) {
	n := filetreetest.New()
	tree := newTree(t, n)
	topic := n.Topic(filetreetest.Name("t"))
	parts := []string{"alpha ", "beta ", "gamma"}
	chunk := func(i int) []byte {
		h := &message.Header{ProducerName: "p", PublishTime: 1, UUID: "u-1", NumChunks: 3, ChunkID: i, TotalChunkSize: 16}
		b, err := message.AppendSingle(nil, h, &message.Outgoing{SequenceID: 7, Value: []byte(parts[i])})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	topic.Publish("before")
	topic.Append(1, chunk(0))
	topic.Publish("between")
	topic.Roll() // chunks may lie in several ledgers
	topic.Append(1, chunk(1))
	topic.Publish("another")
	topic.Append(1, chunk(2))
	topic.Publish("after")
	const want = "before\nbetween\nanother\nalpha beta gamma\nafter\n"
	if got := readAll(t, tree, path); got != want {
		t.Fatalf("text = %q, want %q", got, want)
	}
	if a, _ := tree.Stat(t.Context(), path); a.Size() != int64(len(want)) {
		t.Fatalf("size = %d, want %d", a.Size(), len(want))
	}
}

// counter is text that is nowhere like elsewhere: the numbers from n on.
func counter(n, size int) string {
	b := make([]byte, 0, size+16)
	for ; len(b) < size; n++ {
		b = strconv.AppendInt(b, int64(n), 36)
		b = append(b, ' ')
	}
	return string(b[:size])
}

// Whatever happens to a topic, its size is what can be read, an offset shows the same byte for ever, and
// another tree over the same topic, which knows only what was recorded, agrees.
func TestTextNeverChangesUnderGrowthRollingAndTrimming(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := filetreetest.New()
		tree := filetree.New(filetree.Config{Topics: n, Entries: n, Log: quiet})
		defer tree.Close()
		topic := n.Topic(filetreetest.Name("t"))
		var model []byte // all text that ever was
		base := 0        // where the retained text begins
		var ledgerEnds []int
		ctx := context.Background()
		check := func(tr *filetree.Tree, what string) {
			a, err := tr.Stat(ctx, path)
			if err != nil || a.Base != int64(base) || a.End != int64(len(model)) {
				rt.Fatalf("%s: text is [%d, %d), %v, want [%d, %d)", what, a.Base, a.End, err, base, len(model))
			}
			off := rapid.IntRange(base, len(model)).Draw(rt, "off")
			size := rapid.OneOf(rapid.IntRange(0, 40_000), rapid.IntRange(2<<20, 4<<20)).Draw(rt, "size")
			got, _, err := tr.ReadAt(ctx, nil, path, a.Gen, int64(off), size)
			if want := model[off:min(off+size, len(model))]; err != nil || !bytes.Equal(got, want) {
				rt.Fatalf("%s: read %d at %d = %.60q…, %v, want %.60q…", what, size, off, got, err, want)
			}
			if base > 0 {
				if _, _, err := tr.ReadAt(ctx, nil, path, a.Gen, int64(base-1), 1); !errors.Is(err, filetree.ESTALE) {
					rt.Fatalf("%s: read below what is retained: %v, want ESTALE", what, err)
				}
			}
		}
		add := func(v string) { model = append(append(model, v...), '\n') }
		rt.Repeat(map[string]func(*rapid.T){
			"publish": func(rt *rapid.T) {
				v := rapid.StringMatching(`[a-z ]{0,30}`).Draw(rt, "v")
				topic.Publish(v)
				add(v)
			},
			"batch": func(rt *rapid.T) {
				size := rapid.IntRange(1, 200_000).Draw(rt, "len")
				vs := []string{"first", counter(len(model), size), "", counter(len(model)+size, size/2)}
				topic.PublishBatch(message.ZStd, vs...)
				for _, v := range vs {
					add(v)
				}
			},
			"roll": func(*rapid.T) {
				if len(model) > 0 && (len(ledgerEnds) == 0 || ledgerEnds[len(ledgerEnds)-1] < len(model)) && len(model) > base {
					topic.Roll()
					ledgerEnds = append(ledgerEnds, len(model))
				}
			},
			"trim": func(*rapid.T) {
				if _, err := tree.Stat(ctx, path); err != nil { // retention runs after the owner has counted
					rt.Fatal(err)
				}
				if len(ledgerEnds) > 0 && ledgerEnds[0] < len(model) {
					topic.Trim(1)
					base, ledgerEnds = ledgerEnds[0], ledgerEnds[1:]
				}
			},
			"": func(*rapid.T) { check(tree, "live") },
		})
		if base == 0 {
			second := filetree.New(filetree.Config{Topics: n, Entries: n, Log: quiet})
			defer second.Close()
			for range 5 { // the first reads make the marks that the later ones use
				check(second, "after a restart")
			}
		}
	})
}

func TestReadersSeeOnlyWholePrefixesWhileTheTopicGrows(t *testing.T) {
	n := filetreetest.New()
	tree := newTree(t, n)
	topic := n.Topic(filetreetest.Name("t"))
	const messages = 3000
	line := func(i int) string { return fmt.Sprintf("%06d %s", i, strings.Repeat("z", i%97)) }
	var want strings.Builder
	for i := range messages {
		want.WriteString(line(i) + "\n")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range messages {
			topic.Publish(line(i))
			if i%700 == 0 {
				topic.Roll()
			}
		}
	}()
	last := int64(0)
	for grown := false; ; {
		select {
		case <-done:
			grown = true
		default:
		}
		a, err := tree.Stat(t.Context(), path)
		if err != nil || a.End < last {
			t.Fatalf("stat = %+v, %v after %d", a, err, last)
		}
		last = a.End
		if last > 0 {
			off := rand.Int64N(last)
			got, _, err := tree.ReadAt(t.Context(), nil, path, a.Gen, off, int(min(last-off, 9999)))
			if err != nil || string(got) != want.String()[off:off+min(last-off, 9999)] {
				t.Fatalf("read at %d of %d: %q, %v", off, last, got, err)
			}
		}
		if grown {
			break
		}
	}
	if got := readAll(t, tree, path); got != want.String() {
		t.Fatal("text differs from what was published")
	}
}

func TestSealedLedgersAreNotCountedAgainAfterARestart(t *testing.T) {
	n := filetreetest.New()
	topic := n.Topic(filetreetest.Name("t"))
	for range 5 {
		for range 10 {
			topic.Publish(strings.Repeat("v", 100))
		}
		topic.Roll()
	}
	topic.Publish("open")
	first := newTree(t, n)
	a, err := first.Stat(t.Context(), path)
	if err != nil || a.Size() != 50*101+5 {
		t.Fatalf("size = %d, %v", a.Size(), err)
	}
	if got := topic.Recorded(filetree.ViewLine); got != 5 {
		t.Fatalf("%d ledgers are recorded, want 5", got)
	}
	first.Close()
	second := newTree(t, n)
	before := n.Reads()
	b, err := second.Stat(t.Context(), path)
	if err != nil || b.Size() != a.Size() || b.Gen != a.Gen || b.Ino != a.Ino {
		t.Fatalf("after a restart: %+v, %v, before: %+v", b, err, a)
	}
	if reads := n.Reads() - before; reads != 1 {
		t.Errorf("a restart took %d reads to count the open ledger, want 1", reads)
	}
	if got, _, err := second.ReadAt(t.Context(), nil, path, b.Gen, 101*33+50, 101); err != nil || string(got) != strings.Repeat("v", 50)+"\n"+strings.Repeat("v", 50) {
		t.Errorf("read in a recorded ledger = %q, %v", got, err)
	}
}

func TestGrowthIsCountedWithoutBeingAskedFor(t *testing.T) {
	n := filetreetest.New()
	tree := newTree(t, n)
	topic := n.Topic(filetreetest.Name("t"))
	topic.Publish("a")
	w := tree.Watch()
	defer w.Close()
	if err := w.Add(t.Context(), path, 0, 0); err != nil {
		t.Fatal(err)
	}
	wait := func(end int64) {
		t.Helper()
		for {
			gs, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if gs[0].Path != path {
				t.Fatalf("growth of %q", gs[0].Path)
			}
			if gs[0].Attr.End >= end {
				return
			}
		}
	}
	wait(2)
	for range 500 {
		topic.Publish("bb")
	}
	wait(2 + 500*3)
	before := n.Reads()
	if a, err := tree.Stat(t.Context(), path); err != nil || a.End != 1502 {
		t.Fatalf("stat = %+v, %v", a, err)
	}
	if n.Reads() != before {
		t.Error("stat read entries that were counted already")
	}
	topic.Delete()
	for {
		gs, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if gs[0].Gone {
			break
		}
	}
}

func TestLostEntryIsAHoleAroundWhichAllIsReadable(t *testing.T) {
	n := filetreetest.New()
	tree := newTree(t, n)
	topic := n.Topic(filetreetest.Name("t"))
	lose := func() ledgerfs.Position {
		b, err := message.AppendSingle(nil, &message.Header{ProducerName: "p"}, &message.Outgoing{Value: []byte("lost")})
		if err != nil {
			t.Fatal(err)
		}
		pos := topic.Append(1, b)
		topic.Lose(pos, true)
		return pos
	}
	lose() // the first of its ledger
	topic.Publish("a", "b")
	middle := lose()
	topic.Publish(strings.Repeat("c", 2<<20)) // a long read scans
	topic.Roll()
	topic.Publish("d")
	lose() // the last
	want := "a\nb\n" + strings.Repeat("c", 2<<20) + "\nd\n"
	check := func() {
		t.Helper()
		a, err := tree.Stat(t.Context(), path)
		if err != nil || a.Size() != int64(len(want)) {
			t.Fatalf("stat = %+v, %v, want size %d", a, err, len(want))
		}
		for _, n := range []int{10, len(want)} {
			if got, _, err := tree.ReadAt(t.Context(), nil, path, a.Gen, 0, n); err != nil || string(got) != want[:n] {
				t.Fatalf("read of %d = %d bytes, %v", n, len(got), err)
			}
		}
	}
	check()
	topic.Publish("e")
	want += "e\n"
	check()
	topic.Lose(middle, false) // repaired: an offset shows the same byte all the same
	check()
	if r := topic.Recorded(filetree.ViewLine); r != 0 {
		t.Errorf("%d lengths with holes are recorded", r)
	}
}

// A ledger may be closed and removed in one step, as soon as nobody needs it.
func TestTextGoesOnWhereACountedLedgerWasRemoved(t *testing.T) {
	n := filetreetest.New()
	tree := newTree(t, n)
	topic := n.Topic(filetreetest.Name("t"))
	topic.Publish("one", "two")
	a, err := tree.Stat(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	topic.RollAndTrim("three")
	b, err := tree.Stat(t.Context(), path)
	if err != nil || b.Gen != a.Gen || b.Base != 8 || b.End != 14 {
		t.Fatalf("stat = %+v, %v, want text [8, 14) of generation %d", b, err, a.Gen)
	}
	if got, _, err := tree.ReadAt(t.Context(), nil, path, a.Gen, 8, 100); err != nil || string(got) != "three\n" {
		t.Errorf("read = %q, %v", got, err)
	}
	// Of what was removed before it was counted nobody knows how long it was: another text begins.
	topic.RollAndTrim("five", "four")
	c, err := tree.Stat(t.Context(), path)
	if err != nil || c.Gen == a.Gen || c.Size() != 5 {
		t.Fatalf("stat = %+v, %v, want 5 bytes of another generation", c, err)
	}
	if _, _, err := tree.ReadAt(t.Context(), nil, path, a.Gen, 8, 100); !errors.Is(err, filetree.ESTALE) {
		t.Errorf("read of the old generation: %v, want ESTALE", err)
	}
}

func TestTopicThatIsMadeAnewIsAnotherFile(t *testing.T) {
	n := filetreetest.New()
	tree := newTree(t, n)
	n.Topic(filetreetest.Name("t")).Publish("old")
	a, err := tree.Stat(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	n.Topic(filetreetest.Name("t")).Delete()
	if _, err := tree.Stat(t.Context(), path); !errors.Is(err, filetree.ENOENT) {
		t.Fatalf("stat of a deleted topic: %v, want ENOENT", err)
	}
	n.Topic(filetreetest.Name("t")).Publish("brand new")
	b, err := tree.Stat(t.Context(), path)
	if err != nil || b.Ino == a.Ino || b.Size() != 10 {
		t.Fatalf("new topic: %+v, %v; old: %+v", b, err, a)
	}
	if _, _, err := tree.ReadAt(t.Context(), nil, path, a.Gen, 0, 10); !errors.Is(err, filetree.ESTALE) {
		t.Fatalf("read of the old topic's text: %v, want ESTALE", err)
	}
	if a.Ino>>63 != 0 || b.Ino>>63 != 0 {
		t.Errorf("inodes %x and %x have more than 63 bits", a.Ino, b.Ino)
	}
}

func TestIdleTopicsAreForgotten(t *testing.T) {
	n := filetreetest.New()
	tree := filetree.New(filetree.Config{Topics: n, Entries: n, Log: quiet, Idle: time.Hour, MaxFiles: 10})
	defer tree.Close()
	watched := n.Topic(filetreetest.Name("watched"))
	w := tree.Watch()
	defer w.Close()
	watched.Publish("x")
	if err := w.Add(t.Context(), "/public/default/watched", 0, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		local := fmt.Sprintf("t%d", i)
		n.Topic(filetreetest.Name(local)).Publish("x")
		if _, err := tree.Stat(t.Context(), "/public/default/"+local); err != nil {
			t.Fatal(err)
		}
	}
	tree.Evict()
	open := 0
	for i := range 40 {
		open += n.Topic(filetreetest.Name(fmt.Sprintf("t%d", i))).Listeners()
	}
	if open > 10 {
		t.Errorf("%d topics are open, want at most 10", open)
	}
	if watched.Listeners() != 1 {
		t.Error("a watched topic was forgotten")
	}
}
