package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"maps"
	"slices"
	"testing"

	"github.com/daybook/daybook/raftmeta/internal/metapb"
	"github.com/daybook/daybook/raftmeta/internal/state"
)

type mapView map[string][]byte

func (v mapView) Get(key []byte) ([]byte, bool, error) {
	b, ok := v[string(key)]
	return b, ok, nil
}

func (v mapView) Scan(start, end []byte) iter.Seq2[state.Pair, error] {
	return func(yield func(state.Pair, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k >= string(start) && k < string(end) && !yield(state.Pair{Key: []byte(k), Value: v[k]}, nil) {
				return
			}
		}
	}
}

func sample(t testing.TB, n int) (mapView, []byte) {
	v := mapView{"l outside": nil, "t outside": nil}
	m := state.New(state.Applied{Index: 7, Term: 3, Rev: 5, Conf: &metapb.ConfState{Voters: []uint64{1}}})
	h, err := m.Header()
	if err != nil {
		t.Fatal(err)
	}
	v[string(h.Key)] = h.Value
	for i := range n {
		v[fmt.Sprintf("sk%04d", i)] = bytes.Repeat([]byte{byte(i), byte(i * i)}, i%3000)
	}
	var b bytes.Buffer
	if err := Export(t.Context(), v, []byte("cluster"), &b); err != nil {
		t.Fatal(err)
	}
	return v, b.Bytes()
}

func read(stream []byte) (*metapb.SnapshotHeader, mapView, error) {
	var header *metapb.SnapshotHeader
	v := mapView{}
	err := Read(bytes.NewReader(stream), func(h *metapb.SnapshotHeader) error {
		header = h
		return nil
	}, func(key, value []byte) error {
		v[string(key)] = bytes.Clone(value)
		return nil
	})
	return header, v, err
}

func TestReadReturnsWhatWasExported(t *testing.T) {
	want, stream := sample(t, 2000) // many chunks
	h, got, err := read(stream)
	if err != nil {
		t.Fatal(err)
	}
	if h.Applied.Index != 7 || h.Applied.Term != 3 || string(h.Cluster) != "cluster" || len(h.Applied.Conf.Voters) != 1 {
		t.Errorf("header %v", h)
	}
	delete(want, "l outside")
	delete(want, "t outside")
	if !maps.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d pairs, want %d", len(got), len(want))
	}
}

func TestDamagedStreamIsRefused(t *testing.T) {
	_, stream := sample(t, 40)
	for i := range stream {
		b := bytes.Clone(stream)
		b[i] ^= 0x10
		if _, _, err := read(b); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d changed: %v, want ErrCorrupt", i, err)
		}
		if _, _, err := read(stream[:i]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v, want ErrCorrupt", i, err)
		}
	}
}

// FuzzRead gives frames right CRCs and numbers, so that the fuzzer gets past them.
func FuzzRead(f *testing.F) {
	_, stream := sample(f, 10)
	var bodies []byte
	for b := stream[len(magic):]; len(b) > 0; {
		n := binary.BigEndian.Uint32(b)
		bodies = append(binary.BigEndian.AppendUint16(bodies, uint16(n-4)), b[12:8+n]...)
		b = b[8+n:]
	}
	f.Add(bodies)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, bodies []byte) {
		s := []byte(magic)
		for number := uint32(0); len(bodies) >= 2; number++ {
			n := min(int(binary.BigEndian.Uint16(bodies)), len(bodies)-2)
			frame := append(binary.BigEndian.AppendUint32(nil, number), bodies[2:2+n]...)
			bodies = bodies[2+n:]
			s = binary.BigEndian.AppendUint32(s, uint32(len(frame)))
			s = binary.BigEndian.AppendUint32(s, crc32.Checksum(frame, castagnoli))
			s = append(s, frame...)
		}
		if _, _, err := read(s); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("error %v is no ErrCorrupt", err)
		}
	})
}
