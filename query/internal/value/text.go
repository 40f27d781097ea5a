package value

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const dayMillis = 24 * 60 * 60 * 1000

func shortest(f float64) string { return strconv.FormatFloat(f, 'e', -1, 64) }

// AppendDouble appends a double as Trino's varchar cast does: 1.5E0, 1.0E20, NaN, Infinity.
func AppendDouble(dst []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, "NaN"...)
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	case f == 0:
		if math.Signbit(f) {
			return append(dst, "-0E0"...)
		}
		return append(dst, "0E0"...)
	}
	s := strconv.FormatFloat(f, 'e', -1, bits)
	mant, exp, _ := strings.Cut(s, "e")
	dst = append(dst, mant...)
	if !strings.Contains(mant, ".") {
		dst = append(dst, ".0"...)
	}
	dst = append(dst, 'E')
	e, _ := strconv.Atoi(exp)
	return strconv.AppendInt(dst, int64(e), 10)
}

// AppendDate appends days since 1970-01-01 as 2006-01-02.
func AppendDate(dst []byte, days int64) []byte {
	return time.Unix(days*86400, 0).UTC().AppendFormat(dst, "2006-01-02")
}

// AppendTimestamp appends milliseconds since the epoch as 2006-01-02 15:04:05.000.
func AppendTimestamp(dst []byte, ms int64) []byte {
	return time.UnixMilli(ms).UTC().AppendFormat(dst, "2006-01-02 15:04:05.000")
}

// AppendTimestampTZ appends an instant in a zone: 2006-01-02 15:04:05.000 Europe/Vienna.
func AppendTimestampTZ(dst []byte, ms int64, zone string) []byte {
	if zone == "" {
		zone = "UTC"
	}
	loc, ok := Zone(zone)
	if !ok {
		loc, zone = time.UTC, "UTC"
	}
	dst = time.UnixMilli(ms).In(loc).AppendFormat(dst, "2006-01-02 15:04:05.000")
	dst = append(dst, ' ')
	return append(dst, zone...)
}

// AppendTime appends milliseconds of the day as 15:04:05.000.
func AppendTime(dst []byte, ms int64) []byte {
	return time.UnixMilli(ms).UTC().AppendFormat(dst, "15:04:05.000")
}

// AppendIntervalDay appends an interval of milliseconds as Trino does: "1 02:03:04.500".
func AppendIntervalDay(dst []byte, ms int64) []byte {
	if ms < 0 {
		dst = append(dst, '-')
		ms = -ms
	}
	dst = strconv.AppendInt(dst, ms/dayMillis, 10)
	dst = append(dst, ' ')
	return time.UnixMilli(ms%dayMillis).UTC().AppendFormat(dst, "15:04:05.000")
}

// AppendIntervalMonth appends an interval of months as Trino does: "1-2".
func AppendIntervalMonth(dst []byte, m int64) []byte {
	if m < 0 {
		dst = append(dst, '-')
		m = -m
	}
	dst = strconv.AppendInt(dst, m/12, 10)
	dst = append(dst, '-')
	return strconv.AppendInt(dst, m%12, 10)
}

// AppendText appends a boxed value as CAST(x AS varchar) writes it; nested values as JSON-like text.
func AppendText(dst []byte, t Type, a any) []byte {
	switch a := a.(type) {
	case nil:
		return append(dst, "NULL"...)
	case bool:
		return strconv.AppendBool(dst, a)
	case int64:
		switch t.Kind {
		case Date:
			return AppendDate(dst, a)
		case Time:
			return AppendTime(dst, a)
		case Timestamp:
			return AppendTimestamp(dst, a)
		case TimestampTZ:
			return AppendTimestampTZ(dst, a, t.Zone)
		case IntervalDay:
			return AppendIntervalDay(dst, a)
		case IntervalMonth:
			return AppendIntervalMonth(dst, a)
		}
		return strconv.AppendInt(dst, a, 10)
	case float64:
		if t.Kind == Real {
			return AppendDouble(dst, a, 32)
		}
		return AppendDouble(dst, a, 64)
	case Int128:
		return AppendDecimal(dst, a, t.Scale)
	case string:
		return append(dst, a...)
	}
	return AppendJSON(dst, t, a)
}

