package expr

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	mrand "math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// A row computes the value of row i from arguments that are not null; it may leave out null.
type row func(a []*value.Vec, i int, out *value.Vec) error

// A def is one form of a function. in has a letter an argument: v varchar, i any integer (taken as
// bigint), d any number (taken as double), b boolean, x varbinary, t date or timestamp, D date, a
// anything, A array, M map; ? makes those behind it optional, * repeats the last one.
type def struct {
	in      string
	out     value.Type
	canFail bool
	row     row
}

var functions = map[string][]def{}

func register(name, in string, out value.Type, f row) {
	functions[name] = append(functions[name], def{in: in, out: out, row: f})
}

func registerFail(name, in string, out value.Type, f row) {
	functions[name] = append(functions[name], def{in: in, out: out, row: f, canFail: true})
}

// Names lists the scalar functions.
func Names() []string {
	names := slices.Collect(maps.Keys(functions))
	names = append(names, "coalesce", "nullif", "if", "try", "abs", "mod", "round", "truncate", "ceil", "ceiling", "floor", "sign",
		"greatest", "least", "typeof", "concat", "element_at", "cardinality", "contains", "array_position", "map_keys", "map_values", "array_join",
		"date_trunc", "date_add", "date", "at_timezone", "from_unixtime", "random", "rand")
	slices.Sort(names)
	return slices.Compact(names)
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func badArg(format string, args ...any) error {
	return sqlerr.InvalidFunctionArg.Errorf(format, args...)
}

// maxText bounds one text that a function makes, maxBatchText those of one batch together.
const (
	maxText      = 16 << 20
	maxBatchText = 128 << 20
)

func init() {
	V, I, D, B, X := value.VarcharType, value.BigIntType, value.DoubleType, value.BooleanType, value.VarbinaryType
	text := func(name, in string, f func(s string) string) {
		register(name, in, V, func(a []*value.Vec, i int, out *value.Vec) error {
			out.Str[i] = f(a[0].Str[i])
			return nil
		})
	}
	text("lower", "v", func(s string) string { return mapRunes(s, unicode.ToLower) })
	text("upper", "v", func(s string) string { return mapRunes(s, unicode.ToUpper) })
	text("trim", "v", strings.TrimSpace)
	text("ltrim", "v", func(s string) string { return strings.TrimLeftFunc(s, unicode.IsSpace) })
	text("rtrim", "v", func(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) })
	text("reverse", "v", func(s string) string {
		r := []rune(s)
		slices.Reverse(r)
		return string(r)
	})
	for name, f := range map[string]func(s, cut string) string{"trim": strings.Trim, "ltrim": strings.TrimLeft, "rtrim": strings.TrimRight} {
		register(name, "vv", V, func(a []*value.Vec, i int, out *value.Vec) error {
			out.Str[i] = f(a[0].Str[i], a[1].Str[i])
			return nil
		})
	}
	for _, name := range []string{"length", "char_length", "character_length"} {
		register(name, "v", I, func(a []*value.Vec, i int, out *value.Vec) error {
			out.I64[i] = int64(utf8.RuneCountInString(a[0].Str[i]))
			return nil
		})
	}
	register("length", "x", I, func(a []*value.Vec, i int, out *value.Vec) error {
		out.I64[i] = int64(len(a[0].Str[i]))
		return nil
	})
	for _, name := range []string{"substr", "substring"} {
		register(name, "vi?i", V, func(a []*value.Vec, i int, out *value.Vec) error {
			n := int64(math.MaxInt64)
			if len(a) > 2 {
				n = a[2].I64[i]
			}
			out.Str[i] = substr(a[0].Str[i], a[1].I64[i], n)
			return nil
		})
	}
	register("left", "vi", V, func(a []*value.Vec, i int, out *value.Vec) error {
		out.Str[i] = substr(a[0].Str[i], 1, a[1].I64[i])
		return nil
	})
	register("right", "vi", V, func(a []*value.Vec, i int, out *value.Vec) error {
		n := int64(utf8.RuneCountInString(a[0].Str[i]))
		out.Str[i] = substr(a[0].Str[i], max(n-a[1].I64[i], 0)+1, n)
		return nil
	})
	register("replace", "vv?v", V, func(a []*value.Vec, i int, out *value.Vec) error {
		to := ""
		if len(a) > 2 {
			to = a[2].Str[i]
		}
		if a[1].Str[i] == "" && len(a) < 3 {
			out.Str[i] = a[0].Str[i]
			return nil
		}
		out.Str[i] = strings.ReplaceAll(a[0].Str[i], a[1].Str[i], to)
		return nil
	})
	register("strpos", "vv", I, func(a []*value.Vec, i int, out *value.Vec) error {
		out.I64[i] = runeIndex(a[0].Str[i], a[1].Str[i])
		return nil
	})
	register("starts_with", "vv", B, func(a []*value.Vec, i int, out *value.Vec) error {
		out.I64[i] = boolInt(strings.HasPrefix(a[0].Str[i], a[1].Str[i]))
		return nil
	})
	register("ends_with", "vv", B, func(a []*value.Vec, i int, out *value.Vec) error {
		out.I64[i] = boolInt(strings.HasSuffix(a[0].Str[i], a[1].Str[i]))
		return nil
	})
	registerFail("split_part", "vvi", V, func(a []*value.Vec, i int, out *value.Vec) error {
		n := a[2].I64[i]
		if n < 1 {
			return badArg("Index must be greater than zero")
		}
		parts := strings.Split(a[0].Str[i], a[1].Str[i])
		if n > int64(len(parts)) {
			out.SetNull(i)
			return nil
		}
		out.Str[i] = parts[n-1]
		return nil
	})
	registerFail("split", "vv?i", value.ArrayOf(V), func(a []*value.Vec, i int, out *value.Vec) error {
		n := -1
		if len(a) > 2 {
			if n = int(a[2].I64[i]); n < 1 {
				return badArg("Limit must be positive")
			}
		}
		var l []any
		for _, p := range strings.SplitN(a[0].Str[i], a[1].Str[i], n) {
			l = append(l, p)
		}
		out.Any[i] = l
		return nil
	})
	for _, left := range []bool{true, false} {
		name := "rpad"
		if left {
			name = "lpad"
		}
		registerFail(name, "viv", V, func(a []*value.Vec, i int, out *value.Vec) error {
			s, n, pad := []rune(a[0].Str[i]), a[1].I64[i], []rune(a[2].Str[i])
			if n < 0 || n > maxText {
				return badArg("Target length must be in the range [0..%d]", maxText)
			}
			if len(pad) == 0 {
				return badArg("Padding string must not be empty")
			}
			if int64(len(s)) >= n {
				out.Str[i] = string(s[:n])
				return nil
			}
			fill := make([]rune, 0, n)
			for k := 0; int64(len(fill)+len(s)) < n; k++ {
				fill = append(fill, pad[k%len(pad)])
			}
			if left {
				out.Str[i] = string(fill) + string(s)
			} else {
				out.Str[i] = string(s) + string(fill)
			}
			return nil
		})
	}
	registerFail("repeat", "vi", V, func(a []*value.Vec, i int, out *value.Vec) error {
		n := a[1].I64[i]
		if n < 0 || n*int64(len(a[0].Str[i])) > maxText || n > maxText {
			return badArg("Count must be in the range [0..%d]", maxText)
		}
		out.Str[i] = strings.Repeat(a[0].Str[i], int(n))
		return nil
	})
	registerFail("chr", "i", V, func(a []*value.Vec, i int, out *value.Vec) error {
		if n := a[0].I64[i]; n < 0 || n > unicode.MaxRune {
			return badArg("Not a valid Unicode code point: %d", n)
		}
		out.Str[i] = string(rune(a[0].I64[i]))
		return nil
	})
	registerFail("codepoint", "v", value.IntegerType, func(a []*value.Vec, i int, out *value.Vec) error {
		r := []rune(a[0].Str[i])
		if len(r) != 1 {
			return badArg("Input string must be a single character string")
		}
		out.I64[i] = int64(r[0])
		return nil
	})
	functions["concat_ws"] = []def{{in: "vv*", out: V, row: func(a []*value.Vec, i int, out *value.Vec) error {
		var parts []string
		for _, x := range a[1:] {
			parts = append(parts, x.Str[i])
		}
		out.Str[i] = strings.Join(parts, a[0].Str[i])
		return nil
	}}}
	bin := func(name, in string, t value.Type, f func(s string) (string, error)) {
		registerFail(name, in, t, func(a []*value.Vec, i int, out *value.Vec) error {
			s, err := f(a[0].Str[i])
			if err != nil {
				return badArg("%s: %v", name, err)
			}
			out.Str[i] = s
			return nil
		})
	}
	bin("to_utf8", "v", X, func(s string) (string, error) { return s, nil })
	bin("from_utf8", "x", V, func(s string) (string, error) { return strings.ToValidUTF8(s, "\ufffd"), nil })
	bin("to_hex", "x", V, func(s string) (string, error) { return strings.ToUpper(hex.EncodeToString([]byte(s))), nil })
	bin("from_hex", "v", X, func(s string) (string, error) { b, err := hex.DecodeString(s); return string(b), err })
	bin("to_base64", "x", V, func(s string) (string, error) { return base64.StdEncoding.EncodeToString([]byte(s)), nil })
	bin("from_base64", "v", X, func(s string) (string, error) { b, err := base64.StdEncoding.DecodeString(s); return string(b), err })
	bin("md5", "x", X, func(s string) (string, error) { h := md5.Sum([]byte(s)); return string(h[:]), nil })
	bin("sha1", "x", X, func(s string) (string, error) { h := sha1.Sum([]byte(s)); return string(h[:]), nil })
	bin("sha256", "x", X, func(s string) (string, error) { h := sha256.Sum256([]byte(s)); return string(h[:]), nil })
	bin("sha512", "x", X, func(s string) (string, error) { h := sha512.Sum512([]byte(s)); return string(h[:]), nil })

	registerFail("regexp_like", "vv", B, func(a []*value.Vec, i int, out *value.Vec) error {
		re, err := pattern(a[1].Str[i])
		if err != nil {
			return err
		}
		out.I64[i] = boolInt(re.MatchString(a[0].Str[i]))
		return nil
	})
	registerFail("regexp_extract", "vv?i", V, func(a []*value.Vec, i int, out *value.Vec) error {
		re, err := pattern(a[1].Str[i])
		if err != nil {
			return err
		}
		g := int64(0)
		if len(a) > 2 {
			g = a[2].I64[i]
		}
		if g < 0 || g > int64(re.NumSubexp()) {
			return badArg("Pattern has %d groups. Cannot access group %d", re.NumSubexp(), g)
		}
		m := re.FindStringSubmatchIndex(a[0].Str[i])
		if m == nil || m[2*g] < 0 {
			out.SetNull(i)
			return nil
		}
		out.Str[i] = a[0].Str[i][m[2*g]:m[2*g+1]]
		return nil
	})
	registerFail("regexp_replace", "vv?v", V, func(a []*value.Vec, i int, out *value.Vec) error {
		re, err := pattern(a[1].Str[i])
		if err != nil {
			return err
		}
		to := ""
		if len(a) > 2 {
			to = groupRef.ReplaceAllString(a[2].Str[i], "$${$1}")
		}
		out.Str[i] = re.ReplaceAllString(a[0].Str[i], to)
		return nil
	})

	math1 := func(name string, f func(x float64) float64) {
		register(name, "d", D, func(a []*value.Vec, i int, out *value.Vec) error {
			out.F64[i] = f(a[0].F64[i])
			return nil
		})
	}
	for name, f := range map[string]func(float64) float64{"sqrt": math.Sqrt, "cbrt": math.Cbrt, "exp": math.Exp, "ln": math.Log,
		"log2": math.Log2, "log10": math.Log10, "sin": math.Sin, "cos": math.Cos, "tan": math.Tan, "asin": math.Asin, "acos": math.Acos,
		"atan": math.Atan, "sinh": math.Sinh, "cosh": math.Cosh, "tanh": math.Tanh,
		"degrees": func(x float64) float64 { return x * 180 / math.Pi }, "radians": func(x float64) float64 { return x / 180 * math.Pi }} {
		math1(name, f)
	}
	for name, f := range map[string]func(x, y float64) float64{"power": math.Pow, "pow": math.Pow, "atan2": math.Atan2,
		"log": func(b, x float64) float64 { return math.Log(x) / math.Log(b) }} {
		register(name, "dd", D, func(a []*value.Vec, i int, out *value.Vec) error {
			out.F64[i] = f(a[0].F64[i], a[1].F64[i])
			return nil
		})
	}
	for name, c := range map[string]float64{"pi": math.Pi, "e": math.E, "nan": math.NaN(), "infinity": math.Inf(1)} {
		register(name, "", D, func(_ []*value.Vec, i int, out *value.Vec) error { out.F64[i] = c; return nil })
	}
	for name, f := range map[string]func(x float64) bool{"is_nan": math.IsNaN, "is_infinite": func(x float64) bool { return math.IsInf(x, 0) },
		"is_finite": func(x float64) bool { return !math.IsInf(x, 0) && !math.IsNaN(x) }} {
		register(name, "d", B, func(a []*value.Vec, i int, out *value.Vec) error { out.I64[i] = boolInt(f(a[0].F64[i])); return nil })
	}
	for name, f := range map[string]func(x, y int64) int64{"bitwise_and": func(x, y int64) int64 { return x & y },
		"bitwise_or": func(x, y int64) int64 { return x | y }, "bitwise_xor": func(x, y int64) int64 { return x ^ y },
		"bitwise_left_shift": func(x, y int64) int64 { return x << uint64(y) }, "bitwise_right_shift": func(x, y int64) int64 { return int64(uint64(x) >> uint64(y)) }} {
		register(name, "ii", I, func(a []*value.Vec, i int, out *value.Vec) error {
			out.I64[i] = f(a[0].I64[i], a[1].I64[i])
			return nil
		})
	}
	register("bitwise_not", "i", I, func(a []*value.Vec, i int, out *value.Vec) error { out.I64[i] = ^a[0].I64[i]; return nil })
	register("uuid", "", V, func(_ []*value.Vec, i int, out *value.Vec) error {
		var u [16]byte
		rand.Read(u[:])
		u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
		out.Str[i] = fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
		return nil
	})

	part := func(f func(t time.Time) int64, names ...string) {
		for _, n := range names {
			register(n, "t", I, func(a []*value.Vec, i int, out *value.Vec) error {
				out.I64[i] = f(clock(a[0], i))
				return nil
			})
		}
	}
	part(func(t time.Time) int64 { return int64(t.Year()) }, "year")
	part(func(t time.Time) int64 { return int64(t.Month()+2) / 3 }, "quarter")
	part(func(t time.Time) int64 { return int64(t.Month()) }, "month")
	part(func(t time.Time) int64 { _, w := t.ISOWeek(); return int64(w) }, "week", "week_of_year")
	part(func(t time.Time) int64 { y, _ := t.ISOWeek(); return int64(y) }, "year_of_week", "yow")
	part(func(t time.Time) int64 { return int64(t.Day()) }, "day", "day_of_month")
	part(func(t time.Time) int64 { return int64(t.Weekday()+6)%7 + 1 }, "day_of_week", "dow")
	part(func(t time.Time) int64 { return int64(t.YearDay()) }, "day_of_year", "doy")
	part(func(t time.Time) int64 { return int64(t.Hour()) }, "hour")
	part(func(t time.Time) int64 { return int64(t.Minute()) }, "minute")
	part(func(t time.Time) int64 { return int64(t.Second()) }, "second")
	part(func(t time.Time) int64 { return int64(t.Nanosecond() / 1e6) }, "millisecond")
	registerFail("date_diff", "vtt", I, func(a []*value.Vec, i int, out *value.Vec) error {
		n, err := dateDiff(a[0].Str[i], clock(a[1], i), clock(a[2], i))
		out.I64[i] = n
		return err
	})
	register("to_unixtime", "t", D, func(a []*value.Vec, i int, out *value.Vec) error {
		out.F64[i] = float64(instant(a[0], i)) / 1000
		return nil
	})
	register("to_iso8601", "t", V, func(a []*value.Vec, i int, out *value.Vec) error {
		switch t := clock(a[0], i); a[0].Type.Kind {
		case value.Date:
			out.Str[i] = t.Format("2006-01-02")
		case value.TimestampTZ:
			out.Str[i] = t.Format("2006-01-02T15:04:05.000Z07:00")
		default:
			out.Str[i] = t.Format("2006-01-02T15:04:05.000")
		}
		return nil
	})
	registerFail("from_iso8601_date", "v", value.DateType, func(a []*value.Vec, i int, out *value.Vec) error {
		d, ok := value.ParseDate(a[0].Str[i])
		if !ok {
			return badArg("Invalid date: %s", a[0].Str[i])
		}
		out.I64[i] = d
		return nil
	})
	registerFail("from_iso8601_timestamp", "v", value.TimestampTZType, func(a []*value.Vec, i int, out *value.Vec) error {
		ms, _, ok := value.ParseTimestamp(a[0].Str[i])
		if !ok {
			return badArg("Invalid timestamp: %s", a[0].Str[i])
		}
		out.I64[i] = ms
		return nil
	})
	registerFail("date_format", "tv", V, func(a []*value.Vec, i int, out *value.Vec) error {
		s, err := dateFormat(clock(a[0], i), a[1].Str[i])
		out.Str[i] = s
		return err
	})
	registerFail("json_extract_scalar", "vv", V, jsonExtract(true))
	registerFail("json_extract", "vv", V, jsonExtract(false))
	registerFail("json_array_length", "v", I, jsonLength)
	for _, name := range []string{"json_format", "json_parse"} {
		registerFail(name, "v", V, jsonParse)
	}
}

