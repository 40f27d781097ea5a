package metatest

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/raftmeta"
)

func TestStorePassesSuite(t *testing.T) {
	Suite(t, func(t *testing.T) raftmeta.Store {
		s := New()
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func TestSilentSessionIsLostThenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := New()
		defer s.Close()
		ses, err := s.OpenSession(ctx, raftmeta.SessionOptions{Node: "n", Incarnation: 1, TTL: 9 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.PutEphemeral("e", nil, ses.ID())}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // kept alive
		if _, err := s.Get(ctx, "e"); err != nil {
			t.Fatalf("ephemeral key of a live session: %v", err)
		}
		w, err := s.Watch(ctx, "e", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		s.MuteKeepAlives(true)
		muted := time.Now()
		<-ses.Lost()
		lost := time.Since(muted)
		if lost < 3*time.Second || lost > 6*time.Second {
			t.Errorf("lost after %v of silence, want two thirds of the TTL after the last keep-alive", lost)
		}
		if _, err := s.Get(ctx, "e"); err != nil {
			t.Errorf("ephemeral key is gone before its owner gave it up for %v: %v", 3*time.Second, err)
		}
		b, err := w.Next(ctx)
		if err != nil || len(b.Events) != 1 || !b.Events[0].Deleted {
			t.Fatalf("Next = %v, %v, want a deletion", b, err)
		}
		if d := time.Since(muted); d < 6*time.Second || d > 9*time.Second {
			t.Errorf("expired after %v of silence, want the TTL after the last keep-alive", d)
		}
		if _, err := s.Get(ctx, "e"); !errors.Is(err, raftmeta.ErrNotFound) {
			t.Errorf("Get of an expired session's key: %v", err)
		}
	})
}

func TestFaultsHitCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := New()
		defer s.Close()
		put := func() error {
			_, err := s.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("n", 1)}})
			return err
		}
		version := func() int64 {
			it, err := s.Get(ctx, "n")
			if err != nil && !errors.Is(err, raftmeta.ErrNotFound) {
				t.Fatal(err)
			}
			return it.Version
		}
		s.FailCommits(2, raftmeta.ErrUnavailable)
		for range 2 {
			if err := put(); !errors.Is(err, raftmeta.ErrUnavailable) {
				t.Fatalf("failed commit: %v", err)
			}
		}
		if v := version(); v != 0 {
			t.Fatalf("failed commits were applied: version %d", v)
		}
		s.LoseAnswers(1)
		if err := put(); !errors.Is(err, raftmeta.ErrUnavailable) || version() != 1 {
			t.Fatalf("lost answer: %v, version %d", err, version())
		}
		s.DelayCommits(1, time.Minute)
		start := time.Now()
		if err := put(); err != nil || time.Since(start) != time.Minute || version() != 2 {
			t.Fatalf("delayed commit: %v after %v, version %d", err, time.Since(start), version())
		}
		s.SetNoSpace(true)
		if err := put(); !errors.Is(err, raftmeta.ErrNoSpace) {
			t.Fatalf("commit without space: %v", err)
		}
		if _, err := s.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Delete("n")}}); err != nil {
			t.Fatalf("delete without space: %v", err)
		}
		w, err := s.Watch(ctx, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		s.DropWatches()
		if _, err := w.Next(ctx); !errors.Is(err, raftmeta.ErrUnavailable) {
			t.Fatalf("Next of a dropped watch: %v", err)
		}
	})
}
