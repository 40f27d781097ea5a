// Package fscmd is the command line of topics as files: mount, umount, and fs, which shows the same tree without
// a mount.
package fscmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/mount"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/tools/internal/endpoints"
	"github.com/daybook/daybook/tools/internal/mountproc"
)

// GroupID is the help group of the commands; the root command has to have it.
const GroupID = "files"

// A Finder says where servers are.
type Finder struct {
	// AdminURL is the server that the command line or the environment names, or the default one.
	AdminURL func() string
	// Local is the URL of the server that runs on a data directory.
	Local func(dataDir string) (string, error)
}

// Commands are mount, umount and fs.
func Commands(find Finder) []*cobra.Command {
	return []*cobra.Command{mountCommand(find), umountCommand(), fsCommand(find)}
}

func mountCommand(find Finder) *cobra.Command {
	var foreground, debug bool
	var dataDir string
	cmd := &cobra.Command{
		Use:     "mount DIR",
		GroupID: GroupID,
		Short:   "mount topics as files",
		Long: `Mount the topics of a server as files on DIR, which is made if it does not exist.

A topic is the file DIR/TENANT/NAMESPACE/TOPIC, one message a line: read it with any tool, append to it (>>) to
publish. TOPIC@/ndjson, not listed, has one JSON object a message. The mount runs in the background, in a process
of its own, until 'daybook umount DIR'; it survives restarts of the server. It needs Linux with /dev/fuse, and root or fusermount3.`,
		Example: `  daybook mount ./mnt
  daybook mount /mnt/topics --admin-url http://broker:8080
  tail -f ./mnt/public/default/my-topic`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if foreground {
				err := serve(cmd, find, args[0], dataDir, debug)
				mountproc.Report(err)
				return err
			}
			childArgs := []string{"mount", "--foreground", "--admin-url", find.url(dataDir)}
			if dataDir != "" {
				abs, err := filepath.Abs(dataDir)
				if err != nil {
					return err
				}
				dataDir = abs
				childArgs = append(childArgs, "--data-dir", dataDir)
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			pid, err := mountproc.Spawn(cmd.Context(), dataDir, append(childArgs, dir)...)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "mounted on %s by process %d; 'daybook umount %s' ends it\n", dir, pid, args[0])
			return err
		},
	}
	cmd.Flags().BoolVar(&foreground, "foreground", false, "stay in the foreground; SIGINT or SIGTERM unmounts")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "data directory of a server on this machine: finds it, also when it restarts elsewhere")
	cmd.Flags().BoolVar(&debug, "debug", false, "log every request of the kernel")
	_ = cmd.MarkFlagDirname("data-dir")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

// url is the server to begin with.
func (f Finder) url(dataDir string) string {
	if dataDir != "" && f.Local != nil {
		if u, err := f.Local(dataDir); err == nil && u != "" {
			return u
		}
	}
	return f.AdminURL()
}

// serve is a mount process.
func serve(cmd *cobra.Command, find Finder, dir, dataDir string, debug bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	cfg := filetree.ClientConfig{URL: find.url(dataDir), Log: log}
	if dataDir != "" {
		held, err := mountproc.Hold(dataDir, dir)
		if err != nil {
			return err
		}
		defer held.Release()
		if find.Local != nil {
			cfg.Resolve = func() (string, error) { return find.Local(dataDir) }
		}
	}
	client, err := filetree.NewClient(cfg)
	if err != nil {
		return err
	}
	defer client.Close()
	// The server may come later, but one that speaks another protocol is told of at once.
	hello, cancel := context.WithTimeout(ctx, 3*time.Second)
	err = client.Hello(hello)
	cancel()
	if errors.Is(err, filetree.EPROTO) {
		return err
	}
	return mount.Run(ctx, mount.Config{
		Dir: dir, Client: client, Log: log, Debug: debug,
		Ready: func() { mountproc.Report(nil) },
	})
}

func umountCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "umount DIR",
		GroupID: GroupID,
		Short:   "unmount topics",
		Long:    "Unmount DIR. A mount that stays busy for 2 s is detached: who has files open keeps them until they are closed.",
		Example: "  daybook umount ./mnt",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return mount.Unmount(cmd.Context(), args[0]) },
	}
}

