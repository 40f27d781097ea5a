package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/client"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/tests/cluster"
)

// smallDisk mounts a new ext4 file system of so many MiB from a file and answers where. It is taken away when
// the test ends.
func smallDisk(t *testing.T, mib int64) string {
	t.Helper()
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, mib<<20), os.Mkdir(mnt, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", image}, {"mount", "-o", "loop", image, mnt}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("a small file system cannot be made (this test needs root, mkfs.ext4 and loop devices): %s: %v\n%s",
				strings.Join(args, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mnt, 0); err != nil {
			t.Errorf("unmount the small file system: %v", err)
			_ = syscall.Unmount(mnt, syscall.MNT_DETACH)
		}
	})
	return mnt
}

// A filler publishes numbered messages of 32 KiB, and knows what was acknowledged.
type filler struct {
	t     *testing.T
	p     *client.Producer
	topic string
	seed  uint64
	acked int // messages 0 … acked-1 of this filler
}

const fillSize = 32 << 10

func newFiller(t *testing.T, c *client.Client, topic string, seed uint64) *filler {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: topic, NoRetry: true})
	if err != nil {
		t.Fatalf("producer on %s: %v", topic, err)
	}
	return &filler{t: t, p: p, topic: topic, seed: seed}
}

// value is message i: its number as text, then noise that does not compress.
func (f *filler) value(i int) []byte {
	b := fmt.Appendf(make([]byte, 0, fillSize), "%08d ", i)
	r := rand.New(rand.NewPCG(f.seed, uint64(i)))
	for len(b) < fillSize {
		b = append(b, 'a'+byte(r.Uint32()%26))
	}
	return b
}

// send publishes the next message and waits for its answer.
func (f *filler) send() error {
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	_, err := f.p.Send(ctx, client.Message{Value: f.value(f.acked)})
	if err == nil {
		f.acked++
	}
	return err
}

// fill publishes until the broker refuses, which it must do with PersistenceError before limit bytes are stored.
func (f *filler) fill(limit int) {
	f.t.Helper()
	for f.acked*fillSize < limit {
		if err := f.send(); err != nil {
			if !errors.Is(err, serr.PersistenceError) {
				f.t.Fatalf("publish to a full disk = %v, want PersistenceError", err)
			}
			return
		}
	}
	f.t.Fatalf("%d messages of %d bytes fit on the disk: nothing was refused", f.acked, fillSize)
}

// check reads the topic from its start: what was acknowledged is there, once and in order, and nothing else.
func (f *filler) check(c *client.Client) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 60*time.Second)
	defer cancel()
	r, err := c.NewReader(ctx, client.ReaderConfig{Topic: f.topic, Queue: 100})
	if err != nil {
		f.t.Fatalf("reader of %s: %v", f.topic, err)
	}
	defer r.Close(ctx)
	n := 0
	for {
		more, err := r.HasNext(ctx)
		if err != nil {
			f.t.Fatalf("read %s after %d messages: %v", f.topic, n, err)
		}
		if !more {
			break
		}
		m, err := r.Next(ctx)
		if err != nil {
			f.t.Fatalf("read %s after %d messages: %v", f.topic, n, err)
		}
		if !bytes.Equal(m.Value, f.value(n)) {
			f.t.Fatalf("%s: message %d is not what was published, or not in its place: %.20q", f.topic, n, m.Value)
		}
		n++
	}
	if n != f.acked {
		f.t.Fatalf("%s has %d messages, %d were acknowledged", f.topic, n, f.acked)
	}
}

// count is what SQL says a topic holds.
func count(t *testing.T, s *cluster.Server, topic string) string {
	t.Helper()
	rows, err := s.SQL(fmt.Sprintf("SELECT count(*) FROM %s", topic))
	if err != nil {
		t.Fatalf("count %s: %v", topic, err)
	}
	return fmt.Sprint(rows[0][0])
}