var groupRef = regexp.MustCompile(`\$(\d+)`)

var patterns sync.Map // text of a pattern to *regexp.Regexp; bounded by clearing
var patternCount int
var patternMu sync.Mutex

func pattern(s string) (*regexp.Regexp, error) {
	if re, ok := patterns.Load(s); ok {
		return re.(*regexp.Regexp), nil
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, badArg("Invalid pattern: %v", err)
	}
	patternMu.Lock()
	defer patternMu.Unlock()
	if patternCount++; patternCount > 1000 {
		patterns.Clear()
		patternCount = 0
	}
	patterns.Store(s, re)
	return re, nil
}

func mapRunes(s string, f func(rune) rune) string {
	return strings.Map(f, s)
}

func substr(s string, start, n int64) string {
	if start == 0 || n <= 0 {
		return ""
	}
	count := int64(utf8.RuneCountInString(s))
	if start < 0 {
		start += count + 1
		if start < 1 {
			return ""
		}
	}
	if start > count {
		return ""
	}
	end := count
	if n < count-start+1 {
		end = start - 1 + n
	}
	if count == int64(len(s)) {
		return s[start-1 : end]
	}
	from, k := 0, int64(0)
	for i := range s {
		if k == start-1 {
			from = i
		}
		if k == end {
			return s[from:i]
		}
		k++
	}
	return s[from:]
}

