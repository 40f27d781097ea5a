package command

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"testing"
	"time"

	"github.com/daybook/daybook/raftmeta"
)

var samples = []Command{
	Commit{},
	Commit{Txn: raftmeta.Txn{
		If: []raftmeta.Cond{raftmeta.Absent("a"), raftmeta.Present("b"), raftmeta.ModIs("c", 7), raftmeta.ModIs("d", 0), raftmeta.VersionIs("e", 3), raftmeta.NoneUnder("f/")},
		Then: []raftmeta.Op{
			raftmeta.Put("k", []byte("v")), raftmeta.PutEphemeral("k", []byte{0}, 9), raftmeta.Delete("k"),
			raftmeta.DeleteRange("", raftmeta.PrefixEnd("")), raftmeta.Next("n", 1<<40),
		},
		Else: []raftmeta.Op{raftmeta.Put("ä", []byte("v"))},
	}},
	OpenSession{Node: "n", Incarnation: -5, TTL: 1500 * time.Millisecond},
	CloseSession{ID: 1 << 60},
	ExpireSession{ID: 3, Term: 1<<64 - 1},
	CompactEvents{Rev: 12},
}

func TestDecodeReadsWhatEncodeWrote(t *testing.T) {
	for _, want := range samples {
		b, err := Encode(want)
		if err != nil {
			t.Fatalf("Encode(%+v): %v", want, err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatalf("Decode(%+v): %v", want, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

func TestDecodeRefusesEveryChangedBit(t *testing.T) {
	for _, c := range samples {
		b, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(b) {
			b[bit/8] ^= 1 << (bit % 8)
			if _, err := Decode(b); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%T with bit %d changed: %v, want ErrCorrupt", c, bit, err)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
		for n := range b {
			if _, err := Decode(b[:n]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%T cut to %d bytes: %v, want ErrCorrupt", c, n, err)
			}
		}
	}
}

func TestOnlyDeletes(t *testing.T) {
	del, put := []raftmeta.Op{raftmeta.Delete("a"), raftmeta.DeleteRange("a", "b")}, []raftmeta.Op{raftmeta.Put("a", nil)}
	for _, c := range []struct {
		txn  raftmeta.Txn
		want bool
	}{
		{raftmeta.Txn{}, true}, {raftmeta.Txn{Then: del, Else: del}, true}, {raftmeta.Txn{Then: put}, false},
		{raftmeta.Txn{Then: del, Else: put}, false}, {raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("a", 1)}}, false},
	} {
		if got := (Commit{c.txn}).OnlyDeletes(); got != c.want {
			t.Errorf("%+v: %v, want %v", c.txn, got, c.want)
		}
	}
}

// FuzzDecode puts a right CRC before the fuzzer's bytes, so that it gets past it.
func FuzzDecode(f *testing.F) {
	for _, c := range samples {
		b, err := Encode(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[4:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b := binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli))
		c, err := Decode(append(b, body...))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error %v is no ErrCorrupt", err)
			}
			return
		}
		// What was accepted is a command like any other.
		again, err := Encode(c)
		if err != nil {
			t.Fatalf("Encode of a decoded command: %v", err)
		}
		c2, err := Decode(again)
		if err != nil || !reflect.DeepEqual(c, c2) {
			t.Fatalf("second round: %+v, %v, want %+v", c2, err, c)
		}
	})
}
