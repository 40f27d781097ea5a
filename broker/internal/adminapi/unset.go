package adminapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/daybook/daybook/broker/serr"
)

// An answer is what Pulsar says of a policy that is not set: for most nothing, with 200 or 204, for some a value
// as JSON. Policies that can be set have routes of their own; setting one of these is 405, so that nobody takes
// for enforced what is not.
type answer struct {
	path    string
	value   string // JSON, empty for no body
	applied string // JSON of the value in effect, for ?applied=true, empty if it is as value
	none    bool   // 204 and not 200, where there is no body
	missing string // the text if the namespace does not exist, where it is not the usual one
}

const noRate = `{"dispatchThrottlingRateInMsg":0,"dispatchThrottlingRateInByte":0,"relativeToPublishRate":false,"ratePeriodInSecond":1}`

var namespaceAnswers = []answer{
	{path: "allowedClusters", value: `[]`},
	{path: "allowedTopicPropertyKeysForMetrics"},
	{path: "backlogQuotaMap", value: `{}`},
	{path: "compactionThreshold"},
	{path: "deduplication"},
	{path: "deduplicationSnapshotInterval"},
	{path: "delayedDelivery"},
	{path: "dispatchRate"},
	{path: "dispatcherPauseOnAckStatePersistent", value: `false`, missing: "Namespace policies does not exist"},
	{path: "encryptionRequired", value: `false`},
	{path: "entryFilters"},
	{path: "inactiveTopicPolicies"},
	{path: "isAllowAutoUpdateSchema", value: `true`},
	{path: "maxConsumersPerSubscription"},
	{path: "maxConsumersPerTopic"},
	{path: "maxProducersPerTopic"},
	{path: "maxSubscriptionsPerTopic"},
	{path: "maxUnackedMessagesPerConsumer"},
	{path: "maxUnackedMessagesPerSubscription"},
	{path: "messageTTL"},
	{path: "offloadDeletionLagMs"},
	{path: "offloadPolicies"},
	{path: "offloadThreshold", value: `-1`},
	{path: "offloadThresholdInSeconds", value: `-1`},
	{path: "permissions", value: `{}`},
	{path: "permissions/subscription", value: `{}`},
	{path: "persistence"},
	{path: "persistence/bookieAffinity", missing: "Namespace not found"},
	{path: "publishRate"},
	{path: "replicatorDispatchRate", missing: "Namespace policies does not exist"},
	{path: "resourcegroup"},
	{path: "retention"},
	{path: "schemaAutoUpdateCompatibilityStrategy", none: true},
	{path: "schemaCompatibilityStrategy", value: `"UNDEFINED"`},
	{path: "schemaValidationEnforced", value: `false`},
	{path: "subscribeRate"},
	{path: "subscriptionAuthMode", value: `"None"`},
	{path: "subscriptionDispatchRate"},
	{path: "subscriptionExpirationTime"},
	{path: "subscriptionTypesEnabled", value: `[]`},
}

var topicAnswers = []answer{
	{path: "autoSubscriptionCreation"}, // applied: see unset
	{path: "backlogQuotaMap", value: `{}`, applied: `{"destination_storage":{"limit":-1,"limitSize":-1,"limitTime":-1,"policy":"producer_request_hold"},"message_age":{"limit":-1,"limitSize":-1,"limitTime":-1,"policy":"producer_request_hold"}}`},
	{path: "compactionThreshold", applied: `0`},
	{path: "deduplicationEnabled", applied: `false`},
	{path: "deduplicationSnapshotInterval"},
	{path: "delayedDelivery", applied: `{"tickTime":1000,"active":true,"maxDeliveryDelayInMillis":0}`},
	{path: "dispatchRate", applied: noRate},
	{path: "dispatcherPauseOnAckStatePersistent", value: `false`},
	{path: "entryFilters", applied: `{"entryFilterNames":""}`},
	{path: "inactiveTopicPolicies", applied: `{"inactiveTopicDeleteMode":"delete_when_no_subscriptions","maxInactiveDurationSeconds":60,"deleteWhileInactive":false}`},
	{path: "maxConsumers", applied: `0`},
	{path: "maxConsumersPerSubscription", none: true},
	{path: "maxMessageSize", none: true},
	{path: "maxProducers", applied: `0`},
	{path: "maxSubscriptionsPerTopic", none: true},
	{path: "maxUnackedMessagesOnConsumer", applied: `50000`},
	{path: "maxUnackedMessagesOnSubscription", applied: `200000`},
	{path: "messageTTL", applied: `0`},
	{path: "offloadPolicies"},
	{path: "permissions", value: `{}`, missing: "Topic %v not found"},
	{path: "persistence", applied: `{"bookkeeperEnsemble":1,"bookkeeperWriteQuorum":1,"bookkeeperAckQuorum":1,"managedLedgerMaxMarkDeleteRate":1.0}`},
	{path: "publishRate", none: true},
	{path: "replication"}, // applied: see unset
	{path: "replicatorDispatchRate", applied: noRate},
	{path: "retention", applied: `{"retentionTimeInMinutes":0,"retentionSizeInMB":0}`},
	{path: "schemaCompatibilityStrategy", applied: `"FULL"`},
	{path: "schemaValidationEnforced", value: `false`},
	{path: "shadowTopics"},
	{path: "subscribeRate", applied: `{"subscribeThrottlingRatePerConsumer":0,"ratePeriodInSecond":30}`},
	{path: "subscriptionDispatchRate", applied: noRate},
	{path: "subscriptionExpirationTime", applied: `0`},
	{path: "subscriptionTypesEnabled", none: true},
	{path: "{sub}/dispatchRate", applied: noRate},
}

func (w answer) result(applied bool) any {
	v := w.value
	if applied && w.applied != "" {
		v = w.applied
	}
	switch {
	case v != "":
		return json.RawMessage(v)
	case w.none:
		return nil
	}
	return unset{}
}

func (a *api) unset() {
	for _, w := range namespaceAnswers {
		a.routes.add("GET", nsPath+"/"+w.path, func(r *request) (any, error) {
			_, _, err := r.existingNamespace()
			if errors.Is(err, serr.TopicNotFound) && w.missing != "" {
				err = failure(http.StatusNotFound, "%s", w.missing)
			}
			return w.result(r.flag("applied")), err
		})
	}
	a.routes.add("GET", nsPath+"/antiAffinity", func(*request) (any, error) { return unset{}, nil })
	for _, w := range topicAnswers {
		a.routes.add("GET", topicPath+"/"+w.path, func(r *request) (any, error) {
			n, partitions, err := r.knownTopic()
			if errors.Is(err, serr.TopicNotFound) && w.missing != "" {
				err = failure(http.StatusNotFound, w.missing, n)
			}
			if err != nil {
				return nil, err
			}
			if partitions == 0 {
				if exists, err := a.Topics.Exists(r.Context(), n); err != nil {
					return nil, err
				} else if !exists {
					return nil, topicNotFound(n)
				}
			}
			if r.flag("applied") {
				switch w.path {
				case "autoSubscriptionCreation":
					ok, err := a.Policies.AllowSubscriptionCreation(r.Context(), n)
					return autoSubscriptionOverride{&ok}, err
				case "replication":
					p, err := a.Policies.NamespaceInfo(r.Context(), n.NamespaceName())
					return orEmpty(p.ReplicationClusters), err
				}
			}
			return w.result(r.flag("applied")), nil
		})
	}
}
