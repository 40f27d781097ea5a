package clientcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/daybook/daybook/broker/server"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/raftmeta/metatest"
)

// start runs a broker over storage in memory and answers its URL.
func start(t *testing.T) string {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	store := metatest.New()
	bookie := ledgertest.NewCluster(1).At(0)
	ledgers := ledger.New(ledger.Config{Store: store, Bookies: ledger.Single(bookie.Member(), bookie), Logger: log})
	s, err := server.New(server.Config{Listen: "127.0.0.1:0", HTTPListen: "127.0.0.1:0"}, server.Deps{Meta: store, Ledgers: ledgers, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		ledgers.Close()
	})
	return s.ServiceURL()
}

func run(t *testing.T, url, in string, args ...string) (out, errs string, err error) {
	t.Helper()
	root := &cobra.Command{Use: "daybook", SilenceErrors: true, SilenceUsage: true}
	root.AddGroup(&cobra.Group{ID: "data"})
	root.AddCommand(Commands(func() string { return url })...)
	var o, e bytes.Buffer
	root.SetOut(&o)
	root.SetErr(&e)
	root.SetIn(strings.NewReader(in))
	root.SetArgs(args)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = root.ExecuteContext(ctx)
	return o.String(), e.String(), err
}

func TestWhatIsProducedIsConsumedAndRead(t *testing.T) {
	url := start(t)
	file := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(file, []byte("of a\nfile"), 0o644); err != nil {
		t.Fatal(err)
	}
	do := func(in string, args ...string) string {
		t.Helper()
		out, _, err := run(t, url, in, args...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out
	}
	do("", "produce", "t", "-m", "a;b", "-s", ";", "-m", "c", "-f", file, "-k", "key", "-p", "x=1,y=2", "-c", "zstd", "-n", "2")
	do("first line\n\nlast", "produce", "t")
	want := strings.Repeat("a\nb\nc\nof a\nfile\n", 2) + "first line\n\nlast\n"
	if got := do("", "consume", "t", "-s", "s", "-p", "earliest", "-n", "11", "-o", "value"); got != want {
		t.Errorf("consumed %q, want %q", got, want)
	}
	if got := do("", "read", "t", "-m", "earliest", "-n", "11", "-o", "value"); got != want {
		t.Errorf("read %q, want %q", got, want)
	}
	do("", "produce", "t", "-m", "new")
	if got := do("", "consume", "t", "-s", "s", "-n", "1", "-o", "value"); got != "new\n" {
		t.Errorf("the subscription went on with %q", got)
	}
	var m struct {
		ID, Key, Value string
		Properties     map[string]string
	}
	if err := json.Unmarshal([]byte(do("", "read", "t", "-m", "earliest", "-n", "1", "-o", "json")), &m); err != nil || m.Key != "key" || m.Value != "a" || fmt.Sprint(m.Properties) != "map[x:1 y:2]" {
		t.Errorf("as JSON: %+v, %v", m, err)
	}
	if got := do("", "read", "t", "-m", "earliest", "-n", "1"); !strings.Contains(got, "key:[key], properties:[x=1, y=2], content:a\n") {
		t.Errorf("as pulsar-client prints it: %q", got)
	}
	if got := do("", "read", "t", "-m", "earliest", "-n", "1", "-o", "value", "--hex"); got != "61\n" {
		t.Errorf("as hexadecimal digits: %q", got)
	}
}

func TestWrongCallsAreToldAtOnce(t *testing.T) {
	url := start(t)
	for line, want := range map[string]string{
		"produce t -m x -c gzip":     "LZ4",
		"produce t -m x -p nameless": "name=value",
		"produce t -f /nosuch":       "/nosuch",
		"produce a//b -m x":          "invalid name",
		"produce no/such/t -m x":     "TopicNotFound",
		"consume t -s s -t nosuch":   "Key_Shared",
		"consume t -s s -p middle":   "Earliest",
		"consume t":                  "subscription-name",
		"read t -m nosuch":           "ledger:entry",
		"read t -o xml":              "want one of",
	} {
		if out, _, err := run(t, url, "", strings.Fields(line)...); err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%s: %v, want %q; printed %q", line, err, want, out)
		}
	}
	if _, _, err := run(t, "pulsar://127.0.0.1:1", "", "produce", "t", "-m", "x"); err == nil || !strings.Contains(err.Error(), "--service-url") {
		t.Errorf("without a server: %v", err)
	}
}
