package value

import "testing"

func FuzzParse(f *testing.F) {
	for _, s := range []string{"2026-01-31", "-0001-1-1", "2026-01-31 23:59:59.123456 Europe/Berlin", "2026-01-31T00:00:00Z", "2026-1-2 03:04+05:30", "1e309", "NaN", "-Infinity",
		"12345678901234567890123456789012345678.9", "-.5", "+"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, precision, scale, ok := ParseDecimal(s); ok && (precision > 38 || scale > precision || scale < 0) {
			t.Fatalf("ParseDecimal(%q) = %v, %d, %d", s, v, precision, scale)
		}
		ParseDouble(s)
		ParseDate(s)
		if _, zone, ok := ParseTimestamp(s); ok && zone != "" {
			if _, known := Zone(zone); !known {
				t.Fatalf("ParseTimestamp(%q) has zone %q, which is none", s, zone)
			}
		}
	})
}
