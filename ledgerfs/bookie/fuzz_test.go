package bookie

import (
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/raftmeta"
)

func FuzzParseAlive(f *testing.F) {
	f.Add(AliveKey("bookie-1"), []byte(`{"format":1,"incarnation":"000102030405060708090a0b0c0d0e0f","address":"10.0.0.1:3181"}`))
	f.Add(AliveKey("a/b %"), []byte(`{"format":1,"incarnation":"000102030405060708090a0b0c0d0e0f"}`))
	f.Add(AlivePrefix, []byte(`{"format":2}`))
	f.Add("bookies/%zz", []byte(`{}`))
	f.Add("", []byte(`[1`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		m, _, err := ParseAlive(raftmeta.Item{Key: key, Value: value})
		if err != nil {
			return
		}
		if m.Bookie == "" || m.Incarnation == (ledgerfs.Incarnation{}) && len(value) < 32 {
			t.Fatalf("%q: %q gives member %v", key, value, m)
		}
		if again, _, err := ParseAlive(raftmeta.Item{Key: AliveKey(m.Bookie), Value: value}); err != nil || again != m {
			t.Fatalf("member %v is announced as %q, which reads as %v, %v", m, AliveKey(m.Bookie), again, err)
		}
	})
}
