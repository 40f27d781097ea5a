package subscription

import (
	"fmt"
	"strings"
	"time"

	"github.com/daybook/daybook/ledgerfs/mledger"
)

// Stats is a snapshot.
func (s *Subscription) Stats() Stats {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	backlog := s.cursor.Backlog()
	st := Stats{
		Name: s.Name(), Type: s.mu.typ, HasType: s.mu.hasType, Durable: s.Durable(),
		Backlog:             backlog,
		Replicated:          s.cfg.Replicated,
		Properties:          s.cursor.Properties(),
		MsgRateOut:          s.msgOut.Rate(now, s.opened),
		MsgThroughputOut:    s.bytesOut.Rate(now, s.opened),
		MsgRateRedeliver:    s.redelivered.Rate(now, s.opened),
		MsgRateExpired:      s.expired.Rate(now, s.opened),
		MessageAckRate:      s.acked.Rate(now, s.opened),
		MsgOut:              s.msgOut.Count(),
		BytesOut:            s.bytesOut.Count(),
		TotalExpired:        s.expired.Count(),
		LastExpire:          s.mu.lastExpire,
		LastConsumed:        s.mu.lastConsumed,
		LastConsumedFlow:    s.mu.lastFlow,
		LastAcked:           s.mu.lastAcked,
		LastMarkDeleteMoved: s.mu.lastAcked,
	}
	if n := s.ledger.Entries(); n > 0 {
		st.BacklogBytes = int64(float64(backlog) * float64(s.ledger.Bytes()) / float64(n))
	}
	if s.mu.queue != nil {
		st.Unacked = int(s.mu.queue.Unacked())
		st.InReplay = s.mu.queue.Waiting()
		st.Delayed = int64(s.mu.queue.Delayed())
	}
	if s.mu.active != nil {
		st.ActiveConsumer = s.mu.active.Name()
	}
	if s.mu.typ == KeyShared && s.mu.keys != nil {
		st.KeySharedMode = s.mu.keys.mode()
	}
	for _, c := range s.mu.consumers {
		st.Consumers = append(st.Consumers, c.statsLocked(now))
	}
	return st
}

// Stats is a snapshot.
func (c *Consumer) Stats() ConsumerStats {
	c.sub.mu.Lock()
	defer c.sub.mu.Unlock()
	return c.statsLocked(time.Now())
}

func (c *Consumer) statsLocked(now time.Time) ConsumerStats {
	st := ConsumerStats{
		Name: c.Name(), ID: c.ID(), Address: c.req.Address, ClientVersion: c.req.ClientVersion,
		ConnectedSince: c.connected, Type: c.req.Type, Priority: c.req.Priority,
		AvailablePermits:       int(c.permits),
		MsgRateOut:             c.msgOut.Rate(now, c.connected),
		MsgThroughputOut:       c.bytesOut.Rate(now, c.connected),
		MsgRateRedeliver:       c.redelivered.Rate(now, c.connected),
		MessageAckRate:         c.acked.Rate(now, c.connected),
		MsgOut:                 c.msgOut.Count(),
		BytesOut:               c.bytesOut.Count(),
		LastAcked:              c.lastAcked,
		LastConsumed:           c.lastConsumed,
		LastConsumedFlow:       c.lastFlow,
		ReadPositionWhenJoined: c.joinedAt,
		Metadata:               c.req.Metadata,
		AvgMessagesPerEntry:    int(c.sub.mu.average / 256),
	}
	if q := c.sub.mu.queue; q != nil && c.place != nil {
		st.AvailablePermits = int(c.place.Permits())
		st.Unacked = int(c.place.Unacked())
		st.BlockedOnUnacked = q.Blocked(c.place)
		st.AvgMessagesPerEntry = q.Average()
		if q.Keys != nil {
			for _, r := range q.Keys.Ranges(c.place) {
				st.KeyHashRanges = append(st.KeyHashRanges, HashRange(r))
			}
		}
	}
	return st
}

// CursorStats is a snapshot of the cursor.
func (s *Subscription) CursorStats() CursorStats {
	cs := s.cursor.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	read := s.mu.read
	if len(s.mu.consumers) == 0 {
		read = s.cursor.FirstUnacked()
	}
	st := CursorStats{
		MarkDelete: cs.MarkDelete, Read: read,
		WaitingRead:         s.atEnd.Load() && len(s.mu.consumers) > 0,
		EntriesConsumed:     s.msgOut.Count(),
		IndividuallyDeleted: formatRanges(cs.Acked),
		State:               "Open",
		Properties:          cs.Properties,
	}
	st.EntriesSinceFirstUnack = s.ledger.Count(cs.MarkDelete, read.Prev())
	if !cs.Durable {
		st.State = "NonDurable"
	}
	return st
}

// formatRanges prints acknowledged runs as Pulsar does, open below and closed above: "[(7:4..7:6],(7:9..7:10]]".
func formatRanges(rs []mledger.Range) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, r := range rs {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "(%d:%d..%d:%d]", r.Ledger, r.First-1, r.Ledger, r.Last)
	}
	b.WriteByte(']')
	return b.String()
}
