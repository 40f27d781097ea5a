package adminapi

import (
	"math"
	"strconv"
	"time"

	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
)

// A rate is a floating-point number that JSON shows with a fraction, as Java does: some clients take the type of a
// number from its look.
type rate float64

// MarshalJSON shows "0.0" for 0; what is not a number, or infinite, is 0.0 too.
func (f rate) MarshalJSON() ([]byte, error) {
	v := float64(f)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		v = 0
	}
	b := strconv.AppendFloat(nil, v, 'f', -1, 64)
	if v == math.Trunc(v) {
		b = append(b, ".0"...)
	}
	return b, nil
}

// millis is ms since 1970, 0 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// timestamp is a time as Pulsar's DateFormatter prints it: RFC 3339 in ms.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.999Z07:00")
}

// topicStats is Pulsar's TopicStats.
type topicStats struct {
	MsgRateIn          rate                          `json:"msgRateIn"`
	MsgThroughputIn    rate                          `json:"msgThroughputIn"`
	MsgRateOut         rate                          `json:"msgRateOut"`
	MsgThroughputOut   rate                          `json:"msgThroughputOut"`
	BytesIn            int64                         `json:"bytesInCounter"`
	MsgIn              int64                         `json:"msgInCounter"`
	SystemBytesIn      int64                         `json:"systemTopicBytesInCounter"`
	BytesOut           int64                         `json:"bytesOutCounter"`
	MsgOut             int64                         `json:"msgOutCounter"`
	BytesOutInternal   int64                         `json:"bytesOutInternalCounter"`
	AverageMsgSize     rate                          `json:"averageMsgSize"`
	ChunkPublished     bool                          `json:"msgChunkPublished"`
	StorageSize        int64                         `json:"storageSize"`
	BacklogSize        int64                         `json:"backlogSize"`
	QuotaSize          int64                         `json:"backlogQuotaLimitSize"`
	QuotaTime          int64                         `json:"backlogQuotaLimitTime"`
	OldestBacklogAge   int64                         `json:"oldestBacklogMessageAgeSeconds"`
	PublishLimited     int64                         `json:"publishRateLimitedTimes"`
	EarliestInBacklogs int64                         `json:"earliestMsgPublishTimeInBacklogs"`
	Offloaded          int64                         `json:"offloadedStorageSize"`
	LastOffloadLedger  int64                         `json:"lastOffloadLedgerId"`
	LastOffloadSuccess int64                         `json:"lastOffloadSuccessTimeStamp"`
	LastOffloadFailure int64                         `json:"lastOffloadFailureTimeStamp"`
	OngoingTxn         int64                         `json:"ongoingTxnCount"`
	AbortedTxn         int64                         `json:"abortedTxnCount"`
	CommittedTxn       int64                         `json:"committedTxnCount"`
	Publishers         []publisherStats              `json:"publishers"`
	WaitingPublishers  int                           `json:"waitingPublishers"`
	Subscriptions      map[string]*subscriptionStats `json:"subscriptions"`
	Replication        struct{}                      `json:"replication"`
	Deduplication      string                        `json:"deduplicationStatus,omitempty"`
	TopicEpoch         *uint64                       `json:"topicEpoch,omitempty"`
	DeletedRanges      int                           `json:"nonContiguousDeletedMessagesRanges"`
	DeletedRangesSize  int                           `json:"nonContiguousDeletedMessagesRangesSerializedSize"`
	DelayedIndexSize   int64                         `json:"delayedMessageIndexSizeInBytes"`
	Compaction         compactionStats               `json:"compaction"`
	OwnerBroker        string                        `json:"ownerBroker,omitempty"`
	Created            int64                         `json:"topicCreationTimeStamp"`
	LastPublish        int64                         `json:"lastPublishTimeStamp"`
}

