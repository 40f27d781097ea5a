package adminapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
)

var createByUse = topics.Options{Create: true}

func (a *api) messages() {
	a.routes.add("GET", topicPath+"/ledger/{ledger}/entry/{entry}", func(r *request) (any, error) {
		t, err := r.openUnpartitioned("GetMessageById is not allowed on partitioned-topic")
		if err != nil {
			return nil, err
		}
		ledger, err := r.number("ledger")
		if err != nil {
			return nil, err
		}
		entry, err := r.number("entry")
		if err != nil {
			return nil, err
		}
		p := ledgerfs.Position{Ledger: ledgerfs.LedgerID(ledger), Entry: ledgerfs.EntryID(entry)}
		if !newExtent(t).has(p) {
			return nil, failure(http.StatusNotFound, "Message id not found")
		}
		return showEntry(r.Context(), t, p)
	})
	a.routes.add("GET", subPath+"/position/{position}", func(r *request) (any, error) {
		t, err := r.openUnpartitioned("Peek messages on a partitioned topic is not allowed")
		if err != nil {
			return nil, err
		}
		n, err := r.number("position")
		if err != nil {
			return nil, err
		}
		s, err := t.Subscription(r.text("sub"))
		if errors.Is(err, serr.SubscriptionNotFound) {
			// As Pulsar does: who peeks through a subscription that is not there makes it, at the start.
			s, err = t.CreateSubscription(r.Context(), r.text("sub"), &subscription.EarliestID, nil, false)
		}
		if err != nil {
			return nil, err
		}
		p, ok := nthUnacknowledged(newExtent(t), s.CursorStats(), n)
		if !ok {
			return nil, failure(http.StatusNotFound, "Message not found")
		}
		return showEntry(r.Context(), t, p)
	})
	a.routes.add("GET", topicPath+"/examinemessage", func(r *request) (any, error) {
		t, err := r.openUnpartitioned("Examine messages on a partitioned topic is not allowed, please try examine message on specific topic partition")
		if err != nil {
			return nil, err
		}
		n := int64(1)
		if s := r.query.Get("messagePosition"); s != "" {
			if n, err = strconv.ParseInt(s, 10, 64); err != nil {
				return nil, failure(http.StatusBadRequest, "messagePosition is not a number")
			}
		}
		n = max(n, 1)
		x := newExtent(t)
		total := x.count()
		if total == 0 {
			return nil, failure(http.StatusPreconditionFailed, "Could not examine messages due to the total message is zero")
		}
		i := total - n // counted from the latest by default
		if r.query.Get("initialPosition") == "earliest" {
			i = n - 1
		}
		return showEntry(r.Context(), t, x.at(min(max(i, 0), total-1)))
	})
	a.routes.add("GET", topicPath+"/messageid/{timestamp}", func(r *request) (any, error) {
		t, err := r.openUnpartitioned("Get message ID by timestamp on a partitioned topic is not allowed, please try do it on specific topic partition")
		if err != nil {
			return nil, err
		}
		ms, err := r.number("timestamp")
		if err != nil {
			return nil, err
		}
		p, err := publishedSince(r.Context(), t, ms)
		return batchMessageID{messageID{p.Ledger, p.Entry, t.Name().Partition()}, -1, 0}, err
	})
}

