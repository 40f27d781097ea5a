package topic

import (
	"cmp"
	"slices"
	"time"

	"github.com/daybook/daybook/broker/internal/subscription"
)

// Stats is a snapshot.
func (t *Topic) Stats() Stats {
	now := time.Now()
	st := Stats{
		MsgRateIn:       t.msgIn.Rate(now, t.loaded),
		MsgThroughputIn: t.bytesIn.Rate(now, t.loaded),
		MsgIn:           t.msgIn.Count(), BytesIn: t.bytesIn.Count(),
		StorageSize: t.ledger.Bytes(),
		Owner:       t.cfg.Owner,
		Created:     time.UnixMilli(t.ledger.Fence().Record.Created),
		Terminated:  t.ledger.Terminated(),
	}
	if st.MsgIn > 0 {
		st.AverageMsgSize = float64(st.BytesIn) / float64(st.MsgIn)
	}
	if ms := t.lastPublish.Load(); ms != 0 {
		st.LastPublish = time.UnixMilli(ms)
	}
	if epoch, ok := t.ledger.Epoch(); ok {
		st.TopicEpoch = &epoch
	}
	t.mu.Lock()
	st.WaitingPublishers = len(t.mu.waiting)
	for _, p := range t.mu.producers {
		st.Producers = append(st.Producers, p.statsAt(now))
	}
	st.MsgOut, st.BytesOut = t.mu.msgOut, t.mu.bytesOut
	t.mu.Unlock()
	slices.SortFunc(st.Producers, func(a, b ProducerStats) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Name, b.Name))
	})
	for _, s := range t.Subscriptions() {
		ss := s.Stats()
		st.MsgOut += ss.MsgOut
		st.BytesOut += ss.BytesOut
		st.MsgRateOut += ss.MsgRateOut
		st.MsgThroughputOut += ss.MsgThroughputOut
		if ss.Durable {
			st.BacklogSize = max(st.BacklogSize, ss.BacklogBytes)
		}
		st.Subscriptions = append(st.Subscriptions, ss)
	}
	return st
}

// InternalStats is a snapshot of the managed ledger.
func (t *Topic) InternalStats() InternalStats {
	ls := t.ledger.Stats()
	st := InternalStats{
		EntriesAdded: ls.EntriesAdded, NumberOfEntries: ls.Entries, TotalSize: ls.Bytes,
		CurrentLedgerEntries: ls.CurrentEntries, CurrentLedgerSize: ls.CurrentBytes,
		PendingAdds: ls.Pending, LastConfirmed: ls.LastConfirmed, State: ls.State,
		Properties: ls.Properties,
		Cursors:    make(map[string]subscription.CursorStats),
	}
	if ls.CurrentCreated != 0 {
		st.LastLedgerCreated = time.UnixMilli(ls.CurrentCreated)
	}
	for i := range ls.Ledgers {
		l := &ls.Ledgers[i]
		st.Ledgers = append(st.Ledgers, LedgerInfo{ID: l.ID, Entries: l.Entries, Bytes: l.Bytes, Offloaded: l.Offload != nil && l.Offload.Complete})
	}
	for _, s := range t.Subscriptions() {
		cs := s.CursorStats()
		if cs.WaitingRead {
			st.WaitingCursors++
		}
		cs.CursorLedger = int64(ls.CursorLedger)
		st.Cursors[s.Name()] = cs
	}
	return st
}
