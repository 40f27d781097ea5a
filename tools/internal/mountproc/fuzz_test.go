package mountproc

import "testing"

func FuzzParseInfo(f *testing.F) {
	f.Add([]byte(`{"format":1,"pid":4711,"dir":"/mnt/daybook"}` + "\n"))
	f.Add([]byte(`{"format":1,"pid":-1,"dir":"/"}`))
	f.Add([]byte(`{"pid":1e99}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Signals to other numbers reach whole groups of processes.
		if info, err := parseInfo(b); err == nil && info.PID <= 0 {
			t.Fatalf("%q names process %d", b, info.PID)
		}
	})
}
