package adminapi

import (
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/daybook/daybook/broker/internal/policy"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

const nsPath = "/admin/v2/namespaces/{tenant}/{namespace}"

// bundlesData is Pulsar's BundlesData.
type bundlesData struct {
	Boundaries []string `json:"boundaries"`
	NumBundles int      `json:"numBundles"`
}

// bundles cuts the space of topic hashes into n equal parts.
func bundles(n int) bundlesData {
	n = max(n, 1)
	d := bundlesData{NumBundles: n}
	for i := range n {
		d.Boundaries = append(d.Boundaries, fmt.Sprintf("0x%08x", uint64(i)*((1<<32)/uint64(n))))
	}
	d.Boundaries = append(d.Boundaries, "0xffffffff")
	return d
}

// autoTopicOverride is Pulsar's AutoTopicCreationOverride.
type autoTopicOverride struct {
	Allow      *bool  `json:"allowAutoTopicCreation"`
	Type       string `json:"topicType,omitempty"`
	Partitions *int   `json:"defaultNumPartitions,omitempty"`
}

func showAutoTopics(p *policy.AutoTopics) *autoTopicOverride {
	if p == nil {
		return nil
	}
	o := &autoTopicOverride{Allow: &p.Allowed, Type: "non-partitioned"}
	if p.Partitions > 0 {
		o.Type, o.Partitions = "partitioned", &p.Partitions
	}
	return o
}

func (o *autoTopicOverride) policy() (*policy.AutoTopics, error) {
	bad := func(detail string) (*policy.AutoTopics, error) {
		return nil, failure(http.StatusPreconditionFailed, "Invalid configuration for autoTopicCreationOverride. the detail is %s", detail)
	}
	if o.Allow == nil {
		return bad("[allowAutoTopicCreation] cannot be null")
	}
	p := &policy.AutoTopics{Allowed: *o.Allow}
	if !p.Allowed && o.Type == "" {
		return p, nil
	}
	switch o.Type {
	case "partitioned":
		if o.Partitions == nil {
			return bad("[defaultNumPartitions] cannot be null when the type is partitioned.")
		}
		if *o.Partitions < 1 {
			return bad("[defaultNumPartitions] cannot be less than 1 for partition type.")
		}
		p.Partitions = *o.Partitions
	case "non-partitioned":
		if o.Partitions != nil {
			return bad("[defaultNumPartitions] is not allowed to be set when the type is non-partition.")
		}
	default:
		return bad(fmt.Sprintf("Unknown topic type [%s]", o.Type))
	}
	return p, nil
}

type autoSubscriptionOverride struct {
	Allow *bool `json:"allowAutoSubscriptionCreation"`
}

// namespacePolicies is Pulsar's Policies: what there is, and the values that Pulsar shows for what is not set.
type namespacePolicies struct {
	Auth                 authPolicies              `json:"auth_policies"`
	ReplicationClusters  []string                  `json:"replication_clusters"`
	AllowedClusters      []string                  `json:"allowed_clusters"`
	Bundles              bundlesData               `json:"bundles"`
	BacklogQuota         struct{}                  `json:"backlog_quota_map"`
	ClusterDispatch      struct{}                  `json:"clusterDispatchRate"`
	TopicDispatch        struct{}                  `json:"topicDispatchRate"`
	SubscriptionDispatch struct{}                  `json:"subscriptionDispatchRate"`
	ReplicatorDispatch   struct{}                  `json:"replicatorDispatchRate"`
	ClusterSubscribe     struct{}                  `json:"clusterSubscribeRate"`
	AutoTopics           *autoTopicOverride        `json:"autoTopicCreationOverride,omitempty"`
	AutoSubscriptions    *autoSubscriptionOverride `json:"autoSubscriptionCreationOverride,omitempty"`
	PublishRate          struct{}                  `json:"publishMaxMessageRate"`
	LatencyStats         struct{}                  `json:"latency_stats_sample_rate"`
	Deleted              bool                      `json:"deleted"`
	EncryptionRequired   bool                      `json:"encryption_required"`
	SubscriptionAuthMode string                    `json:"subscription_auth_mode"`
	OffloadThreshold     int                       `json:"offload_threshold"`
	OffloadThresholdSecs int                       `json:"offload_threshold_in_seconds"`
	MaxTopics            int                       `json:"max_topics_per_namespace,omitempty"`
	SchemaStrategy       string                    `json:"schema_compatibility_strategy"`
	AutoUpdateSchema     bool                      `json:"is_allow_auto_update_schema"`
	SchemaValidation     bool                      `json:"schema_validation_enforced"`
	SubscriptionTypes    []string                  `json:"subscription_types_enabled"`
	Properties           map[string]string         `json:"properties"`
	Migrated             bool                      `json:"migrated"`
}

type authPolicies struct {
	Namespace    struct{} `json:"namespace_auth"`
	Topic        struct{} `json:"destination_auth"`
	Subscription struct{} `json:"subscription_auth_roles"`
}

func showNamespace(p policy.Namespace) namespacePolicies {
	out := namespacePolicies{
		ReplicationClusters: orEmpty(p.ReplicationClusters), AllowedClusters: []string{}, Bundles: bundles(p.Bundles),
		AutoTopics: showAutoTopics(p.AutoTopics), SubscriptionAuthMode: "None", OffloadThreshold: -1, OffloadThresholdSecs: -1,
		MaxTopics: p.MaxTopics, SchemaStrategy: "UNDEFINED", AutoUpdateSchema: true, SubscriptionTypes: []string{},
		Properties: p.Properties,
	}
	if p.AutoSubscriptions != nil {
		out.AutoSubscriptions = &autoSubscriptionOverride{p.AutoSubscriptions}
	}
	if out.Properties == nil {
		out.Properties = map[string]string{}
	}
	return out
}

func (a *api) namespaces() {
	a.routes.add("GET", "/admin/v2/namespaces/{tenant}", func(r *request) (any, error) {
		if _, err := a.Policies.TenantInfo(r.Context(), r.text("tenant")); errors.Is(err, serr.TopicNotFound) {
			return nil, failure(http.StatusNotFound, "Tenant not found")
		} else if err != nil {
			return nil, err
		}
		all, err := a.Policies.Namespaces(r.Context(), r.text("tenant"))
		out := make([]string, len(all))
		for i, ns := range all {
			out[i] = ns.String()
		}
		return out, err
	})
	a.nsGet("", func(_ *request, _ topicname.Namespace, p policy.Namespace) (any, error) { return showNamespace(p), nil })
	a.routes.add("PUT", nsPath, func(r *request) (any, error) {
		ns, err := r.namespace()
		if err != nil {
			return nil, err
		}
		// The body is Policies, or, from old clients, BundlesData.
		var body struct {
			Replication []string `json:"replication_clusters"`
			Bundles     *struct {
				N int `json:"numBundles"`
			} `json:"bundles"`
			N          int                       `json:"numBundles"`
			AutoTopics *autoTopicOverride        `json:"autoTopicCreationOverride"`
			AutoSubs   *autoSubscriptionOverride `json:"autoSubscriptionCreationOverride"`
			MaxTopics  *int                      `json:"max_topics_per_namespace"`
			Properties map[string]string         `json:"properties"`
		}
		if _, err := r.decode(&body); err != nil {
			return nil, err
		}
		p := policy.Namespace{ReplicationClusters: body.Replication, Bundles: body.N, Properties: body.Properties}
		if body.Bundles != nil {
			p.Bundles = body.Bundles.N
		}
		if body.AutoTopics != nil {
			if p.AutoTopics, err = body.AutoTopics.policy(); err != nil {
				return nil, err
			}
		}
		if body.AutoSubs != nil {
			p.AutoSubscriptions = body.AutoSubs.Allow
		}
		if body.MaxTopics != nil {
			p.MaxTopics = *body.MaxTopics
		}
		err = a.Policies.CreateNamespace(r.Context(), ns, p)
		if errors.Is(err, serr.TopicNotFound) {
			err = failure(http.StatusNotFound, "Tenant not found")
		}
		return nil, err
	})
	a.routes.add("DELETE", nsPath, func(r *request) (any, error) {
		ns, err := r.namespace()
		if err != nil {
			return nil, err
		}
		if r.flag("force") {
			return nil, failure(http.StatusMethodNotAllowed, "Broker doesn't allow forced deletion of namespaces")
		}
		return nil, a.Policies.DeleteNamespace(r.Context(), ns)
	})
	a.nsGet("/topics", func(r *request, ns topicname.Namespace, _ policy.Namespace) (any, error) {
		if r.query.Get("mode") == "NON_PERSISTENT" {
			return []string{}, nil
		}
		return a.list(r, ns)
	})
	a.nsGet("/bundles", func(_ *request, _ topicname.Namespace, p policy.Namespace) (any, error) {
		return bundles(p.Bundles), nil
	})
	a.nsGet("/replication", func(_ *request, _ topicname.Namespace, p policy.Namespace) (any, error) {
		return orEmpty(p.ReplicationClusters), nil
	})
	a.nsSet("POST", "/replication", func(r *request, p *policy.Namespace) error {
		var clusters []string
		if _, err := r.decode(&clusters); err != nil {
			return err
		}
		if len(clusters) == 0 {
			return failure(http.StatusPreconditionFailed, "ClusterIds should not be null or empty")
		}
		for _, c := range clusters {
			if c != a.Policies.Cluster() {
				return failure(http.StatusForbidden, "Invalid cluster id: %s", c)
			}
		}
		p.ReplicationClusters = clusters
		return nil
	})

	a.nsGet("/autoTopicCreation", func(_ *request, _ topicname.Namespace, p policy.Namespace) (any, error) {
		if p.AutoTopics == nil {
			return unset{}, nil
		}
		return showAutoTopics(p.AutoTopics), nil
	})
	a.nsSet("POST", "/autoTopicCreation", func(r *request, p *policy.Namespace) error {
		var o *autoTopicOverride
		if _, err := r.decode(&o); err != nil {
			return err
		}
		p.AutoTopics = nil
		if o == nil {
			return nil
		}
		var err error
		p.AutoTopics, err = o.policy()
		return err
	})
	a.nsSet("DELETE", "/autoTopicCreation", func(_ *request, p *policy.Namespace) error { p.AutoTopics = nil; return nil })

	a.nsGet("/autoSubscriptionCreation", func(_ *request, _ topicname.Namespace, p policy.Namespace) (any, error) {
		if p.AutoSubscriptions == nil {
			return unset{}, nil
		}
		return autoSubscriptionOverride{p.AutoSubscriptions}, nil
	})
	a.nsSet("POST", "/autoSubscriptionCreation", func(r *request, p *policy.Namespace) error {
		var o autoSubscriptionOverride
		if _, err := r.decode(&o); err != nil {
			return err
		}
		p.AutoSubscriptions = o.Allow
		return nil
	})
	a.nsSet("DELETE", "/autoSubscriptionCreation", func(_ *request, p *policy.Namespace) error { p.AutoSubscriptions = nil; return nil })

	a.nsGet("/maxTopicsPerNamespace", func(_ *request, _ topicname.Namespace, p policy.Namespace) (any, error) { return p.MaxTopics, nil })
	a.nsSet("POST", "/maxTopicsPerNamespace", func(r *request, p *policy.Namespace) error {
		var n int32
		if _, err := r.decode(&n); err != nil {
			return err
		}
		if n < 0 {
			return failure(http.StatusPreconditionFailed, "maxTopicsPerNamespace must be 0 or more")
		}
		p.MaxTopics = int(n)
		return nil
	})
	a.nsSet("DELETE", "/maxTopicsPerNamespace", func(_ *request, p *policy.Namespace) error { p.MaxTopics = 0; return nil })

	a.nsGet("/properties", func(_ *request, _ topicname.Namespace, p policy.Namespace) (any, error) {
		return showNamespace(p).Properties, nil
	})
	a.nsSet("PUT", "/properties", func(r *request, p *policy.Namespace) error {
		var m map[string]string
		if _, err := r.decode(&m); err != nil {
			return err
		}
		p.Properties = merge(p.Properties, m)
		return nil
	})
	a.nsSet("DELETE", "/properties", func(_ *request, p *policy.Namespace) error { p.Properties = nil; return nil })
	a.nsGet("/property/{key}", func(r *request, _ topicname.Namespace, p policy.Namespace) (any, error) {
		v, ok := p.Properties[r.text("key")]
		if !ok {
			return unset{}, nil
		}
		return raw{contentType: "application/json", body: []byte(v)}, nil
	})
	a.nsSet("PUT", "/property/{key}/{value}", func(r *request, p *policy.Namespace) error {
		p.Properties = merge(p.Properties, map[string]string{r.text("key"): r.text("value")})
		return nil
	})
	a.nsSet("DELETE", "/property/{key}", func(r *request, p *policy.Namespace) error {
		delete(p.Properties, r.text("key"))
		return nil
	})

	a.routes.add("PUT", nsPath+"/unload", func(r *request) (any, error) {
		ns, _, err := r.existingNamespace()
		if err != nil {
			return nil, err
		}
		return nil, a.unload(r, ns, func(topicname.Name) bool { return true })
	})
	a.routes.add("PUT", nsPath+"/{bundle}/unload", func(r *request) (any, error) {
		ns, p, err := r.existingNamespace()
		if err != nil {
			return nil, err
		}
		d := bundles(p.Bundles)
		for i := range d.NumBundles {
			if r.text("bundle") == d.Boundaries[i]+"_"+d.Boundaries[i+1] {
				return nil, a.unload(r, ns, func(n topicname.Name) bool { return bundleOf(n, d) == r.text("bundle") })
			}
		}
		return nil, failure(http.StatusPreconditionFailed, "Bundle range %s not found", r.text("bundle"))
	})
}

func (a *api) unload(r *request, ns topicname.Namespace, which func(topicname.Name) bool) error {
	for _, t := range a.Topics.All() {
		if n := t.Name(); n.NamespaceName() == ns && which(n) {
			if err := a.Topics.Unload(r.Context(), n); err != nil {
				return err
			}
		}
	}
	return nil
}

// nsGet adds a GET under the path of a namespace, which must exist.
func (a *api) nsGet(path string, h func(*request, topicname.Namespace, policy.Namespace) (any, error)) {
	a.routes.add("GET", nsPath+path, func(r *request) (any, error) {
		ns, p, err := r.existingNamespace()
		if err != nil {
			return nil, err
		}
		return h(r, ns, p)
	})
}

// nsSet adds a call that changes a namespace's policies. change may be called several times for one request.
func (a *api) nsSet(method, path string, change func(*request, *policy.Namespace) error) {
	a.routes.add(method, nsPath+path, func(r *request) (any, error) {
		ns, err := r.namespace()
		if err != nil {
			return nil, err
		}
		err = a.Policies.UpdateNamespace(r.Context(), ns, func(p *policy.Namespace) error { return change(r, p) })
		return nil, r.missing(ns, err)
	})
}

// merge is a with b's properties set.
func merge(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	if out == nil {
		out = make(map[string]string, len(b))
	}
	maps.Copy(out, b)
	return out
}
