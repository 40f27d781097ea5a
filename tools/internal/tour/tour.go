// Package tour is the data set of the README's tour: see README.md beside it for its source and licence.
package tour

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"time"

	"github.com/daybook/daybook/broker/client"
	pb "github.com/daybook/daybook/broker/wire/wirepb"
)

// Topic is where the data set is published.
const Topic = "persistent://public/default/earthquakes"

//go:embed earthquakes.ndjson
var earthquakes []byte

// Schema is the JSON schema of the messages: as in Pulsar an Avro record definition.
const Schema = `{"type":"record","name":"Earthquake","namespace":"tour","fields":[` +
	`{"name":"id","type":["null","string"],"default":null},` +
	`{"name":"time","type":"long"},` +
	`{"name":"magnitude","type":"double"},` +
	`{"name":"place","type":["null","string"],"default":null},` +
	`{"name":"net","type":["null","string"],"default":null},` +
	`{"name":"type","type":["null","string"],"default":null},` +
	`{"name":"longitude","type":"double"},` +
	`{"name":"latitude","type":"double"},` +
	`{"name":"depth","type":"double"}]}`

// Publish publishes the data set through the broker at serviceURL: one message for each earthquake, keyed by the
// network that reported it, with the time of the quake as event time. It returns how many.
func Publish(ctx context.Context, serviceURL string) (int, error) {
	c, err := client.New(client.Config{URL: serviceURL})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	p, err := c.NewProducer(ctx, client.ProducerConfig{
		Topic: Topic, BatchMessages: 100, BatchDelay: time.Millisecond,
		Schema: &client.Schema{Name: "earthquakes", Type: pb.Schema_Json, Data: []byte(Schema)},
	})
	if err != nil {
		return 0, fmt.Errorf("publish the tour's data: %w", err)
	}
	defer p.Close(ctx)
	n := 0
	failed := make(chan error, 1)
	for line := range bytes.Lines(earthquakes) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		var q struct {
			Time int64  `json:"time"`
			Net  string `json:"net"`
		}
		if err := json.Unmarshal(line, &q); err != nil {
			return n, fmt.Errorf("the tour's data: %w", err)
		}
		m := client.Message{Key: q.Net, EventTime: time.UnixMilli(q.Time), Value: line}
		if err := p.SendAsync(ctx, m, func(_ client.MessageID, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		}); err != nil {
			return n, fmt.Errorf("publish the tour's data: %w", err)
		}
		n++
	}
	if err := p.Flush(ctx); err != nil {
		return n, fmt.Errorf("publish the tour's data: %w", err)
	}
	select {
	case err := <-failed:
		return n, fmt.Errorf("publish the tour's data: %w", err)
	default:
		return n, nil
	}
}