// receive takes n messages of the subscription "sub", which must be the next ones, acknowledges them, and
// closes the consumer.
func receive(t *testing.T, c *client.Client, f *filler, from, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	k, err := c.Subscribe(ctx, client.ConsumerConfig{Topic: f.topic, Subscription: "sub", Earliest: true, Queue: 50})
	if err != nil {
		t.Fatalf("subscribe to %s: %v", f.topic, err)
	}
	for i := range n {
		m, err := k.Receive(ctx)
		if err != nil {
			t.Fatalf("receive message %d of %s: %v", from+i, f.topic, err)
		}
		if !bytes.Equal(m.Value, f.value(from+i)) {
			t.Fatalf("%s: received %.20q, want message %d", f.topic, m.Value, from+i)
		}
		k.Ack(m)
	}
	if err := k.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// On a full disk publishes are refused with PersistenceError before anything is written; reads, SQL,
// acknowledgements and deletes go on, also after a kill; and what a delete frees is written again without a
// restart.
func TestFullDiskRefusesAndRecovers(t *testing.T) {
	disk := smallDisk(t, 128)
	s := cluster.Start(t, cluster.Options{DataDir: filepath.Join(disk, "data")})
	connect := func() *client.Client {
		c, err := client.New(client.Config{URL: s.Service})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	c := connect()
	kept := newFiller(t, c, "kept", 1)
	for range 100 {
		if err := kept.send(); err != nil {
			t.Fatal(err)
		}
	}
	receive(t, c, kept, 0, 10)
	big := newFiller(t, c, "big", 2)
	big.fill(120 << 20)
	t.Logf("refused after %d MiB", big.acked*fillSize>>20)

	goesOn := func(when string, seen int) {
		t.Helper()
		// First, so that the rest takes longer than the 100 ms of acknowledgements that a kill may cost.
		receive(t, c, kept, seen, 10)
		// Refusals go on and leave nothing behind.
		for _, f := range []*filler{big, kept} {
			if err := f.send(); !errors.Is(err, serr.PersistenceError) {
				t.Fatalf("%s: publish to %s = %v, want PersistenceError", when, f.topic, err)
			}
		}
		kept.check(c)
		big.check(c)
		for _, f := range []*filler{big, kept} {
			if n := count(t, s, f.topic); n != fmt.Sprint(f.acked) {
				t.Fatalf("%s: SQL counts %s messages in %s, %d were acknowledged", when, n, f.topic, f.acked)
			}
		}
	}
	goesOn("full", 10)

	s.Kill()
	s.Restart()
	c = connect()
	kept.p, big.p = newFiller(t, c, "kept", 1).p, newFiller(t, c, "big", 2).p
	goesOn("full, after a kill", 20)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_ = big.p.Close(ctx)
	s.Run("topics", "delete", "-f", "persistent://public/default/big")
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := kept.send()
		if err == nil {
			break
		}
		if !errors.Is(err, serr.PersistenceError) || time.Now().After(deadline) {
			t.Fatalf("publish after space was freed: %v", err)
		}
	}
	again := newFiller(t, c, "again", 3)
	for range 500 {
		if err := again.send(); err != nil {
			t.Fatalf("publish after space was freed: %v, after %d messages", err, again.acked)
		}
	}
	receive(t, c, kept, 30, 10)
	again.check(c)
	kept.check(c)

	s.Kill()
	s.Restart()
	c = connect()
	again.check(c)
	kept.check(c)
	receive(t, c, kept, 40, 10)
}

// fillDisk writes a file until nothing fits on the disk any more, and answers how to take it away.
func fillDisk(t *testing.T, disk string) (free func()) {
	t.Helper()
	name := filepath.Join(disk, fmt.Sprintf("hog-%d", time.Now().UnixNano()))
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10} {
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// Where others have taken all the room while the server was down, it starts on its reserve; where that is gone too
// it says so at once; and with room again it is as before.
func TestStartOnAFullDisk(t *testing.T) {
	disk := smallDisk(t, 128)
	dir := filepath.Join(disk, "data")
	s := cluster.Start(t, cluster.Options{DataDir: dir})
	s.Run("produce", "t", "-m", "before")
	s.Kill()

	first := fillDisk(t, disk)
	s.Restart()
	if n := count(t, s, "t"); n != "1" {
		t.Fatalf("SQL counts %s messages, want 1", n)
	}
	if _, err := s.TryRun("produce", "t", "-m", "refused"); err == nil || !strings.Contains(err.Error(), "PersistenceError") {
		t.Fatalf("publish to a full disk: %v, want PersistenceError", err)
	}
	s.Kill()

	second := fillDisk(t, disk)
	refused(t, []string{"standalone", "--data-dir", dir, "--broker-port=0", "--http-port=0"}, dir, "full")

	second()
	first()
	s.Restart()
	s.Run("produce", "t", "-m", "after")
	if n := count(t, s, "t"); n != "2" {
		t.Fatalf("SQL counts %s messages, want 2", n)
	}
}
