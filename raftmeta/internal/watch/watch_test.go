package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/raftmeta"
)

// log is a Source in memory.
type log struct {
	revs  [][]raftmeta.Event // of revision i+1
	floor raftmeta.Revision
	err   error
}

func (l *log) Events(after, upTo raftmeta.Revision, yield func(raftmeta.Revision, []raftmeta.Event) bool) error {
	if l.err != nil {
		return l.err
	}
	if after < l.floor {
		return raftmeta.ErrCompacted
	}
	for r := after + 1; r <= upTo && int(r) <= len(l.revs); r++ {
		if !yield(r, slices.Clone(l.revs[r-1])) {
			return nil
		}
	}
	return nil
}

func (l *log) add(keys ...string) raftmeta.Revision {
	rev := raftmeta.Revision(len(l.revs) + 1)
	var events []raftmeta.Event
	for _, k := range keys {
		events = append(events, raftmeta.Event{Item: raftmeta.Item{Key: k, Mod: rev}})
	}
	l.revs = append(l.revs, events)
	return rev
}

// want returns the next batch that a watcher of prefix must get after rev.
func (l *log) want(prefix string, after raftmeta.Revision) (raftmeta.WatchBatch, bool) {
	for r := int(after); r < len(l.revs); r++ {
		b := raftmeta.WatchBatch{Rev: raftmeta.Revision(r + 1)}
		for _, e := range l.revs[r] {
			if strings.HasPrefix(e.Item.Key, prefix) {
				b.Events = append(b.Events, e)
			}
		}
		if b.Events != nil {
			return b, true
		}
	}
	return raftmeta.WatchBatch{}, false
}

func same(a, b raftmeta.WatchBatch) bool {
	return a.Rev == b.Rev && slices.EqualFunc(a.Events, b.Events, func(x, y raftmeta.Event) bool { return x.Item.Key == y.Item.Key && x.Item.Mod == y.Item.Mod })
}

// TestWatchersSeeEveryChangeOnce publishes, compacts and polls at random: a watcher that is polled rarely, one that
// begins in the past, one that begins in the future.
func TestWatchersSeeEveryChangeOnce(t *testing.T) {
	type client struct {
		*watcher
		at raftmeta.Revision // all up to here was delivered
	}
	rapid.Check(t, func(t *rapid.T) {
		l := new(log)
		h := NewHub(l, 0)
		defer h.Close(raftmeta.ErrClosed)
		var clients []*client
		key := rapid.SampledFrom([]string{"a", "a/1", "a/2", "b", "b/1", "c"})
		published := raftmeta.Revision(0)
		publish := func() {
			for ; int(published) < len(l.revs); published++ {
				h.Publish(published+1, l.revs[published])
			}
		}
		poll := func(c *client) bool {
			b, ok, err := c.poll(context.Background())
			if errors.Is(err, raftmeta.ErrCompacted) {
				if c.at >= l.floor {
					t.Fatalf("watcher of %q at %d: %v, events after %d are kept", c.prefix, c.at, err, l.floor)
				}
				clients = slices.DeleteFunc(clients, func(o *client) bool { return o == c })
				return false
			}
			if err != nil {
				t.Fatal(err)
			}
			want, due := l.want(c.prefix, c.at)
			if due = due && want.Rev <= published; !ok && due {
				t.Fatalf("watcher of %q at %d got nothing, want %v", c.prefix, c.at, want)
			}
			switch {
			case !ok:
				return false
			case len(b.Events) == 0:
				if b.Rev <= c.at || b.Rev > published || due && b.Rev >= want.Rev {
					t.Fatalf("watcher of %q at %d got a bookmark at %d, want %v", c.prefix, c.at, b.Rev, want)
				}
			case !due || !same(b, want):
				t.Fatalf("watcher of %q at %d got %v, want %v, %v", c.prefix, c.at, b, want, due)
			}
			c.at = b.Rev
			return true
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch do := rapid.IntRange(0, 9).Draw(t, "do"); {
			case do < 3:
				for range rapid.SampledFrom([]int{1, 1, 2, 300}).Draw(t, "n") {
					l.add(rapid.SliceOfN(key, 1, 3).Draw(t, "keys")...)
				}
				// What is stored and not yet published may be read from the source already.
				if rapid.Bool().Draw(t, "publish") {
					publish()
				}
			case do == 3:
				publish()
			case do == 4:
				after := raftmeta.Revision(rapid.IntRange(0, len(l.revs)+3).Draw(t, "after"))
				prefix := rapid.SampledFrom([]string{"", "a", "a/", "b", "b/1", "x"}).Draw(t, "prefix")
				w, err := h.Watch(prefix, after)
				if err != nil {
					t.Fatal(err)
				}
				clients = append(clients, &client{w.(*watcher), after})
			case do == 5:
				l.floor = max(l.floor, raftmeta.Revision(rapid.IntRange(0, int(published)).Draw(t, "floor")))
			case do == 6:
				h.bookmarks()
			case do == 7:
				published = raftmeta.Revision(len(l.revs))
				h.Reload(published)
			case len(clients) > 0:
				c := rapid.SampledFrom(clients).Draw(t, "client")
				for range rapid.SampledFrom([]int{1, 2, 500}).Draw(t, "polls") {
					if !poll(c) {
						break
					}
				}
			}
		}
		publish()
		for _, c := range slices.Clone(clients) {
			for poll(c) {
			}
			if !slices.Contains(clients, c) {
				continue // fell behind
			}
			if want, due := l.want(c.prefix, c.at); due {
				t.Fatalf("watcher of %q stops at %d before %v", c.prefix, c.at, want)
			}
			c.Close()
		}
		if len(h.mu.prefixes) != 0 || len(h.mu.lengths) != 0 {
			t.Fatalf("closed watchers leave %v, %v", h.mu.prefixes, h.mu.lengths)
		}
	})
}

