package schema

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/daybook/daybook/ledgerfs/topicname"
	"pgregory.net/rapid"
)

func TestTypesHaveNamesAndNumbers(t *testing.T) {
	for typ, name := range typeNames {
		if got, err := ParseType(name); err != nil || got != typ || typ.String() != name {
			t.Errorf("ParseType(%s) = %v, %v", name, got, err)
		}
		got, err := FromWire(typ.Wire())
		want := typ
		if typ < 0 && typ != AutoConsume {
			want = None // the protocol has no number for them
		}
		if err != nil || got != want {
			t.Errorf("FromWire(%v.Wire()) = %v, %v; want %v", typ, got, err, want)
		}
	}
	for _, n := range []int32{-1, 23, math.MaxInt32} {
		if _, err := FromWire(n); !errors.Is(err, ErrInvalid) {
			t.Errorf("FromWire(%d): %v", n, err)
		}
	}
	if _, err := ParseType("json"); !errors.Is(err, ErrInvalid) {
		t.Errorf("ParseType(json): %v", err)
	}
}

func TestRecordsAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &Stored{
			Info:    Info{Type: rapid.SampledFrom([]Type{JSON, Bytes, KeyValue}).Draw(t, "type"), Data: rapid.SliceOfN(rapid.Byte(), 1, 50).Draw(t, "data")},
			Version: rapid.Int64Min(0).Draw(t, "version"), Created: rapid.Int64().Draw(t, "created"), User: rapid.String().Draw(t, "user"),
		}
		if p := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "props"); len(p) > 0 {
			s.Properties = p
		}
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(b); err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("Decode = %+v, %v; want %+v", got, err, s)
		}
		if v, err := ParseVersion(VersionBytes(s.Version)); err != nil || v != s.Version {
			t.Fatalf("ParseVersion = %d, %v", v, err)
		}
		x := &Index{Next: 1}
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			x.Next += rapid.Int64Range(1, 3).Draw(t, "step")
			x.Entries = append(x.Entries, IndexEntry{Version: x.Next - 1, Hash: s.Hash(), Deleted: rapid.Bool().Draw(t, "deleted")})
		}
		b, err = x.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeIndex(b); err != nil || !reflect.DeepEqual(got, x) {
			t.Fatalf("DecodeIndex = %+v, %v; want %+v", got, err, x)
		}
	})
	if _, err := ParseVersion([]byte{1}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a short version: %v", err)
	}
}

func TestKeysFollowTheTopic(t *testing.T) {
	n, err := topicname.Parse("non-persistent://a/b/c%-partition-7")
	if err != nil {
		t.Fatal(err)
	}
	if got := VersionKey(n, 12); got != "schemas/a/b/c%25/0000000000000000012" || !strings.HasPrefix(got, IndexKey(n)+"/") {
		t.Errorf("VersionKey = %q", got)
	}
}

func TestSameSchemas(t *testing.T) {
	def := func(s string) Info { return Info{Type: Avro, Data: []byte(s)} }
	base := def(`{"type":"record","name":"R","fields":[{"name":"a","type":["null","int"],"default":null}]}`)
	for s, same := range map[string]bool{
		`{"name":"R", "doc":"x", "fields":[{"type":["null","int"],"default":null,"name":"a","doc":"y"}],"type":"record"}`: true,
		`{"type":"record","name":"R","fields":[{"name":"a","type":["int","null"],"default":null}]}`:                       false,
		`{"type":"record","name":"R","fields":[{"name":"a","type":["null","int"]}]}`:                                      false,
		`{"type":"record","name":"S","fields":[{"name":"a","type":["null","int"],"default":null}]}`:                       false,
		`{"type":"record","name":"R","fields":[{"name":"a","type":["null","int"],"default":{"doc":1}}]}`:                  false,
	} {
		i := def(s)
		if (i.Hash() == base.Hash()) != same {
			t.Errorf("%s: the same is %v, want %v", s, !same, same)
		}
	}
	i := base
	i.Type = JSON
	if i.Hash() == base.Hash() {
		t.Error("the type does not count")
	}
	i = base
	i.Properties = map[string]string{"a": "b"}
	if i.Hash() != base.Hash() {
		t.Error("properties count")
	}
}