func runeIndex(s, sub string) int64 {
	i := strings.Index(s, sub)
	if i < 0 {
		return 0
	}
	return int64(utf8.RuneCountInString(s[:i])) + 1
}

// clock gives the reading of a date's or timestamp's clock.
func clock(v *value.Vec, i int) time.Time {
	switch v.Type.Kind {
	case value.Date:
		return time.Unix(v.I64[i]*86400, 0).UTC()
	case value.TimestampTZ:
		if l, ok := value.Zone(v.Type.Zone); ok {
			return time.UnixMilli(v.I64[i]).In(l)
		}
	}
	return time.UnixMilli(v.I64[i]).UTC()
}

func instant(v *value.Vec, i int) int64 {
	if v.Type.Kind == value.Date {
		return v.I64[i] * dayMillis
	}
	return v.I64[i]
}

func truncTime(unit string, t time.Time) (time.Time, bool) {
	y, m, d := t.Date()
	l := t.Location()
	switch strings.ToLower(unit) {
	case "millisecond":
		return t, true
	case "second":
		return t.Truncate(time.Second), true
	case "minute":
		return time.Date(y, m, d, t.Hour(), t.Minute(), 0, 0, l), true
	case "hour":
		return time.Date(y, m, d, t.Hour(), 0, 0, 0, l), true
	case "day":
		return time.Date(y, m, d, 0, 0, 0, 0, l), true
	case "week":
		return time.Date(y, m, d-int(t.Weekday()+6)%7, 0, 0, 0, 0, l), true
	case "month":
		return time.Date(y, m, 1, 0, 0, 0, 0, l), true
	case "quarter":
		return time.Date(y, (m-1)/3*3+1, 1, 0, 0, 0, 0, l), true
	case "year":
		return time.Date(y, 1, 1, 0, 0, 0, 0, l), true
	}
	return t, false
}

