package value

import (
	"encoding/json"
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func drawInt128(t *rapid.T, name string) Int128 {
	digits := rapid.IntRange(1, 38).Draw(t, name+" digits")
	z := new(big.Int)
	for range digits {
		z.Mul(z, big.NewInt(10))
		z.Add(z, big.NewInt(int64(rapid.IntRange(0, 9).Draw(t, name))))
	}
	if rapid.Bool().Draw(t, name+" negative") {
		z.Neg(z)
	}
	v, ok := Int128FromBig(z)
	if !ok {
		t.Fatalf("%v does not fit", z)
	}
	return v
}

// Decimals compute as big integers do, and say so when 38 digits are not enough.
func TestInt128AgreesWithBig(t *testing.T) {
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(38), nil)
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawInt128(t, "a"), drawInt128(t, "b")
		x, y := a.Big(), b.Big()
		same := func(what string, got Int128, ok bool, want *big.Int) {
			fits := want.CmpAbs(limit) < 0
			if ok != fits || ok && got.Big().Cmp(want) != 0 {
				t.Fatalf("%v %s %v = %v %v, want %v", x, what, y, got.Big(), ok, want)
			}
		}
		if s, ok := a.Add(b); !ok || s.Big().Cmp(new(big.Int).Add(x, y)) != 0 {
			t.Fatalf("%v + %v = %v %v", x, y, s.Big(), ok)
		}
		p, ok := a.Mul(b)
		same("*", p, ok, new(big.Int).Mul(x, y))
		if a.Cmp(b) != x.Cmp(y) || a.Neg().Big().Cmp(new(big.Int).Neg(x)) != 0 || a.Sign() != x.Sign() {
			t.Fatalf("%v, %v: order or sign", x, y)
		}
		from, to := rapid.IntRange(0, 38).Draw(t, "from"), rapid.IntRange(0, 38).Draw(t, "to")
		r, ok := a.Rescale(from, to)
		want := new(big.Rat).SetFrac(new(big.Int).Mul(x, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(to)), nil)), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(from)), nil))
		same("rescale", r, ok, halfUp(want))
		if b.Sign() != 0 {
			d, ok := DecimalDiv(a, b, 3, 5, 7)
			q := new(big.Rat).SetFrac(new(big.Int).Mul(x, big.NewInt(1_000_000_000)), y)
			same("/", d, ok, halfUp(q))
		}
		scale := rapid.IntRange(0, 38).Draw(t, "scale")
		back, _, s, ok := ParseDecimal(DecimalText(a, scale))
		if !ok || s != scale || back != a {
			t.Fatalf("%q is read as %v (scale %d, %v)", DecimalText(a, scale), back.Big(), s, ok)
		}
	})
}

// halfUp rounds half away from zero.
func halfUp(r *big.Rat) *big.Int {
	n, d := new(big.Int).Abs(r.Num()), r.Denom()
	n.Mul(n, big.NewInt(2)).Add(n, d)
	q := n.Quo(n, new(big.Int).Mul(d, big.NewInt(2)))
	if r.Sign() < 0 {
		q.Neg(q)
	}
	return q
}

func TestJSONStringsAreValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		var got string
		if err := json.Unmarshal(AppendJSONString(nil, s), &got); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if want := string([]rune(s)); got != want { // each bad byte is one U+FFFD
			t.Fatalf("%q came back as %q", s, got)
		}
	})
}

func TestDoublesAreWrittenAsTrinoDoes(t *testing.T) {
	for f, want := range map[float64]string{1: "1.0E0", 1e20: "1.0E20", 0: "0E0", -2.5: "-2.5E0", 1.0 / 3: "3.333333333333333E-1", math.Inf(1): "Infinity"} {
		got := string(AppendDouble(nil, f, 64))
		if got != want {
			t.Errorf("%v: %s, want %s", f, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		if g, ok := ParseDouble(string(AppendDouble(nil, f, 64))); !ok || g != f {
			t.Fatalf("%v came back as %v", f, g)
		}
	})
}

func TestTimestampsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(-30_000_000_000_000, 100_000_000_000_000).Draw(t, "ms")
		if got, zone, ok := ParseTimestamp(string(AppendTimestamp(nil, ms))); !ok || got != ms || zone != "" {
			t.Fatalf("%d: %s is read as %d", ms, AppendTimestamp(nil, ms), got)
		}
		days := FloorDiv(ms, dayMillis)
		if got, ok := ParseDate(string(AppendDate(nil, days))); !ok || got != days {
			t.Fatalf("%d: %s is read as %d", days, AppendDate(nil, days), got)
		}
	})
	for s, want := range map[string]string{
		"2024-07-01 12:00:00 UTC": "2024-07-01T12:00:00Z", "2024-07-01T12:00:00Z": "2024-07-01T12:00:00Z", "2024-07-01 12:00 +02:00": "2024-07-01T10:00:00Z",
		"2024-07-01 12:00:00 Europe/Vienna": "2024-07-01T10:00:00Z", "2024-7-1": "2024-07-01T00:00:00Z", "2024-07-01 12:00:00.0006": "2024-07-01T12:00:00.001Z",
	} {
		ms, _, ok := ParseTimestamp(s)
		if got := time.UnixMilli(ms).UTC().Format(time.RFC3339Nano); !ok || got != want {
			t.Errorf("%s: %s %v, want %s", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "x", "2024-13-01", "2024-02-30", "2024-01-01 25:00:00", "2024-01-01 00:00:00 Nowhere/Town"} {
		if _, _, ok := ParseTimestamp(s); ok {
			t.Errorf("%q is taken", s)
		}
	}
}

// Two values have one key exactly if they are not distinct.
func TestKeysTellValuesApart(t *testing.T) {
	gen := rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.Float64(), func(f float64) any { return f }), rapid.SampledFrom([]any{0.0, math.Copysign(0, -1), math.NaN(), -math.NaN(), 1.5}))
	rapid.Check(t, func(t *rapid.T) {
		a, b := NewVec(DoubleType, 0), NewVec(DoubleType, 0)
		a.Append(gen.Draw(t, "a"))
		b.Append(gen.Draw(t, "b"))
		same := a.IsNull(0) == b.IsNull(0) && (a.IsNull(0) || CompareAt(a, 0, b, 0) == 0)
		if (string(AppendKey(nil, a, 0)) == string(AppendKey(nil, b, 0))) != same {
			t.Fatalf("%v and %v", a.Get(0), b.Get(0))
		}
		s, u := NewVec(VarcharType, 0), NewVec(VarcharType, 0)
		x, y := rapid.SliceOfN(rapid.StringN(0, 3, -1), 2, 2).Draw(t, "x"), rapid.SliceOfN(rapid.StringN(0, 3, -1), 2, 2).Draw(t, "y")
		for i := range 2 {
			s.Append(x[i])
			u.Append(y[i])
		}
		kx := AppendKey(AppendKey(nil, s, 0), s, 1)
		ky := AppendKey(AppendKey(nil, u, 0), u, 1)
		if (string(kx) == string(ky)) != (x[0] == y[0] && x[1] == y[1]) {
			t.Fatalf("%q and %q", x, y)
		}
	})
}
