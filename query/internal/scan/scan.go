// Package scan gives a topic's messages as batches of columns.
//
// A Table is made for one statement: it takes a fence per partition when it is made and reads up to it,
// however often it is scanned. Markers are not messages and are left out; chunked messages count where
// their first chunk lies. A message whose value cannot be decoded gives null columns and counts as a
// warning. A scan that needs no columns only counts, and decodes nothing.
//
// # Goroutines
//
// None: a Split is pulled from by one goroutine at a time; the reader below it reads ahead.
package scan

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
	"github.com/daybook/daybook/query/catalog"
	"github.com/daybook/daybook/query/internal/plan"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// A Log is where entries come from.
type Log interface {
	// Fence is how far a topic may be read now; topicread.ErrNotFound if it does not exist.
	Fence(ctx context.Context, n topicname.Name) (chain.Fence, error)
	// Read reads a run of entries.
	Read(f chain.Fence, run topicread.Run) Reader
}

// A Reader reads a run forwards, as topicread.Reader does.
type Reader interface {
	Next(ctx context.Context) ([]ledgerfs.Entry, error)
	Close()
}

// Warnings counts what could not be read, over all scans of a statement.
type Warnings struct {
	Undecodable atomic.Int64 // values that do not fit the schema
	Damaged     atomic.Int64 // entries that no bookie could deliver
	mu          sync.Mutex
	first       map[*atomic.Int64]string
}

func (w *Warnings) note(n *atomic.Int64, format string, args ...any) {
	if n.Add(1) == 1 {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.first == nil {
			w.first = map[*atomic.Int64]string{}
		}
		w.first[n] = fmt.Sprintf(format, args...)
	}
}

// Texts gives the warnings as sentences.
func (w *Warnings) Texts() []string {
	var out []string
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.Undecodable.Load(); n > 0 {
		out = append(out, fmt.Sprintf("%d messages could not be decoded by the topic's schema and gave NULL; the first: %s", n, w.first[&w.Undecodable]))
	}
	if n := w.Damaged.Load(); n > 0 {
		out = append(out, fmt.Sprintf("%d entries could not be read and were left out; the first: %s", n, w.first[&w.Damaged]))
	}
	return out
}

// A Table is a topic, with its partitions merged, as one statement sees it.
type Table struct {
	log       Log
	namespace string
	topic     catalog.Topic
	source    catalog.Source
	layout    *layout
	parts     []part
	warn      *Warnings

	mu       sync.Mutex
	versions map[string]*layout // AVRO: by the schema version of messages
}

type part struct {
	number int // -1 if the topic is not partitioned
	name   topicname.Name
	fence  chain.Fence
}

// Columns gives the columns of a topic with this schema.
func Columns(s *catalog.Schema) ([]plan.TableColumn, error) {
	l, err := layoutOf(s)
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(l.columns), internalColumns...), nil
}

// Open takes the fences of all partitions of a topic and gives it as a table.
func Open(ctx context.Context, log Log, src catalog.Source, namespace string, topic catalog.Topic, warn *Warnings) (*Table, error) {
	s, err := src.Schema(ctx, namespace, topic.Name)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return nil, sqlerr.PulsarRead.Wrap(err, "schema of %s/%s", namespace, topic.Name)
	}
	t := &Table{log: log, namespace: namespace, topic: topic, source: src, warn: warn, versions: map[string]*layout{}}
	if t.layout, err = layoutOf(s); err != nil {
		return nil, err
	}
	base, err := topicname.Parse("persistent://" + namespace + "/" + topic.Name)
	if err != nil {
		return nil, sqlerr.TableNotFound.Wrap(err, "topic %s/%s", namespace, topic.Name)
	}
	names := []part{{number: -1, name: base}}
	if topic.Partitions > 0 {
		names = names[:0]
		for i := range topic.Partitions {
			n, err := topicname.Parse(base.String() + "-partition-" + strconv.Itoa(i))
			if err != nil {
				return nil, sqlerr.TableNotFound.Wrap(err, "partition of %s", base)
			}
			names = append(names, part{number: i, name: n})
		}
	}
	for _, p := range names {
		p.fence, err = log.Fence(ctx, p.name)
		if errors.Is(err, topicread.ErrNotFound) {
			continue // a partition that nobody has used yet
		}
		if err != nil {
			return nil, sqlerr.PulsarRead.Wrap(err, "open %s", p.name)
		}
		if p.fence.Record != nil {
			t.parts = append(t.parts, p)
		}
	}
	return t, nil
}

// Columns of the table: those of the value, then the internal ones.
func (t *Table) Columns() []plan.TableColumn {
	return append(slices.Clone(t.layout.columns), internalColumns...)
}

