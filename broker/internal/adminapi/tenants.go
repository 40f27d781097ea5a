package adminapi

import (
	"errors"
	"net/http"

	"github.com/daybook/daybook/broker/internal/policy"
	"github.com/daybook/daybook/broker/serr"
)

// tenantInfo is Pulsar's TenantInfo.
type tenantInfo struct {
	AdminRoles      []string `json:"adminRoles"`
	AllowedClusters []string `json:"allowedClusters"`
}

func (a *api) tenants() {
	const base = "/admin/v2/tenants"
	a.routes.add("GET", base, func(r *request) (any, error) { return a.Policies.Tenants(r.Context()) })
	a.routes.add("GET", base+"/{tenant}", func(r *request) (any, error) {
		t, err := a.Policies.TenantInfo(r.Context(), r.text("tenant"))
		return tenantInfo{orEmpty(t.AdminRoles), orEmpty(t.AllowedClusters)}, err
	})
	body := func(r *request) (policy.Tenant, error) {
		var t *tenantInfo
		if ok, err := r.decode(&t); err != nil {
			return policy.Tenant{}, err
		} else if !ok || t == nil {
			return policy.Tenant{}, failure(http.StatusPreconditionFailed, "TenantInfo is null")
		}
		if t.AllowedClusters == nil {
			return policy.Tenant{}, failure(http.StatusPreconditionFailed, "Clusters cannot be null")
		}
		return policy.Tenant{AdminRoles: t.AdminRoles, AllowedClusters: t.AllowedClusters}, nil
	}
	a.routes.add("PUT", base+"/{tenant}", func(r *request) (any, error) {
		t, err := body(r)
		if err != nil {
			return nil, err
		}
		return nil, a.Policies.CreateTenant(r.Context(), r.text("tenant"), t)
	})
	a.routes.add("POST", base+"/{tenant}", func(r *request) (any, error) {
		t, err := body(r)
		if err != nil {
			return nil, err
		}
		err = a.Policies.UpdateTenant(r.Context(), r.text("tenant"), t)
		if errors.Is(err, serr.TopicNotFound) {
			err = failure(http.StatusNotFound, "Tenant %s not found", r.text("tenant"))
		}
		return nil, err
	})
	a.routes.add("DELETE", base+"/{tenant}", func(r *request) (any, error) {
		if r.flag("force") {
			return nil, failure(http.StatusMethodNotAllowed, "Broker doesn't allow forced deletion of tenants")
		}
		err := a.Policies.DeleteTenant(r.Context(), r.text("tenant"))
		if errors.Is(err, serr.TopicNotFound) {
			err = failure(http.StatusNotFound, "Tenant doesn't exist")
		}
		return nil, err
	})
}

// orEmpty is s, or an empty slice that JSON shows as [] for nil.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
