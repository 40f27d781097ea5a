package ledgerfs

import "testing"

func FuzzParse(f *testing.F) {
	for _, s := range []string{"7:42", "7:-1", "-1:-1", "9223372036854775807:0", ":", "1:2:3", "000102030405060708090a0b0c0d0e0f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePosition(s); err == nil {
			if again, err := ParsePosition(p.String()); err != nil || again != p {
				t.Fatalf("ParsePosition(%q) = %v, then %v, %v", s, p, again, err)
			}
		}
		if i, err := ParseIncarnation(s); err == nil {
			if again, err := ParseIncarnation(i.String()); err != nil || again != i {
				t.Fatalf("ParseIncarnation(%q) = %v, then %v, %v", s, i, again, err)
			}
		}
	})
}
