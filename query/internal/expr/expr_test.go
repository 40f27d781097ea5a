package expr

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/query/internal/value"
)

// LIKE agrees with the regular expression that says the same.
func TestLikeAgreesWithRegexp(t *testing.T) {
	letters := []string{"a", "b", "ä", "%", "_", "!", "\n"}
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Join(rapid.SliceOfN(rapid.SampledFrom(letters), 0, 8).Draw(t, "s"), "")
		var pat, re strings.Builder
		re.WriteString(`(?s)\A`)
		for _, p := range rapid.SliceOfN(rapid.SampledFrom(append(letters, "!%", "!_", "!!")), 0, 7).Draw(t, "pattern") {
			if p == "!" {
				p = "!!"
			}
			pat.WriteString(p)
			switch p {
			case "%":
				re.WriteString(".*")
			case "_":
				re.WriteString(".")
			default:
				re.WriteString(regexp.QuoteMeta(strings.TrimPrefix(p, "!")))
			}
		}
		re.WriteString(`\z`)
		got, err := MatchLike(s, pat.String(), "!")
		if err != nil {
			t.Fatal(err)
		}
		if want := regexp.MustCompile(re.String()).MatchString(s); got != want {
			t.Fatalf("%q LIKE %q is %v", s, pat.String(), got)
		}
	})
}

func TestSubstrCountsCharacters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOfN(rapid.SampledFrom([]rune("aä日x")), 0, 6, -1).Draw(t, "s")
		from, n := rapid.IntRange(-8, 8).Draw(t, "from"), rapid.IntRange(-2, 8).Draw(t, "n")
		r := []rune(s)
		i := from - 1
		if from < 0 {
			i = len(r) + from
		}
		want := ""
		if from != 0 && i >= 0 && i < len(r) && n > 0 {
			want = string(r[i:min(i+n, len(r))])
		}
		if got := substr(s, int64(from), int64(n)); got != want {
			t.Fatalf("substr(%q, %d, %d) = %q, want %q", s, from, n, got, want)
		}
	})
}

// An argument that can fail is not evaluated where the ones before it have decided.
func TestLogicalGuardsWhatCanFail(t *testing.T) {
	x := &Col{Index: 0, T: value.BigIntType}
	ne, err := Compare("<>", x, NewConst(value.BigIntType, int64(0)))
	if err != nil {
		t.Fatal(err)
	}
	div, err := Arith("/", NewConst(value.BigIntType, int64(10)), x)
	if err != nil {
		t.Fatal(err)
	}
	gt, err := Compare(">", div, NewConst(value.BigIntType, int64(3)))
	if err != nil {
		t.Fatal(err)
	}
	e, err := And(false, []Expr{ne, gt})
	if err != nil {
		t.Fatal(err)
	}
	v := value.NewVec(value.BigIntType, 0)
	for _, a := range []any{int64(0), int64(2), nil, int64(5), int64(0)} {
		v.Append(a)
	}
	out, err := e.Eval(&value.Batch{Cols: []*value.Vec{v}, Len: v.Len})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []any{false, true, nil, false, false} {
		if out.Get(i) != want {
			t.Errorf("row %d: %v, want %v", i, out.Get(i), want)
		}
	}
	bad, err := And(false, []Expr{gt, ne})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Eval(&value.Batch{Cols: []*value.Vec{v}, Len: v.Len}); err == nil {
		t.Error("division by zero in front is no error")
	}
}

func TestAddMonthsCutsToTheMonthsEnd(t *testing.T) {
	day := func(s string) int64 { d, _ := value.ParseDate(s); return d * dayMillis }
	for _, c := range []struct {
		from   string
		months int64
		want   string
	}{{"2024-01-31", 1, "2024-02-29"}, {"2023-01-31", 1, "2023-02-28"}, {"2024-03-31", -1, "2024-02-29"}, {"2024-12-15", 1, "2025-01-15"}, {"2024-02-29", 12, "2025-02-28"}} {
		if got := addMonths(day(c.from), c.months); got != day(c.want) {
			t.Errorf("%s + %d months is %s", c.from, c.months, value.AppendDate(nil, got/dayMillis))
		}
	}
}
