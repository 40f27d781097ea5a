package topicname

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	long := strings.Repeat("x", MaxLocalBytes)
	for _, c := range []struct{ in, want string }{
		{"t", "persistent://public/default/t"},
		{"a/b/c", "persistent://a/b/c"},
		{"persistent://a/b/c", "persistent://a/b/c"},
		{"non-persistent://a/b/c", "non-persistent://a/b/c"},
		{"persistent://a-=:._9/b/ü€ %@.:=", "persistent://a-=:._9/b/ü€ %@.:="},
		{"t-partition-3", "persistent://public/default/t-partition-3"},
		{long, "persistent://public/default/" + long},

		{"", ""}, {" ", ""}, {"a/b", ""}, {"a/b/c/d", ""}, {"/t", ""}, {"//t", ""}, {"a//c", ""}, {"a/b/", ""},
		{"persistent:/a/b/c", ""}, {"persistent://", ""}, {"persistent://a", ""}, {"persistent://a/b", ""},
		{"persistent://a/b/", ""}, {"persistent://a/b/c/d", ""}, {"topic://a/b/c", ""}, {"Persistent://a/b/c", ""},
		{"persistent://a b/c/d", ""}, {"persistent://ä/c/d", ""}, {"persistent://a/b@/d", ""},
		{"a\x00", ""}, {"a\xff", ""}, {long + "x", ""}, {strings.Repeat("x", MaxTenantBytes+1) + "/b/c", ""},
	} {
		n, err := Parse(c.in)
		if c.want == "" {
			if !errors.Is(err, ErrInvalid) || n != (Name{}) {
				t.Errorf("Parse(%q) = %v, %v; want ErrInvalid", c.in, n, err)
			}
			continue
		}
		if err != nil || n.String() != c.want {
			t.Errorf("Parse(%q) = %v, %v; want %s", c.in, n, err, c.want)
		}
	}
}

func TestPartition(t *testing.T) {
	for _, c := range []struct {
		in   string
		part int
		base string
	}{
		{"t", -1, "t"},
		{"t-partition-0", 0, "t"},
		{"t-partition-12", 12, "t"},
		{"t-partition-012", -1, "t-partition-012"},
		{"t-partition--1", -1, "t-partition--1"},
		{"t-partition-+1", -1, "t-partition-+1"},
		{"t-partition-", -1, "t-partition-"},
		{"t-partition-1x", -1, "t-partition-1x"},
		{"t-partition-2147483647", 2147483647, "t"},
		{"t-partition-2147483648", -1, "t-partition-2147483648"},
		{"t-partition-1-partition-2", 2, "t-partition-1"},
	} {
		n, err := Parse(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if n.Partition() != c.part || n.Base().Local != c.base {
			t.Errorf("%s: partition %d of %s, want %d of %s", c.in, n.Partition(), n.Base().Local, c.part, c.base)
		}
		if c.part >= 0 && n.Base().WithPartition(c.part) != n {
			t.Errorf("%s: WithPartition does not lead back", c.in)
		}
	}
}

func TestCanCreate(t *testing.T) {
	for in, ok := range map[string]bool{"t": true, " t": true, "t ": false, "-partition-1": false, "a-partition-1": true} {
		n, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.CanCreate(); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("CanCreate(%q) = %v, want ok %v", in, err, ok)
		}
	}
}

func TestFileNames(t *testing.T) {
	for in, want := range map[string]string{
		"t": "t", "t@": "t%40", ".": "%2E", "..": "%2E.", "a.b": "a.b", "a%b": "a%25b", "tab\t": "tab%09", "\x7f": "%7F",
		"ü": "ü", strings.Repeat("x", 255): strings.Repeat("x", 255),
		strings.Repeat("x", 256): "%~85e62acd750c4eb56b7b6a1d66dca5bfaac5f062608a1a893410d0288936c09a",
	} {
		got := EncodeFileName(in)
		if got != want {
			t.Errorf("EncodeFileName(%q) = %q, want %q", in, got, want)
		}
	}
	if _, hashed, err := DecodeFileName(EncodeFileName(strings.Repeat("x", 256))); !hashed || err != nil {
		t.Errorf("DecodeFileName of a digest = hashed %v, %v", hashed, err)
	}
	for _, bad := range []string{"@", "a@", ".a", "%", "%4", "%41", "%2e", "%~", "%~00", "a/b", "\x00", "%~" + strings.Repeat("AB", 32), strings.Repeat("x", 256)} {
		if s, hashed, err := DecodeFileName(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("DecodeFileName(%q) = %q, %v, %v; want ErrInvalid", bad, s, hashed, err)
		}
	}
}

// locals are local names with many of the bytes that need care.
var locals = rapid.Custom(func(t *rapid.T) string {
	s := string(rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom([]rune("ab@%.+-~\t \x7f:=")), rapid.Rune()), 1, 100).Draw(t, "local"))
	if checkLocal(s) != nil {
		return "x" + url.QueryEscape(s)
	}
	return s
})

func TestEveryFormLeadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, err := Make(Domain(rapid.IntRange(0, 1).Draw(t, "domain")), rapid.StringMatching(`[-=:.\w]{1,20}`).Draw(t, "tenant"),
			rapid.StringMatching(`[-=:.\w]{1,20}`).Draw(t, "ns"), locals.Draw(t, "local"))
		if err != nil {
			t.Skip(err)
		}
		if got, err := Parse(n.String()); err != nil || got != n {
			t.Fatalf("Parse(%q) = %v, %v", n.String(), got, err)
		}
		if got, err := ParseKey(n.Key()); err != nil || got != n {
			t.Fatalf("ParseKey(%q) = %v, %v", n.Key(), got, err)
		}
		p := strings.Split(n.RESTPath(), "/")
		if len(p) != 4 {
			t.Fatalf("RESTPath = %q", n.RESTPath())
		}
		if got, err := UnescapeREST(p[3]); err != nil || got != n.Local {
			t.Fatalf("UnescapeREST(%q) = %q, %v", p[3], got, err)
		}
		f := n.FileName()
		if len(f) > MaxFileNameBytes || strings.ContainsAny(f, "/@\x00") || f[0] == '.' {
			t.Fatalf("FileName = %q", f)
		}
		if got, hashed, err := DecodeFileName(f); err != nil || !hashed && got != n.Local || hashed != (strings.HasPrefix(f, hashMark)) {
			t.Fatalf("DecodeFileName(%q) = %q, %v, %v", f, got, hashed, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"t", "a/b/c", "persistent://a/b/c-partition-1", "non-persistent://a/b/%2F", "a://b/c/d/e", "%~00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := Parse(s); err == nil {
			if m, err := Parse(n.String()); err != nil || m != n {
				t.Fatalf("Parse(%q) = %v, then %v, %v", s, n, m, err)
			}
		}
		if n, err := ParseKey(s); err == nil && n.Key() != s {
			t.Fatalf("ParseKey(%q).Key() = %q", s, n.Key())
		}
		if v, hashed, err := DecodeFileName(s); err == nil && !hashed && EncodeFileName(v) != s {
			t.Fatalf("DecodeFileName(%q) = %q", s, v)
		}
	})
}

func Example() {
	n, _ := Parse("orders-partition-2")
	fmt.Println(n, n.Partition(), n.Base())
	// Output: persistent://public/default/orders-partition-2 2 persistent://public/default/orders
}
