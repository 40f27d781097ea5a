package filetree_test

import (
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Nothing is left running when trees, services, clients and watches are closed.
func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}