type compactionStats struct {
	Removed   int64 `json:"lastCompactionRemovedEventCount"`
	Succeeded int64 `json:"lastCompactionSucceedTimestamp"`
	Failed    int64 `json:"lastCompactionFailedTimestamp"`
	Duration  int64 `json:"lastCompactionDurationTimeInMills"`
}

// publisherStats is Pulsar's PublisherStats.
type publisherStats struct {
	AccessMode      string            `json:"accessMode"`
	MsgRateIn       rate              `json:"msgRateIn"`
	MsgThroughputIn rate              `json:"msgThroughputIn"`
	AverageMsgSize  rate              `json:"averageMsgSize"`
	ChunkedRate     rate              `json:"chunkedMessageRate"`
	ProducerID      uint64            `json:"producerId"`
	Partial         bool              `json:"supportsPartialProducer"`
	Name            string            `json:"producerName"`
	Address         string            `json:"address"`
	ConnectedSince  string            `json:"connectedSince"`
	ClientVersion   string            `json:"clientVersion"`
	Metadata        map[string]string `json:"metadata"`
}

// subscriptionStats is Pulsar's SubscriptionStats.
type subscriptionStats struct {
	MsgRateOut           rate              `json:"msgRateOut"`
	MsgThroughputOut     rate              `json:"msgThroughputOut"`
	BytesOut             int64             `json:"bytesOutCounter"`
	MsgOut               int64             `json:"msgOutCounter"`
	MsgRateRedeliver     rate              `json:"msgRateRedeliver"`
	AckRate              rate              `json:"messageAckRate"`
	ChunkedRate          rate              `json:"chunkedMessageRate"`
	Backlog              int64             `json:"msgBacklog"`
	BacklogSize          int64             `json:"backlogSize"`
	EarliestInBacklog    int64             `json:"earliestMsgPublishTimeInBacklog"`
	BacklogNoDelayed     int64             `json:"msgBacklogNoDelayed"`
	Blocked              bool              `json:"blockedSubscriptionOnUnackedMsgs"`
	Delayed              int64             `json:"msgDelayed"`
	InReplay             int64             `json:"msgInReplay"`
	Unacked              int64             `json:"unackedMessages"`
	Type                 string            `json:"type"`
	Active               string            `json:"activeConsumerName,omitempty"`
	MsgRateExpired       rate              `json:"msgRateExpired"`
	Expired              int64             `json:"msgExpired"`
	TotalExpired         int64             `json:"totalMsgExpired"`
	LastExpire           int64             `json:"lastExpireTimestamp"`
	LastFlow             int64             `json:"lastConsumedFlowTimestamp"`
	LastConsumed         int64             `json:"lastConsumedTimestamp"`
	LastAcked            int64             `json:"lastAckedTimestamp"`
	LastMarkDelete       int64             `json:"lastMarkDeleteAdvancedTimestamp"`
	Consumers            []consumerStats   `json:"consumers"`
	IsDurable            bool              `json:"isDurable"`
	IsReplicated         bool              `json:"isReplicated"`
	OutOfOrder           bool              `json:"allowOutOfOrderDelivery"`
	KeySharedMode        string            `json:"keySharedMode,omitempty"`
	AfterMarkDelete      struct{}          `json:"consumersAfterMarkDeletePosition"`
	DrainingCount        int               `json:"drainingHashesCount"`
	DrainingCleared      int64             `json:"drainingHashesClearedTotal"`
	DrainingUnacked      int               `json:"drainingHashesUnackedMessages"`
	DeletedRanges        int               `json:"nonContiguousDeletedMessagesRanges"`
	DeletedRangesSize    int               `json:"nonContiguousDeletedMessagesRangesSerializedSize"`
	DelayedIndexSize     int64             `json:"delayedMessageIndexSizeInBytes"`
	Properties           map[string]string `json:"subscriptionProperties"`
	FilterProcessed      int64             `json:"filterProcessedMsgCount"`
	FilterAccepted       int64             `json:"filterAcceptedMsgCount"`
	FilterRejected       int64             `json:"filterRejectedMsgCount"`
	FilterRescheduled    int64             `json:"filterRescheduledMsgCount"`
	ThrottledMsgSub      int64             `json:"dispatchThrottledMsgEventsBySubscriptionLimit"`
	ThrottledBytesSub    int64             `json:"dispatchThrottledBytesEventsBySubscriptionLimit"`
	ThrottledMsgTopic    int64             `json:"dispatchThrottledMsgEventsByTopicLimit"`
	ThrottledBytesTopic  int64             `json:"dispatchThrottledBytesEventsByTopicLimit"`
	ThrottledMsgBroker   int64             `json:"dispatchThrottledMsgEventsByBrokerLimit"`
	ThrottledBytesBroker int64             `json:"dispatchThrottledBytesEventsByBrokerLimit"`
	Durable              bool              `json:"durable"`
	Replicated           bool              `json:"replicated"`
}

