package ledgermeta

import (
	"errors"
	"reflect"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/quorum"
)

func sample() *Ledger {
	a, b := ledgerfs.Member{Bookie: "a", Incarnation: ledgerfs.Incarnation{1}}, ledgerfs.Member{Bookie: "b"}
	return &Ledger{
		State: Closed, Quorum: quorum.Config{Ensemble: 2, Write: 2, Ack: 1},
		Fragments: []Fragment{{Members: []ledgerfs.Member{a, b}}, {First: 7, LengthBefore: 70, Members: []ledgerfs.Member{b, a}}},
		LastEntry: 9, Length: 100, Created: 5, Properties: map[string]string{"k": "v"},
		Offload: &Offload{Driver: "s3", UUID: []byte{1}, Location: map[string]string{"x": "y"}, Complete: true},
	}
}

func TestLedgerSurvivesItsStoredForm(t *testing.T) {
	b, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(b); err != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("got  %+v\nwant %+v\n%v", got, sample(), err)
	}
}

func TestLedgersThatBreakTheRulesAreRefused(t *testing.T) {
	for name, change := range map[string]func(l *Ledger){
		"no fragment":         func(l *Ledger) { l.Fragments = nil },
		"begins late":         func(l *Ledger) { l.Fragments[0].First = 1 },
		"fragments turn back": func(l *Ledger) { l.Fragments[1].First = 0 },
		"too few members":     func(l *Ledger) { l.Fragments[1].Members = l.Fragments[1].Members[:1] },
		"a bookie twice": func(l *Ledger) {
			l.Fragments[0].Members = []ledgerfs.Member{{Bookie: "a"}, {Bookie: "a", Incarnation: ledgerfs.Incarnation{1}}}
		},
		"quorum":     func(l *Ledger) { l.Quorum.Ack = 3 },
		"state":      func(l *Ledger) { l.State = 0 },
		"last entry": func(l *Ledger) { l.LastEntry = -2 },
	} {
		l := sample()
		change(l)
		if _, err := l.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestFragmentOf(t *testing.T) {
	l := sample()
	for e, want := range map[ledgerfs.EntryID]int{0: 0, 6: 0, 7: 1, 99: 1} {
		f, end := l.FragmentOf(e)
		if f != &l.Fragments[want] || (end == 7) != (want == 0) {
			t.Errorf("entry %d is in fragment %+v, which ends before %d", e, f, end)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, _ := sample().Encode()
	f.Add(b)
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if l2, err := Decode(again); err != nil || !reflect.DeepEqual(l.Fragments, l2.Fragments) {
			t.Fatalf("%+v became %+v: %v", l, l2, err)
		}
	})
}

func FuzzParseGarbageKey(f *testing.F) {
	f.Add(GarbageKey(7))
	f.Add("garbage/x")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseGarbageKey(s); err == nil && id < 1 {
			t.Fatalf("%q is ledger %d", s, id)
		}
	})
}
