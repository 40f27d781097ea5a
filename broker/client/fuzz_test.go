package client

import "testing"

func FuzzParse(f *testing.F) {
	for _, s := range []string{"earliest", "latest", "7:42", "7:42:-1", "7:42:3:9", "::", "pulsar://h:6650", "pulsar://a:1,[::1]:2/", "pulsar://[::1]", "pulsar://,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseMessageID(s); err == nil && id.Batch >= -1 && id != Earliest && id != Latest {
			if again, err := ParseMessageID(id.String()); err != nil || again != id {
				t.Fatalf("ParseMessageID(%q) = %v, then %v, %v", s, id, again, err)
			}
		}
		if hosts, err := parseURL(s); err == nil && len(hosts) == 0 {
			t.Fatalf("parseURL(%q) has no hosts", s)
		}
	})
}