// consumerStats is Pulsar's ConsumerStats.
type consumerStats struct {
	MsgRateOut       rate              `json:"msgRateOut"`
	MsgThroughputOut rate              `json:"msgThroughputOut"`
	BytesOut         int64             `json:"bytesOutCounter"`
	MsgOut           int64             `json:"msgOutCounter"`
	MsgRateRedeliver rate              `json:"msgRateRedeliver"`
	AckRate          rate              `json:"messageAckRate"`
	ChunkedRate      rate              `json:"chunkedMessageRate"`
	Name             string            `json:"consumerName"`
	Permits          int               `json:"availablePermits"`
	Unacked          int               `json:"unackedMessages"`
	AvgPerEntry      int               `json:"avgMessagesPerEntry"`
	Blocked          bool              `json:"blockedConsumerOnUnackedMsgs"`
	DrainingCount    int               `json:"drainingHashesCount"`
	DrainingCleared  int64             `json:"drainingHashesClearedTotal"`
	DrainingUnacked  int               `json:"drainingHashesUnackedMessages"`
	Address          string            `json:"address"`
	ConnectedSince   string            `json:"connectedSince"`
	ClientVersion    string            `json:"clientVersion"`
	LastAcked        int64             `json:"lastAckedTimestamp"`
	LastConsumed     int64             `json:"lastConsumedTimestamp"`
	FirstSent        int64             `json:"firstMessagesSentTimestamp"`
	LastFlow         int64             `json:"lastConsumedFlowTimestamp"`
	FirstFlow        int64             `json:"firstConsumedFlowTimestamp"`
	KeyHashRanges    []string          `json:"keyHashRanges,omitempty"`
	Metadata         map[string]string `json:"metadata"`
	LastAckedTime    string            `json:"lastAckedTime"`
	LastConsumedTime string            `json:"lastConsumedTime"`
}

// partitionedStats is Pulsar's PartitionedTopicStats.
type partitionedStats struct {
	*topicStats
	Metadata   partitionedMetadata    `json:"metadata"`
	Partitions map[string]*topicStats `json:"partitions"`
}

// A statsFilter leaves parts of statistics out.
type statsFilter struct{ noPublishers, noConsumers bool }

func statsOptions(r *request) statsFilter {
	return statsFilter{r.flag("excludePublishers"), r.flag("excludeConsumers")}
}

func newTopicStats() *topicStats {
	return &topicStats{
		QuotaSize: -1, QuotaTime: -1, OldestBacklogAge: -1, Publishers: []publisherStats{}, Subscriptions: map[string]*subscriptionStats{},
	}
}

