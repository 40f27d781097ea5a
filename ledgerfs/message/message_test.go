package message

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"pgregory.net/rapid"
)

// outgoings are messages of all kinds that a producer can make.
var outgoings = rapid.Custom(func(t *rapid.T) Outgoing {
	m := Outgoing{
		SequenceID: rapid.Uint64Max(1<<63).Draw(t, "seq"),
		EventTime:  rapid.Int64Range(0, 1<<50).Draw(t, "event"),
		Key:        rapid.SampledFrom([]string{"", "", "k", "ключ", "a\nb"}).Draw(t, "key"),
		HasKey:     rapid.Bool().Draw(t, "has"),
		NullKey:    rapid.Bool().Draw(t, "nullkey"),
		Null:       rapid.IntRange(0, 4).Draw(t, "null") == 0,
	}
	if m.Key != "" {
		m.HasKey = true
		if rapid.Bool().Draw(t, "b64") {
			m.Key, m.KeyBase64 = "AAEC", true
		}
	}
	if rapid.Bool().Draw(t, "ordered") {
		m.OrderingKey = []byte{0, 1}
	}
	for range rapid.IntRange(0, 3).Draw(t, "props") {
		m.Properties = append(m.Properties, Property{rapid.String().Draw(t, "pk"), rapid.String().Draw(t, "pv")})
	}
	if !m.Null {
		m.Value = values.Draw(t, "value")
	}
	return m
})

var values = rapid.OneOf(
	rapid.SliceOfN(rapid.Byte(), 0, 300),
	rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }),
	rapid.Map(rapid.StringMatching(`[ -~]{0,60}`), func(s string) []byte { return []byte(s) }),
	rapid.Map(rapid.SampledFrom([]string{
		"", "plain", "tab\there", "two\nlines", "cr\r", "\\", `\"x`, `\=x`, `\x`, "\x7f", "\x00", "ü", "\xff", "\u2028", `{"a":1}`,
		` { "a" : [ 1 , "x y" , { } ] } `, `[1,2`, `{"a":01}`, "1", "null", `{"a":"\u00e4"}`,
	}), func(s string) []byte { return []byte(s) }),
)

func sameMessage(m *Message, o *Outgoing) error {
	var props []Property
	for k, v := range m.Properties() {
		props = append(props, Property{string(k), string(v)})
	}
	switch {
	case m.SequenceID != o.SequenceID, m.EventTime != o.EventTime, string(m.Key) != o.Key, m.HasKey != o.HasKey,
		m.KeyBase64 != o.KeyBase64, m.NullKey != o.NullKey, !bytes.Equal(m.OrderingKey, o.OrderingKey),
		!bytes.Equal(m.Value, o.Value), m.Null != o.Null, !slices.Equal(props, o.Properties), m.Opaque, m.Encrypted,
		m.HasProperties() != (len(props) > 0):
		return fmt.Errorf("got %+v, want %+v", *m, *o)
	}
	return nil
}

func TestWhatIsBuiltIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out := rapid.SliceOfN(outgoings, 1, 20).Draw(t, "messages")
		h := Header{
			ProducerName: rapid.StringN(1, 10, 40).Draw(t, "producer"), PublishTime: rapid.Int64Range(0, 1<<50).Draw(t, "ts"),
			Compression:   Compression(rapid.IntRange(0, 4).Draw(t, "compression")),
			SchemaVersion: rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "schema"),
			NoChecksum:    rapid.Bool().Draw(t, "nosum"),
			HasTxn:        rapid.Bool().Draw(t, "txn"),
		}
		if h.HasTxn {
			h.TxnID = TxnID{rapid.Uint64().Draw(t, "most"), rapid.Uint64().Draw(t, "least")}
		}
		batched := len(out) > 1 || rapid.Bool().Draw(t, "batched")
		index := rapid.Int64Range(100, 1<<40).Draw(t, "index")

		want := BrokerEntry{Timestamp: 1234, Index: index}
		b := AppendBrokerEntry(nil, want)
		if len(b) > MaxBrokerEntryBytes {
			t.Fatalf("broker block of %d bytes", len(b))
		}
		prefix := len(b)
		var err error
		if batched {
			b, err = AppendBatch(b, &h, out)
		} else {
			b, err = AppendSingle(b, &h, &out[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		if s, err := StripBrokerEntry(b); err != nil || !bytes.Equal(s, b[prefix:]) {
			t.Fatalf("StripBrokerEntry: %v", err)
		}
		if be, ok, err := ParseBrokerEntry(b); be != want || !ok || err != nil {
			t.Fatalf("ParseBrokerEntry = %v, %v, %v", be, ok, err)
		}
		var e Entry
		if err := e.Parse(b); err != nil {
			t.Fatal(err)
		}
		if err := e.Verify(); err != nil || e.HasChecksum == h.NoChecksum {
			t.Fatalf("Verify = %v, checksum %v", err, e.HasChecksum)
		}
		md := &e.Meta
		if !e.HasBroker || e.Broker != want || string(md.ProducerName) != h.ProducerName || md.PublishTime != h.PublishTime ||
			md.Compression != h.Compression || !bytes.Equal(md.SchemaVersion, h.SchemaVersion) ||
			md.HasTxn != h.HasTxn || md.TxnID != h.TxnID || md.HasBatch != batched || e.Count() != len(out) ||
			md.IsMarker || md.Encrypted || md.SequenceID != out[0].SequenceID {
			t.Fatalf("parsed %+v", e)
		}
		var d Decoder
		i := 0
		for m, err := range d.Messages(&e) {
			if err != nil {
				t.Fatal(err)
			}
			if err := sameMessage(m, &out[i]); err != nil {
				t.Fatal(err)
			}
			wantBatch := i
			if !batched {
				wantBatch = -1
			}
			if m.BatchIndex != wantBatch || m.Index != index-int64(len(out))+1+int64(i) || m.PublishTime != h.PublishTime {
				t.Fatalf("message %d: batch index %d, index %d", i, m.BatchIndex, m.Index)
			}
			i++
		}
		if i != len(out) {
			t.Fatalf("%d messages, want %d", i, len(out))
		}
		if e.HasChecksum {
			b[prefix+6+rapid.IntRange(0, len(b)-prefix-7).Draw(t, "flip")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			if e.Verify(); !errors.Is(e.Verify(), ErrChecksum) {
				t.Fatal("a changed bit passes the checksum")
			}
		}
	})
}

func mustParse(t interface {
	Helper()
	Fatal(...any)
}, b []byte) *Entry {
	t.Helper()
	var e Entry
	if err := e.Parse(b); err != nil {
		t.Fatal(err)
	}
	return &e
}

func TestMalformedEntriesAreRefused(t *testing.T) {
	good, err := AppendSingle(nil, &Header{ProducerName: "p", PublishTime: 1}, &Outgoing{Value: []byte("v")})
	if err != nil {
		t.Fatal(err)
	}
	full := append(AppendBrokerEntry(nil, BrokerEntry{1, 2}), good...)
	for n := range len(full) - 1 {
		var e Entry
		if err := e.Parse(full[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("first %d of %d bytes: %v, want ErrMalformed", n, len(full), err)
		}
	}
	meta := func(b ...byte) []byte { // metadata with the required fields, then b
		m := append([]byte{0x0a, 1, 'p', 0x10, 1, 0x18, 1}, b...)
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...)
	}
	for name, b := range map[string][]byte{
		"metadata larger than the entry": {0xff, 0xff, 0xff, 0xff, 0},
		"no required fields":             {0, 0, 0, 0},
		"unknown compression":            meta(0x40, 9),
		"batch of none":                  meta(0x58, 0),
		"negative batch":                 meta(0x58, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
		"field zero":                     meta(0x00, 0),
		"group":                          meta(0x0b),
		"overlong varint":                meta(0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
		"name as number":                 meta(0x08, 1),
		"chunk outside its message":      meta(0xd8, 1, 2, 0xe8, 1, 2),
		"huge broker block":              {0x0e, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
	} {
		var e Entry
		if err := e.Parse(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	// Fields that nobody knows yet, of every wire type, are passed over.
	e := mustParse(t, meta(0xa0, 6, 5, 0xa2, 6, 1, 'x', 0xa5, 6, 1, 2, 3, 4, 0xa1, 6, 1, 2, 3, 4, 5, 6, 7, 8))
	if string(e.Meta.ProducerName) != "p" {
		t.Errorf("producer %q", e.Meta.ProducerName)
	}
}

func TestBadPayloadsAreRefused(t *testing.T) {
	type c struct {
		compression Compression
		size        uint32
		n           int // messages in batch, 0 for none
		payload     []byte
		want        error
	}
	zeros := make([]byte, 1<<20)
	pack := func(comp Compression) []byte {
		b, err := compress(nil, comp, zeros)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	cases := map[string]c{
		"above the limit":                 {ZStd, 2 << 20, 0, pack(ZStd), ErrTooLarge},
		"batch cut in its size":           {None, 0, 1, []byte{0, 0}, ErrMalformed},
		"batch metadata beyond the end":   {None, 0, 1, []byte{0xff, 0xff, 0xff, 0xff}, ErrMalformed},
		"batch value beyond the end":      {None, 0, 1, []byte{0, 0, 0, 2, 0x18, 5, 1}, ErrMalformed},
		"batch value without size":        {None, 0, 1, []byte{0, 0, 0, 2, 0x20, 0, 1}, ErrMalformed},
		"fewer messages than it says":     {None, 0, 2, []byte{0, 0, 0, 2, 0x18, 1, 1}, ErrMalformed},
		"a billion messages in 7 bytes":   {None, 0, 1 << 30, []byte{0, 0, 0, 2, 0x18, 1, 1}, ErrMalformed},
		"batch metadata is no protobuf":   {None, 0, 1, []byte{0, 0, 0, 1, 0xff}, ErrMalformed},
		"compressed batch that is no one": {ZLib, 1 << 20, 1 << 20, pack(ZLib), ErrMalformed},
	}
	for comp := LZ4; comp <= Snappy; comp++ {
		cases[comp.String()+" smaller than it says"] = c{comp, 1<<20 - 1, 0, pack(comp), ErrMalformed}
		cases[comp.String()+" larger than it says"] = c{comp, 1<<20 - 100, 0, pack(comp), ErrMalformed}
		cases[comp.String()+" one byte more"] = c{comp, 1 << 20, 0, pack(comp)[:len(pack(comp))-1], ErrMalformed}
		cases[comp.String()+" garbage"] = c{comp, 100, 0, bytes.Repeat([]byte{0xfe}, 50), ErrMalformed}
		cases[comp.String()+" of nothing"] = c{comp, 100, 0, nil, ErrMalformed}
		cases[comp.String()+" right"] = c{comp, 1 << 20, 0, pack(comp), nil}
	}
	d := Decoder{MaxUncompressed: 1 << 20}
	for name, c := range cases {
		md := appendUint(appendUint(appendBytes(nil, 1, "p"), 2, 0), 3, 0)
		md = appendUint(appendUint(md, 8, uint64(c.compression)), 9, uint64(c.size))
		if c.n > 0 {
			md = appendUint(md, 11, uint64(c.n))
		}
		b := append(append(binary.BigEndian.AppendUint32(nil, uint32(len(md))), md...), c.payload...)
		e := mustParse(t, b)
		var err error
		for _, err = range d.Messages(e) {
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		shown := 0
		opaque := false
		for m := range d.Shown(e) {
			shown++
			opaque = m.Opaque
			if opaque && !bytes.Equal(m.Value, c.payload) {
				t.Errorf("%s: shown otherwise than stored", name)
			}
		}
		if shown == 0 || opaque != (c.want != nil) {
			t.Errorf("%s: %d messages shown, opaque %v", name, shown, opaque)
		}
	}
}

func TestMarkersAndEncryptedEntries(t *testing.T) {
	b, err := AppendSingle(nil, &Header{ProducerName: "p", MarkerType: MarkerTxnCommit}, &Outgoing{Value: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	e := mustParse(t, b)
	if !e.Meta.IsMarker || e.Meta.MarkerType != MarkerTxnCommit {
		t.Errorf("parsed %+v", e.Meta)
	}
	var d Decoder
	for range d.Messages(e) {
		t.Error("a marker has a message")
	}
	md := appendUint(appendUint(appendBytes(nil, 1, "p"), 2, 7), 3, 1)
	md = appendBytes(appendUint(md, 11, 3), 13, "key")
	md = appendUint(md, 8, uint64(ZStd))
	b = append(append(binary.BigEndian.AppendUint32(nil, uint32(len(md))), md...), "secret"...)
	n := 0
	for m, err := range d.Messages(mustParse(t, b)) {
		if err != nil || !m.Encrypted || !m.Opaque || string(m.Value) != "secret" || m.BatchIndex != -1 {
			t.Errorf("encrypted batch: %+v, %v", m, err)
		}
		n++
		if got := string(AppendLine(nil, m)); got != "\\=c2VjcmV0\n" {
			t.Errorf("line %q", got)
		}
	}
	if n != 1 {
		t.Errorf("%d messages of an encrypted batch, want 1", n)
	}
}

func TestCompactedBatchIndexes(t *testing.T) {
	md := appendUint(appendUint(appendBytes(nil, 1, "p"), 2, 7), 3, 1)
	md = appendBytes(appendUint(appendUint(md, 31, 1), 31, 3), 31, []byte{5, 200, 1}) // two alone, two packed
	m, err := ParseMetadata(md)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(m.CompactedBatchIndexes()); !slices.Equal(got, []int32{1, 3, 5, 200}) {
		t.Errorf("got %v", got)
	}
}

// chunks cuts value into entries of a chunked message.
func chunks(t testing.TB, uuid string, seq uint64, value []byte, size int) [][]byte {
	var out [][]byte
	n := (len(value) + size - 1) / size
	for i := range n {
		b, err := AppendSingle(nil, &Header{ProducerName: "p", PublishTime: 1, UUID: uuid, NumChunks: n, TotalChunkSize: len(value), ChunkID: i},
			&Outgoing{SequenceID: seq, Value: value[i*size : min(len(value), (i+1)*size)]})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func TestAssembler(t *testing.T) {
	var a Assembler
	var d Decoder
	add := func(b []byte) string {
		e := mustParse(t, b)
		done, err := a.Add(e)
		if err != nil {
			return err.Error()
		}
		if !done {
			for _, err := range d.Messages(e) {
				if !errors.Is(err, ErrChunk) {
					t.Errorf("message of a chunk: %v, want ErrChunk", err)
				}
			}
			return "-"
		}
		for m, err := range d.Messages(e) {
			if err != nil {
				return err.Error()
			}
			return string(m.Value)
		}
		return "nothing"
	}
	x, y := chunks(t, "x", 1, []byte("hello, world"), 5), chunks(t, "y", 2, []byte("other text"), 4)
	var got []string
	for _, b := range [][]byte{x[0], y[0], x[1], x[1], y[1], x[2], y[2], x[2], // interleaved, and two sent twice
		x[1], x[0], x[2], x[1], // no first chunk, then a hole
		x[0], x[1], x[0], x[1], x[2], // begun anew
	} {
		got = append(got, add(b))
	}
	want := strings.Split("-|-|-|-|-|hello, world|other text|-|-|-|-|-|-|-|-|-|hello, world", "|")
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if a.bytes != 0 || len(a.byID) != 0 || a.order.Len() != 0 {
		t.Errorf("left over: %d bytes, %d messages", a.bytes, len(a.byID))
	}

	a = Assembler{MaxMessage: 100, MaxBytes: 50, MaxMessages: 3}
	if done, err := a.Add(mustParse(t, chunks(t, "z", 1, make([]byte, 101), 20)[0])); done || !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large a message: %v, %v", done, err)
	}
	for i := range 20 {
		if done, err := a.Add(mustParse(t, chunks(t, fmt.Sprint(i), 1, make([]byte, 40), 1+i)[0])); done || err != nil {
			t.Errorf("chunk %d: %v, %v", i, done, err)
		}
		if a.bytes > 50 || len(a.byID) > 3 || a.order.Len() != len(a.byID) {
			t.Errorf("%d bytes of %d messages are kept", a.bytes, len(a.byID))
		}
	}
}

func TestLines(t *testing.T) {
	for in, want := range map[string]string{
		"":              "\n",
		"plain":         "plain\n",
		"tab\tüber €":   "tab\tüber €\n",
		"two\nlines":    `\"two\nlines"` + "\n",
		"crlf\r\n":      `\"crlf\r\n"` + "\n",
		"\x7f\x00\x1b":  `\"\u007f\u0000\u001b"` + "\n",
		`\"x"`:          `\"\\\"x\""` + "\n",
		`\=x`:           `\"\\=x"` + "\n",
		`\x`:            `\x` + "\n",
		`\`:             `\` + "\n",
		"ü\n\t\b\f\"\\": `\"ü\n\t\b\f\"\\"` + "\n",
		"\xff":          `\=/w==` + "\n",
		"a\n\xc3":       `\=YQrD` + "\n",
	} {
		m := &Message{Value: []byte(in)}
		if got := string(AppendLine(nil, m)); got != want || LineLen(m) != len(want) {
			t.Errorf("line of %q = %q (length %d), want %q", in, got, LineLen(m), want)
		}
	}
	for _, bad := range []string{`\"`, `\"x`, `\"x"y`, `\=x`, `\=YQ`, "\\=YQ==\n"} {
		if v, err := ParseLine([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParseLine(%q) = %q, %v; want ErrMalformed", bad, v, err)
		}
	}
}

func TestTextLeadsBackToTheMessage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out := rapid.SliceOfN(outgoings, 1, 5).Draw(t, "messages")
		h := Header{ProducerName: rapid.String().Draw(t, "producer"), PublishTime: 5}
		b, err := AppendBatch(nil, &h, out)
		if err != nil {
			t.Fatal(err)
		}
		pos := ledgerfs.Position{Ledger: ledgerfs.LedgerID(rapid.Int64().Draw(t, "ledger")), Entry: ledgerfs.EntryID(rapid.Int64().Draw(t, "entry"))}
		var d Decoder
		for m := range d.Shown(mustParse(t, b)) {
			o := out[m.BatchIndex]
			line := AppendLine([]byte("x"), m)[1:]
			if len(line) != LineLen(m) || bytes.IndexByte(line, '\n') != len(line)-1 {
				t.Fatalf("line %q, LineLen %d", line, LineLen(m))
			}
			if v, err := ParseLine(line[:len(line)-1]); err != nil || !bytes.Equal(v, o.Value) {
				t.Fatalf("line %q leads to %q, %v", line, v, err)
			}

			var decoded []byte
			if rapid.Bool().Draw(t, "decoded") {
				decoded = []byte(`{"d":1}`)
			}
			obj := AppendNDJSON([]byte("x"), pos, m, decoded)[1:]
			if len(obj) != NDJSONLen(pos, m, decoded) || bytes.IndexByte(obj, '\n') != len(obj)-1 || !json.Valid(obj) {
				t.Fatalf("object %q of %d bytes, NDJSONLen %d", obj, len(obj), NDJSONLen(pos, m, decoded))
			}
			back, err := ParseNDJSON(obj)
			if err != nil {
				t.Fatalf("%q: %v", obj, err)
			}
			want := o
			want.NullKey, want.OrderingKey = false, nil // not shown
			switch {
			case decoded != nil && !o.Null:
				want.Value = decoded
			case !o.Null && bytes.Contains(obj, []byte(`,"v":`)) && json.Valid(o.Value) && !bytes.Contains(obj, []byte(`,"text":`)):
				var c bytes.Buffer
				if err := json.Compact(&c, o.Value); err != nil {
					t.Fatal(err)
				}
				want.Value = c.Bytes()
			}
			if fmt.Sprintf("%+v", back) != fmt.Sprintf("%+v", want) {
				t.Fatalf("%q\nleads to %+v\nwant     %+v", obj, back, want)
			}
		}
	})
}

func TestClassifySeesEveryByte(t *testing.T) {
	for c := range 256 {
		for n := range 70 {
			for _, at := range []int{0, n / 2, n - 1} {
				if at < 0 || at >= n {
					continue
				}
				for _, fill := range []string{"a", "\t", "~", "\xff"} {
					v := []byte(strings.Repeat(fill, n))
					v[at] = byte(c)
					control, high := classify(v)
					if control != isControl(byte(c)) || high != (c >= 0x80 || fill == "\xff" && n > 1) {
						t.Fatalf("classify(%q) = %v, %v", v, control, high)
					}
				}
			}
		}
	}
}

func TestNDJSON(t *testing.T) {
	h := Header{ProducerName: "p-1", PublishTime: 1700000000000}
	for _, c := range []struct {
		m    Outgoing
		want string
	}{
		{Outgoing{Value: []byte("hi")}, `"producer":"p-1","seq":0,"text":"hi"}`},
		{Outgoing{Null: true, SequenceID: 9}, `"producer":"p-1","seq":9,"v":null}`},
		{Outgoing{Value: []byte{0xff, 0}}, `"producer":"p-1","seq":0,"b64":"/wA="}`},
		{Outgoing{Value: []byte(" {\"a\": [1, 2 ]}\n"), EventTime: 5, Key: "k\"", Properties: []Property{{"a", "1"}, {"b", "\x01"}}},
			`"event":5,"key":"k\"","props":{"a":"1","b":"\u0001"},"producer":"p-1","seq":0,"v":{"a":[1,2]}}`},
		{Outgoing{Value: []byte("{no json}"), Key: "AAE=", KeyBase64: true}, `"keyb64":"AAE=","producer":"p-1","seq":0,"text":"{no json}"}`},
		{Outgoing{Value: nil, HasKey: true}, `"key":"","producer":"p-1","seq":0,"text":""}`},
	} {
		b, err := AppendSingle(nil, &h, &c.m)
		if err != nil {
			t.Fatal(err)
		}
		var d Decoder
		for m := range d.Shown(mustParse(t, b)) {
			want := `{"id":"17:204","ts":1700000000000,` + c.want + "\n"
			if got := string(AppendNDJSON(nil, ledgerfs.Position{Ledger: 17, Entry: 204}, m, nil)); got != want {
				t.Errorf("got  %swant %s", got, want)
			}
		}
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"text":1}`, `{"text":"a","b64":"YQ=="}`, `{"b64":"YQ"}`, `{"text":"a","props":{"x":1}}`,
		`{"text":"a","props":[]}`, `{"text":"a","key":"a","keyb64":"YQ=="}`, `{"text":"a","keyb64":"?"}`, `{"text":"a"} x`} {
		if m, err := ParseNDJSON([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParseNDJSON(%s) = %v, %v; want ErrMalformed", bad, m, err)
		}
	}
}

func TestParsingAllocatesNothing(t *testing.T) {
	var out []Outgoing
	for i := range 100 {
		out = append(out, Outgoing{SequenceID: uint64(i), Key: "key", Properties: []Property{{"a", "b"}}, Value: bytes.Repeat([]byte("x"), 100)})
	}
	b, err := AppendBatch(AppendBrokerEntry(nil, BrokerEntry{1, 100}), &Header{ProducerName: "p", Compression: LZ4}, out)
	if err != nil {
		t.Fatal(err)
	}
	var e Entry
	var d Decoder
	n := testing.AllocsPerRun(100, func() {
		if err := e.Parse(b); err != nil {
			t.Fatal(err)
		}
		for m, err := range d.Messages(&e) {
			if err != nil {
				t.Fatal(err)
			}
			_ = LineLen(m)
			_ = NDJSONLen(ledgerfs.Position{}, m, nil)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations for an entry", n)
	}
}

func FuzzEntry(f *testing.F) {
	for comp := None; comp <= Snappy; comp++ {
		b, err := AppendBatch(AppendBrokerEntry(nil, BrokerEntry{1, 2}), &Header{ProducerName: "p", Compression: comp},
			[]Outgoing{{Key: "k", Value: []byte("hello")}, {Null: true, Properties: []Property{{"a", "b"}}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		if b, err = AppendSingle(nil, &Header{ProducerName: "p", Compression: comp}, &Outgoing{Value: []byte(`{"a":1}`)}); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(chunks(f, "u", 1, []byte("abcdef"), 3)[1])
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Entry
		if e.Parse(b) != nil {
			return
		}
		_ = e.Verify()
		if _, err := StripBrokerEntry(b); err != nil {
			t.Fatal(err)
		}
		for range e.Meta.ReplicateTo() {
		}
		for range e.Meta.CompactedBatchIndexes() {
		}
		d := Decoder{MaxUncompressed: 1 << 20}
		var a Assembler
		if _, err := a.Add(&e); err != nil {
			return
		}
		pos := ledgerfs.Position{Ledger: 1, Entry: 2}
		for m := range d.Shown(&e) {
			line := AppendLine(nil, m)
			if len(line) != LineLen(m) || bytes.Count(line, []byte("\n")) != 1 {
				t.Fatalf("line %q, LineLen %d", line, LineLen(m))
			}
			if v, err := ParseLine(line[:len(line)-1]); err != nil || !bytes.Equal(v, m.Value) {
				t.Fatalf("line %q of %q leads to %q, %v", line, m.Value, v, err)
			}
			obj := AppendNDJSON(nil, pos, m, nil)
			if len(obj) != NDJSONLen(pos, m, nil) || !json.Valid(obj) {
				t.Fatalf("object %q, NDJSONLen %d", obj, NDJSONLen(pos, m, nil))
			}
			if _, err := ParseNDJSON(obj); err != nil {
				t.Fatalf("%q: %v", obj, err)
			}
		}
	})
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,true,null,"\u00e4\n"]}`, ` [ ] `, `{"a":01}`, `"`, `{"a" "b"}`, "[\"\x01\"]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ok := compactLen(b)
		if ok != json.Valid(b) && bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) < maxJSONDepth {
			t.Fatalf("compactLen(%q) says %v", b, ok)
		}
		if !ok {
			return
		}
		var want bytes.Buffer
		if err := json.Compact(&want, b); err != nil {
			t.Fatal(err)
		}
		if got := appendCompact(nil, b); !bytes.Equal(got, want.Bytes()) || len(got) != n {
			t.Fatalf("compact form of %q is %q of %d, want %q", b, got, n, want.Bytes())
		}
	})
}

func benchEntry(b *testing.B, comp Compression) []byte {
	var out []Outgoing
	for i := range 100 {
		out = append(out, Outgoing{SequenceID: uint64(i), Key: "key", Value: []byte(strings.Repeat(`{"id":1234567,"merchant":"m-01"} `, 31))})
	}
	e, err := AppendBatch(AppendBrokerEntry(nil, BrokerEntry{1, 100}), &Header{ProducerName: "p", Compression: comp}, out)
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// BenchmarkMessages takes apart a batch of 100 messages of 1 KB; BenchmarkLineLen also counts their lines.
func BenchmarkMessages(b *testing.B) {
	for comp := None; comp <= Snappy; comp++ {
		b.Run(comp.String(), func(b *testing.B) {
			raw := benchEntry(b, comp)
			var d Decoder
			var e Entry
			b.SetBytes(100 << 10)
			for b.Loop() {
				if err := e.Parse(raw); err != nil {
					b.Fatal(err)
				}
				for _, err := range d.Messages(&e) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkLineLen(b *testing.B) {
	raw := benchEntry(b, None)
	var d Decoder
	var e Entry
	b.SetBytes(100 << 10)
	for b.Loop() {
		if err := e.Parse(raw); err != nil {
			b.Fatal(err)
		}
		n := 0
		for m := range d.Shown(&e) {
			n += LineLen(m)
		}
	}
}
