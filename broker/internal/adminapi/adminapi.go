// Package adminapi is the admin REST API: what pulsar-admin, the client libraries' admin parts and operators call
// over HTTP.
//
// # Promises
//
// Routes, statuses, bodies and the texts of failures are those of Pulsar 4.2. A handler decodes its request, calls
// one thing, and returns a value or an error; respond alone writes responses. Failures are JSON,
// {"reason": …}. Paths are matched as they are escaped on the wire, segment by segment, so that names may hold
// '/' and all else.
//
// The handler keeps no state of its own and may be called by any goroutine; it starts none.
package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"time"

	"github.com/daybook/daybook/broker/internal/ownership"
	"github.com/daybook/daybook/broker/internal/policy"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/schema"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// Topics is what the API needs of the broker's topics: see topics.Registry, and Registry for the adapter.
type Topics interface {
	Topic(ctx context.Context, n topicname.Name, o topics.Options) (Topic, error)
	Loaded(n topicname.Name) (Topic, bool)
	All() []Topic
	Exists(ctx context.Context, n topicname.Name) (bool, error)
	List(ctx context.Context, ns topicname.Namespace) ([]topicname.Name, error)
	Delete(ctx context.Context, n topicname.Name, force bool) error
	Unload(ctx context.Context, n topicname.Name) error
}

// A Topic is what the API needs of one loaded topic: see topic.Topic.
type Topic interface {
	Name() topicname.Name
	Subscription(name string) (Subscription, error)
	Subscriptions() []Subscription
	CreateSubscription(ctx context.Context, name string, start *ledgerfs.Position, properties map[string]string, replicated bool) (Subscription, error)
	DeleteSubscription(ctx context.Context, name string, force bool) error
	LastMessageID(ctx context.Context) (topic.LastMessage, error)
	Terminate(ctx context.Context) (ledgerfs.Position, error)
	UpdateProperties(ctx context.Context, change func(map[string]string)) error
	Stats() topic.Stats
	InternalStats() topic.InternalStats
	ReadEntry(ctx context.Context, p ledgerfs.Position) ([]byte, error)
}

// A Subscription is what the API needs of a subscription: see subscription.Subscription.
type Subscription interface {
	Name() string
	Stats() subscription.Stats
	CursorStats() subscription.CursorStats
	Seek(ctx context.Context, to subscription.SeekTarget) error
	Skip(ctx context.Context, n int) error
	SkipAll(ctx context.Context) error
	ExpireBefore(ctx context.Context, t time.Time) error
	SetProperties(ctx context.Context, p map[string]string) error
}

// Policies is what the API needs of tenants, namespaces and partitioned topics: see policy.Policies.
type Policies interface {
	Cluster() string
	Tenants(ctx context.Context) ([]string, error)
	TenantInfo(ctx context.Context, tenant string) (policy.Tenant, error)
	CreateTenant(ctx context.Context, tenant string, t policy.Tenant) error
	UpdateTenant(ctx context.Context, tenant string, t policy.Tenant) error
	DeleteTenant(ctx context.Context, tenant string) error
	Namespaces(ctx context.Context, tenant string) ([]topicname.Namespace, error)
	NamespaceInfo(ctx context.Context, ns topicname.Namespace) (policy.Namespace, error)
	CreateNamespace(ctx context.Context, ns topicname.Namespace, n policy.Namespace) error
	UpdateNamespace(ctx context.Context, ns topicname.Namespace, change func(*policy.Namespace) error) error
	DeleteNamespace(ctx context.Context, ns topicname.Namespace) error
	CheckNamespace(ctx context.Context, ns topicname.Namespace) error
	CheckLimit(ctx context.Context, name topicname.Namespace, ns policy.Namespace, more int) error
	AllowSubscriptionCreation(ctx context.Context, n topicname.Name) (bool, error)
	Partitioned(ctx context.Context, n topicname.Name) (policy.Partitioned, bool, error)
	PartitionedTopics(ctx context.Context, ns topicname.Namespace, d topicname.Domain) ([]topicname.Name, error)
	CreatePartitioned(ctx context.Context, n topicname.Name, t policy.Partitioned) error
	UpdatePartitioned(ctx context.Context, n topicname.Name, change func(*policy.Partitioned) error) error
	DeletePartitioned(ctx context.Context, n topicname.Name) error
	PartitionsFor(ctx context.Context, n topicname.Name, create, exists bool) (int, error)
}