func (a *api) topicStats(t Topic, f statsFilter) *topicStats {
	s := t.Stats()
	out := newTopicStats()
	out.MsgRateIn, out.MsgThroughputIn = rate(s.MsgRateIn), rate(s.MsgThroughputIn)
	out.MsgRateOut, out.MsgThroughputOut = rate(s.MsgRateOut), rate(s.MsgThroughputOut)
	out.BytesIn, out.MsgIn, out.BytesOut, out.MsgOut = s.BytesIn, s.MsgIn, s.BytesOut, s.MsgOut
	out.AverageMsgSize = rate(s.AverageMsgSize)
	out.StorageSize, out.BacklogSize = s.StorageSize, s.BacklogSize
	out.WaitingPublishers, out.TopicEpoch = s.WaitingPublishers, s.TopicEpoch
	out.Deduplication = "Disabled"
	out.OwnerBroker = a.Owners.Self().ID
	out.Created, out.LastPublish = millis(s.Created), millis(s.LastPublish)
	if !f.noPublishers {
		for i := range s.Producers {
			out.Publishers = append(out.Publishers, showPublisher(&s.Producers[i]))
		}
	}
	for i := range s.Subscriptions {
		sub := showSubscription(&s.Subscriptions[i])
		if f.noConsumers {
			sub.Consumers = []consumerStats{}
		}
		out.Subscriptions[s.Subscriptions[i].Name] = sub
	}
	return out
}

func showPublisher(p *topic.ProducerStats) publisherStats {
	return publisherStats{
		AccessMode: p.AccessMode.String(), MsgRateIn: rate(p.MsgRateIn), MsgThroughputIn: rate(p.MsgThroughputIn),
		AverageMsgSize: rate(p.AverageMsgSize), ProducerID: p.ID, Partial: p.PartialProducer, Name: p.Name, Address: p.Address,
		ConnectedSince: timestamp(p.ConnectedSince), ClientVersion: p.ClientVersion, Metadata: merge(nil, p.Metadata),
	}
}

func showSubscription(s *subscription.Stats) *subscriptionStats {
	out := &subscriptionStats{
		MsgRateOut: rate(s.MsgRateOut), MsgThroughputOut: rate(s.MsgThroughputOut), BytesOut: s.BytesOut, MsgOut: s.MsgOut,
		MsgRateRedeliver: rate(s.MsgRateRedeliver), AckRate: rate(s.MessageAckRate), Backlog: s.Backlog, BacklogSize: s.BacklogBytes,
		BacklogNoDelayed: s.Backlog - s.Delayed, Delayed: s.Delayed, InReplay: int64(s.InReplay), Unacked: int64(s.Unacked),
		Type: "None", Active: s.ActiveConsumer, MsgRateExpired: rate(s.MsgRateExpired), TotalExpired: s.TotalExpired,
		LastExpire: millis(s.LastExpire), LastFlow: millis(s.LastConsumedFlow), LastConsumed: millis(s.LastConsumed),
		LastAcked: millis(s.LastAcked), LastMarkDelete: millis(s.LastMarkDeleteMoved), Consumers: []consumerStats{},
		IsDurable: s.Durable, Durable: s.Durable, IsReplicated: s.Replicated, Replicated: s.Replicated,
		KeySharedMode: s.KeySharedMode, Properties: merge(nil, s.Properties),
	}
	if s.HasType {
		out.Type = s.Type.String()
	}
	for i := range s.Consumers {
		c := &s.Consumers[i]
		out.Blocked = out.Blocked || c.BlockedOnUnacked
		show := consumerStats{
			MsgRateOut: rate(c.MsgRateOut), MsgThroughputOut: rate(c.MsgThroughputOut), BytesOut: c.BytesOut, MsgOut: c.MsgOut,
			MsgRateRedeliver: rate(c.MsgRateRedeliver), AckRate: rate(c.MessageAckRate), Name: c.Name, Permits: c.AvailablePermits,
			Unacked: c.Unacked, AvgPerEntry: c.AvgMessagesPerEntry, Blocked: c.BlockedOnUnacked, Address: c.Address,
			ConnectedSince: timestamp(c.ConnectedSince), ClientVersion: c.ClientVersion, LastAcked: millis(c.LastAcked),
			LastConsumed: millis(c.LastConsumed), LastFlow: millis(c.LastConsumedFlow), Metadata: merge(nil, c.Metadata),
			LastAckedTime: timestamp(time.UnixMilli(millis(c.LastAcked))), LastConsumedTime: timestamp(time.UnixMilli(millis(c.LastConsumed))),
		}
		for _, h := range c.KeyHashRanges {
			show.KeyHashRanges = append(show.KeyHashRanges, "["+strconv.Itoa(int(h.Start))+", "+strconv.Itoa(int(h.End))+"]")
		}
		out.Consumers = append(out.Consumers, show)
	}
	return out
}

