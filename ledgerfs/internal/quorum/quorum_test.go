package quorum

import (
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"pgregory.net/rapid"
)

func configs(t *rapid.T) Config {
	e := rapid.IntRange(1, 7).Draw(t, "ensemble")
	w := rapid.IntRange(1, e).Draw(t, "write")
	return Config{e, w, rapid.IntRange(1, w).Draw(t, "ack")}
}

func TestValidateTakesOnlyOrderedQuorums(t *testing.T) {
	for _, c := range []Config{{0, 0, 0}, {1, 1, 0}, {1, 2, 1}, {2, 1, 2}, {65, 1, 1}, {3, 2, -1}} {
		if c.Validate() == nil {
			t.Errorf("%v is taken", c)
		}
	}
	for _, c := range []Config{{1, 1, 1}, {3, 3, 2}, {5, 3, 2}, {64, 64, 64}} {
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestWriteSetIsTheNextMembersRoundTheEnsemble(t *testing.T) {
	c := Config{5, 3, 2}
	for e, want := range [][3]int{{0, 1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4, 0}, {4, 0, 1}, {0, 1, 2}} {
		for i := range 3 {
			if got := c.Member(ledgerfs.EntryID(e), i); got != want[i] {
				t.Errorf("entry %d member %d = %d, want %d", e, i, got, want[i])
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		c := configs(t)
		e := ledgerfs.EntryID(rapid.Int64Range(0, 1<<50).Draw(t, "entry"))
		if n := c.WriteSet(e).Len(); n != c.Write {
			t.Fatalf("write set of %d in %v has %d members", e, c, n)
		}
	})
}

// Covered must say yes exactly when every Ack-subset of every write quorum contains a member that answered:
// then no entry can be acknowledged any more without a fenced member taking it.
func TestCoveredMeansNoUnfencedAckQuorum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := configs(t)
		answered := Set(rapid.Uint64Range(0, 1<<c.Ensemble-1).Draw(t, "answered"))
		safe := true
		for sub := Set(0); sub < 1<<c.Ensemble; sub++ {
			if sub.Len() != c.Ack || sub&answered != 0 {
				continue
			}
			for e := range c.Ensemble {
				if ws := c.WriteSet(ledgerfs.EntryID(e)); sub&ws == sub {
					safe = false
				}
			}
		}
		if got := c.Covered(answered); got != safe {
			t.Fatalf("%v answered %b: covered %v, want %v", c, answered, got, safe)
		}
	})
}

// An acknowledged entry is on at least Ack members, so at most Write-Ack answers are negative: whatever the
// order of the answers, and whichever fail, the verdict is never Absent. And an entry that no member has is
// never Present.
func TestVerdictNeverDropsAnAcknowledgedEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := configs(t)
		holders := rapid.IntRange(0, c.Write).Draw(t, "holders")
		members := make([]bool, c.Write)
		for i := range holders {
			members[i] = true
		}
		order := rapid.Permutation(members).Draw(t, "order")
		var tally Tally
		for i, has := range order {
			if v := c.Verdict(tally); v != Pending {
				if holders >= c.Ack && v == Absent {
					t.Fatalf("%v: %d holders, %+v says absent", c, holders, tally)
				}
				if holders == 0 && v == Present {
					t.Fatalf("%v: present from nowhere", c)
				}
				return
			}
			switch {
			case rapid.Bool().Draw(t, "fails"):
				tally.Failed++
			case has:
				tally.Positive++
			default:
				tally.Negative++
			}
			if i == c.Write-1 && c.Verdict(tally) == Pending {
				t.Fatalf("%v: all have answered %+v and the verdict is pending", c, tally)
			}
		}
	})
}

func TestVerdictDoesNotWaitForAHungMember(t *testing.T) {
	c := Config{3, 3, 2}
	if v := c.Verdict(Tally{Negative: 2}); v != Absent {
		t.Errorf("two negatives of 3/3/2: %v, want Absent", v)
	}
	if v := c.Verdict(Tally{Negative: 1, Failed: 1}); v != Pending {
		t.Errorf("one negative, one failure: %v, want Pending", v)
	}
	if v := c.Verdict(Tally{Negative: 1, Failed: 2}); v != Unknown {
		t.Errorf("one negative, two failures: %v, want Unknown", v)
	}
}
