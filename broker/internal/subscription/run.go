package subscription

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/daybook/daybook/broker/internal/dispatch"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/mledger"
)

// The limits of one round of dispatch.
const (
	maxRoundEntries = 500
	maxRoundBytes   = 2 << 20
)

// keptBatch is the room for messages that an idle consumer keeps.
const keptBatch = 16

// A failed read is tried again after firstRetry, then after twice as long, up to lastRetry.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// wakeLocked starts the dispatching goroutine if there is something that it could do. While it runs it sees every
// change by itself, because it looks again before it ends, with the lock held.
func (s *Subscription) wakeLocked() {
	if !s.mu.running && s.workLocked() {
		s.mu.running = true
		go s.run()
	}
}

// workLocked reports, cheaply, whether a round might deliver something.
func (s *Subscription) workLocked() bool {
	switch {
	case s.mu.closed || s.mu.retry != nil || s.mu.seeking != nil:
		return false
	case s.mu.queue != nil:
		return s.mu.queue.Waiting() > 0 || !s.atEnd.Load()
	}
	a := s.mu.active
	return a != nil && a.permits > 0 && !a.paused && !s.atEnd.Load()
}

// A round is what the dispatching goroutine reads and deals at a time. Its slices are used again and again.
type round struct {
	// again are waiting entries to be read; without them, limit new ones from from on.
	again []ledgerfs.Position
	from  ledgerfs.Position
	limit int
	// generation of the subscription when the round was planned.
	generation uint64

	entries []ledgerfs.Entry
	// targets are the consumers that get something.
	targets []*Consumer
	meta    message.Entry
	key     []byte
}

var rounds = sync.Pool{New: func() any { return new(round) }}

// run is the dispatching goroutine.
func (s *Subscription) run() {
	r := rounds.Get().(*round)
	for s.plan(r) {
		err := s.fetch(r)
		s.deal(r, err)
		s.deliver(r)
		clear(r.entries)
		clear(r.targets)
		r.meta = message.Entry{}
	}
	rounds.Put(r)
}

// plan decides what to read. False: there is nothing to do, and the goroutine ends.
func (s *Subscription) plan(r *round) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.again, r.limit, r.generation = r.again[:0], 0, s.mu.generation
	if s.workLocked() {
		r.from = s.mu.read
		if q := s.mu.queue; q != nil {
			s.dueLocked()
			q.Round()
			r.again, r.limit = q.Plan(r.again, maxRoundEntries)
		} else {
			r.limit = int(max(1, min(maxRoundEntries, s.mu.active.permits*256/max(256, s.mu.average))))
		}
		if s.atEnd.Load() {
			r.limit = 0
		}
		if len(r.again) > 0 || r.limit > 0 {
			return true
		}
	}
	s.mu.running = false
	return false
}

// fetch reads what was planned.
func (s *Subscription) fetch(r *round) error {
	r.entries = r.entries[:0]
	if len(r.again) == 0 {
		return s.read(r, s.cursor.NextUnacked(r.from), r.limit)
	}
	bytes := 0
	for i := 0; i < len(r.again) && bytes < maxRoundBytes; {
		n := 1
		for i+n < len(r.again) && r.again[i+n] == r.again[i+n-1].Next() {
			n++
		}
		had := len(r.entries)
		if err := s.read(r, r.again[i], n); err != nil {
			if had > 0 {
				return nil // deal what there is; the next round meets the error first
			}
			return err
		}
		for _, e := range r.entries[had:] {
			bytes += len(e.Payload)
		}
		i += n
	}
	return nil
}

func (s *Subscription) read(r *round, from ledgerfs.Position, limit int) error {
	had := len(r.entries)
	var more bool
	r.entries, more = s.ledger.ReadCached(r.entries, from, limit, maxRoundBytes)
	if len(r.entries) > had || !more {
		return nil
	}
	var err error
	r.entries, err = s.ledger.Read(context.Background(), r.entries, from, limit, maxRoundBytes)
	return err
}

// deal gives out what was read.
func (s *Subscription) deal(r *round, err error) {
	s.mu.Lock()
	defer s.unlockAndTell()
	r.targets = r.targets[:0]
	if r.generation != s.mu.generation {
		return
	}
	if err != nil {
		s.failedLocked(r, err)
		return
	}
	s.mu.failures = 0
	switch {
	case s.mu.queue == nil && s.mu.active == nil:
	case len(r.again) > 0:
		s.dealAgainLocked(r)
	case len(r.entries) == 0:
		s.reachedEndLocked()
	case s.mu.queue != nil:
		s.dealNewLocked(r)
	default:
		s.dealActiveLocked(r)
	}
	if len(r.targets) > 0 {
		now := time.Now()
		s.mu.lastConsumed = now
		for _, c := range r.targets {
			c.lastConsumed = now
		}
	}
}