// sum is the statistics of a partitioned topic: those of its partitions together.
func sum(each map[string]*topicStats) *topicStats {
	out := newTopicStats()
	out.OldestBacklogAge = 0
	for _, name := range sortedKeys(each) {
		s := each[name]
		out.MsgRateIn += s.MsgRateIn
		out.MsgThroughputIn += s.MsgThroughputIn
		out.MsgRateOut += s.MsgRateOut
		out.MsgThroughputOut += s.MsgThroughputOut
		out.BytesIn += s.BytesIn
		out.MsgIn += s.MsgIn
		out.BytesOut += s.BytesOut
		out.MsgOut += s.MsgOut
		out.StorageSize += s.StorageSize
		out.BacklogSize += s.BacklogSize
		out.WaitingPublishers += s.WaitingPublishers
		out.Publishers = append(out.Publishers, s.Publishers...)
		if out.Created == 0 || s.Created < out.Created {
			out.Created = s.Created
		}
		out.LastPublish = max(out.LastPublish, s.LastPublish)
		for name, sub := range s.Subscriptions {
			sumSubscription(out.Subscriptions, name, sub)
		}
	}
	if out.MsgRateIn > 0 {
		out.AverageMsgSize = out.MsgThroughputIn / out.MsgRateIn
	}
	return out
}

func sumSubscription(into map[string]*subscriptionStats, name string, s *subscriptionStats) {
	out, ok := into[name]
	if !ok {
		c := *s
		c.Consumers = append([]consumerStats{}, s.Consumers...)
		into[name] = &c
		return
	}
	out.MsgRateOut += s.MsgRateOut
	out.MsgThroughputOut += s.MsgThroughputOut
	out.BytesOut += s.BytesOut
	out.MsgOut += s.MsgOut
	out.MsgRateRedeliver += s.MsgRateRedeliver
	out.AckRate += s.AckRate
	out.Backlog += s.Backlog
	out.BacklogSize += s.BacklogSize
	out.BacklogNoDelayed += s.BacklogNoDelayed
	out.Delayed += s.Delayed
	out.InReplay += s.InReplay
	out.Unacked += s.Unacked
	out.Blocked = out.Blocked || s.Blocked
	out.MsgRateExpired += s.MsgRateExpired
	out.TotalExpired += s.TotalExpired
	out.LastExpire = max(out.LastExpire, s.LastExpire)
	out.LastFlow = max(out.LastFlow, s.LastFlow)
	out.LastConsumed = max(out.LastConsumed, s.LastConsumed)
	out.LastAcked = max(out.LastAcked, s.LastAcked)
	out.LastMarkDelete = max(out.LastMarkDelete, s.LastMarkDelete)
	out.Consumers = append(out.Consumers, s.Consumers...)
	if out.Type == "None" {
		out.Type = s.Type
	}
}