func fsCommand(find Finder) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "fs",
		GroupID: GroupID,
		Short:   "topics as files without a mount",
		Long: `Show the tree of files that 'daybook mount' mounts, without a mount.

A PATH is /TENANT/NAMESPACE/TOPIC, the same without the first slash, or persistent://TENANT/NAMESPACE/TOPIC.
TOPIC@/ndjson has one JSON object a message.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(lsCommand(find), statCommand(find), catCommand(find), tailCommand(find), appendCommand(find))
	return cmd
}

// path makes a path of the tree of what people write.
func path(arg string) string {
	if rest, ok := strings.CutPrefix(arg, "persistent://"); ok {
		if n, err := topicname.Parse(arg); err == nil {
			return "/" + topicname.EncodeFileName(n.Tenant) + "/" + topicname.EncodeFileName(n.Namespace) + "/" + n.FileName()
		}
		arg = rest
	}
	return "/" + strings.Trim(arg, "/")
}

// with runs fn with a client of the server.
func (f Finder) with(cmd *cobra.Command, fn func(ctx context.Context, c *filetree.Client) error) error {
	url := f.AdminURL()
	c, err := filetree.NewClient(filetree.ClientConfig{URL: url, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer c.Close()
	err = fn(cmd.Context(), c)
	if errors.Is(err, filetree.ENOTCONN) {
		return endpoints.Unreachable(url, "--admin-url", err)
	}
	return err
}

// outputFlag adds -o table|json.
func outputFlag(cmd *cobra.Command) *bool {
	asJSON := new(bool)
	cmd.Flags().VarP((*outputValue)(asJSON), "output", "o", "output format: table, json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return asJSON
}

type outputValue bool

func (v *outputValue) Type() string { return "format" }
func (v *outputValue) String() string {
	if *v {
		return "json"
	}
	return "table"
}
func (v *outputValue) Set(s string) error {
	switch s {
	case "table", "json":
		*v = s == "json"
		return nil
	}
	return errors.New("want one of table, json")
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// fileInfo is what ls and stat tell about a file.
type fileInfo struct {
	Name       string            `json:"name"`
	Type       string            `json:"type"` // "file" or "directory"
	Size       *int64            `json:"size,omitempty"`
	Modified   *time.Time        `json:"modified,omitempty"`
	Born       *time.Time        `json:"born,omitempty"`
	Inode      uint64            `json:"inode,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

func describe(name string, a filetree.Attr) fileInfo {
	i := fileInfo{Name: name, Type: "directory", Inode: a.Ino}
	if !a.Dir {
		size, m, b := a.Size(), a.Mtime.UTC(), a.Btime.UTC()
		i.Type, i.Size, i.Modified, i.Born = "file", &size, &m, &b
	}
	return i
}

func lsCommand(find Finder) *cobra.Command {
	var long bool
	cmd := &cobra.Command{
		Use:   "ls [PATH]",
		Short: "list tenants, namespaces or topics",
		Example: `  daybook fs ls
  daybook fs ls -l /public/default`,
		Args: cobra.MaximumNArgs(1),
	}
	asJSON := outputFlag(cmd)
	cmd.Flags().BoolVarP(&long, "long", "l", false, "sizes and times, too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir := "/"
		if len(args) > 0 {
			dir = path(args[0])
		}
		return find.with(cmd, func(ctx context.Context, c *filetree.Client) error {
			infos, err := list(ctx, c, dir, long)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if *asJSON {
				return writeJSON(out, infos)
			}
			w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			for _, i := range infos {
				name := i.Name
				if i.Type == "directory" {
					name += "/"
				}
				switch {
				case !long:
					fmt.Fprintln(w, name)
				case i.Size == nil:
					fmt.Fprintf(w, "-\t-\t%s\n", name)
				default:
					fmt.Fprintf(w, "%d\t%s\t%s\n", *i.Size, i.Modified.Format(time.RFC3339), name)
				}
			}
			return w.Flush()
		})
	}
	return cmd
}

func list(ctx context.Context, c *filetree.Client, dir string, long bool) ([]fileInfo, error) {
	infos := []fileInfo{}
	a, err := c.Stat(ctx, dir)
	if err != nil {
		return nil, err
	}
	if !a.Dir {
		return append(infos, describe(dir, a)), nil
	}
	for after, more := "", true; more; {
		var es []filetree.DirEntry
		if es, more, err = c.List(ctx, dir, after, 10_000); err != nil {
			return nil, err
		}
		for _, e := range es {
			after = e.Name
			i := fileInfo{Name: e.Name, Type: "file"}
			if e.Dir {
				i.Type = "directory"
			} else if long {
				a, err := c.Stat(ctx, strings.TrimSuffix(dir, "/")+"/"+e.Name)
				if errors.Is(err, filetree.ENOENT) {
					continue // deleted meanwhile
				}
				if err != nil {
					return nil, err
				}
				i = describe(e.Name, a)
			}
			infos = append(infos, i)
		}
		more = more && len(es) > 0
	}
	return infos, nil
}