// run narrows a partition's run to the ledgers that may hold messages of the bounds.
func (p *part) run(b plan.Bounds) (topicread.Run, bool) {
	run := topicread.All(p.fence)
	if n := int64(p.number); n < b.PartitionMin || n > b.PartitionMax {
		return run, false
	}
	ls := p.fence.Record.Ledgers
	for len(ls) > 0 && ls[0].Closed && ls[0].TimesKnown && ls[0].GreatestPublishTime < b.PublishMin {
		ls = ls[1:]
		if len(ls) == 0 {
			return run, false
		}
		run.From = ledgerfs.Position{Ledger: ls[0].ID}
	}
	for len(ls) > 0 && ls[len(ls)-1].Closed && ls[len(ls)-1].TimesKnown && ls[len(ls)-1].LeastPublishTime > b.PublishMax {
		run.To = ledgerfs.Position{Ledger: ls[len(ls)-1].ID}
		ls = ls[:len(ls)-1]
	}
	return run, len(ls) > 0
}

// Splits cuts the topic into about r.Splits streams, in the order of partitions and positions.
func (t *Table) Splits(_ context.Context, r plan.Request) ([]plan.Split, error) {
	var total int64
	type piece struct {
		p   *part
		run topicread.Run
		n   int64
	}
	var pieces []piece
	for i := range t.parts {
		p := &t.parts[i]
		run, ok := p.run(r.Bounds)
		if !ok {
			continue
		}
		n := topicread.Entries(p.fence, run)
		if n == 0 {
			continue
		}
		total += n
		pieces = append(pieces, piece{p, run, n})
	}
	var out []plan.Split
	for _, pc := range pieces {
		runs := []topicread.Run{pc.run}
		// Splits of few entries are not worth their start.
		if k := int(min(int64(r.Splits)*pc.n/total, pc.n/64)); k > 1 {
			runs = topicread.Splits(pc.p.fence, pc.run, k)
		}
		for _, run := range runs {
			out = append(out, newSplit(t, pc.p, run, r))
		}
	}
	return out, nil
}

