package store

import (
	"errors"
	"testing"

	"github.com/daybook/daybook/ledgerfs/internal/segment"
)

func FuzzIdentity(f *testing.F) {
	f.Add([]byte(`{"format":1,"incarnation":"000102030405060708090a0b0c0d0e0f","segment_size":67108864}`))
	f.Add([]byte(`{"format":2,"incarnation":"","segment_size":0}`))
	f.Add([]byte(`{"format":1,"incarnation":"000102030405060708090a0b0c0d0e0f","segment_size":-4096}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseIdentity(IdentityFile, b)
		switch {
		case err == nil:
			if id.SegmentSize <= 0 || id.SegmentSize%segment.BlockSize != 0 || id.Format > identityFormat {
				t.Fatalf("%q gives %+v", b, id)
			}
		case !errors.Is(err, ErrIdentity) && !errors.Is(err, ErrNewer):
			t.Fatalf("untyped error %v", err)
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add("seg-000000000012")
	f.Add("free-000000000012")
	f.Add("seg--00000000012")
	f.Add("seg-99999999999999999999")
	f.Fuzz(func(t *testing.T, name string) {
		if n, ok := parseName(name, "seg-"); ok && segmentFile(n) != name {
			t.Fatalf("%q is taken for segment %d, whose name is %q", name, n, segmentFile(n))
		}
		if n, ok := parseName(name, "free-"); ok && freeFile(n) != name {
			t.Fatalf("%q is taken for free segment %d, whose name is %q", name, n, freeFile(n))
		}
	})
}