var unitMillis = map[string]int64{"millisecond": 1, "second": 1000, "minute": 60_000, "hour": 3_600_000, "day": dayMillis, "week": 7 * dayMillis}
var unitMonths = map[string]int64{"month": 1, "quarter": 3, "year": 12}

func dateDiff(unit string, a, b time.Time) (int64, error) {
	unit = strings.ToLower(unit)
	if u, ok := unitMillis[unit]; ok {
		return (b.UnixMilli() - a.UnixMilli()) / u, nil
	}
	u, ok := unitMonths[unit]
	if !ok {
		return 0, badArg("'%s' is not a valid date unit", unit)
	}
	sign := int64(1)
	if b.Before(a) {
		a, b, sign = b, a, -1
	}
	months := int64(b.Year()-a.Year())*12 + int64(b.Month()) - int64(a.Month())
	if months > 0 && addMonths(a.UnixMilli(), months) > b.UnixMilli() {
		months--
	}
	return sign * (months / u), nil
}

// dateFormat writes a time in MySQL's format.
func dateFormat(t time.Time, f string) (string, error) {
	layouts := map[byte]string{'a': "Mon", 'b': "Jan", 'c': "1", 'd': "02", 'e': "2", 'H': "15", 'h': "03", 'I': "03", 'i': "04", 'k': "15",
		'l': "3", 'M': "January", 'm': "01", 'p': "PM", 'r': "03:04:05 PM", 'S': "05", 's': "05", 'T': "15:04:05", 'W': "Monday", 'Y': "2006", 'y': "06"}
	var b strings.Builder
	for i := 0; i < len(f); i++ {
		if f[i] != '%' || i+1 == len(f) {
			b.WriteByte(f[i])
			continue
		}
		i++
		switch c := f[i]; c {
		case 'f':
			fmt.Fprintf(&b, "%06d", t.Nanosecond()/1000)
		case 'j':
			fmt.Fprintf(&b, "%03d", t.YearDay())
		case 'v':
			_, w := t.ISOWeek()
			fmt.Fprintf(&b, "%02d", w)
		case 'x':
			y, _ := t.ISOWeek()
			fmt.Fprintf(&b, "%04d", y)
		case 'D', 'U', 'u', 'V', 'w', 'X':
			return "", badArg("%%%c not supported in date format string", c)
		default:
			if l, ok := layouts[c]; ok {
				b.WriteString(t.Format(l))
			} else {
				b.WriteByte(c)
			}
		}
	}
	return b.String(), nil
}

func strict(f row, t value.Type) func(args []*value.Vec, n int) (*value.Vec, error) {
	return func(args []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(t, n)
		out.Nulls = unionNulls(args, n)
		held := 0
		for i := range n {
			if out.IsNull(i) {
				continue
			}
			if err := f(args, i, out); err != nil {
				return nil, err
			}
			if out.Str != nil {
				if held += len(out.Str[i]); held > maxBatchText {
					return nil, sqlerr.ExceededLocalMemory.Errorf("Text computed for %d rows exceeds %dMB", i+1, maxBatchText>>20)
				}
			}
		}
		return out, nil
	}
}

