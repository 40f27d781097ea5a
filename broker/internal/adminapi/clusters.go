package adminapi

import "net/http"

// clusterData is Pulsar's ClusterData.
type clusterData struct {
	ServiceURL                         string `json:"serviceUrl"`
	ServiceURLTLS                      string `json:"serviceUrlTls,omitempty"`
	BrokerServiceURL                   string `json:"brokerServiceUrl"`
	BrokerServiceURLTLS                string `json:"brokerServiceUrlTls,omitempty"`
	BrokerClientTLSEnabled             bool   `json:"brokerClientTlsEnabled"`
	TLSAllowInsecureConnection         bool   `json:"tlsAllowInsecureConnection"`
	BrokerClientTLSEnabledWithKeyStore bool   `json:"brokerClientTlsEnabledWithKeyStore"`
	BrokerClientTLSTrustStoreType      string `json:"brokerClientTlsTrustStoreType"`
	BrokerClientTLSKeyStoreType        string `json:"brokerClientTlsKeyStoreType"`
	BrokerClientSSLFactoryPlugin       string `json:"brokerClientSslFactoryPlugin"`
}

func (a *api) clusters() {
	const base = "/admin/v2/clusters"
	a.routes.add("GET", base, func(r *request) (any, error) { return []string{a.Policies.Cluster()}, nil })
	cluster := func(h func(r *request, name string) (any, error)) handler {
		return func(r *request) (any, error) {
			name := r.text("cluster")
			if name != a.Policies.Cluster() {
				return nil, failure(http.StatusNotFound, "Cluster does not exist")
			}
			return h(r, name)
		}
	}
	a.routes.add("GET", base+"/{cluster}", cluster(func(r *request, _ string) (any, error) {
		b := a.reach(r, a.Owners.Self())
		return clusterData{
			ServiceURL: b.HTTPURL, ServiceURLTLS: b.HTTPURLTLS, BrokerServiceURL: b.ServiceURL, BrokerServiceURLTLS: b.ServiceURLTLS,
			BrokerClientTLSTrustStoreType: "JKS", BrokerClientTLSKeyStoreType: "JKS",
			BrokerClientSSLFactoryPlugin: "org.apache.pulsar.common.util.DefaultPulsarSslFactory",
		}, nil
	}))
	a.routes.add("GET", base+"/{cluster}/peers", cluster(func(*request, string) (any, error) { return unset{}, nil }))
	a.routes.add("GET", base+"/{cluster}/failureDomains", cluster(func(*request, string) (any, error) {
		return map[string]any{}, nil
	}))
	a.routes.add("GET", base+"/{cluster}/failureDomains/{failure-domain}", cluster(func(r *request, name string) (any, error) {
		return nil, failure(http.StatusNotFound, "Domain %s for cluster %s does not exist", r.text("failure-domain"), name)
	}))
	a.routes.add("GET", base+"/{cluster}/migrate", func(*request) (any, error) {
		return nil, failure(http.StatusNotFound, "Cluster does not exist")
	})
	noIsolation := cluster(func(_ *request, name string) (any, error) {
		return nil, failure(http.StatusNotFound, "NamespaceIsolationPolicies for cluster %s does not exist", name)
	})
	a.routes.add("GET", base+"/{cluster}/namespaceIsolationPolicies", noIsolation)
	a.routes.add("GET", base+"/{cluster}/namespaceIsolationPolicies/{policy}", noIsolation)
	a.routes.add("GET", base+"/{cluster}/namespaceIsolationPolicies/brokers", noIsolation)
	a.routes.add("GET", base+"/{cluster}/namespaceIsolationPolicies/brokers/{broker}", noIsolation)
	a.routes.add("GET", "/admin/v2/bookies/all", func(r *request) (any, error) {
		type bookie struct {
			ID string `json:"bookieId"`
		}
		out := struct {
			Bookies []bookie `json:"bookies"`
		}{Bookies: []bookie{}}
		if a.Bookies != nil {
			ids, err := a.Bookies(r.Context())
			if err != nil {
				return nil, err
			}
			for _, id := range ids {
				out.Bookies = append(out.Bookies, bookie{id})
			}
		}
		return out, nil
	})
	a.routes.add("GET", "/admin/v2/bookies/racks-info", func(*request) (any, error) { return map[string]any{}, nil })
	a.routes.add("GET", "/admin/v2/bookies/racks-info/{bookie}", func(r *request) (any, error) {
		return nil, failure(http.StatusNotFound, "Bookie rack placement configuration not found: %s", r.text("bookie"))
	})
	a.routes.add("GET", "/admin/v2/resourcegroups", func(*request) (any, error) { return []string{}, nil })
	a.routes.add("GET", "/admin/v2/resourcegroups/{group}", func(*request) (any, error) {
		return nil, failure(http.StatusNotFound, "ResourceGroup does not exist")
	})
	a.routes.add("GET", "/admin/v2/metadata/migration/status", func(*request) (any, error) {
		return map[string]string{"phase": "NOT_STARTED"}, nil
	})
}