// reachedEndLocked has the subscription wait for growth, unless there has been some since the read.
func (s *Subscription) reachedEndLocked() {
	s.atEnd.Store(true)
	if s.ledger.Count(s.cursor.NextUnacked(s.mu.read).Prev(), s.ledger.LastConfirmed()) > 0 {
		s.atEnd.Store(false)
		return
	}
	s.endLocked()
}

// failedLocked has a failed read tried again later.
func (s *Subscription) failedLocked(r *round, err error) {
	wait := min(firstRetry<<min(s.mu.failures, 16), lastRetry)
	if errors.Is(err, mledger.ErrClosed) || errors.Is(err, mledger.ErrFenced) {
		wait = lastRetry // the topic is being closed, and this subscription with it
	} else if s.mu.failures++; s.mu.failures == 1 || wait == lastRetry {
		from := r.from
		if len(r.again) > 0 {
			from = r.again[0]
		}
		s.cfg.Logger.Error("cannot read for a subscription", "topic", s.ledger.Name(), "subscription", s.Name(), "position", from.String(), "retry_in", wait, "error", err)
	}
	s.mu.retry = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mu.retry = nil
		s.wakeLocked()
	})
}

// look parses an entry. False: nobody is to see it (a marker, or part of a transaction), and it is acknowledged, so
// that it does not count as backlog. An entry that cannot be parsed is one message without a key: consumers decide.
func (s *Subscription) look(r *round, e *ledgerfs.Entry) bool {
	if err := r.meta.Parse(e.Payload); err != nil {
		r.meta = message.Entry{}
		return true
	}
	if r.meta.Meta.IsMarker || r.meta.Meta.HasTxn {
		s.cursor.Ack(ledgerfs.Position{Ledger: e.Ledger, Entry: e.Entry}, nil)
		return false
	}
	return true
}

// messages is the number of messages of the entry that was looked at that are not acknowledged, with their ack set.
func (s *Subscription) messages(r *round, p ledgerfs.Position) (int32, []int64) {
	if set := s.cursor.Remaining(p); set != nil {
		return max(1, ones(set)), set
	}
	return int32(r.meta.Count()), nil
}

func (s *Subscription) dealActiveLocked(r *round) {
	c := s.mu.active
	for i := range r.entries {
		e := &r.entries[i]
		p := ledgerfs.Position{Ledger: e.Ledger, Entry: e.Entry}
		if s.cursor.IsAcked(p) || !s.look(r, e) {
			s.mu.read = p.Next()
			continue
		}
		if c.permits <= 0 || c.paused {
			break
		}
		n, set := s.messages(r, p)
		c.permits -= int64(n)
		if s.mu.average == 0 {
			s.mu.average = int64(n) * 256
		}
		s.mu.average += (int64(n)*256 - s.mu.average) / 16
		s.mu.read = p.Next()
		s.sendLocked(r, c, Message{Position: p, Epoch: c.epoch, AckSet: set, Messages: n, Payload: e.Payload})
	}
}

// dueLocked has delayed messages whose time has come dealt, and a timer wake the subscription for the next one.
func (s *Subscription) dueLocked() {
	if s.mu.queue == nil || s.mu.queue.Delayed() == 0 {
		return
	}
	now := time.Now()
	next := s.mu.queue.Due(now.UnixMilli())
	if next == 0 || next == s.mu.dueAt {
		return
	}
	s.mu.dueAt = next
	if s.mu.timer != nil {
		s.mu.timer.Stop()
	}
	s.mu.timer = time.AfterFunc(time.UnixMilli(next).Sub(now), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.mu.dueAt == next {
			s.mu.dueAt = 0
			s.dueLocked()
			s.wakeLocked()
		}
	})
}

func (s *Subscription) dealNewLocked(r *round) {
	now := time.Now().UnixMilli()
	defer s.dueLocked()
	for i := range r.entries {
		e := &r.entries[i]
		p := ledgerfs.Position{Ledger: e.Ledger, Entry: e.Entry}
		if s.cursor.IsAcked(p) || !s.look(r, e) {
			s.mu.read = p.Next()
			continue
		}
		n, set := s.messages(r, p)
		if m := &r.meta.Meta; m.HasDeliverAt && m.DeliverAt > now {
			s.mu.queue.Delay(s.entry(r, p, n), m.DeliverAt)
			s.mu.read = p.Next()
			continue
		}
		place, out := s.mu.queue.Deal(s.entry(r, p, n))
		if out == dispatch.Refused {
			break
		}
		s.mu.read = p.Next()
		if out == dispatch.Dealt {
			c := place.Owner.(*Consumer)
			s.sendLocked(r, c, Message{Position: p, Epoch: c.epoch, AckSet: set, Messages: n, Payload: e.Payload})
		}
	}
}

