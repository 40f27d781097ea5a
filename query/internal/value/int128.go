package value

import (
	"math"
	"math/big"
	"math/bits"
	"strings"
)

// Int128 is a signed 128-bit integer, two's complement: the unscaled value of a decimal.
type Int128 struct {
	Hi int64
	Lo uint64
}

// Int128From makes one of an int64.
func Int128From(v int64) Int128 { return Int128{v >> 63, uint64(v)} }

// Int64 gives the value and whether it fits.
func (a Int128) Int64() (int64, bool) { return int64(a.Lo), a.Hi == int64(a.Lo)>>63 }

// Sign is -1, 0 or 1.
func (a Int128) Sign() int {
	switch {
	case a.Hi < 0:
		return -1
	case a.Hi == 0 && a.Lo == 0:
		return 0
	}
	return 1
}

// Add gives a+b and whether it did not overflow.
func (a Int128) Add(b Int128) (Int128, bool) {
	lo, c := bits.Add64(a.Lo, b.Lo, 0)
	hi, _ := bits.Add64(uint64(a.Hi), uint64(b.Hi), c)
	r := Int128{int64(hi), lo}
	return r, (a.Hi^r.Hi)&(b.Hi^r.Hi) >= 0
}

// Neg gives -a. The least value has no negative and is never a decimal.
func (a Int128) Neg() Int128 {
	lo, c := bits.Add64(^a.Lo, 1, 0)
	return Int128{int64(uint64(^a.Hi) + c), lo}
}

// Abs gives |a|.
func (a Int128) Abs() Int128 {
	if a.Hi < 0 {
		return a.Neg()
	}
	return a
}

// Cmp is -1, 0 or 1.
func (a Int128) Cmp(b Int128) int {
	switch {
	case a.Hi < b.Hi:
		return -1
	case a.Hi > b.Hi:
		return 1
	case a.Lo < b.Lo:
		return -1
	case a.Lo > b.Lo:
		return 1
	}
	return 0
}

// Big gives the value as a big.Int.
func (a Int128) Big() *big.Int {
	abs := a.Abs()
	z := new(big.Int).SetUint64(uint64(abs.Hi))
	z.Lsh(z, 64).Or(z, new(big.Int).SetUint64(abs.Lo))
	if a.Hi < 0 {
		z.Neg(z)
	}
	return z
}

// Int128FromBig gives the value and whether it has at most 38 digits.
func Int128FromBig(z *big.Int) (Int128, bool) {
	if z.BitLen() > 127 {
		return Int128{}, false
	}
	abs := new(big.Int).Abs(z)
	lo := new(big.Int).And(abs, maxUint64).Uint64()
	hi := abs.Rsh(abs, 64).Uint64()
	r := Int128{int64(hi), lo}
	if r.Cmp(maxDecimal) > 0 {
		return Int128{}, false
	}
	if z.Sign() < 0 {
		r = r.Neg()
	}
	return r, true
}

var (
	maxUint64  = new(big.Int).SetUint64(math.MaxUint64)
	pow10      [MaxPrecision + 1]Int128
	pow10big   [2*MaxPrecision + 2]*big.Int
	maxDecimal Int128 // 10^38 - 1
)

func init() {
	z := big.NewInt(1)
	for i := range pow10big {
		pow10big[i] = new(big.Int).Set(z)
		if i <= MaxPrecision {
			lo := new(big.Int).And(z, maxUint64).Uint64()
			pow10[i] = Int128{int64(new(big.Int).Rsh(z, 64).Uint64()), lo}
		}
		z.Mul(z, big.NewInt(10))
	}
	maxDecimal, _ = pow10[MaxPrecision].Add(Int128From(-1))
}

// Fits reports whether the value has at most precision digits.
func (a Int128) Fits(precision int) bool { return a.Abs().Cmp(pow10[precision]) < 0 }

// Mul gives a*b and whether it has at most 38 digits.
func (a Int128) Mul(b Int128) (Int128, bool) {
	if x, ok := a.Int64(); ok {
		if y, ok := b.Int64(); ok {
			hi, lo := bits.Mul64(uint64(x), uint64(y))
			// Signed product from the unsigned one.
			h := int64(hi)
			if x < 0 {
				h -= y
			}
			if y < 0 {
				h -= x
			}
			r := Int128{h, lo}
			return r, r.Abs().Cmp(maxDecimal) <= 0
		}
	}
	return Int128FromBig(new(big.Int).Mul(a.Big(), b.Big()))
}