func TestSlowWatcherIsBounded(t *testing.T) {
	l := new(log)
	h := NewHub(l, 0)
	defer h.Close(raftmeta.ErrClosed)
	w, err := h.Watch("", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 * maxQueue {
		rev := l.add("k")
		h.Publish(rev, l.revs[rev-1])
	}
	if n := len(w.(*watcher).queue); n > maxQueue {
		t.Errorf("%d batches wait, limit %d", n, maxQueue)
	}
	big := raftmeta.Event{Item: raftmeta.Item{Key: "k", Value: make([]byte, 1<<20)}}
	w2, err := h.Watch("", raftmeta.Revision(len(l.revs)))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		l.revs = append(l.revs, []raftmeta.Event{big})
		h.Publish(raftmeta.Revision(len(l.revs)), l.revs[len(l.revs)-1])
	}
	if n := w2.(*watcher).bytes; n > maxQueueBytes+1<<20 {
		t.Errorf("%d bytes wait, limit %d", n, maxQueueBytes)
	}
	for range 20 {
		if b, err := w2.Next(t.Context()); err != nil || len(b.Events) != 1 {
			t.Fatalf("Next = %v, %v", b, err)
		}
	}
}

func TestBookmarksComeOnceASecondAndOnlyWithChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(log)
		h := NewHub(l, 0)
		w, err := h.Watch("quiet", 0)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan string)
		go func() {
			var got []string
			start := time.Now()
			for {
				b, err := w.Next(context.Background())
				if err != nil {
					done <- strings.Join(got, " ")
					return
				}
				got = append(got, fmt.Sprintf("%d@%v", b.Rev, time.Since(start).Round(time.Millisecond)))
			}
		}()
		for range 40 {
			rev := l.add("noise")
			h.Publish(rev, l.revs[rev-1])
			time.Sleep(70 * time.Millisecond)
		}
		time.Sleep(time.Hour)
		h.Close(raftmeta.ErrClosed)
		if got, want := <-done, "15@1s 30@2.05s 40@3.1s"; got != want {
			t.Errorf("bookmarks %s, want %s", got, want)
		}
	})
}

func TestSourceFailureEndsTheWatcher(t *testing.T) {
	l := &log{err: errors.New("disk on fire")}
	h := NewHub(l, 5)
	defer h.Close(raftmeta.ErrClosed)
	w, err := h.Watch("", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.Next(t.Context()); !errors.Is(err, raftmeta.ErrUnavailable) || !errors.Is(err, l.err) {
			t.Fatalf("Next = %v, want ErrUnavailable with the cause", err)
		}
	}
}
