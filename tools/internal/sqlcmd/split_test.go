package sqlcmd

import (
	"slices"
	"testing"
)

func TestSplitHonoursQuotesAndComments(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
		rest string
	}{
		{"", nil, ""},
		{"select 1", nil, "select 1"},
		{"select 1;", []string{"select 1"}, ""},
		{"select 1; select 2;\n", []string{"select 1", "select 2"}, "\n"},
		{"select ';';", []string{"select ';'"}, ""},
		{`select "a;b" from t; x`, []string{`select "a;b" from t`}, " x"},
		{"select 'it''s;';", []string{"select 'it''s;'"}, ""},
		{"select 1 -- a; b\n;", []string{"select 1 -- a; b"}, ""},
		{"select 1 /* ; */;", []string{"select 1 /* ; */"}, ""},
		{"select 'open;", nil, "select 'open;"},
		{"/* open ;", nil, "/* open ;"},
		{"-- open ;", nil, "-- open ;"},
		{";;", nil, ""},
	} {
		got, rest := split(c.in)
		if !slices.Equal(got, c.want) || rest != c.rest {
			t.Errorf("split(%q) = %q, %q; want %q, %q", c.in, got, rest, c.want, c.rest)
		}
	}
}
