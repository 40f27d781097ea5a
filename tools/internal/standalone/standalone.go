// Package standalone runs everything in one process: metadata, a bookie, a broker, the file tree and SQL.
// It is the one place where the layers are put together.
//
// # Start and stop
//
// The order is lock, metadata, bookie, ledgers, broker, file tree and SQL, listeners, mount; stopping goes the other
// way and takes at most stopLimit. What cannot be flushed in that time is what a kill would leave, and the next
// start recovers it.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/daybook/daybook/broker/server"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/bookie"
	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
	"github.com/daybook/daybook/query/engine"
	sqlserver "github.com/daybook/daybook/query/server"
	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metaserver"
	"github.com/daybook/daybook/tools/internal/endpoints"
	"github.com/daybook/daybook/tools/internal/settings"
	"github.com/daybook/daybook/tools/internal/tour"
)

const (
	// nodeName is the lasting name of a standalone's only node.
	nodeName = "standalone"
	// format is the newest layout of a data directory that this version reads and the one it writes.
	format = 1
	// stopLimit bounds an orderly stop.
	stopLimit = 4 * time.Second
	// gcPercent lets the heap grow further between collections than Go's default: payloads are garbage as
	// soon as they are written and sent, and marking finds little.
	gcPercent = 200
	// memoryLimit makes the collector work harder before the process grows beyond it.
	memoryLimit = 1 << 30
)

// Options are the flags of the command.
type Options struct {
	DataDir    string
	Mount      string
	Listen     string
	BrokerPort int
	HTTPPort   int
	Set        []string // settings of the broker, key=value: see package settings
	Tour       bool
	Verbose    bool
	Version    string
}

// Command is `daybook standalone`.
func Command(version string) *cobra.Command {
	o := Options{Version: version}
	var pgPort int
	cmd := &cobra.Command{
		Use: "standalone", Short: "run everything in one process", GroupID: "server", Args: cobra.NoArgs,
		Long: `Run everything in one process: metadata, storage, broker, files and SQL.

The server is ready when it prints its addresses; they are also written to <data-dir>/endpoints.json, where the other
commands find them. Port 0 picks a free port. Ctrl-C or SIGTERM stops it within 5 s; a second signal ends it at once. After
a kill -9 it starts again on its data.

Settings with effect (--set): ` + strings.Join(settings.Used(), ", ") + `.
Other settings of Pulsar's are accepted and named in a warning.`,
		Example: "  daybook standalone --mount ./mnt\n  daybook standalone --data-dir /var/lib/daybook --listen 0.0.0.0\n" +
			"  daybook standalone --set maxMessageSize=1048576 --set allowAutoTopicCreation=false",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("pg-port") {
				fmt.Fprintln(cmd.ErrOrStderr(), "--pg-port: the PostgreSQL protocol is not served by this version; SQL is at the HTTP port (daybook sql)")
			}
			return Run(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.DataDir, "data-dir", "./data", "directory of everything that is stored")
	f.StringVar(&o.Mount, "mount", "", "directory where the topics appear as files")
	f.StringVar(&o.Listen, "listen", "127.0.0.1", "address to listen at")
	f.IntVar(&o.BrokerPort, "broker-port", 6650, "port of the Pulsar protocol")
	f.IntVar(&o.HTTPPort, "http-port", 8080, "port of the admin API, SQL and files")
	f.IntVar(&pgPort, "pg-port", 5433, "port of the PostgreSQL protocol (not served by this version)")
	f.StringArrayVar(&o.Set, "set", nil, "a setting of the broker, key=value with a key of Pulsar's broker.conf; may be repeated")
	f.BoolVar(&o.Tour, "tour", false, "publish the data set of the tour, unless its topic is there")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "log what happens, not only what is wrong")
	return cmd
}

