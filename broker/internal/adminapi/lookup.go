package adminapi

import (
	"fmt"
	"hash/crc32"
	"net"
	"net/http"
	"net/url"

	"github.com/daybook/daybook/broker/internal/ownership"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// lookupData is Pulsar's LookupData, under the two names that it has for the addresses with TLS.
type lookupData struct {
	BrokerURL    string `json:"brokerUrl"`
	BrokerURLTLS string `json:"brokerUrlTls,omitempty"`
	HTTPURL      string `json:"httpUrl"`
	HTTPURLTLS   string `json:"httpUrlTls,omitempty"`
	NativeURL    string `json:"nativeUrl"`
	BrokerURLSSL string `json:"brokerUrlSsl"`
}

func (a *api) lookup() {
	const base = "/lookup/v2/topic/{domain}/{tenant}/{namespace}/{topic}"
	a.routes.add("GET", base, func(r *request) (any, error) {
		n, err := r.topicName()
		if err != nil {
			return nil, err
		}
		if err := a.Policies.CheckNamespace(r.Context(), n.NamespaceName()); err != nil {
			return nil, err
		}
		b, ours, err := a.Owners.Owner(r.Context(), n)
		if err != nil {
			return nil, err
		}
		if ours {
			b = a.reach(r, b)
		}
		return lookupData{b.ServiceURL, b.ServiceURLTLS, b.HTTPURL, b.HTTPURLTLS, b.ServiceURL, b.ServiceURLTLS}, nil
	})
	a.routes.add("GET", base+"/bundle", func(r *request) (any, error) {
		n, err := r.topicName()
		if err != nil {
			return nil, err
		}
		// A namespace that does not exist has one bundle, as in Pulsar.
		d := bundles(1)
		if p, err := a.Policies.NamespaceInfo(r.Context(), n.NamespaceName()); err == nil {
			d = bundles(p.Bundles)
		}
		return raw{contentType: "application/json", body: []byte(bundleOf(n, d))}, nil
	})
}

// bundleOf is the bundle of the topic: the range that the CRC32 of its full name falls into.
func bundleOf(n topicname.Name, d bundlesData) string {
	h := uint64(crc32.ChecksumIEEE([]byte(n.String())))
	i := min(int(h/((1<<32)/uint64(d.NumBundles))), d.NumBundles-1)
	return fmt.Sprintf("%s_%s", d.Boundaries[i], d.Boundaries[i+1])
}

// reach is this broker by the addresses that the client can use. Unless addresses were advertised, they are
// those of the host that the client has reached us by, with the ports of our services.
func (a *api) reach(r *request, b ownership.Broker) ownership.Broker {
	if a.Advertised {
		return b
	}
	host := hostname(r.Request)
	if host == "" {
		return b
	}
	for _, u := range []*string{&b.ServiceURL, &b.ServiceURLTLS, &b.HTTPURL, &b.HTTPURLTLS} {
		p, err := url.Parse(*u)
		if err != nil || *u == "" {
			continue
		}
		if port := p.Port(); port != "" {
			p.Host = net.JoinHostPort(host, port)
		} else {
			p.Host = host
		}
		*u = p.String()
	}
	return b
}

// hostname is the Host header without its port and brackets.
func hostname(r *http.Request) string {
	return (&url.URL{Host: r.Host}).Hostname()
}
