package adminapi

import (
	"bytes"
	"fmt"
	"strings"
)

// metrics adds /metrics, in Prometheus' text format: what the broker's loaded topics report, under Pulsar's names.
func (a *api) metrics() {
	h := func(r *request) (any, error) {
		return raw{contentType: "text/plain; version=0.0.4; charset=utf-8", body: a.scrape()}, nil
	}
	a.routes.add("GET", "/metrics", h)
}

// A gauge is one metric of topics: its value for each.
type gauge struct {
	name  string
	value func(*topicStats) float64
	sum   string // the name of its sum over all topics, empty for none
}

var gauges = []gauge{
	{"pulsar_rate_in", func(s *topicStats) float64 { return float64(s.MsgRateIn) }, "pulsar_broker_rate_in"},
	{"pulsar_rate_out", func(s *topicStats) float64 { return float64(s.MsgRateOut) }, "pulsar_broker_rate_out"},
	{"pulsar_throughput_in", func(s *topicStats) float64 { return float64(s.MsgThroughputIn) }, "pulsar_broker_throughput_in"},
	{"pulsar_throughput_out", func(s *topicStats) float64 { return float64(s.MsgThroughputOut) }, "pulsar_broker_throughput_out"},
	{"pulsar_storage_size", func(s *topicStats) float64 { return float64(s.StorageSize) }, "pulsar_broker_storage_size"},
	{"pulsar_storage_backlog_size", func(s *topicStats) float64 { return float64(s.BacklogSize) }, ""},
	{"pulsar_msg_backlog", func(s *topicStats) float64 {
		n := 0.0
		for _, sub := range s.Subscriptions {
			n += float64(sub.Backlog)
		}
		return n
	}, "pulsar_broker_msg_backlog"},
	{"pulsar_producers_count", func(s *topicStats) float64 { return float64(len(s.Publishers)) }, "pulsar_broker_producers_count"},
	{"pulsar_subscriptions_count", func(s *topicStats) float64 { return float64(len(s.Subscriptions)) }, "pulsar_broker_subscriptions_count"},
	{"pulsar_consumers_count", func(s *topicStats) float64 {
		n := 0
		for _, sub := range s.Subscriptions {
			n += len(sub.Consumers)
		}
		return float64(n)
	}, "pulsar_broker_consumers_count"},
	{"pulsar_in_bytes_total", func(s *topicStats) float64 { return float64(s.BytesIn) }, ""},
	{"pulsar_in_messages_total", func(s *topicStats) float64 { return float64(s.MsgIn) }, ""},
	{"pulsar_out_bytes_total", func(s *topicStats) float64 { return float64(s.BytesOut) }, ""},
	{"pulsar_out_messages_total", func(s *topicStats) float64 { return float64(s.MsgOut) }, ""},
}

func (a *api) scrape() []byte {
	type topicRow struct {
		labels string
		stats  *topicStats
	}
	cluster := label(a.Policies.Cluster())
	var rows []topicRow
	for _, t := range a.Topics.All() {
		n := t.Name()
		rows = append(rows, topicRow{
			fmt.Sprintf("cluster=%s,namespace=%s,topic=%s", cluster, label(n.NamespaceName().String()), label(n.String())),
			a.topicStats(t, statsFilter{}),
		})
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# TYPE pulsar_version_info gauge\npulsar_version_info{cluster=%s,version=%s} 1\n", cluster, label(a.Version))
	fmt.Fprintf(&b, "# TYPE pulsar_broker_topics_count gauge\npulsar_broker_topics_count{cluster=%s} %d\n", cluster, len(rows))
	for _, g := range gauges {
		sum := 0.0
		fmt.Fprintf(&b, "# TYPE %s gauge\n", g.name)
		for _, row := range rows {
			v := g.value(row.stats)
			sum += v
			fmt.Fprintf(&b, "%s{%s} %g\n", g.name, row.labels, v)
		}
		if g.sum != "" {
			fmt.Fprintf(&b, "# TYPE %s gauge\n%s{cluster=%s} %g\n", g.sum, g.sum, cluster, sum)
		}
	}
	return b.Bytes()
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// label is a label's value with its quotes.
func label(s string) string { return `"` + labelEscapes.Replace(s) + `"` }