// layoutFor gives the layout of a message's own schema version; only Avro values depend on it.
func (t *Table) layoutFor(ctx context.Context, version []byte) (*layout, error) {
	if len(version) == 0 {
		return t.layout, nil
	}
	t.mu.Lock()
	l, ok := t.versions[string(version)]
	t.mu.Unlock()
	if ok {
		return l, nil
	}
	s, err := t.source.SchemaVersion(ctx, t.namespace, t.topic.Name, version)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		l = t.layout
	case err != nil:
		return nil, sqlerr.PulsarRead.Wrap(err, "schema version of %s/%s", t.namespace, t.topic.Name)
	default:
		if l, err = layoutOf(s); err != nil || l.form != formAvro {
			l = t.layout
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.versions[string(version)] = l
	return l, nil
}

// batchBytes is about how many bytes of values a batch refers to: large messages make batches of few rows.
const batchBytes = 4 << 20

type projector interface {
	project(b []byte, cols []*value.Vec) error
}

// A split reads one run of a partition.
type split struct {
	t       *Table
	p       *part
	run     topicread.Run
	req     plan.Request
	reader  Reader
	entries []ledgerfs.Entry
	dec     message.Decoder
	chunks  message.Assembler
	pending map[string]bool // chunked messages that began in the run
	behind  bool            // reading behind the run, only to complete them
	done    bool

	vals     []*value.Vec // columns of the value that are wanted
	fields   []*node
	proj     projector
	projs    map[*layout]projector
	internal []int // request column to internal column, -1 if it is one of vals
	valueAt  []int // request column to index in vals
	needVals bool
	counted  int // rows that are counted but not yet given
	text     []byte
}

func newSplit(t *Table, p *part, run topicread.Run, r plan.Request) *split {
	s := &split{t: t, p: p, run: run, req: r, projs: map[*layout]projector{}, pending: map[string]bool{}}
	for _, c := range r.Columns {
		if k := c - len(t.layout.columns); k >= 0 {
			s.internal = append(s.internal, k)
			s.valueAt = append(s.valueAt, -1)
			continue
		}
		s.internal = append(s.internal, -1)
		s.valueAt = append(s.valueAt, len(s.fields))
		if t.layout.fields != nil {
			s.fields = append(s.fields, t.layout.fields[c])
		} else {
			s.fields = append(s.fields, nil)
		}
	}
	s.needVals = len(s.fields) > 0
	if s.needVals && t.layout.form == formJSON {
		s.proj = newJSONProjector(s.fields)
	}
	s.reader = nil
	return s
}

func (s *split) Close() {
	if s.reader != nil {
		s.reader.Close()
		s.reader = nil
	}
	s.done = true
}

// entry gives the next entry of the run; behind the run, until the chunked messages that began in it are whole.
func (s *split) entry(ctx context.Context) (*ledgerfs.Entry, error) {
	for len(s.entries) == 0 {
		if s.done {
			return nil, io.EOF
		}
		if s.reader == nil {
			s.reader = s.t.log.Read(s.p.fence, s.run)
		}
		es, err := s.reader.Next(ctx)
		if errors.Is(err, io.EOF) {
			s.reader.Close()
			s.reader = nil
			all := topicread.All(s.p.fence)
			if len(s.pending) > 0 && !s.behind && s.run.To.Less(all.To) {
				s.behind = true
				s.run = topicread.Run{From: s.run.To, To: all.To}
				continue
			}
			s.done = true
			return nil, io.EOF
		}
		if ee, ok := errors.AsType[*topicread.EntryError](err); ok {
			s.t.warn.note(&s.t.warn.Damaged, "%v", ee)
			continue
		}
		if err != nil {
			return nil, sqlerr.PulsarRead.Wrap(err, "read %s", s.p.name)
		}
		s.entries = es
	}
	e := &s.entries[0]
	s.entries = s.entries[1:]
	return e, nil
}

// Next gives the next batch.
func (s *split) Next(ctx context.Context) (*value.Batch, error) {
	var b *value.Batch
	rows, held := s.counted, 0
	s.counted = 0
	for rows < value.BatchSize && held < batchBytes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		raw, err := s.entry(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		var e message.Entry
		if err := e.Parse(raw.Payload); err != nil {
			// It counts as one message that cannot be decoded, as the topic's file shows it in one line.
			e = message.Entry{Payload: raw.Payload}
			e.Meta.Encrypted = true
			s.t.warn.note(&s.t.warn.Undecodable, "%d:%d: %v", raw.Ledger, raw.Entry, err)
		}
		if e.Meta.IsMarker {
			continue
		}
		if e.Meta.IsChunk() {
			if whole, err := s.chunk(&e); err != nil || !whole {
				continue
			}
		} else if s.behind {
			continue
		}
		if s.behind && len(s.pending) == 0 {
			s.Close()
		}
		if e.Meta.PublishTime < s.req.Bounds.PublishMin || e.Meta.PublishTime > s.req.Bounds.PublishMax {
			continue
		}
		if len(s.req.Columns) == 0 {
			rows += s.count(&e)
			continue
		}
		if b == nil {
			b = s.newBatch()
		}
		if err := s.decode(ctx, raw, &e, b); err != nil {
			return nil, err
		}
		rows = b.Len
		held += len(e.Payload)
	}
	if rows == 0 {
		return nil, io.EOF
	}
	if b == nil {
		if rows > value.BatchSize { // counts come as batches of the usual size
			s.counted = rows - value.BatchSize
			rows = value.BatchSize
		}
		return &value.Batch{Len: rows}, nil
	}
	for i, k := range s.valueAt {
		if k >= 0 {
			b.Cols[i] = s.vals[k]
		}
	}
	return b, nil
}

// chunk takes a chunk; whole says that e is now the message it completed, which began in this run.
func (s *split) chunk(e *message.Entry) (whole bool, err error) {
	id := string(e.Meta.ProducerName) + "\x00" + string(e.Meta.UUID)
	if e.Meta.ChunkID == 0 && !s.behind {
		s.pending[id] = true
	}
	if !s.pending[id] {
		return false, nil // it began before this run, whose split reads it
	}
	last := e.Meta.ChunkID == e.Meta.NumChunks-1
	done, err := s.chunks.Add(e)
	if done || err != nil || last {
		delete(s.pending, id)
	}
	return done, err
}

// count gives the number of messages without decoding them.
func (s *split) count(e *message.Entry) int {
	n := e.Count()
	if !e.Meta.Encrypted || !e.Meta.HasBatch {
		for range e.Meta.CompactedBatchIndexes() {
			n--
		}
		return max(n, 0)
	}
	return 1 // an encrypted batch cannot be taken apart: it is shown as one message
}

func (s *split) newBatch() *value.Batch {
	b := &value.Batch{Cols: make([]*value.Vec, len(s.req.Columns))}
	cols := s.t.Columns()
	s.vals = s.vals[:0:0]
	for i, c := range s.req.Columns {
		v := &value.Vec{Type: cols[c].Type}
		switch v.Type.Store() {
		case value.StoreI64:
			v.I64 = make([]int64, 0, value.BatchSize+256)
		case value.StoreF64:
			v.F64 = make([]float64, 0, value.BatchSize+256)
		case value.StoreStr:
			v.Str = make([]string, 0, value.BatchSize+256)
		}
		if s.valueAt[i] >= 0 {
			s.vals = append(s.vals, v)
		}
		b.Cols[i] = v
	}
	return b
}

// decode appends the messages of an entry.
func (s *split) decode(ctx context.Context, raw *ledgerfs.Entry, e *message.Entry, b *value.Batch) error {
	if e.Meta.Compression != message.None && !e.Meta.Encrypted {
		// Strings alias the payload, and the decoder's scratch space does not last: it is copied once.
		if p, err := s.dec.Payload(e); err == nil {
			e.Payload = slices.Clone(p)
			e.Meta.Compression = message.None
		}
	}
	proj := s.proj
	if s.needVals && s.t.layout.form == formAvro {
		l, err := s.t.layoutFor(ctx, e.Meta.SchemaVersion)
		if err != nil {
			return err
		}
		if proj = s.projs[l]; proj == nil {
			proj = newAvroProjector(l.root, s.fields)
			s.projs[l] = proj
		}
	}
	for m := range s.dec.Shown(e) {
		if m.CompactedOut {
			continue
		}
		b.Len++
		if s.needVals {
			switch {
			case m.Null:
				for _, c := range s.vals {
					c.AppendNull()
				}
			case m.Opaque && s.t.layout.form != formBytes:
				for _, c := range s.vals {
					c.AppendNull()
				}
				if len(m.Entry.Meta.Raw) > 0 { // else it is counted already
					s.t.warn.note(&s.t.warn.Undecodable, "%d:%d: the message is encrypted or damaged", raw.Ledger, raw.Entry)
				}
			default:
				var err error
				if proj != nil {
					err = proj.project(m.Value, s.vals)
				} else {
					for _, c := range s.vals {
						err = primitive(s.t.layout.form, m.Value, c)
					}
				}
				if err != nil {
					s.t.warn.note(&s.t.warn.Undecodable, "%d:%d: %v", raw.Ledger, raw.Entry, err)
				}
			}
		}
		for i, k := range s.internal {
			if k >= 0 {
				s.meta(b.Cols[i], k, raw, m)
			}
		}
	}
	return nil
}

func (s *split) meta(c *value.Vec, k int, raw *ledgerfs.Entry, m *message.Message) {
	switch k {
	case colPartition:
		c.AppendInt(int64(s.p.number))
	case colEventTime:
		if m.EventTime == 0 {
			c.AppendNull()
			return
		}
		c.AppendInt(m.EventTime)
	case colPublishTime:
		c.AppendInt(m.PublishTime)
	case colMessageID:
		t := append(s.text[:0], '(')
		t = strconv.AppendInt(t, int64(raw.Ledger), 10)
		t = strconv.AppendInt(append(t, ','), int64(raw.Entry), 10)
		t = strconv.AppendInt(append(t, ','), int64(max(m.BatchIndex, 0)), 10)
		t = append(t, ')')
		s.text = t
		c.AppendString(string(t))
	case colSequenceID:
		c.AppendInt(int64(m.SequenceID))
	case colProducer:
		c.AppendString(text(m.Entry.Meta.ProducerName))
	case colKey:
		if !m.HasKey || m.NullKey {
			c.AppendNull()
			return
		}
		c.AppendString(text(m.Key))
	case colProperties:
		t := append(s.text[:0], '{')
		for k, v := range m.Properties() {
			if len(t) > 1 {
				t = append(t, ',')
			}
			t = value.AppendJSONString(t, string(k))
			t = append(t, ':')
			t = value.AppendJSONString(t, string(v))
		}
		t = append(t, '}')
		s.text = t
		c.AppendString(string(t))
	}
}

var primitiveSize = [...]int{formBool: 1, formInt8: 1, formInt16: 2, formInt32: 4, formInt64: 8, formFloat: 4, formDouble: 8, formMillis: 8, formAvro: 0}

// primitive appends a value of a schema without fields.
func primitive(f form, b []byte, c *value.Vec) error {
	if n := primitiveSize[f]; n > 0 && len(b) != n {
		c.AppendNull()
		return errType
	}
	switch f {
	case formBytes, formText:
		c.AppendString(text(b))
	case formBool:
		c.Append(b[0] != 0)
	case formInt8:
		c.AppendInt(int64(int8(b[0])))
	case formInt16:
		c.AppendInt(int64(int16(binary.BigEndian.Uint16(b))))
	case formInt32:
		c.AppendInt(int64(int32(binary.BigEndian.Uint32(b))))
	case formInt64:
		c.AppendInt(int64(binary.BigEndian.Uint64(b)))
	case formFloat:
		c.Append(float64(math.Float32frombits(binary.BigEndian.Uint32(b))))
	case formDouble:
		c.Append(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case formMillis:
		ms := int64(binary.BigEndian.Uint64(b))
		switch c.Type.Kind {
		case value.Date:
			ms = value.FloorDiv(ms, 86_400_000)
		case value.Time:
			ms -= value.FloorDiv(ms, 86_400_000) * 86_400_000
		}
		c.AppendInt(ms)
	}
	return nil
}