// internalTopicStats is Pulsar's PersistentTopicInternalStats.
type internalTopicStats struct {
	EntriesAdded         int64                  `json:"entriesAddedCounter"`
	NumberOfEntries      int64                  `json:"numberOfEntries"`
	TotalSize            int64                  `json:"totalSize"`
	CurrentLedgerEntries int64                  `json:"currentLedgerEntries"`
	CurrentLedgerSize    int64                  `json:"currentLedgerSize"`
	LastLedgerCreated    string                 `json:"lastLedgerCreatedTimestamp"`
	WaitingCursors       int                    `json:"waitingCursorsCount"`
	PendingAdds          int                    `json:"pendingAddEntriesCount"`
	LastConfirmed        string                 `json:"lastConfirmedEntry"`
	State                string                 `json:"state"`
	Ledgers              []ledgerInfo           `json:"ledgers"`
	Cursors              map[string]cursorStats `json:"cursors"`
	Properties           map[string]string      `json:"properties"`
	SchemaLedgers        []ledgerInfo           `json:"schemaLedgers"`
	Compacted            ledgerInfo             `json:"compactedLedger"`
}

type ledgerInfo struct {
	ID              int64 `json:"ledgerId"`
	Entries         int64 `json:"entries"`
	Size            int64 `json:"size"`
	Offloaded       bool  `json:"offloaded"`
	UnderReplicated bool  `json:"underReplicated"`
}

type cursorStats struct {
	MarkDelete      string           `json:"markDeletePosition"`
	Read            string           `json:"readPosition"`
	WaitingRead     bool             `json:"waitingReadOp"`
	PendingReads    int              `json:"pendingReadOps"`
	Consumed        int64            `json:"messagesConsumedCounter"`
	CursorLedger    int64            `json:"cursorLedger"`
	CursorLastEntry int64            `json:"cursorLedgerLastEntry"`
	Deleted         string           `json:"individuallyDeletedMessages"`
	LastSwitch      string           `json:"lastLedgerSwitchTimestamp"`
	State           string           `json:"state"`
	Active          bool             `json:"active"`
	SinceFirst      int64            `json:"numberOfEntriesSinceFirstNotAckedMessage"`
	DeletedRanges   int              `json:"totalNonContiguousDeletedMessagesRange"`
	PendingRead     bool             `json:"subscriptionHavePendingRead"`
	PendingReplay   bool             `json:"subscriptionHavePendingReplayRead"`
	Properties      map[string]int64 `json:"properties"`
}

func internalStats(t Topic) internalTopicStats {
	s := t.InternalStats()
	out := internalTopicStats{
		EntriesAdded: s.EntriesAdded, NumberOfEntries: s.NumberOfEntries, TotalSize: s.TotalSize,
		CurrentLedgerEntries: s.CurrentLedgerEntries, CurrentLedgerSize: s.CurrentLedgerSize,
		LastLedgerCreated: timestamp(s.LastLedgerCreated), WaitingCursors: s.WaitingCursors, PendingAdds: s.PendingAdds,
		LastConfirmed: s.LastConfirmed.String(), State: s.State, Ledgers: []ledgerInfo{}, Cursors: map[string]cursorStats{},
		Properties: merge(nil, s.Properties), SchemaLedgers: []ledgerInfo{}, Compacted: ledgerInfo{ID: -1, Entries: -1, Size: -1},
	}
	for _, l := range s.Ledgers {
		out.Ledgers = append(out.Ledgers, ledgerInfo{ID: int64(l.ID), Entries: l.Entries, Size: l.Bytes, Offloaded: l.Offloaded})
	}
	for name, c := range s.Cursors {
		ranges := 0
		for i := range len(c.IndividuallyDeleted) {
			if c.IndividuallyDeleted[i] == '(' {
				ranges++
			}
		}
		out.Cursors[name] = cursorStats{
			MarkDelete: c.MarkDelete.String(), Read: c.Read.String(), WaitingRead: c.WaitingRead, PendingReads: c.PendingReads,
			Consumed: c.EntriesConsumed, CursorLedger: c.CursorLedger, CursorLastEntry: -1, Deleted: c.IndividuallyDeleted,
			LastSwitch: timestamp(c.LastLedgerSwitch), State: c.State, SinceFirst: c.EntriesSinceFirstUnack, DeletedRanges: ranges,
			PendingRead: c.PendingReads > 0, Properties: map[string]int64{},
		}
	}
	return out
}