func statCommand(find Finder) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stat PATH",
		Short:   "describe a file or directory",
		Example: "  daybook fs stat /public/default/my-topic",
		Args:    cobra.ExactArgs(1),
	}
	asJSON := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return find.with(cmd, func(ctx context.Context, c *filetree.Client) error {
			p := path(args[0])
			a, err := c.Stat(ctx, p)
			if err != nil {
				return err
			}
			i := describe(p, a)
			if !a.Dir {
				if i.Attributes, err = c.Attributes(ctx, p); err != nil {
					return err
				}
			}
			out := cmd.OutOrStdout()
			if *asJSON {
				return writeJSON(out, i)
			}
			w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "path\t%s\ntype\t%s\ninode\t%d\n", i.Name, i.Type, i.Inode)
			if i.Size != nil {
				fmt.Fprintf(w, "size\t%d\nmodified\t%s\nborn\t%s\n", *i.Size, i.Modified.Format(time.RFC3339Nano), i.Born.Format(time.RFC3339Nano))
			}
			keys := make([]string, 0, len(i.Attributes))
			for k := range i.Attributes {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			for _, k := range keys {
				fmt.Fprintf(w, "%s\t%s\n", k, i.Attributes[k])
			}
			return w.Flush()
		})
	}
	return cmd
}

func catCommand(find Finder) *cobra.Command {
	var offset, count int64
	cmd := &cobra.Command{
		Use:   "cat PATH",
		Short: "print a topic's text",
		Example: `  daybook fs cat /public/default/my-topic
  daybook fs cat /public/default/my-topic@/ndjson --offset 1000000 --bytes 4096`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if offset < 0 {
				return errors.New("--offset is negative")
			}
			return find.with(cmd, func(ctx context.Context, c *filetree.Client) error {
				a, err := statFile(ctx, c, path(args[0]))
				if err != nil {
					return err
				}
				off := min(offset, a.Size())
				n := int64(-1)
				if cmd.Flags().Changed("bytes") {
					n = max(count, 0)
				}
				_, err = copyText(ctx, cmd.OutOrStdout(), c, path(args[0]), a, a.Base+off, n)
				return err
			})
		},
	}
	cmd.Flags().Int64Var(&offset, "offset", 0, "begin at this byte of the file")
	cmd.Flags().Int64Var(&count, "bytes", 0, "print at most so many bytes")
	return cmd
}

func statFile(ctx context.Context, c *filetree.Client, p string) (filetree.Attr, error) {
	a, err := c.Stat(ctx, p)
	if err == nil && a.Dir {
		err = fmt.Errorf("%s: %w", p, filetree.EISDIR)
	}
	return a, err
}

// copyText prints n bytes of text (all if negative) from off on, and returns where it stopped.
func copyText(ctx context.Context, w io.Writer, c *filetree.Client, p string, a filetree.Attr, off, n int64) (int64, error) {
	var buf []byte
	for n != 0 {
		want := filetree.MaxReadBytes
		if n > 0 {
			want = int(min(n, filetree.MaxReadBytes))
		}
		var err error
		if buf, _, err = c.ReadAt(ctx, buf[:0], p, a.Gen, off, want); err != nil {
			return off, err
		}
		if len(buf) == 0 {
			return off, nil
		}
		if _, err := w.Write(buf); err != nil {
			return off, fmt.Errorf("write: %w", err)
		}
		off += int64(len(buf))
		if n > 0 {
			n -= int64(len(buf))
		}
	}
	return off, nil
}

