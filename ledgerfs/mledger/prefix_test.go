package mledger

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestPrefixIsTheProtocolsBrokerEntryMetadata(t *testing.T) {
	got := AppendPrefix(nil, Prefix{Time: 1, Index: 300})
	want := []byte{0x0e, 0x02, 0, 0, 0, 5, 0x08, 1, 0x10, 0xac, 0x02}
	if !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
}

func TestPrefixIsCutAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Prefix{Time: rapid.Int64Min(0).Draw(t, "time"), Index: rapid.Int64Min(-1).Draw(t, "index")}
		b := AppendPrefix(nil, p)
		if len(b) != p.size() || len(b) > MaxPrefix {
			t.Fatalf("%d bytes, said %d", len(b), p.size())
		}
		got, rest, err := CutPrefix(append(b, "rest"...))
		if err != nil || got != p || string(rest) != "rest" {
			t.Fatalf("%+v %q %v", got, rest, err)
		}
	})
}

func FuzzCutPrefix(f *testing.F) {
	f.Add(AppendPrefix(nil, Prefix{Time: 1, Index: 2}))
	f.Add([]byte{0x0e, 0x02, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0x0e, 0x02, 0, 0, 0, 3, 0x1a, 0xff, 0x01})
	f.Add([]byte{0x0e, 0x02, 0, 0, 0, 4, 0x1a, 1, 'x', 0x08})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, rest, err := CutPrefix(b)
		if err != nil {
			if !errors.Is(err, ErrPrefix) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if len(rest) > len(b)-6 || !bytes.HasSuffix(b, rest) {
			t.Fatal("the rest is not the end of the entry")
		}
	})
}