// Run runs a standalone server until ctx ends. Errors of the start are one line that says what to do.
func Run(ctx context.Context, o Options, out, errs io.Writer) (err error) {
	begin := time.Now()
	level := slog.LevelWarn
	if o.Verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: level, ReplaceAttr: plainError}))
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}

	cfg, unused, err := brokerConfig(o)
	if err != nil {
		return err
	}
	if len(unused) > 0 {
		fmt.Fprintf(errs, "Settings without effect in this version: %s\n", strings.Join(unused, ", "))
	}
	n := &node{log: log, fatal: make(chan error, 1)}
	if err := n.start(ctx, o, cfg); err != nil {
		n.stop()
		return explain(err, o)
	}
	banner(out, o, n.endpoints, n.mountProblem, time.Since(begin))
	if o.Tour {
		if err := n.publishTour(ctx, out); err != nil && ctx.Err() == nil {
			log.Warn("the tour's data could not be published", "err", err)
		}
	}

	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "Stopping.")
	case err = <-n.fatal:
		err = fmt.Errorf("storage failed, the server ends; nothing more was acknowledged: %w", err)
	}
	n.stop()
	return err
}

// brokerConfig is the broker's configuration by the flags, and the settings among them that have no effect.
func brokerConfig(o Options) (cfg server.Config, unused []string, err error) {
	cfg = server.Config{
		Cluster: nodeName, Version: o.Version,
		Listen:     net.JoinHostPort(o.Listen, strconv.Itoa(o.BrokerPort)),
		HTTPListen: net.JoinHostPort(o.Listen, strconv.Itoa(o.HTTPPort)),
		// Topics are files here: what has been consumed stays until somebody deletes it or sets a retention.
		RetentionTime: -1, RetentionBytes: -1,
		// Half of what a crash may cost in acknowledgements: the other half is the flush itself on a busy machine.
		AckFlush: 50 * time.Millisecond,
	}
	set, err := settings.Parse(o.Set)
	if err != nil {
		return cfg, nil, err
	}
	unused, err = set.Apply(&cfg)
	return cfg, unused, err
}

// plainError keeps the stack traces that some errors carry out of the log.
func plainError(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		a.Value = slog.StringValue(err.Error())
	}
	return a
}

// A node is a running standalone server: its parts in the order in which they were started.
type node struct {
	log          *slog.Logger
	fatal        chan error
	parts        []part
	broker       *server.Server
	endpoints    endpoints.Endpoints
	mountProblem error // why nothing is mounted although it was asked for
}

// A part is something to be stopped.
type part struct {
	name string
	stop func(context.Context) error
}

func (n *node) started(name string, stop func(context.Context) error) {
	n.parts = append(n.parts, part{name, stop})
}

// stop stops the parts, the last first, within stopLimit altogether.
func (n *node) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	for i := len(n.parts) - 1; i >= 0; i-- {
		if err := n.parts[i].stop(ctx); err != nil {
			n.log.Warn("part did not stop cleanly", "part", n.parts[i].name, "err", err)
		}
	}
	n.parts = nil
}

// failed is told by storage that it must not be trusted any more.
func (n *node) failed(err error) {
	select {
	case n.fatal <- err:
	default: // one reason is enough
	}
}

