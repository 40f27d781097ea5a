package filetree

import (
	"errors"
	"strings"
	"testing"
)

func TestPathsParseAndPrint(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Path
	}{
		{"/", Path{Kind: KindRoot}},
		{"/public", Path{Kind: KindTenant, Tenant: "public"}},
		{"/public/default", Path{Kind: KindNamespace, Tenant: "public", Namespace: "default"}},
		{"/public/default/t", Path{Kind: KindTopic, Tenant: "public", Namespace: "default", Topic: "t"}},
		{"/public/default/t-partition-3", Path{Kind: KindTopic, Tenant: "public", Namespace: "default", Topic: "t-partition-3"}},
		{"/public/default/a%40b", Path{Kind: KindTopic, Tenant: "public", Namespace: "default", Topic: "a@b"}},
		{"/public/default/%2Ehidden", Path{Kind: KindTopic, Tenant: "public", Namespace: "default", Topic: ".hidden"}},
		{"/public/default/t@", Path{Kind: KindFaces, Tenant: "public", Namespace: "default", Topic: "t"}},
		{"/public/default/t@/ndjson", Path{Kind: KindTopic, View: ViewNDJSON, Tenant: "public", Namespace: "default", Topic: "t"}},
	} {
		got, err := ParsePath(c.in)
		if err != nil || got != c.want {
			t.Errorf("ParsePath(%q) = %+v, %v, want %+v", c.in, got, err, c.want)
		}
		if s := got.String(); s != c.in {
			t.Errorf("ParsePath(%q).String() = %q", c.in, s)
		}
	}
}

func TestBadPathsAreRefused(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Errno
	}{
		{"", EINVAL}, {"public", EINVAL}, {"/" + strings.Repeat("x", MaxPathBytes), EINVAL},
		{"//default", ENOENT}, {"/public//t", ENOENT}, {"/public/default/@", ENOENT},
		{"/public/default/.t", ENOENT}, {"/public/default/%41", ENOENT}, {"/public/default/%zz", ENOENT},
		{"/public/default/a%4", ENOENT}, {"/public/default/a@b", ENOENT}, {"/public/default/a\x00", ENOENT},
		{"/public/default/t/x", ENOTDIR}, {"/public/default/t@/ndjson/x", ENOTDIR}, {"/public/default/t@/nope", ENOENT},
		{"/public/../t", ENOENT},
	} {
		if p, err := ParsePath(c.in); !errors.Is(err, c.want) {
			t.Errorf("ParsePath(%.40q) = %+v, %v, want %s", c.in, p, err, string(c.want))
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/", "/a/b/c", "/a/b/c@/ndjson", "/a/b/%2Fx%25", "/a/b/%~" + strings.Repeat("0", 64), "/a/b/x@y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePath(s)
		if err != nil {
			if e := ErrnoOf(err); e != ENOENT && e != ENOTDIR && e != EINVAL {
				t.Fatalf("ParsePath(%q): %v is %s", s, err, string(e))
			}
			return
		}
		q, err := ParsePath(p.String())
		if err != nil || q != p {
			t.Fatalf("ParsePath(%q) = %+v prints as %q, which parses as %+v, %v", s, p, p.String(), q, err)
		}
	})
}

func TestJunkNames(t *testing.T) {
	for _, s := range []string{".x", "%2Ex", "notes~", "#notes#", "4913", "sedAbC12z", "x.swp", "x.tmp"} {
		if !JunkName(s) {
			t.Errorf("JunkName(%q) = false", s)
		}
	}
	for _, s := range []string{"x", "sediment", "sed-abcde", "4914", "#x", "a.log"} {
		if JunkName(s) {
			t.Errorf("JunkName(%q) = true", s)
		}
	}
}

func FuzzSplitRecords(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(appendRecord(appendRecord(nil, []byte("a")), nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		rs, err := splitRecords(b)
		if err != nil {
			if !errors.Is(err, EINVAL) {
				t.Fatalf("splitRecords = %v, want EINVAL", err)
			}
			return
		}
		var back []byte
		for _, r := range rs {
			back = appendRecord(back, r)
		}
		if string(back) != string(b) {
			t.Fatalf("splitRecords(%x) joins to %x", b, back)
		}
	})
}