// showEntry is an entry as Pulsar's admin API shows it: the payload, decompressed, a batch in its stored form; the
// metadata in headers.
func showEntry(ctx context.Context, t Topic, p ledgerfs.Position) (any, error) {
	b, err := t.ReadEntry(ctx, p)
	if err != nil {
		return nil, err
	}
	var e message.Entry
	if err := e.Parse(b); err != nil {
		return nil, serr.PersistenceError.Wrapf(err, "entry %v cannot be read as a message", p)
	}
	m := &e.Meta
	payload := e.Payload
	if !m.Encrypted && !m.IsChunk() {
		var d message.Decoder
		if payload, err = d.Payload(&e); err != nil {
			return nil, serr.PersistenceError.Wrapf(err, "the payload of entry %v cannot be decompressed", p)
		}
	}
	h := make(http.Header)
	// The names go out as Pulsar spells them, which is not Go's way.
	set := func(name, value string) { h["X-Pulsar-"+name] = []string{headerValue(value)} }
	setBytes := func(name string, value []byte) {
		if len(value) > 0 {
			set("Base64-"+name, base64.StdEncoding.EncodeToString(value))
		}
	}
	when := func(ms int64) string { return timestamp(time.UnixMilli(ms)) }
	set("Message-ID", p.String())
	properties := map[string]string{}
	for k, v := range m.Properties() {
		properties[string(k)] = string(v)
	}
	js, err := json.Marshal(properties)
	if err != nil {
		return nil, err
	}
	set("PROPERTY", asciiJSON(js))
	if e.HasBroker {
		set("Broker-Entry-METADATA-timestamp", when(e.Broker.Timestamp))
		set("Broker-Entry-METADATA-index", strconv.FormatInt(e.Broker.Index, 10))
	}
	set("publish-time", when(m.PublishTime))
	if m.EventTime != 0 {
		set("event-time", when(m.EventTime))
	}
	if m.HasDeliverAt {
		set("deliver-at-time", when(m.DeliverAt))
	}
	if m.HasBatch {
		set("num-batch-message", strconv.Itoa(int(m.NumMessages)))
		set("batch-size", strconv.Itoa(len(e.Payload)))
	}
	if m.NullValue {
		set("null-value", "true")
	}
	if m.NullKey {
		set("null-partition-key", "true")
	}
	if m.NumChunks > 0 {
		set("PROPERTY-TOTAL-CHUNKS", strconv.Itoa(int(m.NumChunks)))
		set("PROPERTY-CHUNK-ID", strconv.Itoa(int(m.ChunkID)))
		set("num-chunks-from-msg", strconv.Itoa(int(m.NumChunks)))
		set("total-chunk-msg-size", strconv.Itoa(int(m.TotalChunkSize)))
		set("chunk-id", strconv.Itoa(int(m.ChunkID)))
		set("uuid", string(m.UUID))
	}
	set("Is-Encrypted", strconv.FormatBool(m.Encrypted))
	set("producer-name", string(m.ProducerName))
	set("sequence-id", strconv.FormatUint(m.SequenceID, 10))
	if m.HighestSequenceID != 0 {
		set("highest-sequence-id", strconv.FormatUint(m.HighestSequenceID, 10))
	}
	if len(m.ReplicatedFrom) > 0 {
		set("replicated-from", string(m.ReplicatedFrom))
	}
	for c := range m.ReplicateTo() {
		h["X-Pulsar-replicated-to"] = append(h["X-Pulsar-replicated-to"], headerValue(string(c)))
	}
	if m.HasKey {
		set("partition-key", string(m.Key))
		set("partition-key-b64-encoded", strconv.FormatBool(m.KeyBase64))
	}
	if m.Compression != message.None {
		set("compression", m.Compression.String())
	}
	if m.UncompressedSize != 0 {
		set("uncompressed-size", strconv.FormatUint(uint64(m.UncompressedSize), 10))
	}
	setBytes("schema-version", m.SchemaVersion)
	setBytes("ordering-key", m.OrderingKey)
	if m.IsMarker {
		set("marker-type", strconv.Itoa(int(m.MarkerType)))
	}
	if m.HasTxn {
		set("txnid-least-bits", strconv.FormatUint(m.TxnID.Least, 10))
		set("txnid-most-bits", strconv.FormatUint(m.TxnID.Most, 10))
	}
	return raw{contentType: "application/json", header: h, body: payload}, nil
}