func tailCommand(find Finder) *cobra.Command {
	var follow bool
	var lines int
	cmd := &cobra.Command{
		Use:   "tail PATH",
		Short: "print the last lines of a topic, and those to come",
		Example: `  daybook fs tail -n 100 /public/default/my-topic
  daybook fs tail -f /public/default/my-topic`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if lines < 0 {
				return errors.New("--lines is negative")
			}
			return find.with(cmd, func(ctx context.Context, c *filetree.Client) error {
				p := path(args[0])
				a, err := statFile(ctx, c, p)
				if err != nil {
					return err
				}
				off, err := lastLines(ctx, c, p, a, lines)
				if err != nil {
					return err
				}
				if off, err = copyText(ctx, cmd.OutOrStdout(), c, p, a, off, a.End-off); err != nil || !follow {
					return err
				}
				ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
				defer stop()
				return followText(ctx, cmd, c, p, a, off)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is published, until interrupted")
	cmd.Flags().IntVarP(&lines, "lines", "n", 10, "how many lines")
	return cmd
}

// lastLines is where the last n lines of the text begin.
func lastLines(ctx context.Context, c *filetree.Client, p string, a filetree.Attr, n int) (int64, error) {
	const step = 64 << 10
	left := n + 1 // newlines to find: the text ends with one
	var buf []byte
	for end := a.End; end > a.Base; {
		from := max(end-step, a.Base)
		var err error
		if buf, _, err = c.ReadAt(ctx, buf[:0], p, a.Gen, from, int(end-from)); err != nil {
			return 0, err
		}
		for i := len(buf); i > 0; {
			i = bytes.LastIndexByte(buf[:i], '\n')
			if i < 0 {
				break
			}
			if left--; left == 0 {
				return from + int64(i) + 1, nil
			}
		}
		end = from
	}
	return a.Base, nil
}

// followText prints what is published until ctx ends. It outlives restarts of the server.
func followText(ctx context.Context, cmd *cobra.Command, c *filetree.Client, p string, a filetree.Attr, off int64) error {
	wake := make(chan struct{}, 1)
	var gone atomic.Bool
	w := c.Watch(func(g filetree.Growth) {
		if g.Gone {
			gone.Store(true)
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	defer w.Close()
	w.Add(p, off, a.Gen)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-time.After(5 * time.Second):
		}
		var err error
		off, err = copyText(ctx, cmd.OutOrStdout(), c, p, a, off, -1)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, filetree.ENOTCONN), errors.Is(err, filetree.EAGAIN):
			continue // the watch tells when it is back
		case gone.Load(), errors.Is(err, filetree.ENOENT):
			return fmt.Errorf("%s: the topic was deleted: %w", p, filetree.ESTALE)
		case err != nil:
			return err
		}
	}
}

func appendCommand(find Finder) *cobra.Command {
	var messages []string
	cmd := &cobra.Command{
		Use:   "append PATH",
		Short: "publish lines",
		Long: `Publish the lines of the standard input, or those given with --message, each as one message, in order. The
topic is made if its namespace allows topics to be created by use. When the command succeeds, all are stored.`,
		Example: `  daybook fs append /public/default/my-topic < lines.txt
  daybook fs append /public/default/my-topic -m hello -m world`,
		Args: cobra.ExactArgs(1),
	}
	asJSON := outputFlag(cmd)
	cmd.Flags().StringArrayVarP(&messages, "message", "m", nil, "a message; may be given more than once")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return find.with(cmd, func(ctx context.Context, c *filetree.Client) error {
			p := path(args[0])
			if _, err := c.Stat(ctx, p); errors.Is(err, filetree.ENOENT) {
				if _, err := c.Create(ctx, p); err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
			var in io.Reader = cmd.InOrStdin()
			if len(messages) > 0 {
				in = strings.NewReader("")
			}
			n, err := publish(ctx, c, p, messages, in)
			if *asJSON {
				if jerr := writeJSON(cmd.OutOrStdout(), map[string]int{"acknowledged": n}); err == nil {
					err = jerr
				}
			}
			if err != nil {
				return fmt.Errorf("after %d acknowledged messages: %w", n, err)
			}
			return nil
		})
	}
	return cmd
}

// publish appends messages and then the lines of in, and returns how many were acknowledged.
func publish(ctx context.Context, c *filetree.Client, p string, messages []string, in io.Reader) (acked int, err error) {
	const batch = 1 << 20
	var records [][]byte
	size := 0
	send := func() error {
		if len(records) == 0 {
			return nil
		}
		n, err := c.Append(ctx, p, records)
		acked += n
		records, size = records[:0], 0
		return err
	}
	add := func(r []byte) error {
		records = append(records, r)
		if size += len(r) + 4; size >= batch {
			return send()
		}
		return nil
	}
	for _, m := range messages {
		if err := add([]byte(m)); err != nil {
			return acked, err
		}
	}
	lines := newLineReader(in)
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return acked, send()
		}
		if err == nil {
			err = add(line)
		}
		if err == nil && lines.waiting() {
			err = send() // the input pauses here: publish what there is
		}
		if err != nil {
			return acked, err
		}
	}
}
