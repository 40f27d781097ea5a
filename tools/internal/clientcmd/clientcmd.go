// Package clientcmd is the command line of messages: produce, consume and read, with the flags of pulsar-client
// where that has them.
package clientcmd

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/daybook/daybook/broker/client"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/tools/internal/endpoints"
	"github.com/daybook/daybook/tools/internal/tabular"
)

// closeLimit bounds the orderly end of a command.
const closeLimit = 5 * time.Second

// Commands are produce, consume and read. serviceURL answers where the broker is.
func Commands(serviceURL func() string) []*cobra.Command {
	return []*cobra.Command{produce(serviceURL), consume(serviceURL), read(serviceURL)}
}

var compressions = map[string]message.Compression{
	"NONE": message.None, "LZ4": message.LZ4, "ZLIB": message.ZLib, "ZSTD": message.ZStd, "SNAPPY": message.Snappy,
}

func produce(serviceURL func() string) *cobra.Command {
	var messages, files, properties []string
	var key, separator, compression string
	var count int
	var rate float64
	cmd := &cobra.Command{
		Use: "produce TOPIC", Short: "publish messages", GroupID: "data", Args: cobra.ExactArgs(1),
		Long: `Publish messages given as arguments, as files, or, if neither is given, as the lines of standard input.

It ends when every message is acknowledged, that is, durable.`,
		Example: `  daybook produce orders -m 'first' -m 'second'
  daybook produce orders -m '{"id":1}' -k customer-7 -p source=cli -n 10
  generate | daybook produce orders`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			m := client.Message{Key: key}
			if m.Properties, err = parseProperties(properties); err != nil {
				return err
			}
			codec, ok := compressions[strings.ToUpper(compression)]
			if !ok {
				return fmt.Errorf("compression %q: want NONE, LZ4, ZLIB, ZSTD or SNAPPY", compression)
			}
			bodies, err := bodies(messages, separator, files)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			c, err := connect(ctx, serviceURL())
			if err != nil {
				return err
			}
			defer c.Close()
			p, err := c.NewProducer(ctx, client.ProducerConfig{Topic: args[0], Compression: codec, NoRetry: true})
			if err != nil {
				return explain(err, serviceURL())
			}
			defer closeWithin(p.Close)
			s := sender{ctx: ctx, producer: p, failed: make(chan error, 1)}
			if rate > 0 {
				s.tick = time.NewTicker(time.Duration(float64(time.Second) / rate))
				defer s.tick.Stop()
			}
			if len(bodies) > 0 {
				for range count {
					for _, b := range bodies {
						m.Value = b
						if err := s.send(m); err != nil {
							return err
						}
					}
				}
			} else if err := lines(cmd.InOrStdin(), func(line []byte) error {
				m.Value = line
				return s.send(m)
			}); err != nil {
				return err
			}
			if err := s.flush(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d messages successfully produced\n", s.sent)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&messages, "messages", "m", nil, "message to publish; may be given more than once")
	f.StringVarP(&separator, "separator", "s", "", "split each -m at this text (pulsar-client's default is a comma; here nothing is split)")
	f.StringArrayVarP(&files, "files", "f", nil, "file to publish as one message")
	f.IntVarP(&count, "num-produce", "n", 1, "publish everything this many times")
	f.Float64VarP(&rate, "rate", "r", 0, "messages a second at most; 0 is without limit")
	f.StringVarP(&key, "key", "k", "", "key of the messages")
	f.StringSliceVarP(&properties, "properties", "p", nil, "properties of the messages: name=value,…")
	f.StringVarP(&compression, "compression", "c", "NONE", "NONE, LZ4, ZLIB, ZSTD or SNAPPY")
	return cmd
}

// connect is a client that has reached the broker: a command does not wait for one that is not there.
func connect(ctx context.Context, url string) (*client.Client, error) {
	c, err := client.New(client.Config{URL: url})
	if err != nil {
		return nil, err
	}
	if err := c.Connect(ctx); err != nil {
		c.Close()
		return nil, endpoints.Unreachable(url, "--service-url", err)
	}
	return c, nil
}

// A sender publishes and remembers the first failure.
type sender struct {
	ctx      context.Context
	producer *client.Producer
	failed   chan error
	tick     *time.Ticker
	sent     int
}

func (s *sender) send(m client.Message) error {
	if s.tick != nil && s.sent > 0 {
		select {
		case <-s.tick.C:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
	select {
	case err := <-s.failed:
		return err
	default:
	}
	err := s.producer.SendAsync(s.ctx, m, func(_ client.MessageID, err error) {
		if err != nil {
			select {
			case s.failed <- err:
			default:
			}
		}
	})
	if err == nil {
		s.sent++
	}
	return err
}

func (s *sender) flush() error {
	err := s.producer.Flush(s.ctx)
	select {
	case err := <-s.failed:
		return err
	default:
		return err
	}
}

// bodies are the messages that the flags name.
func bodies(messages []string, separator string, files []string) ([][]byte, error) {
	var out [][]byte
	for _, m := range messages {
		if separator == "" {
			out = append(out, []byte(m))
			continue
		}
		for part := range strings.SplitSeq(m, separator) {
			out = append(out, []byte(part))
		}
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

func parseProperties(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(list))
	for _, p := range list {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("property %q: want name=value", p)
		}
		out[k] = v
	}
	return out, nil
}

var subscriptionTypes = map[string]client.SubscriptionType{
	"exclusive": client.Exclusive, "shared": client.Shared, "failover": client.Failover, "key_shared": client.KeyShared,
}

func consume(serviceURL func() string) *cobra.Command {
	var sub, kind, position string
	var count, queue int
	var show printer
	cmd := &cobra.Command{
		Use: "consume TOPIC", Short: "consume messages of a subscription and acknowledge them", GroupID: "data", Args: cobra.ExactArgs(1),
		Example: `  daybook consume orders -s audit -p Earliest -n 10
  daybook consume orders -s audit -t Shared -n 0    # until Ctrl-C`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, ok := subscriptionTypes[strings.ToLower(kind)]
			if !ok {
				return fmt.Errorf("subscription type %q: want Exclusive, Shared, Failover or Key_Shared", kind)
			}
			if p := strings.ToLower(position); p != "latest" && p != "earliest" {
				return fmt.Errorf("subscription position %q: want Latest or Earliest", position)
			}
			ctx := cmd.Context()
			c, err := connect(ctx, serviceURL())
			if err != nil {
				return err
			}
			defer c.Close()
			k, err := c.Subscribe(ctx, client.ConsumerConfig{
				Topic: args[0], Subscription: sub, Type: t, Earliest: strings.EqualFold(position, "earliest"), Queue: queue,
			})
			if err != nil {
				return explain(err, serviceURL())
			}
			defer closeWithin(k.Close)
			return show.each(cmd, count, func() (*client.Received, error) {
				m, err := k.Receive(ctx)
				if err == nil {
					k.Ack(m)
				}
				return m, err
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&sub, "subscription-name", "s", "", "name of the subscription")
	_ = cmd.MarkFlagRequired("subscription-name")
	f.StringVarP(&kind, "subscription-type", "t", "Exclusive", "Exclusive, Shared, Failover or Key_Shared")
	f.StringVarP(&position, "subscription-position", "p", "Latest", "where a new subscription starts: Latest or Earliest")
	f.IntVarP(&count, "num-messages", "n", 1, "how many messages; 0 is without end")
	f.IntVarP(&queue, "queue-size", "q", 0, "messages on their way to the command at most (default 1000)")
	show.flags(cmd)
	return cmd
}

func read(serviceURL func() string) *cobra.Command {
	var start string
	var inclusive bool
	var count, queue int
	var show printer
	cmd := &cobra.Command{
		Use: "read TOPIC", Short: "read messages without a subscription", GroupID: "data", Args: cobra.ExactArgs(1),
		Example: `  daybook read orders -m earliest -n 10
  daybook read orders -m 12:3 -i -n 1
  daybook read orders -n 0                          # what comes from now on, until Ctrl-C`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := client.ParseMessageID(start)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			c, err := connect(ctx, serviceURL())
			if err != nil {
				return err
			}
			defer c.Close()
			r, err := c.NewReader(ctx, client.ReaderConfig{Topic: args[0], Start: id, Inclusive: inclusive, Queue: queue})
			if err != nil {
				return explain(err, serviceURL())
			}
			defer closeWithin(r.Close)
			return show.each(cmd, count, func() (*client.Received, error) { return r.Next(ctx) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&start, "start-message-id", "m", "latest", "start after this message: latest, earliest or ledger:entry")
	f.BoolVarP(&inclusive, "start-message-id-inclusive", "i", false, "start with it, not after it")
	f.IntVarP(&count, "num-messages", "n", 1, "how many messages; 0 is without end")
	f.IntVarP(&queue, "queue-size", "q", 0, "messages on their way to the command at most (default 1000)")
	show.flags(cmd)
	return cmd
}

// A printer prints messages.
type printer struct {
	format      tabular.Format
	hex         bool
	hideContent bool
}

// The text form of a message is the value alone; pulsar-client's is the one with everything.
const (
	formatValue  tabular.Format = "value"
	formatPulsar tabular.Format = "pulsar"
)

func (p *printer) flags(cmd *cobra.Command) {
	tabular.Flag(cmd, &p.format, formatPulsar, formatValue, tabular.JSON)
	cmd.Flags().BoolVar(&p.hex, "hex", false, "print values as hexadecimal digits")
	cmd.Flags().BoolVar(&p.hideContent, "hide-content", false, "do not print the messages")
}

// each prints n messages, or all until the command is stopped if n is 0.
func (p *printer) each(cmd *cobra.Command, n int, next func() (*client.Received, error)) error {
	for i := 0; n == 0 || i < n; i++ {
		m, err := next()
		if err != nil {
			if n == 0 && errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}
		if p.hideContent {
			continue
		}
		if err := p.print(cmd.OutOrStdout(), m); err != nil {
			return err
		}
	}
	return nil
}

func (p *printer) print(w io.Writer, m *client.Received) error {
	value := string(m.Value)
	if p.hex {
		value = hex.EncodeToString(m.Value)
	}
	switch p.format {
	case tabular.JSON:
		o := struct {
			ID         string            `json:"id"`
			Topic      string            `json:"topic"`
			Key        *string           `json:"key"`
			Properties map[string]string `json:"properties,omitempty"`
			Published  int64             `json:"publish_time"`
			Event      int64             `json:"event_time,omitempty"`
			Producer   string            `json:"producer"`
			Sequence   uint64            `json:"sequence_id"`
			Redelivery uint32            `json:"redelivery_count,omitempty"`
			Value      *string           `json:"value,omitempty"`
			Base64     []byte            `json:"value_base64,omitempty"`
		}{
			ID: m.ID.String(), Topic: m.Topic, Properties: m.Properties, Published: m.PublishTime.UnixMilli(),
			Producer: m.ProducerName, Sequence: m.SequenceID, Redelivery: m.RedeliveryCount,
		}
		if m.HasKey {
			o.Key = &m.Key
		}
		if !m.EventTime.IsZero() {
			o.Event = m.EventTime.UnixMilli()
		}
		switch {
		case m.Null:
		case p.hex || utf8.ValidString(value):
			o.Value = &value
		default:
			o.Base64 = m.Value
		}
		return json.NewEncoder(w).Encode(o)
	case formatValue:
		_, err := fmt.Fprintln(w, value)
		return err
	}
	key := "null"
	if m.HasKey {
		key = m.Key
	}
	names := make([]string, 0, len(m.Properties))
	for k := range m.Properties {
		names = append(names, k+"="+m.Properties[k])
	}
	slices.Sort(names)
	event := int64(0)
	if !m.EventTime.IsZero() {
		event = m.EventTime.UnixMilli()
	}
	_, err := fmt.Fprintf(w, "----- got message -----\nmsgId:%s, publishTime:[%d], eventTime:[%d], key:[%s], properties:[%s], content:%s\n",
		m.ID, m.PublishTime.UnixMilli(), event, key, strings.Join(names, ", "), value)
	return err
}

// closeWithin closes a producer or consumer, and gives up on it after a while.
func closeWithin(end func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	_ = end(ctx) // the command has its result already
}

func explain(err error, url string) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w (at %s)", err, url)
}