func (s *Subscription) dealAgainLocked(r *round) {
	q := s.mu.queue
	next := 0
	for _, p := range r.again {
		for next < len(r.entries) && entryPosition(&r.entries[next]).Less(p) {
			next++
		}
		if next == len(r.entries) {
			break // not read in this round
		}
		e := &r.entries[next]
		if entryPosition(e) != p {
			if s.ledger.Exists(p) {
				s.failedLocked(r, fmt.Errorf("entry %v was left out of what was read", p))
				return
			}
			q.Acked(nil, p) // its ledger was trimmed
			continue
		}
		if s.cursor.IsAcked(p) || !s.look(r, e) {
			q.Acked(nil, p)
			continue
		}
		n, set := s.messages(r, p)
		place, out := q.DealAgain(s.entry(r, p, n))
		if out == dispatch.Dealt {
			c := place.Owner.(*Consumer)
			s.sendLocked(r, c, Message{Position: p, RedeliveryCount: q.RedeliveryCount(p), Epoch: c.epoch, AckSet: set, Messages: n, Payload: e.Payload})
		}
	}
	if len(r.entries) == 0 {
		// Nothing at or after the first of them was read.
		for _, p := range r.again {
			if s.ledger.Exists(p) {
				s.failedLocked(r, fmt.Errorf("entry %v was left out of what was read", p))
				return
			}
			q.Acked(nil, p)
		}
	}
}

func entryPosition(e *ledgerfs.Entry) ledgerfs.Position {
	return ledgerfs.Position{Ledger: e.Ledger, Entry: e.Entry}
}

func (s *Subscription) sendLocked(r *round, c *Consumer, m Message) {
	if len(c.batch) == 0 {
		r.targets = append(r.targets, c)
	}
	c.batch = append(c.batch, m)
}

// entry is what the queue needs to know of the entry that was looked at.
func (s *Subscription) entry(r *round, p ledgerfs.Position, messages int32) dispatch.Entry {
	e := dispatch.Entry{Position: p, Messages: messages}
	m := &r.meta.Meta
	if s.mu.typ == KeyShared {
		r.key = appendStickyKey(r.key[:0], m)
		e.Key = dispatch.Hash(r.key)
	} else if m.IsChunk() {
		e.Key = dispatch.ChunkKey(m.UUID)
		e.LastChunk = m.ChunkID == m.NumChunks-1
	}
	return e
}

// appendStickyKey appends the key by which Key_Shared orders the entry.
func appendStickyKey(dst []byte, m *message.Metadata) []byte {
	switch {
	case m.OrderingKey != nil:
		return append(dst, m.OrderingKey...)
	case m.HasKey && m.KeyBase64:
		if b, err := base64.StdEncoding.AppendDecode(dst, m.Key); err == nil {
			return b
		}
		return append(dst, m.Key...)
	case m.HasKey:
		return append(dst, m.Key...)
	case m.Raw != nil:
		dst = append(append(dst, m.ProducerName...), '-')
		return strconv.AppendUint(dst, m.SequenceID, 10)
	}
	return append(dst, "NONE_KEY"...)
}

// deliver hands out what was dealt, without the lock.
func (s *Subscription) deliver(r *round) {
	for _, c := range r.targets {
		var messages, bytes int64
		for i := range c.batch {
			messages += int64(c.batch[i].Messages)
			bytes += int64(len(c.batch[i].Payload))
		}
		c.msgOut.Add(messages)
		c.bytesOut.Add(bytes)
		s.msgOut.Add(messages)
		s.bytesOut.Add(bytes)
		resumed := c.resumed.Load()
		writable := true
		c.gate.Lock()
		if !c.gate.shut {
			writable = c.sink.Deliver(c, c.batch)
		}
		c.gate.Unlock()
		clear(c.batch)
		if c.batch = c.batch[:0]; cap(c.batch) > keptBatch {
			c.batch = nil
		}
		if !writable {
			s.mu.Lock()
			if c.resumed.Load() == resumed && s.hasLocked(c) {
				s.pauseLocked(c, true)
			}
			s.mu.Unlock()
		}
	}
}
