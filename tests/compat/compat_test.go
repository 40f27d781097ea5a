// Package compat runs unmodified official clients against the built binary. It is a module of its own so
// that those clients stay out of the product.
package compat

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/pulsar-client-go/pulsar"
	plog "github.com/apache/pulsar-client-go/pulsar/log"

	"github.com/daybook/daybook/tests/cluster"
)

func newClient(t *testing.T, s *cluster.Server) pulsar.Client {
	t.Helper()
	c, err := pulsar.NewClient(pulsar.ClientOptions{
		URL: s.Service, OperationTimeout: 30 * time.Second,
		Logger: plog.NewLoggerWithSlog(slog.New(slog.NewTextHandler(io.Discard, nil))),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func context60(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// id is a message id as comparable text: ledger:entry:batch index.
func id(m pulsar.MessageID) string {
	return fmt.Sprintf("%d:%d:%d", m.LedgerID(), m.EntryID(), max(m.BatchIdx(), 0))
}

// A flavour is one way to publish.
type flavour struct {
	name string
	opts pulsar.ProducerOptions
}

// flavours are the ways to publish: batched by the default or by keys or not at all, with each compression
// in use. Key_Shared keeps the order of keys only where an entry holds one key, so its batches are by key.
func flavours(byKey bool) []flavour {
	fs := []flavour{
		{"batched", pulsar.ProducerOptions{}},
		{"batched-lz4", pulsar.ProducerOptions{CompressionType: pulsar.LZ4}},
		{"batched-zstd", pulsar.ProducerOptions{CompressionType: pulsar.ZSTD}},
		{"plain", pulsar.ProducerOptions{DisableBatching: true}},
		{"plain-lz4", pulsar.ProducerOptions{DisableBatching: true, CompressionType: pulsar.LZ4}},
	}
	for i := range fs {
		o := &fs[i].opts
		o.Name = fs[i].name
		o.MaxPendingMessages = 2000
		o.BatchingMaxPublishDelay = 2 * time.Millisecond
		if byKey && !o.DisableBatching {
			o.BatcherBuilderType = pulsar.KeyBasedBatchBuilder
		}
	}
	return fs
}

const filler = " the quick brown fox jumps over the lazy dog, and the lazy dog lets it"

// payload is "flavour number filler"; parse is its inverse.
func payload(name string, n int) []byte { return []byte(name + " " + strconv.Itoa(n) + filler) }

func parse(t *testing.T, b []byte) (name string, n int) {
	t.Helper()
	f := strings.SplitN(string(b), " ", 3)
	n, err := strconv.Atoi(f[1])
	if err != nil || len(f) != 3 || " "+f[2] != filler {
		t.Fatalf("payload damaged: %q", b)
	}
	return f[0], n
}

// lines is what wc -l says of a file.
func lines(t *testing.T, file string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "wc", "-l", file).CombinedOutput()
	if err != nil {
		t.Fatalf("wc -l %s: %v: %s", file, err, out)
	}
	n, err := strconv.Atoi(strings.Fields(string(out))[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// count is SELECT count(*) of a topic of public/default.
func count(t *testing.T, s *cluster.Server, topic string) int {
	t.Helper()
	rows, err := s.SQL(`SELECT count(*) FROM pulsar."public/default"."` + topic + `"`)
	if err != nil {
		t.Fatalf("SELECT count(*) of %s: %v", topic, err)
	}
	return int(rows[0][0].(float64))
}