// AppendJSON appends a boxed value as Trino's protocol encodes it in a page: numbers as numbers, NaN and
// infinities, decimals, dates and times as strings, varbinary as base64, rows and arrays as arrays, maps
// as objects.
func AppendJSON(dst []byte, t Type, a any) []byte {
	switch a := a.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, a)
	case int64:
		if t.IsInteger() {
			return strconv.AppendInt(dst, a, 10)
		}
		dst = append(dst, '"')
		dst = AppendText(dst, t, a)
		return append(dst, '"')
	case float64:
		return AppendJSONFloat(dst, t, a)
	case Int128:
		dst = append(dst, '"')
		dst = AppendDecimal(dst, a, t.Scale)
		return append(dst, '"')
	case string:
		if t.Kind == Varbinary {
			dst = append(dst, '"')
			dst = base64.StdEncoding.AppendEncode(dst, []byte(a))
			return append(dst, '"')
		}
		return AppendJSONString(dst, a)
	case []any:
		dst = append(dst, '[')
		for i, e := range a {
			if i > 0 {
				dst = append(dst, ',')
			}
			et := UnknownType
			if t.Kind == Row && i < len(t.Fields) {
				et = t.Fields[i].Type
			} else if t.Kind == Array {
				et = *t.Elem
			}
			dst = AppendJSON(dst, et, e)
		}
		return append(dst, ']')
	case Pairs:
		dst = append(dst, '{')
		for i, e := range a {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendJSONString(dst, string(AppendText(nil, *t.Key, e.Key)))
			dst = append(dst, ':')
			dst = AppendJSON(dst, *t.Elem, e.Value)
		}
		return append(dst, '}')
	}
	return append(dst, "null"...)
}

// AppendJSONFloat appends a double or real as a JSON number, or NaN and infinities as strings.
func AppendJSONFloat(dst []byte, t Type, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	}
	bits := 64
	if t.Kind == Real {
		bits = 32
	}
	abs := math.Abs(f)
	if abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		return strconv.AppendFloat(dst, f, 'e', -1, bits)
	}
	n := len(dst)
	dst = strconv.AppendFloat(dst, f, 'f', -1, bits)
	if !strings.Contains(string(dst[n:]), ".") {
		dst = append(dst, ".0"...)
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// AppendJSONString appends s as a JSON string; bytes that are not UTF-8 become U+FFFD.
func AppendJSONString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[start:i]...), `\ufffd`...)
				i++
				start = i
				continue
			}
			i += n
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// ParseDate reads 2006-01-02 (with one or two digits of month and day) into days since 1970-01-01.
func ParseDate(s string) (int64, bool) {
	t, err := time.Parse("2006-1-2", strings.TrimSpace(s))
	if err != nil {
		return 0, false
	}
	return t.Unix() / 86400, t.Year() >= 0 && floorDiv(t.Unix(), 86400)*86400 == t.Unix()
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// FloorDiv divides rounding down; b > 0.
func FloorDiv(a, b int64) int64 { return floorDiv(a, b) }

var timestampLayouts = [...]string{"2006-1-2 15:04:05", "2006-1-2T15:04:05", "2006-1-2 15:04", "2006-1-2"}

// ParseTimestamp reads 2006-01-02[ 15:04[:05[.fff]]] into milliseconds, rounding finer digits, and, where a
// zone follows, the zone's name ("" when none).
func ParseTimestamp(s string) (ms int64, zone string, ok bool) {
	s = strings.TrimSpace(s)
	body := s
	loc := time.UTC
	if i := strings.LastIndexByte(s, ' '); i > 0 && i+1 < len(s) && !(s[i+1] >= '0' && s[i+1] <= '9') {
		body, zone = strings.TrimSpace(s[:i]), s[i+1:]
	} else if strings.HasSuffix(s, "Z") {
		body, zone = s[:len(s)-1], "UTC"
	} else if j := strings.LastIndexAny(s, "+-"); j > 10 && strings.Contains(s[:j], ":") {
		body, zone = s[:j], s[j:]
	}
	if zone != "" {
		l, ok := Zone(zone)
		if !ok {
			return 0, "", false
		}
		loc = l
	}
	for _, layout := range timestampLayouts {
		if t, err := time.ParseInLocation(layout, body, loc); err == nil {
			return t.Add(time.Millisecond / 2).UnixMilli(), zone, true
		}
	}
	return 0, "", false
}

// Zone finds a time zone by name or offset (+05:30).
func Zone(name string) (*time.Location, bool) {
	if name == "" {
		return time.UTC, true
	}
	if name[0] == '+' || name[0] == '-' {
		for _, l := range [...]string{"-07:00", "-0700", "-07"} {
			if t, err := time.Parse(l, name); err == nil {
				_, off := t.Zone()
				return time.FixedZone(name, off), true
			}
		}
		return nil, false
	}
	l, err := time.LoadLocation(name)
	return l, err == nil
}

// ParseDouble reads a double as Trino does, with NaN and Infinity.
func ParseDouble(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	switch s {
	case "NaN", "Infinity", "+Infinity", "-Infinity":
	default:
		if s == "" || !(s[len(s)-1] >= '0' && s[len(s)-1] <= '9' || s[len(s)-1] == '.') || strings.ContainsAny(s, "xX_pP") {
			return 0, false
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}