func (n *node) start(ctx context.Context, o Options, cfg server.Config) error {
	if err := os.MkdirAll(o.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	lock, err := lockDir(o.DataDir)
	if err != nil {
		return err
	}
	n.started("lock", func(context.Context) error { lock.release(); return nil })
	if err := checkFormat(o.DataDir); err != nil {
		return err
	}
	if err := makeRoom(o.DataDir); err != nil {
		return err
	}

	var bk *bookie.Bookie
	meta, err := metaserver.Open(metaserver.Config{
		Dir: filepath.Join(o.DataDir, "meta"), Logger: n.log, Fatal: n.failed,
	})
	if err != nil {
		return fmt.Errorf("open metadata: %w", err)
	}
	n.started("metadata", func(context.Context) error { return meta.Close() })
	store := meta.Store()

	session, err := openSession(ctx, store)
	if err != nil {
		return fmt.Errorf("open a session: %w", err)
	}
	n.started("session", session.Close)

	bk, err = bookie.Open(ctx, bookie.Config{
		ID: ledgerfs.BookieID(nodeName), Dir: filepath.Join(o.DataDir, "bookie"), Meta: store, Fatal: n.failed, Log: n.log,
	})
	if err != nil {
		return fmt.Errorf("open the bookie: %w", err)
	}
	n.started("bookie", func(context.Context) error { return bk.Close() })
	if err := bk.Register(ctx, session); err != nil {
		return fmt.Errorf("announce the bookie: %w", err)
	}

	ledgers := ledger.New(ledger.Config{Store: store, Bookies: ledger.Single(bk.Member(), bk), Logger: n.log})
	n.started("ledgers", func(context.Context) error { ledgers.Close(); return nil })

	n.broker, err = server.New(cfg, server.Deps{Meta: store, Ledgers: ledgers, Logger: n.log})
	if err != nil {
		return err
	}
	n.started("broker", n.broker.Close)

	reader := topicread.New(ledgers)
	publisher, err := newPublisher(n.broker.ServiceURL())
	if err != nil {
		return err
	}
	n.started("publisher", publisher.close)
	tree := filetree.New(filetree.Config{
		Topics: treeTopics{n.broker}, Entries: filetree.ReadBookies(reader), Publisher: publisher, Log: n.log,
	})
	n.started("files", func(context.Context) error { tree.Close(); return nil })
	files := filetree.NewService(tree)
	n.broker.Handle(filetree.ServicePrefix, files)

	sql := sqlserver.New(sqlserver.Config{Engine: engine.New(engine.Config{
		Catalog: tables{n.broker}, Topics: engine.Ledgers(n.broker, reader), Log: n.log, NodeID: nodeName, Version: o.Version,
	})})
	n.started("sql", func(context.Context) error { sql.Close(); return nil })
	n.broker.Handle("/v1/", sql)
	n.broker.Handle("GET /debug/", debugPages())

	if err := n.broker.Start(ctx); err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	e := endpoints.Endpoints{PID: os.Getpid(), Version: o.Version, Service: n.broker.ServiceURL(), Admin: n.broker.HTTPURL()}
	if o.Mount != "" {
		if e.Mount, err = filepath.Abs(o.Mount); err != nil {
			return err
		}
	}
	// Before the mount: its process finds the server here.
	if err := endpoints.Write(o.DataDir, e); err != nil {
		return err
	}
	n.started("endpoints", func(context.Context) error { return endpoints.Remove(o.DataDir) })
	n.endpoints = e
	if o.Mount != "" {
		return n.mount(ctx, o)
	}
	return nil
}

// publishTour publishes the tour's data set, unless its topic exists.
func (n *node) publishTour(ctx context.Context, out io.Writer) error {
	name, err := topicname.Parse(tour.Topic)
	if err != nil {
		return err
	}
	if _, err := n.broker.Fence(ctx, name); !errors.Is(err, topicread.ErrNotFound) {
		return err
	}
	count, err := tour.Publish(ctx, n.endpoints.Service)
	if err == nil {
		fmt.Fprintf(out, "Published %d earthquakes to %s.\n", count, tour.Topic)
	}
	return err
}

// openSession opens the node's session. Its incarnation comes from a sequence in the store, so that a restart
// supersedes the session that a killed process left.
func openSession(ctx context.Context, store raftmeta.Store) (raftmeta.Session, error) {
	res, err := store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("seq/incarnation/"+nodeName, 1)}})
	if err != nil {
		return nil, err
	}
	return store.OpenSession(ctx, raftmeta.SessionOptions{Node: nodeName, Incarnation: res.Results[0].N})
}

// Metadata and the indexes write a little when they are opened. With less than startRoom free the reserve, which is
// there for this, is given up; with less than leastRoom even then, they would wait for room and the start hang.
const (
	startRoom = 1 << 20
	leastRoom = 256 << 10
)