// Schemas is what the API needs of schemas: see schemaregistry.Registry.
type Schemas interface {
	Put(ctx context.Context, n topicname.Name, info schema.Info, user string) (int64, error)
	Check(ctx context.Context, n topicname.Name, info schema.Info) error
	Find(ctx context.Context, n topicname.Name, info schema.Info) (int64, bool, error)
	Latest(ctx context.Context, n topicname.Name) (*schema.Stored, error)
	Get(ctx context.Context, n topicname.Name, version int64) (*schema.Stored, error)
	Versions(ctx context.Context, n topicname.Name) ([]*schema.Stored, error)
	Delete(ctx context.Context, n topicname.Name) (int64, error)
	Forget(ctx context.Context, n topicname.Name) error
}

// Owners is what the API needs of ownership: see ownership.Single.
type Owners interface {
	Self() ownership.Broker
	Owner(ctx context.Context, n topicname.Name) (b ownership.Broker, ours bool, err error)
	Brokers(ctx context.Context) ([]ownership.Broker, error)
	Leader(ctx context.Context) (ownership.Broker, error)
}

// Config is everything that the API works on.
type Config struct {
	Topics   Topics
	Policies Policies
	Schemas  Schemas
	Owners   Owners
	// Bookies are the ids of the bookies, for /bookies/all; nil has none.
	Bookies func(ctx context.Context) ([]string, error)
	// Version is what /brokers/version answers.
	Version string
	// Advertised says that the brokers' URLs are to be given to clients as they are (advertisedAddress).
	// Otherwise a lookup over HTTP answers with the host that the client itself used.
	Advertised bool
	// Settings is the configuration that the broker runs with, by Pulsar's keys.
	Settings map[string]string
	// Ready fails while the broker cannot serve; nil is always ready.
	Ready func(ctx context.Context) error
	Log   *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// New makes the API's handler. It serves /admin/…, /lookup/…, /metrics and /status.html; other paths are 404.
func New(cfg Config) http.Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &api{Config: cfg}
	a.clusters()
	a.tenants()
	a.namespaces()
	a.topics()
	a.partitions()
	a.messages()
	a.subscriptions()
	a.schemas()
	a.brokers()
	a.lookup()
	a.metrics()
	a.unset()
	a.routes.sort()
	return a
}

type api struct {
	Config
	routes router
}

// A request is one call on its way through a handler.
type request struct {
	*http.Request
	api   *api
	vars  []string // "name", value, …
	query url.Values
	body  []byte // once read
	read  bool
}

// A handler answers a request. The result is written as JSON; nil is 204 without a body.
type handler func(r *request) (any, error)

// unset is the result of a policy that nobody has set: 200 without a body.
type unset struct{}

// raw is a result that is not JSON.
type raw struct {
	contentType string
	header      http.Header
	body        []byte
}

// maxBody bounds the bodies of requests, in bytes.
const maxBody = 2 << 20

// ServeHTTP routes the request.
func (a *api) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	start := a.Now()
	r := &request{Request: hr, api: a, query: hr.URL.Query()}
	h, vars, err := a.routes.find(hr.Method, hr.URL.EscapedPath())
	var res any
	if err == nil {
		r.vars = vars
		hr.Body = http.MaxBytesReader(w, hr.Body, maxBody)
		res, err = h(r)
	}
	a.respond(w, hr, res, err, start)
}

// respond writes every response, and the log line of those that failed on our side.
func (a *api) respond(w http.ResponseWriter, hr *http.Request, res any, err error, start time.Time) {
	var status int
	var body []byte
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		switch v := res.(type) {
		case nil:
			status = http.StatusNoContent
			w.Header().Del("Content-Type")
		case unset:
			status = http.StatusOK
			w.Header().Del("Content-Type")
		case raw:
			status, body = http.StatusOK, v.body
			maps.Copy(w.Header(), v.header)
			w.Header().Set("Content-Type", v.contentType)
		default:
			status = http.StatusOK
			body, err = json.Marshal(v)
		}
	}
	if err != nil {
		e := serr.From(err)
		status = e.Status
		body, _ = json.Marshal(map[string]string{"reason": e.Text}) // a map of strings always marshals
		if status >= 500 && a.Log != nil {
			a.Log.Error("admin request failed", "method", hr.Method, "path", hr.URL.Path, "status", status, "err", err,
				"took", a.Now().Sub(start))
		}
	}
	w.WriteHeader(status)
	if len(body) > 0 {
		_, _ = w.Write(body) // the client has gone away; nobody is left to tell
	}
}

// text is the value of a variable of the route.
func (r *request) text(name string) string {
	for i := 0; i < len(r.vars); i += 2 {
		if r.vars[i] == name {
			return r.vars[i+1]
		}
	}
	return ""
}

func failure(status int, format string, args ...any) *serr.Error {
	code := serr.NotAllowedError
	switch status {
	case http.StatusNotFound:
		code = serr.TopicNotFound
	case http.StatusServiceUnavailable:
		code = serr.ServiceNotReady
	}
	return code.Errorf(format, args...).WithStatus(status)
}

// flag is a boolean of the query, false if it is not there.
func (r *request) flag(name string) bool { return r.query.Get(name) == "true" }