func u64(vs ...uint64) []byte {
	var b []byte
	for _, v := range vs {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func TestValuesAsJSON(t *testing.T) {
	kv := func(enc string) Info {
		return Info{Type: KeyValue, Data: AppendKeyValue(nil, []byte{}, []byte{}), Properties: map[string]string{
			"key.schema.type": "STRING", "value.schema.type": "INT16", "kv.encoding.type": enc,
		}}
	}
	for _, c := range []struct {
		i     Info
		key   string
		value []byte
		want  string // empty: ErrValue
	}{
		{Info{Type: None}, "", []byte{0xff}, `"/w=="`},
		{Info{Type: String}, "", []byte("a\"ü\n"), `"a\"ü\n"`},
		{Info{Type: String}, "", []byte{0xff}, ``},
		{Info{Type: Boolean}, "", []byte{1}, `true`},
		{Info{Type: Boolean}, "", []byte{}, ``},
		{Info{Type: Int8}, "", []byte{0x80}, `-128`},
		{Info{Type: Int16}, "", []byte{0xff, 0xfe}, `-2`},
		{Info{Type: Int16}, "", []byte{1}, ``},
		{Info{Type: Int32}, "", []byte{0, 0, 1, 0}, `256`},
		{Info{Type: Int64}, "", u64(math.MaxUint64), `-1`},
		{Info{Type: Int64}, "", append(u64(1), 0), ``},
		{Info{Type: Float}, "", binary.BigEndian.AppendUint32(nil, math.Float32bits(0.1)), `0.1`},
		{Info{Type: Double}, "", u64(math.Float64bits(1e300)), `1e+300`},
		{Info{Type: Double}, "", u64(math.Float64bits(math.NaN())), `"NaN"`},
		{Info{Type: Timestamp}, "", u64(1700000000123), `"2023-11-14T22:13:20.123Z"`},
		{Info{Type: Date}, "", u64(0), `"1970-01-01T00:00:00Z"`},
		{Info{Type: Time}, "", u64(3600_000), `"01:00:00"`},
		{Info{Type: Instant}, "", append(u64(1), 0, 0, 0, 1), `"1970-01-01T00:00:01.000000001Z"`},
		{Info{Type: Instant}, "", append(u64(1), 0xff, 0, 0, 1), ``},
		{Info{Type: LocalDate}, "", u64(19000), `"2022-01-08"`},
		{Info{Type: LocalDate}, "", u64(math.MaxInt64), ``},
		{Info{Type: LocalTime}, "", u64(1), `"00:00:00.000000001"`},
		{Info{Type: LocalTime}, "", u64(math.MaxInt64), ``},
		{Info{Type: LocalDateTime}, "", u64(19000, 3600_000_000_000), `"2022-01-08T01:00:00"`},
		{Info{Type: JSON}, "", []byte(" { \"a\" : \"\\\" \" }\n"), `{"a":"\" "}`},
		{Info{Type: JSON}, "", []byte("{"), ``},
		{Info{Type: JSON}, "", []byte("\"\xff\""), ``},
		{kv("INLINE"), "", AppendKeyValue(nil, []byte("k"), []byte{0, 5}), `{"key":"k","value":5}`},
		{kv("INLINE"), "", AppendKeyValue(nil, nil, nil), `{"key":null,"value":null}`},
		{kv("INLINE"), "", []byte{0, 0, 0, 9}, ``},
		{kv("INLINE"), "", append(AppendKeyValue(nil, nil, nil), 0), ``},
		{kv("INLINE"), "", []byte{0x80, 0, 0, 0}, ``},
		{kv("SEPARATED"), "k", []byte{0, 7}, `{"key":"k","value":7}`},
	} {
		got, err := c.i.AppendJSON([]byte("x"), []byte(c.key), c.value)
		if c.want == "" {
			if !errors.Is(err, ErrValue) || string(got) != "x" {
				t.Errorf("%v of %x: %s, %v; want ErrValue", c.i.Type, c.value, got, err)
			}
			continue
		}
		if err != nil || string(got) != "x"+c.want {
			t.Errorf("%v of %x: %s, %v; want %s", c.i.Type, c.value, got, err, c.want)
		}
	}
	p := Info{Type: ProtobufNative}
	if _, err := p.AppendJSON(nil, nil, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("protobuf: %v, want ErrUnsupported", err)
	}
}

func FuzzValues(f *testing.F) {
	f.Add(int32(KeyValue), []byte("\x00\x00\x00\x01k\x00\x00\x00\x02\x00\x05"), "STRING", "INT16")
	f.Add(int32(JSON), []byte(`{"a":[1,"x y"]}`), "", "")
	f.Add(int32(LocalDateTime), u64(19000, 1), "", "")
	f.Add(int32(Double), u64(math.Float64bits(math.Inf(1))), "", "")
	f.Fuzz(func(t *testing.T, typ int32, value []byte, key, val string) {
		i := Info{Type: Type(typ), Data: AppendKeyValue(nil, []byte{}, []byte{}), Properties: map[string]string{"key.schema.type": key, "value.schema.type": val}}
		out, err := i.AppendJSON(nil, nil, value)
		if err == nil && !json.Valid(out) {
			t.Fatalf("%v of %x gives %q", i.Type, value, out)
		}
	})
}

func FuzzRecords(f *testing.F) {
	s := Stored{Info: Info{Type: JSON, Data: []byte("{}"), Properties: map[string]string{"a": "b"}}, Version: 3}
	b, err := s.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	b, err = (&Index{Next: 3, Entries: []IndexEntry{{Version: 1, Hash: s.Hash()}, {Version: 2, Deleted: true}}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Decode(b); err == nil {
			_ = s.Validate()
			_ = s.Hash()
		} else if !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		if _, err := DecodeIndex(b); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
