package adminapi

import (
	"net/http"

	"github.com/daybook/daybook/broker/internal/ownership"
)

func (a *api) brokers() {
	const base = "/admin/v2/brokers"
	ids := func(r *request) (any, error) {
		all, err := a.Owners.Brokers(r.Context())
		out := make([]string, len(all))
		for i, b := range all {
			out[i] = b.ID
		}
		return out, err
	}
	text := func(s string) raw { return raw{contentType: "application/json", body: []byte(s)} }
	a.routes.add("GET", base, ids)
	a.routes.add("GET", base+"/{cluster}", func(r *request) (any, error) {
		if r.text("cluster") != a.Policies.Cluster() {
			return nil, failure(http.StatusNotFound, "Cluster does not exist")
		}
		return ids(r)
	})
	a.routes.add("GET", base+"/leaderBroker", func(r *request) (any, error) {
		b, err := a.Owners.Leader(r.Context())
		if err != nil {
			return nil, err
		}
		return map[string]string{"serviceUrl": a.reach(r, b).HTTPURL, "brokerId": b.ID}, nil
	})
	a.routes.add("GET", base+"/{cluster}/{broker}/ownedNamespaces", func(r *request) (any, error) {
		self := a.Owners.Self()
		if r.text("broker") != self.ID {
			return nil, failure(http.StatusNotFound, "Broker id '%s' not found in available brokers.", r.text("broker"))
		}
		type owned struct {
			Assignment string `json:"broker_assignment"`
			Controlled bool   `json:"is_controlled"`
			Active     bool   `json:"is_active"`
		}
		out := map[string]owned{}
		for _, t := range a.Topics.All() {
			n := t.Name()
			p, err := a.Policies.NamespaceInfo(r.Context(), n.NamespaceName())
			if err != nil {
				return nil, err
			}
			out[n.NamespaceName().String()+"/"+bundleOf(n, bundles(p.Bundles))] = owned{"shared", false, true}
		}
		return out, nil
	})
	ready := func(r *request) (any, error) {
		if a.Ready != nil {
			if err := a.Ready(r.Context()); err != nil {
				return nil, err
			}
		}
		return text("ok"), nil
	}
	a.routes.add("GET", base+"/health", ready)
	a.routes.add("GET", base+"/ready", ready)
	a.routes.add("GET", "/status.html", func(r *request) (any, error) {
		res, err := ready(r)
		if err != nil {
			return nil, failure(http.StatusNotFound, "HTTP 404 Not Found") // as Pulsar's probe does
		}
		v := res.(raw)
		v.contentType = "text/plain"
		return v, nil
	})
	a.routes.add("GET", base+"/version", func(*request) (any, error) { return text(a.Version), nil })
	a.routes.add("GET", base+"/backlog-quota-check", func(*request) (any, error) { return nil, nil })
	a.routes.add("GET", base+"/configuration", func(*request) (any, error) { return []string{}, nil })
	a.routes.add("GET", base+"/configuration/values", func(*request) (any, error) { return map[string]string{}, nil })
	a.routes.add("GET", base+"/configuration/runtime", func(*request) (any, error) { return merge(nil, a.Settings), nil })
	a.routes.add("GET", base+"/internal-configuration", func(*request) (any, error) {
		return map[string]string{
			"metadataStoreUrl": "", "configurationMetadataStoreUrl": "", "ledgersRootPath": "/ledgers",
			"bookkeeperMetadataServiceUri": "", "stateStorageServiceUrl": "",
		}, nil
	})
	static := func(r *request) (any, error) {
		return nil, failure(http.StatusPreconditionFailed, "Can't update non-dynamic configuration")
	}
	a.routes.add("POST", base+"/configuration/{key}/{value}", static)
	a.routes.add("DELETE", base+"/configuration/{key}", func(r *request) (any, error) {
		return nil, failure(http.StatusPreconditionFailed, "Can't delete non-dynamic configuration")
	})
	a.routes.add("GET", "/admin/v2/broker-stats/topics", func(r *request) (any, error) {
		// namespace → bundle → domain → topic → statistics
		out := map[string]map[string]map[string]map[string]*topicStats{}
		for _, t := range a.Topics.All() {
			n := t.Name()
			p, err := a.Policies.NamespaceInfo(r.Context(), n.NamespaceName())
			if err != nil {
				return nil, err
			}
			ns, bundle := n.NamespaceName().String(), bundleOf(n, bundles(p.Bundles))
			if out[ns] == nil {
				out[ns] = map[string]map[string]map[string]*topicStats{}
			}
			if out[ns][bundle] == nil {
				out[ns][bundle] = map[string]map[string]*topicStats{n.Domain.String(): {}}
			}
			out[ns][bundle][n.Domain.String()][n.String()] = a.topicStats(t, statsFilter{})
		}
		return out, nil
	})
	empty := func(*request) (any, error) { return []string{}, nil }
	a.routes.add("GET", "/admin/v2/broker-stats/metrics", empty)
	a.routes.add("GET", "/admin/v2/broker-stats/mbeans", empty)
	a.routes.add("GET", "/admin/v2/broker-stats/load-report", func(r *request) (any, error) {
		b := a.reach(r, a.Owners.Self())
		return map[string]any{
			"webServiceUrl": b.HTTPURL, "pulsarServiceUrl": b.ServiceURL, "persistentTopicsEnabled": true,
			"nonPersistentTopicsEnabled": false, "brokerVersionString": a.Version, "numTopics": len(a.Topics.All()),
			"protocols": map[string]string{}, "advertisedListeners": map[string]string{},
		}, nil
	})
}

var _ Owners = (*ownership.Single)(nil)