// makeRoom sees to it that a full disk lets the server start, or says that it does not.
func makeRoom(dir string) error {
	free, err := freeBytes(dir)
	if err == nil && free < startRoom {
		if err = bookie.GiveUpReserve(filepath.Join(dir, "bookie")); err == nil {
			free, err = freeBytes(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("measure the disk: %w", err)
	}
	if free < leastRoom {
		return fmt.Errorf("the disk of data directory %s is full (%d KiB free): free %d KiB or more and start again", dir, free>>10, startRoom>>10)
	}
	return nil
}

// checkFormat reads, or in an empty directory writes, the format of the data directory.
func checkFormat(dir string) error {
	name := filepath.Join(dir, "FORMAT")
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		if err := checkEmpty(dir); err != nil {
			return err
		}
		return writeFormat(dir, name)
	}
	if err != nil {
		return fmt.Errorf("read the data format: %w", err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("%s does not hold a number: is %s a data directory of Daybook? Choose another with --data-dir", name, dir)
	}
	if v > format {
		return fmt.Errorf("data directory %s has format %d, this version knows %d: run the newer version that wrote it, or choose another with --data-dir", dir, v, format)
	}
	return nil
}

// checkEmpty refuses to make a data directory of one that holds somebody else's files. What a start leaves that ended
// before the format was written, and what file systems have at their top, does not count.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the data directory: %w", err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "LOCK", "FORMAT.new", "mount.lock", "mount.log", "lost+found":
			continue
		}
		return fmt.Errorf("%s is no data directory of Daybook, and not empty (%s): choose another with --data-dir", dir, e.Name())
	}
	return nil
}

// writeFormat marks a directory, durably: the file, its name, and the directory's own name.
func writeFormat(dir, name string) error {
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write the data format: %w", err)
	}
	_, werr := fmt.Fprintln(f, format)
	err = errors.Join(werr, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	for _, d := range []string{dir, filepath.Dir(filepath.Clean(dir))} {
		h, oerr := os.Open(d)
		if oerr == nil {
			oerr = errors.Join(h.Sync(), h.Close())
		}
		err = errors.Join(err, oerr)
	}
	if err != nil {
		return fmt.Errorf("write the data format: %w", err)
	}
	return nil
}

// explain turns an error of the start into one line with the way out.
func explain(err error, o Options) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "listen" {
		flag, port := "--broker-port", o.BrokerPort
		if strings.Contains(err.Error(), "listen for HTTP") {
			flag, port = "--http-port", o.HTTPPort
		}
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("port %d at %s is taken: stop what uses it, or choose another with %s (0 picks a free one)", port, o.Listen, flag)
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return fmt.Errorf("this machine has no address %s: choose one of its own with --listen", o.Listen)
		case errors.Is(err, syscall.EACCES):
			return fmt.Errorf("no right to listen at port %d: choose one above 1023 with %s", port, flag)
		}
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok && strings.HasPrefix(filepath.Clean(pe.Path), filepath.Clean(o.DataDir)) &&
		(errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EROFS)) {
		return fmt.Errorf("data directory %s cannot be written (%w): choose another with --data-dir", o.DataDir, pe)
	}
	if errors.Is(err, metaserver.ErrNewerFormat) {
		return fmt.Errorf("data directory %s was written by a newer version: run that one, or choose another with --data-dir (%w)", o.DataDir, err)
	}
	return err
}

func banner(out io.Writer, o Options, e endpoints.Endpoints, mountProblem error, took time.Duration) {
	fmt.Fprintf(out, "Daybook %s is ready after %d ms.\n\n", o.Version, took.Milliseconds())
	fmt.Fprintf(out, "  Pulsar clients  %s\n  Admin and SQL   %s\n  Data            %s\n", e.Service, e.Admin, o.DataDir)
	topic := "greetings"
	mounted := e.Mount != "" && mountProblem == nil
	if mounted {
		fmt.Fprintf(out, "  Topics as files %s\n", o.Mount)
	} else if mountProblem != nil {
		fmt.Fprintf(out, "  Not mounted     %v\n", mountProblem)
	}
	self := os.Args[0]
	fmt.Fprintf(out, "\nTry, in a second terminal:\n\n")
	if mounted {
		fmt.Fprintf(out, "  echo hello >> %s\n", filepath.Join(o.Mount, "public/default", topic))
		fmt.Fprintf(out, "  tail -f %s\n", filepath.Join(o.Mount, "public/default", topic))
	} else {
		fmt.Fprintf(out, "  %s produce %s -m hello\n", self, topic)
	}
	fmt.Fprintf(out, "  %s sql -e 'SELECT * FROM %s'\n\n", self, topic)
	fmt.Fprintf(out, "Ctrl-C stops the server; deleting %s wipes it.\n", o.DataDir)
}
