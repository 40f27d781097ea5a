package serr_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/raftmeta"
)

func TestEveryCodeHasANameAndAStatus(t *testing.T) {
	seen := map[string]bool{}
	for c := serr.UnknownError; c <= serr.ProducerFenced; c++ {
		if c.String() == "" || seen[c.String()] {
			t.Errorf("code %d: name %q is empty or taken", c, c)
		}
		seen[c.String()] = true
		if s := c.Status(); s < 400 || s > 599 {
			t.Errorf("%v: status %d is no failure", c, s)
		}
	}
	for _, c := range []serr.Code{-1, 26} {
		if got := c.Status(); got != http.StatusInternalServerError {
			t.Errorf("code %d: status %d, want 500", int(c), got)
		}
		if got, want := c.String(), fmt.Sprintf("ServerError(%d)", int32(c)); got != want {
			t.Errorf("code %d: name %q, want %q", int(c), got, want)
		}
	}
}

func TestTextIsForTheClientAndCauseForTheLog(t *testing.T) {
	err := error(serr.ServiceNotReady.Wrapf(io.ErrUnexpectedEOF, "ledger %d is recovering", 7))
	wrapped := fmt.Errorf("open topic: %w", err)
	e := serr.From(wrapped)
	if e.Text != "ledger 7 is recovering" || e.Code != serr.ServiceNotReady || e.Status != 503 {
		t.Errorf("From = %+v", e)
	}
	if !errors.Is(wrapped, io.ErrUnexpectedEOF) || !errors.Is(wrapped, serr.ServiceNotReady) {
		t.Error("the cause or the code is lost in the chain")
	}
	if errors.Is(wrapped, serr.TopicNotFound) {
		t.Error("the error claims a code it does not have")
	}
	if got := err.Error(); got != "ServiceNotReady: ledger 7 is recovering: unexpected EOF" {
		t.Errorf("Error() = %q", got)
	}
}

func TestWithStatusLeavesTheOriginal(t *testing.T) {
	e := serr.NotAllowedError.Errorf("no")
	if f := e.WithStatus(405); f.Status != 405 || e.Status != 409 || f.Text != "no" {
		t.Errorf("original %+v, copy %+v", e, f)
	}
}

func TestFromGivesEveryErrorACode(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want serr.Code
	}{
		{context.DeadlineExceeded, serr.ServiceNotReady},
		{fmt.Errorf("add: %w", ledgerfs.ErrNoSpace), serr.PersistenceError},
		{fmt.Errorf("add: %w", ledgerfs.ErrFenced), serr.ServiceNotReady},
		{fmt.Errorf("add: %w", ledgerfs.ErrCorrupt), serr.PersistenceError},
		{fmt.Errorf("get: %w", raftmeta.ErrUnavailable), serr.ServiceNotReady},
		{fmt.Errorf("x: %w", serr.ConsumerBusy), serr.ConsumerBusy},
		{io.EOF, serr.UnknownError},
	} {
		if got := serr.From(tc.err); got.Code != tc.want || got.Text == "" || !errors.Is(got, tc.err) {
			t.Errorf("From(%v) = %+v, want code %v and the cause kept", tc.err, got, tc.want)
		}
	}
	if serr.From(nil) != nil {
		t.Error("From(nil) is not nil")
	}
}