// decode reads the body, a JSON value, into v. An empty body leaves v as it is and reports false. It may be
// called again.
func (r *request) decode(v any) (bool, error) {
	if !r.read {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				return false, failure(http.StatusRequestEntityTooLarge, "The body is larger than %d bytes", maxBody)
			}
			return false, failure(http.StatusBadRequest, "The body cannot be read")
		}
		r.body, r.read = b, true
	}
	if len(r.body) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		return false, failure(http.StatusBadRequest, "The body is not what it should be: %v", err)
	}
	return true, nil
}

// namespace is the namespace that the route names.
func (r *request) namespace() (topicname.Namespace, error) {
	ns, err := topicname.MakeNamespace(r.text("tenant"), r.text("namespace"))
	if err != nil {
		return ns, serr.NotAllowedError.Wrapf(err, "Tenant name or namespace is not valid").WithStatus(http.StatusPreconditionFailed)
	}
	return ns, nil
}

// topicName is the topic that the route names.
func (r *request) topicName() (topicname.Name, error) {
	ns, err := r.namespace()
	if err != nil {
		return topicname.Name{}, err
	}
	d, err := topicname.ParseDomain(r.text("domain"))
	if err != nil {
		return topicname.Name{}, failure(http.StatusNotFound, "HTTP 404 Not Found")
	}
	n, err := ns.Topic(d, r.text("topic"))
	if err != nil {
		return n, serr.InvalidTopicName.Wrapf(err, "Topic name is not valid")
	}
	return n, nil
}

// existingNamespace is the namespace that the route names, with its policies.
func (r *request) existingNamespace() (topicname.Namespace, policy.Namespace, error) {
	ns, err := r.namespace()
	if err != nil {
		return ns, policy.Namespace{}, err
	}
	p, err := r.api.Policies.NamespaceInfo(r.Context(), ns)
	return ns, p, r.missing(ns, err)
}

// missing says, of an error that a namespace is not there, whether it is its tenant that is not.
func (r *request) missing(ns topicname.Namespace, err error) error {
	if errors.Is(err, serr.TopicNotFound) {
		if _, err := r.api.Policies.TenantInfo(r.Context(), ns.Tenant); err != nil {
			return err
		}
	}
	return err
}

// knownTopic is the topic that the route names, in an existing namespace, and its partitions if it is a
// partitioned one.
func (r *request) knownTopic() (n topicname.Name, partitions int, err error) {
	if n, err = r.topicName(); err != nil {
		return n, 0, err
	}
	if err := r.api.Policies.CheckNamespace(r.Context(), n.NamespaceName()); err != nil {
		return n, 0, err
	}
	t, _, err := r.api.Policies.Partitioned(r.Context(), n)
	return n, t.Partitions, err
}

func topicNotFound(n topicname.Name) error {
	return failure(http.StatusNotFound, "Topic %v not found", n)
}

// open is an existing topic, which is not a partitioned one.
func (a *api) open(ctx context.Context, n topicname.Name) (Topic, error) {
	if n.Domain == topicname.NonPersistent {
		return nil, failure(http.StatusMethodNotAllowed, "Topic %v is not persistent, and only persistent topics are served", n)
	}
	t, err := a.Topics.Topic(ctx, n, topics.Options{})
	if errors.Is(err, serr.TopicNotFound) {
		return nil, topicNotFound(n)
	}
	return t, err
}

// openTopic is the existing topic that the route names. A partitioned topic is not found here: it has no
// messages of its own.
func (r *request) openTopic() (Topic, error) {
	n, _, err := r.knownTopic()
	if err != nil {
		return nil, err
	}
	return r.api.open(r.Context(), n)
}

// openUnpartitioned is openTopic, but for a partitioned topic it is 405 with this text.
func (r *request) openUnpartitioned(text string) (Topic, error) {
	n, partitions, err := r.knownTopic()
	if err != nil {
		return nil, err
	}
	if partitions > 0 {
		return nil, failure(http.StatusMethodNotAllowed, "%s", text)
	}
	return r.api.open(r.Context(), n)
}

// names lists the topics themselves: n, or its partitions.
func names(n topicname.Name, partitions int) []topicname.Name {
	if partitions == 0 {
		return []topicname.Name{n}
	}
	out := make([]topicname.Name, partitions)
	for i := range out {
		out[i] = n.WithPartition(i)
	}
	return out
}

// number reads a decimal variable of the route.
func (r *request) number(name string) (int64, error) {
	var v int64
	s := r.text(name)
	if n, err := fmt.Sscanf(s, "%d", &v); err != nil || n != 1 || fmt.Sprint(v) != s {
		return 0, failure(http.StatusNotFound, "HTTP 404 Not Found")
	}
	return v, nil
}
