package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/client"
	"github.com/daybook/daybook/broker/wire"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/tests/cluster"
)

// A rawConn is a connection whose bytes the test writes itself.
type rawConn struct {
	t   *testing.T
	nc  net.Conn
	in  *wire.Reader
	cmd wire.Command
}

func dialRaw(t *testing.T, s *cluster.Server) *rawConn {
	t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(s.Service, "pulsar://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	return &rawConn{t: t, nc: nc, in: wire.NewReader(nc, wire.MaxFrame(wire.DefaultMaxMessageSize))}
}

func connectRaw(t *testing.T, s *cluster.Server) *rawConn {
	t.Helper()
	c := dialRaw(t, s)
	c.write(wire.AppendFrame(nil, &pb.CommandConnect{ClientVersion: new("raw"), ProtocolVersion: new(int32(wire.ProtocolVersion))}))
	answer[*pb.CommandConnected](c)
	return c
}

func (c *rawConn) write(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// next is the next command from the broker.
func (c *rawConn) next() (*wire.Command, error) {
	frames, err := c.in.Next(nil)
	if err != nil {
		return nil, err
	}
	if len(frames) != 1 {
		return nil, fmt.Errorf("%d frames at once, want 1", len(frames))
	}
	command, _, err := wire.SplitFrame(frames[0])
	if err != nil {
		return nil, err
	}
	return &c.cmd, c.cmd.Decode(command)
}

func answer[B wire.Body](c *rawConn) B {
	c.t.Helper()
	cmd, err := c.next()
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	body, ok := cmd.Body.(B)
	if !ok {
		c.t.Fatalf("the broker answered %v: %v", cmd.Type, cmd.Body)
	}
	return body
}

// wantCut fails the test unless the broker ends the connection without a word.
func (c *rawConn) wantCut() {
	c.t.Helper()
	switch cmd, err := c.next(); {
	case err == nil:
		c.t.Errorf("the broker answered %v: %v; want an end of the connection", cmd.Type, cmd.Body)
	case errors.Is(err, net.ErrClosed), isTimeout(err):
		c.t.Errorf("the broker did not end the connection: %v", err)
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

func (c *rawConn) produce(topic string) {
	c.t.Helper()
	c.write(wire.AppendFrame(nil, &pb.CommandProducer{Topic: &topic, ProducerId: new(uint64(1)), RequestId: new(uint64(1))}))
	answer[*pb.CommandProducerSuccess](c)
}

func sendFrame(t *testing.T, sequence uint64, value string) []byte {
	t.Helper()
	payload, err := message.AppendSingle(nil, &message.Header{ProducerName: "raw", PublishTime: 1}, &message.Outgoing{Value: []byte(value), SequenceID: sequence})
	if err != nil {
		t.Fatal(err)
	}
	s := wire.Send{ProducerID: 1, SequenceID: sequence, Messages: 1}
	return append(s.AppendFrame(nil, len(payload)), payload...)
}

// bystander publishes, one message after the other, as long as the test runs, over a connection of its own, which must
// never be touched.
type bystander struct {
	stop context.CancelFunc
	done chan struct{}
	sent int
	err  error
}

func publishMeanwhile(t *testing.T, s *cluster.Server) *bystander {
	t.Helper()
	dials := 0
	c, err := client.New(client.Config{URL: s.Service, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials++ // the client dials one address, and dials it again only if the connection ends
		if dials > 1 {
			return nil, errors.New("the connection of the bystander was cut")
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: "bystander", NoRetry: true})
	if err != nil {
		t.Fatal(err)
	}
	b := &bystander{stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		defer c.Close()
		for ctx.Err() == nil {
			once, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, err := p.Send(once, client.Message{Value: fmt.Append(nil, b.sent)})
			cancel()
			if err != nil {
				b.err = fmt.Errorf("message %d: %w", b.sent, err)
				return
			}
			b.sent++
		}
	}()
	return b
}

// end stops the bystander and checks that each of its messages is there once.
func (b *bystander) end(t *testing.T, s *cluster.Server) {
	t.Helper()
	b.stop()
	<-b.done
	if b.err != nil {
		t.Errorf("the healthy connection: %v", b.err)
	}
	if b.sent == 0 {
		t.Error("the healthy connection published nothing")
	}
	rows, err := s.SQL("SELECT count(*) FROM bystander")
	if err != nil || rows[0][0].(float64) != float64(b.sent) {
		t.Errorf("SQL counts %v, %v; %d were acknowledged", rows, err, b.sent)
	}
}

// Whatever one client sends, it gets the protocol's own answer, and nobody else notices.
func TestBadFramesHarmNobodyElse(t *testing.T) {
	s := cluster.Start(t, cluster.Options{})
	healthy := publishMeanwhile(t, s)
	frame := func(body ...byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	t.Run("oversized frame", func(t *testing.T) {
		c := connectRaw(t, s)
		c.write([]byte{0x7f, 0xff, 0xff, 0xff})
		c.wantCut()
	})
	t.Run("large first frame", func(t *testing.T) {
		c := dialRaw(t, s)
		c.write([]byte{0, 0x40, 0, 0})
		c.wantCut()
	})
	t.Run("command longer than its frame", func(t *testing.T) {
		c := connectRaw(t, s)
		c.write(frame(0, 0, 0, 99, 8, 2))
		c.wantCut()
	})
	t.Run("bytes that are no command", func(t *testing.T) {
		c := connectRaw(t, s)
		c.write(frame(0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff))
		c.wantCut()
	})
	t.Run("unknown command", func(t *testing.T) {
		c := connectRaw(t, s)
		c.write(frame(0, 0, 0, 3, 8, 0xe7, 7)) // type 999
		c.wantCut()
	})
	t.Run("command before CONNECT", func(t *testing.T) {
		c := dialRaw(t, s)
		c.write(wire.AppendFrame(nil, &pb.CommandLookupTopic{Topic: new("persistent://public/default/x"), RequestId: new(uint64(1))}))
		c.wantCut()
	})
	t.Run("another protocol", func(t *testing.T) {
		c := dialRaw(t, s)
		c.write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		c.wantCut()
	})
	t.Run("send without a producer", func(t *testing.T) {
		c := connectRaw(t, s)
		c.write(sendFrame(t, 0, "x"))
		c.wantCut()
	})
	t.Run("wrong checksum", func(t *testing.T) {
		c := connectRaw(t, s)
		c.produce("persistent://public/default/checksums")
		bad := sendFrame(t, 7, "to be damaged")
		bad[len(bad)-1] ^= 1
		c.write(bad)
		if e := answer[*pb.CommandSendError](c); e.GetError() != pb.ServerError_ChecksumError || e.GetSequenceId() != 7 || e.GetProducerId() != 1 {
			t.Errorf("the broker answered %v", e)
		}
		c.write(sendFrame(t, 8, "whole")) // the connection and the producer live on
		if cmd, err := c.next(); err != nil || cmd.Type != wire.TypeSendReceipt || cmd.Receipt.SequenceID != 8 {
			t.Errorf("a whole message after it: %v, %v", cmd, err)
		}
		if out := s.Run("read", "checksums", "-m", "earliest", "-n", "1", "-o", "value"); out != "whole\n" {
			t.Errorf("stored is %q", out)
		}
	})
	t.Run("illegal topic name", func(t *testing.T) {
		c := connectRaw(t, s)
		for i, topic := range []string{"", "persistent://public", "persistent://public/default/", "bogus://public/default/x"} {
			id := uint64(i + 1)
			c.write(wire.AppendFrame(nil, &pb.CommandProducer{Topic: &topic, ProducerId: &id, RequestId: &id}))
			if e := answer[*pb.CommandError](c); e.GetError() != pb.ServerError_InvalidTopicName || e.GetRequestId() != id {
				t.Errorf("%q: the broker answered %v", topic, e)
			}
		}
		c.write(wire.AppendPing(nil)) // the connection lives on
		if cmd, err := c.next(); err != nil || cmd.Type != wire.TypePong {
			t.Errorf("PING: %v, %v", cmd, err)
		}
	})
	t.Run("half a frame", func(t *testing.T) {
		c := connectRaw(t, s)
		c.produce("persistent://public/default/halves")
		f := sendFrame(t, 0, "never whole")
		c.write(f[:len(f)/2])
		c.nc.Close()
		if rows, err := s.SQL("SELECT count(*) FROM halves"); err != nil || rows[0][0].(float64) != 0 {
			t.Errorf("SQL counts %v, %v", rows, err)
		}
	})
	t.Run("half-open connections", func(t *testing.T) {
		for range 50 { // they say nothing, and stay as long as the test
			dialRaw(t, s)
		}
		connectRaw(t, s)
	})
	healthy.end(t, s)
}

// The HTTP port answers what it does not understand with a status, a reason and nothing else.
func TestBadRequestsAreAnswered(t *testing.T) {
	s := cluster.Start(t, cluster.Options{})
	healthy := publishMeanwhile(t, s)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/nosuch", "", 404, ""},
		{"GET", "/admin/v2/nosuch", "", 404, `"reason"`},
		{"BOGUS", "/admin/v2/tenants", "", 405, `"reason"`},
		{"PUT", "/admin/v2/tenants/x", "{bad", 400, `"reason"`},
		{"GET", "/admin/v2/persistent/public/default/nosuch/stats", "", 404, "not found"},
		{"GET", "/admin/v2/persistent/a%00b/c/d/stats", "", 412, `"reason"`},
		{"PUT", "/admin/v2/persistent/public/default/x%2Fy%2F%2Fz/partitions", "1", 412, `not valid`},
		{"POST", "/v1/statement", "", 400, "empty"},
		{"GET", "/v1/statement/executing/nosuch/x/1", "", 404, "not found"},
		{"GET", "/daybook/fs/nosuch", "", 400, `"errno"`},
		{"GET", "/daybook/fs/%2e%2e/%2e%2e/etc/passwd", "", 400, `"errno"`},
		{"GET", "/daybook/fs/%ff%00", "", 400, `"errno"`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, s.Admin+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
			continue
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != c.status || !strings.Contains(string(b), c.want) || len(b) > 1000 {
			t.Errorf("%s %s: %d %.200s, %v; want %d with %q", c.method, c.path, res.StatusCode, b, err, c.status, c.want)
		}
	}
	for _, raw := range []string{"garbage\r\n\r\n", "\x00\x00\x00\x05\x00\x00\x00\x01\x08", "GET /" + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\n\r\n"} {
		nc, err := net.Dial("tcp", strings.TrimPrefix(s.Admin, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(nc, raw) // the server may hang up in the middle
		if _, err := nc.Write([]byte("\r\n\r\n")); err == nil {
			if line, err := bufio.NewReader(nc).ReadString('\n'); err == nil && !strings.Contains(line, " 4") {
				t.Errorf("%.20q was answered with %q", raw, line)
			} else if isTimeout(err) {
				t.Errorf("%.20q was not answered", raw)
			}
		}
		nc.Close()
	}
	for statement, want := range map[string]string{
		"SELEC 1":                      "line 1:1",
		"SELECT 'open":                 "line 1:8",
		"SELECT *\nFROM nosuch":        "line 2:6",
		"SELECT nosuch FROM bystander": "line 1:8",
		"SELECT 1 / 0":                 "Division by zero",
		strings.Repeat("(", 100_000):   "",
		"SELECT " + strings.Repeat("1+", 100_000) + "1": "",
	} {
		if _, err := s.SQL(statement); err == nil && want != "" || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %.300v, want an error with %q", statement, err, want)
		}
	}
	if res, err := http.Get(s.Admin + "/admin/v2/brokers/health"); err != nil {
		t.Error(err)
	} else {
		res.Body.Close()
		if res.StatusCode != 200 {
			t.Errorf("health: %s", res.Status)
		}
	}
	healthy.end(t, s)
}