func accepts(c byte, e Expr) (Expr, bool) {
	t := e.Type()
	var want value.Type
	switch c {
	case 'v':
		want = value.VarcharType
	case 'i':
		if !t.IsInteger() && t.Kind != value.Unknown {
			return nil, false
		}
		want = value.BigIntType
	case 'd':
		if t.Kind == value.Decimal {
			x, err := Cast(e, value.DoubleType, false)
			return x, err == nil
		}
		want = value.DoubleType
	case 'b':
		want = value.BooleanType
	case 'x':
		want = value.VarbinaryType
	case 'D':
		want = value.DateType
	case 't':
		if t.Kind == value.Unknown {
			x, err := Cast(e, value.TimestampType, false)
			return x, err == nil
		}
		return e, t.Kind == value.Date || t.Kind == value.Timestamp || t.Kind == value.TimestampTZ || t.Kind == value.Time
	case 'A':
		return e, t.Kind == value.Array
	case 'M':
		return e, t.Kind == value.Map
	default:
		return e, true
	}
	return Coerce(e, want)
}

func (d def) match(args []Expr) ([]Expr, bool) {
	in := d.in
	var out []Expr
	optional := false
	for k := 0; ; {
		if k < len(in) && in[k] == '?' {
			optional = true
			k++
			continue
		}
		if k < len(in) && in[k] == '*' {
			k--
			if len(args) == 0 {
				return out, true
			}
		}
		if len(args) == 0 {
			return out, k >= len(in) || optional
		}
		if k >= len(in) {
			return nil, false
		}
		x, ok := accepts(in[k], args[0])
		if !ok {
			return nil, false
		}
		out = append(out, x)
		args = args[1:]
		k++
	}
}

// Call builds a call of a scalar function.
func Call(name string, args []Expr) (Expr, error) {
	if f, ok := specials[name]; ok {
		return f(name, args)
	}
	defs, ok := functions[name]
	if !ok {
		return nil, sqlerr.FunctionNotFound.Errorf("Function '%s' not registered", name)
	}
	for _, d := range defs {
		if in, ok := d.match(args); ok {
			return &Func{Name: name, T: d.out, Args: in, CanFail: d.canFail, eval: strict(d.row, d.out)}, nil
		}
	}
	return nil, wrongArgs(name, args)
}

func wrongArgs(name string, args []Expr) error {
	var ts []string
	for _, a := range args {
		ts = append(ts, a.Type().String())
	}
	return sqlerr.FunctionNotFound.Errorf("Unexpected parameters (%s) for function %s", strings.Join(ts, ", "), name)
}

// specials are the functions whose result type depends on their arguments, or that are not strict.
var specials map[string]func(name string, args []Expr) (Expr, error)

func init() {
	specials = map[string]func(name string, args []Expr) (Expr, error){
		"coalesce": coalesce, "nullif": nullif, "if": ifFunc,
		"try": func(name string, args []Expr) (Expr, error) {
			if len(args) != 1 {
				return nil, wrongArgs(name, args)
			}
			return &Try{args[0]}, nil
		},
		"abs": absFunc, "sign": absFunc, "mod": func(name string, args []Expr) (Expr, error) {
			if len(args) != 2 {
				return nil, wrongArgs(name, args)
			}
			return Arith("%", args[0], args[1])
		},
		"round": roundFunc, "truncate": roundFunc, "ceil": roundFunc, "ceiling": roundFunc, "floor": roundFunc,
		"greatest": extreme, "least": extreme,
		"typeof": func(name string, args []Expr) (Expr, error) {
			if len(args) != 1 {
				return nil, wrongArgs(name, args)
			}
			return NewConst(value.VarcharType, args[0].Type().String()), nil
		},
		"concat": concat, "$array": arrayFunc, "$subscript": subscript, "element_at": subscript, "cardinality": cardinality,
		"contains": containsFunc, "array_position": containsFunc, "map_keys": mapParts, "map_values": mapParts, "array_join": arrayJoin,
		"row": rowFunc, "date_trunc": dateTrunc, "date_add": dateAdd, "date": func(name string, args []Expr) (Expr, error) {
			if len(args) != 1 {
				return nil, wrongArgs(name, args)
			}
			return Cast(args[0], value.DateType, false)
		},
		"at_timezone": atTimeZone, "from_unixtime": fromUnixtime, "random": random, "rand": random,
	}
}

func coalesce(name string, args []Expr) (Expr, error) {
	if len(args) < 1 {
		return nil, wrongArgs(name, args)
	}
	all, t, err := Unify("All COALESCE operands", args)
	if err != nil {
		return nil, err
	}
	c := &Case{T: t, Else: all[len(all)-1]}
	for _, a := range all[:len(all)-1] {
		c.Conds = append(c.Conds, IsNull(a, true))
		c.Thens = append(c.Thens, a)
	}
	return c, nil
}

func nullif(name string, args []Expr) (Expr, error) {
	if len(args) != 2 {
		return nil, wrongArgs(name, args)
	}
	eq, err := Compare("=", args[0], args[1])
	if err != nil {
		return nil, err
	}
	return &Case{T: args[0].Type(), Conds: []Expr{eq}, Thens: []Expr{NewConst(args[0].Type(), nil)}, Else: args[0]}, nil
}

func ifFunc(name string, args []Expr) (Expr, error) {
	if len(args) != 2 && len(args) != 3 {
		return nil, wrongArgs(name, args)
	}
	cond, ok := Coerce(args[0], value.BooleanType)
	if !ok {
		return nil, sqlerr.TypeMismatch.Errorf("IF condition must evaluate to a boolean (actual: %s)", args[0].Type())
	}
	all, t, err := Unify("Result types of IF", args[1:])
	if err != nil {
		return nil, err
	}
	c := &Case{T: t, Conds: []Expr{cond}, Thens: all[:1]}
	if len(all) > 1 {
		c.Else = all[1]
	}
	return c, nil
}

