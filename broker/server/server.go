// Package server assembles a broker: the topics, policies and schemas over the metadata store and the
// ledgers, the listener of the client protocol, and the HTTP listener.
//
// New binds the listeners, so that the addresses are known, and puts the parts together; Start serves.
// Close stops accepting, ends the connections, brings every cursor to disk and is done within the time that
// its context allows.
//
// # Goroutines
//
// One accepts connections, one serves HTTP, and each connection has its own (package conn). Close awaits
// them all.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/daybook/daybook/broker/internal/adminapi"
	"github.com/daybook/daybook/broker/internal/conn"
	"github.com/daybook/daybook/broker/internal/ownership"
	"github.com/daybook/daybook/broker/internal/policy"
	"github.com/daybook/daybook/broker/internal/schemaregistry"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

// Config is a broker's settings. The zero value of a field means its default.
type Config struct {
	// Cluster is the name of the cluster; "standalone".
	Cluster string
	// Listen and HTTPListen are the addresses of the client protocol and of HTTP; ":6650" and ":8080". Port 0
	// picks a free one.
	Listen, HTTPListen string
	// AdvertisedAddress is the host that lookups name. Empty: the one by which the client has reached the
	// broker.
	AdvertisedAddress string
	// Version is told to clients and by the admin API; "0".
	Version string
	// MaxConnections bounds the connections; more are closed at once. 10 000.
	MaxConnections int
	// NoAutoTopicCreation and NoAutoSubscriptionCreation keep clients from creating topics and subscriptions
	// by using them. AutoPartitions is how many partitions topics get that are created so; 0: none.
	NoAutoTopicCreation, NoAutoSubscriptionCreation bool
	AutoPartitions                                  int
	// MaxMessageSize in bytes, 5 MiB.
	MaxMessageSize int
	// KeepAlive is the interval of PINGs; 30 s.
	KeepAlive time.Duration
	// MaxPendingPublish and MaxQueued bound the memory of one connection: the bytes of its messages on their
	// way to storage (16 MiB) and of what waits to be sent to it (1 MiB).
	MaxPendingPublish, MaxQueued int
	// PublishBuffer bounds the bytes of messages on their way to storage over all connections; 256 MiB.
	PublishBuffer int64
	// CacheBytes bounds the cache of entries just written, which serves consumers that keep up; 64 MiB.
	CacheBytes int64
	// Settings is the configuration as an operator wrote it, by Pulsar's keys: what the admin API shows of it.
	Settings map[string]string
	// RetentionTime and RetentionBytes keep what all subscriptions have consumed: while it is younger and within so
	// many bytes a topic; negative is without limit, zero of either not at all, which is Pulsar's default
	// (defaultRetentionTimeInMinutes, defaultRetentionSizeInMB).
	RetentionTime  time.Duration
	RetentionBytes int64
	// AckFlush is the longest that an acknowledgement waits to be written; 100 ms.
	AckFlush time.Duration
}

func (c Config) withDefaults() Config {
	text := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	text(&c.Cluster, "standalone")
	text(&c.Listen, ":6650")
	text(&c.HTTPListen, ":8080")
	text(&c.Version, "0")
	if c.PublishBuffer == 0 {
		c.PublishBuffer = 256 << 20
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 10_000
	}
	return c
}

// Deps is what a broker stands on. The caller closes them after the server.
type Deps struct {
	Meta    raftmeta.Store
	Ledgers *ledger.Client
	// Bookies are the ids of the bookies, for the admin API; nil has none.
	Bookies func(ctx context.Context) ([]string, error)
	Logger  *slog.Logger // slog.Default() if nil
}

// A Server is one broker.
type Server struct {
	cfg      Config
	log      *slog.Logger
	managed  *mledger.Factory
	topics   *topics.Registry
	policies *policy.Policies
	schemas  *schemaregistry.Registry
	owners   *ownership.Single
	domain   *domain
	binary   net.Listener
	web      net.Listener
	mux      *http.ServeMux
	http     *http.Server

	ctx    context.Context // of the connections
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	mu     struct {
		sync.Mutex
		conns  int
		closed bool
	}
}

// errStopping is why connections end when the broker does.
var errStopping = errors.New("the broker is stopping")