// headerValue keeps what a producer wrote from ending a header.
func headerValue(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// asciiJSON escapes what JSON may hold and a header may not.
func asciiJSON(js []byte) string {
	var b strings.Builder
	for _, r := range string(js) {
		switch {
		case r >= 0x20 && r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			writeEscape(&b, 0xd800+r>>10)
			writeEscape(&b, 0xdc00+r&0x3ff)
		default:
			writeEscape(&b, r)
		}
	}
	return b.String()
}

func writeEscape(b *strings.Builder, r rune) {
	const hex = "0123456789abcdef"
	b.WriteString(`\u`)
	for shift := 12; shift >= 0; shift -= 4 {
		b.WriteByte(hex[r>>shift&15])
	}
}

// An extent is the entries that a topic held at one moment.
type extent struct {
	ledgers []topicLedger // with entries, in order
}

type topicLedger struct {
	id      ledgerfs.LedgerID
	entries int64
	before  int64 // entries in the ledgers before it
}

func newExtent(t Topic) extent {
	st := t.InternalStats()
	var x extent
	total := int64(0)
	for _, l := range st.Ledgers {
		if l.ID == st.LastConfirmed.Ledger {
			l.Entries = int64(st.LastConfirmed.Entry) + 1
		}
		if l.Entries > 0 {
			x.ledgers = append(x.ledgers, topicLedger{l.ID, l.Entries, total})
			total += l.Entries
		}
	}
	return x
}

func (x extent) count() int64 {
	if len(x.ledgers) == 0 {
		return 0
	}
	l := x.ledgers[len(x.ledgers)-1]
	return l.before + l.entries
}

// at is the position of entry i, counted from the first.
func (x extent) at(i int64) ledgerfs.Position {
	for _, l := range x.ledgers {
		if i < l.before+l.entries {
			return ledgerfs.Position{Ledger: l.id, Entry: ledgerfs.EntryID(i - l.before)}
		}
	}
	return ledgerfs.Position{Ledger: -1, Entry: -1}
}

// index counts the entries before p.
func (x extent) index(p ledgerfs.Position) int64 {
	n := int64(0)
	for _, l := range x.ledgers {
		if l.id == p.Ledger {
			return l.before + min(max(int64(p.Entry), 0), l.entries)
		}
		if l.id > p.Ledger {
			return l.before
		}
		n = l.before + l.entries
	}
	return n
}

func (x extent) has(p ledgerfs.Position) bool {
	for _, l := range x.ledgers {
		if l.id == p.Ledger {
			return p.Entry >= 0 && int64(p.Entry) < l.entries
		}
	}
	return false
}

// nthUnacknowledged is the position of the n-th entry, from 1, that the cursor has not acknowledged.
func nthUnacknowledged(x extent, c subscription.CursorStats, n int64) (ledgerfs.Position, bool) {
	gaps := deletedRanges(x, c.IndividuallyDeleted)
	i := x.index(c.MarkDelete.Next())
	for n = max(n, 1); ; {
		for len(gaps) > 0 && gaps[0].to <= i {
			gaps = gaps[1:]
		}
		if len(gaps) > 0 && gaps[0].from <= i {
			i = gaps[0].to
			continue
		}
		run := x.count() - i
		if len(gaps) > 0 {
			run = min(run, gaps[0].from-i)
		}
		if run <= 0 {
			return ledgerfs.Position{}, false
		}
		if n <= run {
			return x.at(i + n - 1), true
		}
		n -= run
		i += run
	}
}

type indexRange struct{ from, to int64 } // to is exclusive

// deletedRanges reads "[(7:4..7:6],(7:9..7:10]]", ranges without their first position.
func deletedRanges(x extent, s string) []indexRange {
	var out []indexRange
	for part := range strings.SplitSeq(strings.Trim(s, "[]"), "(") {
		from, to, ok := strings.Cut(strings.Trim(part, "],"), "..")
		if !ok {
			continue
		}
		f, err1 := ledgerfs.ParsePosition(from)
		t, err2 := ledgerfs.ParsePosition(to)
		if err1 == nil && err2 == nil {
			out = append(out, indexRange{x.index(f.Next()), x.index(t.Next())})
		}
	}
	return out
}

// publishedSince is the first entry that was published at ms or later, by halving: producers' clocks are taken to
// agree. If there is none it is the place after the last entry.
func publishedSince(ctx context.Context, t Topic, ms int64) (ledgerfs.Position, error) {
	x := newExtent(t)
	lo, hi := int64(0), x.count()
	for lo < hi {
		mid := lo + (hi-lo)/2
		b, err := t.ReadEntry(ctx, x.at(mid))
		if err != nil {
			return ledgerfs.Position{}, err
		}
		var e message.Entry
		if err := e.Parse(b); err != nil {
			return ledgerfs.Position{}, serr.PersistenceError.Wrapf(err, "entry %v cannot be read as a message", x.at(mid))
		}
		if e.Meta.PublishTime < ms {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == x.count() {
		return t.InternalStats().LastConfirmed.Next(), nil
	}
	return x.at(lo), nil
}