func absFunc(name string, args []Expr) (Expr, error) {
	if len(args) != 1 || !args[0].Type().IsNumeric() {
		return nil, wrongArgs(name, args)
	}
	t := args[0].Type()
	lo, _ := t.IntRange()
	return &Func{Name: name, T: t, Args: args, CanFail: t.IsInteger(), eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		switch t.Store() {
		case value.StoreI64:
			v := a[0].I64[i]
			if name == "sign" {
				out.I64[i] = boolInt(v > 0) - boolInt(v < 0)
				return nil
			}
			if v == lo {
				return sqlerr.NumericOutOfRange.Errorf("Value %d is out of range for abs(%s)", v, t)
			}
			out.I64[i] = max(v, -v)
		case value.StoreF64:
			v := a[0].F64[i]
			if name == "sign" {
				switch {
				case v > 0:
					v = 1
				case v < 0:
					v = -1
				}
				out.F64[i] = v
				return nil
			}
			out.F64[i] = math.Abs(v)
		default:
			if name == "sign" {
				out.Dec[i], _ = value.Int128From(int64(a[0].Dec[i].Sign())).Rescale(0, t.Scale)
				return nil
			}
			out.Dec[i] = a[0].Dec[i].Abs()
		}
		return nil
	}, t)}, nil
}

func roundFunc(name string, args []Expr) (Expr, error) {
	if len(args) < 1 || len(args) > 2 || !args[0].Type().IsNumeric() || len(args) == 2 && (!args[1].Type().IsInteger() || name[0] == 'c' || name == "floor") {
		return nil, wrongArgs(name, args)
	}
	t := args[0].Type()
	in := []Expr{args[0]}
	if len(args) == 2 {
		d, _ := Coerce(args[1], value.BigIntType)
		in = append(in, d)
	}
	digits := func(a []*value.Vec, i int) int64 {
		if len(a) > 1 {
			return a[1].I64[i]
		}
		return 0
	}
	rnd := func(f float64) float64 {
		switch name {
		case "floor":
			return math.Floor(f)
		case "truncate":
			return math.Trunc(f)
		case "round":
			return math.Round(f)
		}
		return math.Ceil(f)
	}
	switch {
	case t.IsInteger() && len(in) == 1:
		return args[0], nil
	case t.IsInteger():
		return &Func{Name: name, T: t, Args: in, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
			v, d := a[0].I64[i], digits(a, i)
			if d < 0 {
				if d < -18 {
					v = 0
				} else {
					p := int64(math.Pow10(int(-d)))
					q := v / p
					if r := v % p; name == "round" && (r >= p-r && r > 0) {
						q++
					} else if name == "round" && r < 0 && -r >= p+r {
						q--
					}
					v = q * p
				}
			}
			out.I64[i] = v
			return nil
		}, t)}, nil
	case t.IsFloat():
		return &Func{Name: name, T: t, Args: in, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
			v, d := a[0].F64[i], digits(a, i)
			if d == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
				out.F64[i] = rnd(v)
				return nil
			}
			p := math.Pow10(int(max(min(d, 300), -300)))
			r := rnd(v*p) / p
			if math.IsNaN(r) || math.IsInf(r, 0) {
				r = v
			}
			out.F64[i] = r
			return nil
		}, t)}, nil
	}
	// Decimals: ceil, floor and round without digits have scale 0; round to digits keeps the scale.
	out := value.DecimalType(min(t.Precision-t.Scale+min(t.Scale, 1), value.MaxPrecision), 0)
	if len(in) == 2 {
		out = value.DecimalType(min(t.Precision+1, value.MaxPrecision), t.Scale)
	}
	if out.Precision == 0 {
		out.Precision = 1
	}
	return &Func{Name: name, T: out, Args: in, CanFail: true, eval: strict(func(a []*value.Vec, i int, o *value.Vec) error {
		v := a[0].Dec[i]
		d := int(max(min(digits(a, i), int64(t.Scale)), int64(-value.MaxPrecision)))
		drop := t.Scale - d
		if drop > value.MaxPrecision {
			o.Dec[i] = value.Int128{}
			return nil
		}
		r, ok := v.Rescale(drop, 0)
		back, ok2 := r.Rescale(0, drop)
		one := value.Int128From(1)
		switch {
		case !ok || !ok2:
			return sqlerr.NumericOutOfRange.Errorf("Decimal overflow")
		case name == "floor" && back.Cmp(v) > 0, name == "truncate" && v.Sign() > 0 && back.Cmp(v) > 0:
			r, _ = r.Add(one.Neg())
		case name[0] == 'c' && back.Cmp(v) < 0, name == "truncate" && v.Sign() < 0 && back.Cmp(v) < 0:
			r, _ = r.Add(one)
		}
		r, ok = r.Rescale(d, out.Scale)
		if !ok || !r.Fits(value.MaxPrecision) {
			return sqlerr.NumericOutOfRange.Errorf("Decimal overflow")
		}
		o.Dec[i] = r
		return nil
	}, out)}, nil
}

func extreme(name string, args []Expr) (Expr, error) {
	if len(args) < 1 {
		return nil, wrongArgs(name, args)
	}
	all, t, err := Unify("All "+name+" arguments", args)
	if err != nil {
		return nil, err
	}
	sign := 1
	if name == "least" {
		sign = -1
	}
	return &Func{Name: name, T: t, Args: all, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		best := a[0]
		for _, x := range a[1:] {
			if sign*value.CompareAt(x, i, best, i) > 0 {
				best = x
			}
		}
		out.Set(i, best.Get(i))
		return nil
	}, t)}, nil
}