// New binds the listeners and assembles the broker. Nothing is served before Start; a server that is not
// started has to be closed too.
func New(cfg Config, deps Deps) (*Server, error) {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, log: deps.Logger, mux: http.NewServeMux()}
	if s.log == nil {
		s.log = slog.Default()
	}
	var err error
	if s.binary, err = net.Listen("tcp", cfg.Listen); err != nil {
		return nil, fmt.Errorf("listen for clients: %w", err)
	}
	if s.web, err = net.Listen("tcp", cfg.HTTPListen); err != nil {
		s.binary.Close()
		return nil, fmt.Errorf("listen for HTTP: %w", err)
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())

	broker, web := s.ServiceURL(), s.HTTPURL()
	s.policies = policy.New(deps.Meta, policy.Config{
		Cluster: cfg.Cluster, AllowAutoTopicCreation: !cfg.NoAutoTopicCreation, AutoPartitions: cfg.AutoPartitions,
		AllowAutoSubscriptionCreation: !cfg.NoAutoSubscriptionCreation,
		DefaultBundles:                policy.DefaultConfig().DefaultBundles, MaxPartitions: policy.DefaultConfig().MaxPartitions,
	}, time.Now)
	s.schemas = schemaregistry.New(deps.Meta, time.Now)
	id := web[len("http://"):]
	s.owners = ownership.NewSingle(ownership.Broker{ID: id, ServiceURL: broker, HTTPURL: web})
	s.managed = mledger.New(mledger.Config{
		Client: deps.Ledgers, Store: deps.Meta, Logger: s.log, CacheBytes: cfg.CacheBytes, FlushInterval: cfg.AckFlush,
	})
	s.topics = topics.New(topics.Config{
		Cluster: cfg.Cluster, Owner: id, Store: deps.Meta, Ledgers: s.managed, Policy: s.policies, Logger: s.log,
		Storage: func(context.Context, topicname.Name) (mledger.Options, error) {
			return mledger.Options{RetainTime: cfg.RetentionTime, RetainBytes: cfg.RetentionBytes}, nil
		},
	})
	s.domain = &domain{topics: s.topics, policies: s.policies, schemas: s.schemas, owners: s.owners, advertised: cfg.AdvertisedAddress}
	admin := adminapi.New(adminapi.Config{
		Topics: adminapi.Registry(s.topics), Policies: s.policies, Schemas: s.schemas, Owners: s.owners, Bookies: deps.Bookies,
		Version: cfg.Version, Advertised: cfg.AdvertisedAddress != "", Settings: cfg.Settings, Log: s.log,
	})
	s.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, prefix := range []string{"/admin/", "/lookup/", "/metrics", "/status.html"} {
				if strings.HasPrefix(r.URL.Path, prefix) {
					// Not by way of the mux, which would clean the path: names may hold "//" in escaped form.
					admin.ServeHTTP(w, r)
					return
				}
			}
			s.mux.ServeHTTP(w, r)
		}), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return s.ctx },
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Handle mounts a handler on the HTTP listener, by a pattern of http.ServeMux, beside the admin API at /admin/,
// /lookup/, /metrics and /status.html. It must be called before Start.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// Addr is the bound address of the client protocol.
func (s *Server) Addr() net.Addr { return s.binary.Addr() }

// HTTPAddr is the bound address of HTTP.
func (s *Server) HTTPAddr() net.Addr { return s.web.Addr() }

// ServiceURL is "pulsar://host:port" by which this broker is reached: with the advertised address, else with the bound
// one, "localhost" standing for all interfaces.
func (s *Server) ServiceURL() string { return "pulsar://" + s.reached(s.binary.Addr()) }

// HTTPURL is "http://host:port" by which this broker is reached, chosen as ServiceURL is.
func (s *Server) HTTPURL() string { return "http://" + s.reached(s.web.Addr()) }

func (s *Server) reached(a net.Addr) string {
	switch t, ok := a.(*net.TCPAddr); {
	case s.cfg.AdvertisedAddress != "":
		return hostPort(s.cfg.AdvertisedAddress, a)
	case ok && t.IP.IsUnspecified():
		return hostPort("localhost", a)
	}
	return a.String()
}

// Managed is the broker's managed ledgers: where readers in the same process find a topic's live writer.
func (s *Server) Managed() *mledger.Factory { return s.managed }

// Start creates what every cluster has and begins to serve. ctx bounds only the start.
func (s *Server) Start(ctx context.Context) error {
	if err := s.policies.Bootstrap(ctx); err != nil {
		return fmt.Errorf("create the first tenants and namespaces: %w", err)
	}
	s.wg.Go(s.accept)
	s.wg.Go(func() {
		if err := s.http.Serve(s.web); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("HTTP listener failed", "err", err)
		}
	})
	return nil
}

func (s *Server) accept() {
	cfg := conn.Config{
		MaxMessageSize: s.cfg.MaxMessageSize, KeepAlive: s.cfg.KeepAlive, MaxPendingPublish: s.cfg.MaxPendingPublish, MaxQueued: s.cfg.MaxQueued,
		Budget: conn.NewBudget(s.cfg.PublishBuffer), ServerVersion: "Pulsar Server Daybook " + s.cfg.Version,
	}
	for wait := time.Duration(0); ; {
		nc, err := s.binary.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, most likely: connections that end free some
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			s.log.Warn("accept failed", "err", err, "retry_in", wait)
			select {
			case <-time.After(wait):
				continue
			case <-s.ctx.Done():
				return
			}
		}
		wait = 0
		if !s.admit() {
			s.log.Warn("connection refused: too many", "client", nc.RemoteAddr().String(), "limit", s.cfg.MaxConnections)
			nc.Close()
			continue
		}
		s.wg.Go(func() {
			defer s.leave()
			err := conn.Serve(s.ctx, nc, cfg, s.domain, s.log)
			switch {
			case err == nil || errors.Is(err, errStopping):
			case conn.Refused(err):
				s.log.Warn("connection ended by the broker", "client", nc.RemoteAddr().String(), "err", err)
			default:
				s.log.Debug("connection lost", "client", nc.RemoteAddr().String(), "err", err)
			}
		})
	}
}

func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.conns >= s.cfg.MaxConnections {
		return false
	}
	s.mu.conns++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	s.mu.conns--
	s.mu.Unlock()
}

// Close stops the broker: no more connections, those that are there end, topics are unloaded with their
// cursors flushed. It gives up on what is not done when ctx ends, and says so. Calls after the first do
// nothing.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	again := s.mu.closed
	s.mu.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	var errs []error
	s.binary.Close()
	// The connections first: nothing is published or acknowledged any more while the topics unload.
	s.cancel(errStopping)
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	s.web.Close()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("connections did not end: %w", ctx.Err()))
	}
	if err := s.topics.Close(ctx); err != nil {
		errs = append(errs, fmt.Errorf("unload topics: %w", err))
	}
	if err := s.managed.Close(ctx); err != nil {
		errs = append(errs, fmt.Errorf("close managed ledgers: %w", err))
	}
	return errors.Join(errs...)
}