// Rescale changes the digits after the point, rounding half up (away from zero), and reports whether the
// result has at most 38 digits.
func (a Int128) Rescale(from, to int) (Int128, bool) {
	if from == to {
		return a, true
	}
	if to > from {
		return a.Mul(pow10[min(to-from, MaxPrecision)])
	}
	return a.DivRound(pow10big[from-to])
}

// DivRound divides by a positive number, rounding half away from zero.
func (a Int128) DivRound(d *big.Int) (Int128, bool) { return divRound(a.Big(), d) }

func divRound(n, d *big.Int) (Int128, bool) {
	q, r := new(big.Int).QuoRem(n, d, new(big.Int))
	r.Abs(r).Lsh(r, 1)
	if r.CmpAbs(d) >= 0 {
		if n.Sign()*d.Sign() < 0 {
			q.Sub(q, big.NewInt(1))
		} else {
			q.Add(q, big.NewInt(1))
		}
	}
	return Int128FromBig(q)
}

// DecimalDiv gives a/b at scale, from scales sa and sb; b is not zero.
func DecimalDiv(a, b Int128, sa, sb, scale int) (Int128, bool) {
	// a/10^sa / (b/10^sb) * 10^scale = a * 10^(scale+sb-sa) / b
	n, d := a.Big(), b.Big()
	if e := scale + sb - sa; e >= 0 {
		n.Mul(n, pow10big[e])
	} else {
		d.Mul(d, pow10big[-e])
	}
	return divRound(n, d)
}

// DecimalMod gives the remainder of a/b at the greater of both scales, with a's sign; b is not zero.
func DecimalMod(a, b Int128, sa, sb int) (Int128, bool) {
	s := max(sa, sb)
	n, d := a.Big(), b.Big()
	n.Mul(n, pow10big[s-sa])
	d.Mul(d, pow10big[s-sb])
	return Int128FromBig(n.Rem(n, d))
}

// Float64 gives the nearest double of the decimal a/10^scale.
func (a Int128) Float64(scale int) float64 {
	if v, ok := a.Int64(); ok && scale <= 22 && v > -1<<53 && v < 1<<53 {
		return float64(v) / math.Pow10(scale)
	}
	f, _ := new(big.Rat).SetFrac(a.Big(), pow10big[scale]).Float64()
	return f
}

// DecimalText writes the decimal a/10^scale with all its digits.
func DecimalText(a Int128, scale int) string { return string(AppendDecimal(nil, a, scale)) }

// AppendDecimal appends the text of the decimal a/10^scale.
func AppendDecimal(dst []byte, a Int128, scale int) []byte {
	var buf [48]byte
	i := len(buf)
	u := a.Abs()
	digits := 0
	for u.Hi != 0 || u.Lo != 0 || digits <= scale {
		if digits == scale && scale > 0 {
			i--
			buf[i] = '.'
		}
		q, r := bits.Div64(0, uint64(u.Hi), 10)
		lo, rem := bits.Div64(r, u.Lo, 10)
		u = Int128{int64(q), lo}
		i--
		buf[i] = byte('0' + rem)
		digits++
	}
	if a.Hi < 0 {
		i--
		buf[i] = '-'
	}
	return append(dst, buf[i:]...)
}

// ParseDecimal reads a decimal's text ("-12.50") and gives its digits, precision and scale.
// Precision counts leading zeros of a literal only after the point.
func ParseDecimal(s string) (v Int128, precision, scale int, ok bool) {
	t := s
	neg := false
	if t != "" && (t[0] == '-' || t[0] == '+') {
		neg = t[0] == '-'
		t = t[1:]
	}
	whole, frac, _ := strings.Cut(t, ".")
	if whole == "" && frac == "" {
		return Int128{}, 0, 0, false
	}
	whole = strings.TrimLeft(whole, "0")
	if len(whole)+len(frac) > MaxPrecision {
		return Int128{}, 0, 0, false
	}
	for _, part := range [2]string{whole, frac} {
		for i := range len(part) {
			c := part[i]
			if c < '0' || c > '9' {
				return Int128{}, 0, 0, false
			}
			v, _ = v.Mul(Int128From(10))
			v, _ = v.Add(Int128From(int64(c - '0')))
		}
	}
	if neg {
		v = v.Neg()
	}
	return v, max(len(whole)+len(frac), 1), len(frac), true
}

// DecimalFromFloat gives the decimal nearest to the shortest printed form of f, as Trino does.
func DecimalFromFloat(f float64, precision, scale int) (Int128, bool) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Int128{}, false
	}
	r, ok := new(big.Rat).SetString(shortest(f))
	if !ok {
		return Int128{}, false
	}
	n := new(big.Int).Mul(r.Num(), pow10big[scale])
	v, ok := divRound(n, r.Denom())
	return v, ok && v.Fits(precision)
}
