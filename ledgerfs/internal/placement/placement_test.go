package placement

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"pgregory.net/rapid"
)

func TestChooseTakesDifferentBookies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cs := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Candidate {
			return Candidate{
				ledgerfs.Member{Bookie: ledgerfs.BookieID(rapid.StringMatching(`[a-f]`).Draw(t, "id")),
					Incarnation: ledgerfs.Incarnation{rapid.Byte().Draw(t, "life")}},
				rapid.Int64Range(0, 1<<62).Draw(t, "free"),
			}
		})).Draw(t, "candidates")
		names := map[ledgerfs.BookieID]bool{}
		for _, c := range cs {
			names[c.Member.Bookie] = true
		}
		n := rapid.IntRange(1, 6).Draw(t, "n")
		r := rand.New(rand.NewPCG(1, 2))
		got, err := Choose(cs, n, r.Int64N)
		if n > len(names) {
			if !errors.Is(err, ErrNotEnough) {
				t.Fatalf("%d of %d bookies: %v, %v", n, len(names), got, err)
			}
			return
		}
		if err != nil || len(got) != n {
			t.Fatalf("%d of %d bookies: %v, %v", n, len(names), got, err)
		}
		seen := map[ledgerfs.BookieID]bool{}
		for _, m := range got {
			if seen[m.Bookie] || !names[m.Bookie] {
				t.Fatalf("chose %v", got)
			}
			seen[m.Bookie] = true
		}
	})
}

func TestChoosePrefersFreeSpace(t *testing.T) {
	big := ledgerfs.Member{Bookie: "big"}
	cs := []Candidate{{ledgerfs.Member{Bookie: "small"}, 1 << 30}, {big, 9 << 30}}
	r := rand.New(rand.NewPCG(3, 4))
	n := 0
	for range 1000 {
		got, err := Choose(cs, 1, r.Int64N)
		if err != nil {
			t.Fatal(err)
		}
		if got[0] == big {
			n++
		}
	}
	if n < 850 || n > 950 {
		t.Errorf("the bookie with 90%% of the space was chosen %d times of 1000", n)
	}
}