func concat(name string, args []Expr) (Expr, error) {
	if len(args) < 1 {
		return nil, wrongArgs(name, args)
	}
	if k := args[0].Type().Kind; k == value.Array {
		all, t, err := Unify("Arrays", args)
		if err != nil {
			return nil, err
		}
		return &Func{Name: name, T: t, Args: all, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
			var l []any
			for _, x := range a {
				l = append(l, x.Any[i].([]any)...)
			}
			out.Any[i] = l
			return nil
		}, t)}, nil
	}
	t := value.VarcharType
	if args[0].Type().Kind == value.Varbinary {
		t = value.VarbinaryType
	}
	in := make([]Expr, len(args))
	for i, a := range args {
		x, ok := Coerce(a, t)
		if !ok {
			if name == "||" {
				return nil, mismatch("||", args[0].Type(), args[len(args)-1].Type())
			}
			return nil, wrongArgs(name, args)
		}
		in[i] = x
	}
	return &Func{Name: name, T: t, Args: in, CanFail: true, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		n := 0
		for _, x := range a {
			n += len(x.Str[i])
		}
		if n > maxText {
			return badArg("Concatenated string is longer than %d bytes", maxText)
		}
		b := make([]byte, 0, n)
		for _, x := range a {
			b = append(b, x.Str[i]...)
		}
		out.Str[i] = string(b)
		return nil
	}, t)}, nil
}

// Concat builds a || b.
func Concat(l, r Expr) (Expr, error) { return concat("||", []Expr{l, r}) }

func arrayFunc(_ string, args []Expr) (Expr, error) {
	all, t, err := Unify("All ARRAY elements", args)
	if err != nil {
		return nil, err
	}
	at := value.ArrayOf(t)
	return &Func{Name: "array", T: at, Args: all, eval: func(a []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(at, n)
		for i := range n {
			l := make([]any, len(a))
			for k, x := range a {
				l[k] = x.Get(i)
			}
			out.Any[i] = l
		}
		return out, nil
	}}, nil
}

func rowFunc(_ string, args []Expr) (Expr, error) {
	var fields []value.Field
	for _, a := range args {
		fields = append(fields, value.Field{Type: a.Type()})
	}
	t := value.RowOf(fields...)
	return &Func{Name: "row", T: t, Args: args, eval: func(a []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(t, n)
		for i := range n {
			l := make([]any, len(a))
			for k, x := range a {
				l[k] = x.Get(i)
			}
			out.Any[i] = l
		}
		return out, nil
	}}, nil
}

// FieldOf builds x.name of a row.
func FieldOf(x Expr, name string) (Expr, bool) {
	for k, f := range x.Type().Fields {
		if strings.EqualFold(f.Name, name) {
			return &Func{Name: "field " + f.Name, T: f.Type, Args: []Expr{x}, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
				if l := a[0].Any[i].([]any); k < len(l) {
					out.Set(i, l[k])
				} else {
					out.SetNull(i)
				}
				return nil
			}, f.Type)}, true
		}
	}
	return nil, false
}

func subscript(name string, args []Expr) (Expr, error) {
	if len(args) != 2 {
		return nil, wrongArgs(name, args)
	}
	safe := name == "element_at"
	switch t := args[0].Type(); t.Kind {
	case value.Array:
		idx, ok := accepts('i', args[1])
		if !ok {
			return nil, wrongArgs(name, args)
		}
		return &Func{Name: name, T: *t.Elem, Args: []Expr{args[0], idx}, CanFail: true, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
			l, k := a[0].Any[i].([]any), a[1].I64[i]
			if k == 0 {
				return badArg("SQL array indices start at 1")
			}
			if k < 0 && safe {
				k += int64(len(l)) + 1
			}
			if k < 1 || k > int64(len(l)) {
				if safe {
					out.SetNull(i)
					return nil
				}
				if k < 0 {
					return badArg("Array subscript is negative: %d", k)
				}
				return badArg("Array subscript must be less than or equal to array length: %d > %d", k, len(l))
			}
			out.Set(i, l[k-1])
			return nil
		}, *t.Elem)}, nil
	case value.Map:
		key, ok := Coerce(args[1], *t.Key)
		if !ok {
			return nil, wrongArgs(name, args)
		}
		return &Func{Name: name, T: *t.Elem, Args: []Expr{args[0], key}, CanFail: true, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
			k := a[1].Get(i)
			for _, p := range a[0].Any[i].(value.Pairs) {
				if value.Compare(p.Key, k) == 0 {
					out.Set(i, p.Value)
					return nil
				}
			}
			if !safe {
				return badArg("Key not present in map: %s", value.AppendText(nil, *t.Key, k))
			}
			out.SetNull(i)
			return nil
		}, *t.Elem)}, nil
	}
	return nil, wrongArgs(strings.TrimPrefix(name, "$"), args)
}

func cardinality(name string, args []Expr) (Expr, error) {
	if len(args) != 1 || args[0].Type().Kind != value.Array && args[0].Type().Kind != value.Map {
		return nil, wrongArgs(name, args)
	}
	return &Func{Name: name, T: value.BigIntType, Args: args, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		switch x := a[0].Any[i].(type) {
		case []any:
			out.I64[i] = int64(len(x))
		case value.Pairs:
			out.I64[i] = int64(len(x))
		}
		return nil
	}, value.BigIntType)}, nil
}

func containsFunc(name string, args []Expr) (Expr, error) {
	if len(args) != 2 || args[0].Type().Kind != value.Array {
		return nil, wrongArgs(name, args)
	}
	x, ok := Coerce(args[1], *args[0].Type().Elem)
	if !ok {
		return nil, wrongArgs(name, args)
	}
	t := value.BooleanType
	if name == "array_position" {
		t = value.BigIntType
	}
	return &Func{Name: name, T: t, Args: []Expr{args[0], x}, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		v, null := a[1].Get(i), false
		for k, e := range a[0].Any[i].([]any) {
			if e == nil {
				null = true
			} else if value.Compare(e, v) == 0 {
				out.I64[i] = 1
				if name == "array_position" {
					out.I64[i] = int64(k) + 1
				}
				return nil
			}
		}
		if null && name == "contains" {
			out.SetNull(i)
		}
		return nil
	}, t)}, nil
}

