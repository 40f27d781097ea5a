package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/daybook/daybook/broker/client"
	"github.com/daybook/daybook/broker/server"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/raftmeta/metatest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { http.DefaultClient.CloseIdleConnections() }))
}

// storage is what a broker stands on; it outlives brokers.
type storage struct {
	meta   *metatest.Store
	bookie *ledgertest.Bookie
}

func newStorage() *storage {
	return &storage{metatest.New(), ledgertest.NewCluster(1).At(0)}
}

// start runs a broker; stop ends it and reports how.
func (st *storage) start(t testing.TB, cfg server.Config, mount ...string) (s *server.Server, stop func() error) {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	cfg.HTTPListen = "127.0.0.1:0"
	log := slog.New(slog.DiscardHandler)
	ledgers := ledger.New(ledger.Config{Store: st.meta, Bookies: ledger.Single(st.bookie.Member(), st.bookie), Logger: log})
	s, err := server.New(cfg, server.Deps{Meta: st.meta, Ledgers: ledgers, Logger: log})
	if err != nil {
		ledgers.Close()
		t.Fatal(err)
	}
	for _, pattern := range mount {
		s.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "mounted") }))
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err := s.Close(ctx)
		ledgers.Close()
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s, stop
}

func get(t testing.TB, url string) (status int, body string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(b)
}

func TestServesBothPorts(t *testing.T) {
	s, _ := newStorage().start(t, server.Config{Version: "1.2.3"}, "/files/")
	if s.ServiceURL() != "pulsar://"+s.Addr().String() || s.HTTPURL() != "http://"+s.HTTPAddr().String() {
		t.Errorf("URLs %s and %s", s.ServiceURL(), s.HTTPURL())
	}
	if status, body := get(t, s.HTTPURL()+"/admin/v2/brokers/health"); status != 200 || body != "ok" {
		t.Errorf("health: %d %q", status, body)
	}
	if status, body := get(t, s.HTTPURL()+"/files/x"); status != 200 || body != "mounted" {
		t.Errorf("mounted handler: %d %q", status, body)
	}
	if status, _ := get(t, s.HTTPURL()+"/elsewhere"); status != 404 {
		t.Errorf("unknown path: %d", status)
	}
	status, body := get(t, s.HTTPURL()+"/lookup/v2/topic/persistent/public/default/t")
	var found struct{ BrokerURL string }
	if err := json.Unmarshal([]byte(body), &found); status != 200 || err != nil || found.BrokerURL != s.ServiceURL() {
		t.Errorf("lookup: %d %s", status, body)
	}
	// An escaped name is not taken for a path to be cleaned.
	if status, body := get(t, s.HTTPURL()+"/admin/v2/persistent/public/default/a%2F%2Fb/stats"); status == 301 || strings.Contains(body, "Moved") {
		t.Errorf("escaped name: %d %s", status, body)
	}
}

func handshake(t testing.TB, s *server.Server) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	nc.Write(wire.AppendFrame(nil, &pb.CommandConnect{ClientVersion: new("x")}))
	return nc
}

func read(nc net.Conn) (*wire.Command, error) {
	frames, err := wire.NewReader(nc, 1<<20).Next(nil)
	if err != nil {
		return nil, err
	}
	command, _, err := wire.SplitFrame(frames[0])
	if err != nil {
		return nil, err
	}
	c := new(wire.Command)
	return c, c.Decode(command)
}

func TestLookupAnswersWithTheAddressThatTheClientReached(t *testing.T) {
	for advertised, want := range map[string]string{"": "pulsar://127.0.0.1:", "broker.example": "pulsar://broker.example:"} {
		s, _ := newStorage().start(t, server.Config{Listen: ":0", AdvertisedAddress: advertised})
		_, port, _ := net.SplitHostPort(s.Addr().String())
		nc, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(10 * time.Second))
		nc.Write(wire.AppendFrame(nil, &pb.CommandConnect{ClientVersion: new("x")}))
		if c, err := read(nc); err != nil || !strings.HasPrefix(c.Body.(*pb.CommandConnected).GetServerVersion(), "Pulsar Server") {
			t.Fatalf("handshake: %v, %v", c, err)
		}
		nc.Write(wire.AppendFrame(nil, &pb.CommandLookupTopic{Topic: new("t"), RequestId: new(uint64(1))}))
		c, err := read(nc)
		if err != nil {
			t.Fatal(err)
		}
		if r := c.Body.(*pb.CommandLookupTopicResponse); r.GetBrokerServiceUrl() != want+port {
			t.Errorf("advertised %q: lookup answers %v", advertised, r)
		}
	}
}

func TestTooManyConnectionsAreRefused(t *testing.T) {
	s, _ := newStorage().start(t, server.Config{MaxConnections: 2})
	one, two := handshake(t, s), handshake(t, s)
	for _, nc := range []net.Conn{one, two} {
		if _, err := read(nc); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := read(handshake(t, s)); err == nil {
		t.Errorf("the third got %v", c.Type)
	}
	one.Write(wire.AppendPing(nil))
	if c, err := read(one); err != nil || c.Type != wire.TypePong {
		t.Errorf("the first: %v, %v", c, err)
	}
}

func TestTakenPort(t *testing.T) {
	st := newStorage()
	s, _ := st.start(t, server.Config{})
	_, err := server.New(server.Config{Listen: s.Addr().String(), HTTPListen: "127.0.0.1:0"}, server.Deps{Meta: st.meta})
	if err == nil || !strings.Contains(err.Error(), "listen for clients") {
		t.Errorf("New on a taken port: %v", err)
	}
	_, err = server.New(server.Config{Listen: "127.0.0.1:0", HTTPListen: s.HTTPAddr().String()}, server.Deps{Meta: st.meta})
	if err == nil || !strings.Contains(err.Error(), "listen for HTTP") {
		t.Errorf("New on a taken port: %v", err)
	}
}

// Clients that are connected, and in the middle of things, do not hold up the end; what was acknowledged is
// there after the next start, on another port.
func TestCloseAndStartAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	st := newStorage()
	s, stop := st.start(t, server.Config{})
	c, err := client.New(client.Config{URL: s.ServiceURL()})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.Subscribe(ctx, client.ConsumerConfig{Topic: "t", Subscription: "s", Earliest: true})
	if err != nil {
		t.Fatal(err)
	}
	var last client.MessageID
	for i := range 100 {
		if last, err = p.Send(ctx, client.Message{Value: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		m, err := k.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		k.Ack(m)
	}
	if _, err := c.Partitions(ctx, "t"); err != nil { // behind the acknowledgements on the same connection
		t.Fatal(err)
	}
	idle := handshake(t, s)
	read(idle)
	start := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("closing took %v", d)
	}
	if _, err := read(idle); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection ended with %v", err)
	}
	if err := s.Close(ctx); err != nil {
		t.Errorf("second close: %v", err)
	}
	c.Close()

	s, _ = st.start(t, server.Config{})
	if c, err = client.New(client.Config{URL: s.ServiceURL()}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if k, err = c.Subscribe(ctx, client.ConsumerConfig{Topic: "t", Subscription: "s"}); err != nil {
		t.Fatal(err)
	}
	for i := 50; i < 100; i++ {
		m, err := k.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Value) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, m.Value)
		}
		if i == 99 && m.ID != last {
			t.Errorf("the last message has id %v, was %v", m.ID, last)
		}
	}
}
