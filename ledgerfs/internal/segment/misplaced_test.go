package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
)

// TestMisplacedBlockIsDamageWhereItLies puts, for every pair of blocks of a segment, the one in the place of the
// other, as a disk does that loses a write or writes to a wrong address. Every checksum in such a block is right;
// only its place is not.
func TestMisplacedBlockIsDamageWhereItLies(t *testing.T) {
	type place struct{ from, to int64 }
	for _, inFlight := range []int{1, 2} {
		f := newFile(256 << 10)
		next := map[ledgerfs.LedgerID]ledgerfs.EntryID{}
		durable := []int64{f.end} // ends of batches
		var batches []place
		// Batches of one block and of several, with records that lie in one block and across some.
		for k, sizes := range [][]int{{10}, {3000}, {100, 5000}, {10, 10, 10}, {9000, 20, 900, 20}, {40}, {2500, 2500, 2500, 2500, 2500},
			{700, 700}, {}, {12000}, {30}, {10, 20}} {
			var rs []*Record
			for i, n := range sizes {
				id := ledgerfs.LedgerID(1 + i%2)
				rs = append(rs, entry(id, next[id], n))
				next[id]++
			}
			if len(sizes) == 0 {
				rs = append(rs, &Record{Type: Fence, Ledger: 3, LAC: -1, Digest: ledgerfs.EntryDigest(3, 0, -1, 0, nil)})
			}
			synced := durable[max(0, len(durable)-inFlight)]
			if k == 11 {
				synced = f.end // the last one says of all others that they are durable
			}
			at := f.batch(synced, rs...)
			batches = append(batches, place{at, f.end})
			durable = append(durable, f.end)
		}
		last := batches[len(batches)-1]
		records := map[string]place{}
		if _, err := Scan(bytes.NewReader(f.data), int64(len(f.data)), 7, testSeed, nil, func(r *Record, off int64) error {
			records[fmt.Sprintf("%d/%d:%d", r.Type, r.Ledger, r.Entry)] = place{off, off + int64(Size(len(r.Payload)))}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		whole := bytes.Clone(f.data)
		pairs := 0
		for to := int64(FileHeaderSize); to < last.from; to += BlockSize {
			for from := int64(FileHeaderSize); from < f.end; from += BlockSize {
				if from == to {
					continue
				}
				pairs++
				copy(f.data, whole)
				copy(f.data[to:to+BlockSize], whole[from:from+BlockSize])
				what := fmt.Sprintf("%d in flight: block of %d at %d", inFlight, from, to)
				got := map[string]bool{}
				res, err := Scan(bytes.NewReader(f.data), int64(len(f.data)), 7, testSeed, nil, func(r *Record, off int64) error {
					name := fmt.Sprintf("%d/%d:%d", r.Type, r.Ledger, r.Entry)
					if got[name] {
						t.Errorf("%s: %s is visited twice", what, name)
					}
					got[name] = true
					// A block that came from the same batch may hold it a second time.
					if p := records[name]; !bytes.Equal(f.data[off:off+p.to-p.from], whole[p.from:p.to]) {
						t.Errorf("%s: %s is at %v, what is visited at %d is something else", what, name, p, off)
					}
					return nil
				})
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if res.End != f.end || res.Chain != f.chain {
					t.Fatalf("%s: the log ends at %d, want %d; %+v", what, res.End, f.end, res)
				}
				lost := map[string]bool{}
				var doubt []place
				for _, l := range res.Losses {
					if l.Doubt() {
						doubt = append(doubt, place{l.From, l.To})
					}
					for i := range l.Count {
						lost[fmt.Sprintf("%d/%d:%d", l.Type, l.Ledger, l.First+ledgerfs.EntryID(i))] = true
					}
				}
				for name, p := range records {
					hit := p.from < to+BlockSize && to < p.to
					named := lost[name]
					for _, d := range doubt {
						named = named || d.from <= p.from && p.from < d.to
					}
					switch {
					case !hit && (!got[name] || lost[name]):
						t.Fatalf("%s: %s at %v was not hit; read %v, lost %v; %+v", what, name, p, got[name], lost[name], res.Losses)
					case hit && !got[name] && !named:
						t.Fatalf("%s: %s at %v is gone without a word; %+v", what, name, p, res.Losses)
					}
				}
				// Names are lost with the last block of a batch only, and only those of that batch.
				for _, d := range doubt {
					for _, b := range batches {
						if d.from < b.to && b.from < d.to && to != b.to-BlockSize {
							t.Fatalf("%s: doubt about %v, but the directory of batch %v is there; %+v", what, d, b, res.Losses)
						}
					}
				}
			}
		}
		t.Logf("%d in flight: %d pairs", inFlight, pairs)
	}
}

// TestFirstFormatIsRead takes the place out of every batch, as version 1 wrote them.
func TestFirstFormatIsRead(t *testing.T) {
	f := newFile(64 << 10)
	for e := range ledgerfs.EntryID(4) {
		at := f.end
		f.batch(at, entry(1, e, 3000))
		h, err := DecodeHead(f.data[at:], testSeed)
		if err != nil {
			t.Fatal(err)
		}
		h.Off = 0
		h.encode(f.data[at:], testSeed)
		b := f.data[at : at+HeadSize]
		b[4] = 1
		binary.LittleEndian.PutUint32(b[60:], testSeed.crc(b[:60]))
		f.chain.CRC = testSeed.crc(b[:60])
	}
	got, res := f.scan(t)
	if len(got) != 4 || res.End != f.end || res.Chain != f.chain || len(res.Losses) > 0 {
		t.Fatalf("read %v, %+v", got, res)
	}
}
