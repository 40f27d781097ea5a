// Package querytest keeps topics in memory for tests of the query packages: it is both the catalog and the
// log that they read.
package querytest

import (
	"context"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
	"github.com/daybook/daybook/query/catalog"
	"github.com/daybook/daybook/query/internal/scan"
)

// Topics is a set of topics in memory. It may be used by any goroutine.
type Topics struct {
	mu      sync.Mutex
	ns      map[string]map[string]*topic
	ledgers map[ledgerfs.LedgerID][]ledgerfs.Entry
	next    ledgerfs.LedgerID
	// Fail, if set, is asked before every batch that is read.
	Fail func() error
}

type topic struct {
	catalog.Topic
	schemas []*catalog.Schema
	parts   []*partition
}

type partition struct {
	ledgers  []chain.Ledger // all but the last closed
	messages int64
}

// New makes an empty set with the namespace public/default.
func New() *Topics {
	return &Topics{ns: map[string]map[string]*topic{catalog.DefaultSchema: {}}, ledgers: map[ledgerfs.LedgerID][]ledgerfs.Entry{}, next: 1}
}

// Add makes a topic; partitions 0 is a topic without partitions, a nil schema none.
func (t *Topics) Add(ns, name string, partitions int, s *catalog.Schema) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ns[ns] == nil {
		t.ns[ns] = map[string]*topic{}
	}
	tp := &topic{Topic: catalog.Topic{Name: name, Partitions: partitions}}
	if s != nil {
		tp.schemas = append(tp.schemas, s)
	}
	for range max(partitions, 1) {
		tp.parts = append(tp.parts, &partition{})
		t.rollLocked(tp.parts[len(tp.parts)-1])
	}
	t.ns[ns][name] = tp
}

// Evolve gives a topic a further schema; messages name it by its version, counted from 0.
func (t *Topics) Evolve(ns, name string, s *catalog.Schema) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ns[ns][name].schemas = append(t.ns[ns][name].schemas, s)
}

func (t *Topics) rollLocked(p *partition) {
	if n := len(p.ledgers); n > 0 {
		l := &p.ledgers[n-1]
		l.Closed = true
		l.Entries = int64(len(t.ledgers[l.ID]))
		l.Messages = p.messages - l.FirstIndex
	}
	p.ledgers = append(p.ledgers, chain.Ledger{ID: t.next, FirstIndex: p.messages})
	t.next++
}

// Roll closes the last ledger of a partition and opens another.
func (t *Topics) Roll(ns, name string, part int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rollLocked(t.ns[ns][name].parts[part])
}

// Append stores an entry, as a producer sends it, of n messages.
func (t *Topics) Append(ns, name string, part int, entry []byte, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.ns[ns][name].parts[part]
	p.messages += int64(n)
	b := message.AppendBrokerEntry(nil, message.BrokerEntry{Timestamp: 1, Index: p.messages - 1})
	id := p.ledgers[len(p.ledgers)-1].ID
	t.ledgers[id] = append(t.ledgers[id], ledgerfs.Entry{Ledger: id, Entry: ledgerfs.EntryID(len(t.ledgers[id])), Payload: append(b, entry...)})
}

// Publish stores one message.
func (t *Topics) Publish(ns, name string, part int, h message.Header, m message.Outgoing) {
	b, err := message.AppendSingle(nil, &h, &m)
	if err != nil {
		panic(err)
	}
	t.Append(ns, name, part, b, 1)
}

// PublishBatch stores messages as one batch.
func (t *Topics) PublishBatch(ns, name string, part int, h message.Header, ms []message.Outgoing) {
	b, err := message.AppendBatch(nil, &h, ms)
	if err != nil {
		panic(err)
	}
	t.Append(ns, name, part, b, len(ms))
}

// Namespaces lists the namespaces.
func (t *Topics) Namespaces(context.Context) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.ns)), nil
}

// Topics lists the topics of a namespace.
func (t *Topics) Topics(_ context.Context, ns string) ([]catalog.Topic, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ns[ns] == nil {
		return nil, catalog.ErrNotFound
	}
	var out []catalog.Topic
	for _, tp := range t.ns[ns] {
		out = append(out, tp.Topic)
	}
	return out, nil
}

// Schema gives the last schema.
func (t *Topics) Schema(_ context.Context, ns, local string) (*catalog.Schema, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.ns[ns][local].schemas; len(s) > 0 {
		return s[len(s)-1], nil
	}
	return nil, nil
}

// SchemaVersion gives the schema of a version: 8 bytes big-endian.
func (t *Topics) SchemaVersion(_ context.Context, ns, local string, version []byte) (*catalog.Schema, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.ns[ns][local].schemas
	if len(version) != 8 || int(version[7]) >= len(s) {
		return nil, catalog.ErrNotFound
	}
	return s[version[7]], nil
}

// Fence gives all that is stored now.
func (t *Topics) Fence(_ context.Context, n topicname.Name) (chain.Fence, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	base, part := n.Base(), max(n.Partition(), 0)
	tp := t.ns[base.Tenant+"/"+base.Namespace][base.Local]
	if tp == nil || part >= len(tp.parts) {
		return chain.Fence{}, topicread.ErrNotFound
	}
	p := tp.parts[part]
	r := &chain.Record{Ledgers: slices.Clone(p.ledgers)}
	last := r.Ledgers[len(r.Ledgers)-1].ID
	return chain.Fence{Record: r, Last: ledgerfs.Position{Ledger: last, Entry: ledgerfs.EntryID(len(t.ledgers[last]) - 1)}}, nil
}

// Read reads a run in batches of a few entries.
func (t *Topics) Read(f chain.Fence, run topicread.Run) scan.Reader {
	return &reader{t: t, f: f, run: run, at: run.From}
}

type reader struct {
	t   *Topics
	f   chain.Fence
	run topicread.Run
	at  ledgerfs.Position
}

func (r *reader) Next(context.Context) ([]ledgerfs.Entry, error) {
	if r.t.Fail != nil {
		if err := r.t.Fail(); err != nil {
			return nil, err
		}
	}
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	for _, l := range r.f.Record.Ledgers {
		if l.ID < r.at.Ledger {
			continue
		}
		from := ledgerfs.EntryID(0)
		if l.ID == r.at.Ledger {
			from = max(r.at.Entry, 0)
		}
		all := r.t.ledgers[l.ID]
		var out []ledgerfs.Entry
		for i := int(from); i < len(all) && len(out) < 16; i++ {
			p := ledgerfs.Position{Ledger: l.ID, Entry: ledgerfs.EntryID(i)}
			if !p.Less(r.run.To) || r.f.Last.Less(p) {
				break
			}
			out = append(out, all[i])
		}
		if len(out) > 0 {
			r.at = ledgerfs.Position{Ledger: l.ID, Entry: out[len(out)-1].Entry + 1}
			return out, nil
		}
	}
	return nil, io.EOF
}

func (*reader) Close() {}

// JSONSchema makes a JSON schema of a record with these fields: name, Avro type as JSON, in turn. A type
// that is a bare word stands for a union with null.
func JSONSchema(fields ...string) *catalog.Schema {
	d := `{"type":"record","name":"R","fields":[`
	for i := 0; i < len(fields); i += 2 {
		if i > 0 {
			d += ","
		}
		typ := fields[i+1]
		if typ[0] != '{' && typ[0] != '[' && typ[0] != '"' {
			typ = `["null",` + strconv.Quote(typ) + `]`
		}
		d += `{"name":` + strconv.Quote(fields[i]) + `,"type":` + typ + `}`
	}
	return &catalog.Schema{Type: "JSON", Data: []byte(d + "]}")}
}