func mapParts(name string, args []Expr) (Expr, error) {
	if len(args) != 1 || args[0].Type().Kind != value.Map {
		return nil, wrongArgs(name, args)
	}
	t := value.ArrayOf(*args[0].Type().Elem)
	if name == "map_keys" {
		t = value.ArrayOf(*args[0].Type().Key)
	}
	return &Func{Name: name, T: t, Args: args, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		l := []any{}
		for _, p := range a[0].Any[i].(value.Pairs) {
			if name == "map_keys" {
				l = append(l, p.Key)
			} else {
				l = append(l, p.Value)
			}
		}
		out.Any[i] = l
		return nil
	}, t)}, nil
}

func arrayJoin(name string, args []Expr) (Expr, error) {
	if len(args) < 2 || len(args) > 3 || args[0].Type().Kind != value.Array {
		return nil, wrongArgs(name, args)
	}
	in := []Expr{args[0]}
	for _, a := range args[1:] {
		x, ok := Coerce(a, value.VarcharType)
		if !ok {
			return nil, wrongArgs(name, args)
		}
		in = append(in, x)
	}
	et := *args[0].Type().Elem
	return &Func{Name: name, T: value.VarcharType, Args: in, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		var parts []string
		for _, e := range a[0].Any[i].([]any) {
			switch {
			case e != nil:
				parts = append(parts, string(value.AppendText(nil, et, e)))
			case len(a) > 2:
				parts = append(parts, a[2].Str[i])
			}
		}
		out.Str[i] = strings.Join(parts, a[1].Str[i])
		return nil
	}, value.VarcharType)}, nil
}

func dateTrunc(name string, args []Expr) (Expr, error) {
	if len(args) != 2 {
		return nil, wrongArgs(name, args)
	}
	u, ok1 := accepts('v', args[0])
	x, ok2 := accepts('t', args[1])
	if !ok1 || !ok2 || x.Type().Kind == value.Time {
		return nil, wrongArgs(name, args)
	}
	t := x.Type()
	return &Func{Name: name, T: t, Args: []Expr{u, x}, CanFail: true, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		r, ok := truncTime(a[0].Str[i], clock(a[1], i))
		if !ok {
			return badArg("'%s' is not a valid %s field", a[0].Str[i], t.Name())
		}
		out.I64[i] = r.UnixMilli()
		if t.Kind == value.Date {
			out.I64[i] = value.FloorDiv(r.UnixMilli(), dayMillis)
		}
		return nil
	}, t)}, nil
}

func dateAdd(name string, args []Expr) (Expr, error) {
	if len(args) != 3 {
		return nil, wrongArgs(name, args)
	}
	u, ok1 := accepts('v', args[0])
	n, ok2 := accepts('i', args[1])
	x, ok3 := accepts('t', args[2])
	if !ok1 || !ok2 || !ok3 || x.Type().Kind == value.Time {
		return nil, wrongArgs(name, args)
	}
	t := x.Type()
	return &Func{Name: name, T: t, Args: []Expr{u, n, x}, CanFail: true, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		unit, k := strings.ToLower(a[0].Str[i]), a[1].I64[i]
		ms := instant(a[2], i)
		if m, ok := unitMonths[unit]; ok {
			ms = addMonths(ms, k*m)
		} else if m, ok := unitMillis[unit]; ok && (t.Kind != value.Date || m%dayMillis == 0) {
			ms += k * m
		} else {
			return badArg("'%s' is not a valid %s field", unit, t.Name())
		}
		if t.Kind == value.Date {
			ms = value.FloorDiv(ms, dayMillis)
		}
		out.I64[i] = ms
		return nil
	}, t)}, nil
}

func atTimeZone(name string, args []Expr) (Expr, error) {
	if len(args) != 2 {
		return nil, wrongArgs(name, args)
	}
	c, ok := Fold(args[1]).(*Const)
	k := args[0].Type().Kind
	if !ok || c.T.Kind != value.Varchar || k != value.Timestamp && k != value.TimestampTZ {
		return nil, sqlerr.NotSupported.Errorf("AT TIME ZONE needs a timestamp and a constant zone")
	}
	zone, _ := c.Val.(string)
	if _, ok := value.Zone(zone); !ok || zone == "" {
		return nil, badArg("'%s' is not a valid time zone", zone)
	}
	t := value.TimestampTZType
	t.Zone = zone
	return &Func{Name: name, T: t, Args: args[:1], eval: func(a []*value.Vec, _ int) (*value.Vec, error) { return a[0].Retype(t), nil }}, nil
}

func fromUnixtime(name string, args []Expr) (Expr, error) {
	if len(args) < 1 || len(args) > 2 {
		return nil, wrongArgs(name, args)
	}
	x, ok := accepts('d', args[0])
	if !ok {
		return nil, wrongArgs(name, args)
	}
	t := value.TimestampTZType
	f := Expr(&Func{Name: name, T: t, Args: []Expr{x}, CanFail: true, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		s := a[0].F64[i] * 1000
		if math.IsNaN(s) || math.Abs(s) > 1e15 {
			return badArg("Unix time is out of range")
		}
		out.I64[i] = int64(math.Round(s))
		return nil
	}, t)})
	if len(args) == 2 {
		return atTimeZone(name, []Expr{f, args[1]})
	}
	return f, nil
}

func random(name string, args []Expr) (Expr, error) {
	switch {
	case len(args) == 0:
		return &Func{Name: "random", T: value.DoubleType, eval: func(_ []*value.Vec, n int) (*value.Vec, error) {
			out := value.NewVec(value.DoubleType, n)
			for i := range n {
				out.F64[i] = mrand.Float64()
			}
			return out, nil
		}}, nil
	case len(args) == 1 && args[0].Type().IsInteger():
		return &Func{Name: "random", T: args[0].Type(), Args: args, CanFail: true, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
			if a[0].I64[i] <= 0 {
				return badArg("bound must be positive")
			}
			out.I64[i] = mrand.Int64N(a[0].I64[i])
			return nil
		}, args[0].Type())}, nil
	}
	return nil, wrongArgs(name, args)
}
