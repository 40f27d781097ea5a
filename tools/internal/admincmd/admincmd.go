package admincmd

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daybook/daybook/tools/internal/tabular"
)

// A group is one resource's family of commands.
type group struct {
	name    string
	aliases []string
	short   string
	verbs   []verb
}

// A verb is one command: one HTTP call.
type verb struct {
	use     string // "create TOPIC"
	short   string
	example string
	args    int
	// flags declares the verb's flags; call reads them through the *cobra.Command it is given.
	flags func(*cobra.Command)
	call  func(cmd *cobra.Command, args []string) (request, error)
	// show prints the answer for people, where tabular.WriteValue is not good enough.
	show func(cmd *cobra.Command, answer any) error
}

// A request is one HTTP call of the admin API.
type request struct {
	method string
	path   string
	query  url.Values
	body   any
}

// Commands are the families of the admin API. adminURL answers the API's base when a command runs.
func Commands(adminURL func() string) []*cobra.Command {
	var out []*cobra.Command
	for _, g := range []group{tenants, namespaces, topics, subscriptions, schemas, clusters, brokers} {
		cmd := &cobra.Command{
			Use: g.name, Aliases: g.aliases, Short: g.short, GroupID: "admin",
			Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		}
		for _, v := range g.verbs {
			cmd.AddCommand(v.command(adminURL))
		}
		out = append(out, cmd)
	}
	return out
}

func (v verb) command(adminURL func() string) *cobra.Command {
	var format tabular.Format
	cmd := &cobra.Command{
		Use: v.use, Short: v.short, Example: v.example, Args: cobra.ExactArgs(v.args),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := v.call(cmd, args)
			if err != nil {
				return err
			}
			answer, _, err := NewClient(adminURL()).Do(cmd.Context(), req.method, req.path, req.query, req.body)
			if err != nil {
				return err
			}
			switch {
			case format == tabular.JSON:
				return tabular.WriteJSON(cmd.OutOrStdout(), answer)
			case v.show != nil:
				return v.show(cmd, answer)
			default:
				return tabular.WriteValue(cmd.OutOrStdout(), answer)
			}
		},
	}
	tabular.Flag(cmd, &format, tabular.Table, tabular.JSON)
	if v.flags != nil {
		v.flags(cmd)
	}
	return cmd
}

func get(format string, args ...any) request {
	return request{method: http.MethodGet, path: fmt.Sprintf(format, args...)}
}
func put(body any, format string, args ...any) request {
	return request{method: http.MethodPut, path: fmt.Sprintf(format, args...), body: body}
}
func post(body any, format string, args ...any) request {
	return request{method: http.MethodPost, path: fmt.Sprintf(format, args...), body: body}
}
func del(format string, args ...any) request {
	return request{method: http.MethodDelete, path: fmt.Sprintf(format, args...)}
}

func (r request) with(key, value string) request {
	if r.query == nil {
		r.query = url.Values{}
	}
	r.query.Set(key, value)
	return r
}

// withForce passes a command's --force on.
func (r request) withForce(cmd *cobra.Command) request {
	if f, _ := cmd.Flags().GetBool("force"); f {
		return r.with("force", "true")
	}
	return r
}

func forceFlag(what string) func(*cobra.Command) {
	return func(cmd *cobra.Command) { cmd.Flags().BoolP("force", "f", false, what) }
}

func flags(fs ...func(*cobra.Command)) func(*cobra.Command) {
	return func(cmd *cobra.Command) {
		for _, f := range fs {
			f(cmd)
		}
	}
}

func subFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("subscription", "s", "", "name of the subscription")
	_ = cmd.MarkFlagRequired("subscription")
}

func str(cmd *cobra.Command, name string) string {
	s, _ := cmd.Flags().GetString(name)
	return s
}

func num(cmd *cobra.Command, name string) int {
	n, _ := cmd.Flags().GetInt(name)
	return n
}

// seg escapes one segment of a path.
func seg(s string) string { return url.PathEscape(s) }

// namespacePath is tenant/namespace as a path, escaped.
func namespacePath(s string) (string, error) {
	t, ns, ok := strings.Cut(s, "/")
	if !ok || t == "" || ns == "" || strings.Contains(ns, "/") {
		return "", fmt.Errorf("namespace %q: want tenant/namespace, such as public/default", s)
	}
	return url.PathEscape(t) + "/" + url.PathEscape(ns), nil
}

// topicPath is domain/tenant/namespace/topic of a full or short topic name, escaped; the server checks the
// name itself.
func topicPath(s string) (string, error) {
	domain, rest, ok := strings.Cut(s, "://")
	if !ok {
		domain, rest = "persistent", s
		if !strings.Contains(s, "/") {
			rest = "public/default/" + s
		}
	}
	if domain != "persistent" && domain != "non-persistent" {
		return "", fmt.Errorf("topic %q: want persistent:// or non-persistent:// at its beginning, or neither", s)
	}
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) != 3 || parts[2] == "" {
		return "", fmt.Errorf("topic %q: want a name such as orders, public/default/orders or persistent://public/default/orders", s)
	}
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return domain + "/" + strings.Join(parts, "/"), nil
}

// onTopic builds a request from the path of args[0].
func onTopic(f func(cmd *cobra.Command, path string) request) func(*cobra.Command, []string) (request, error) {
	return func(cmd *cobra.Command, args []string) (request, error) {
		p, err := topicPath(args[0])
		if err != nil {
			return request{}, err
		}
		return f(cmd, p), nil
	}
}

func onNamespace(f func(cmd *cobra.Command, path string) request) func(*cobra.Command, []string) (request, error) {
	return func(cmd *cobra.Command, args []string) (request, error) {
		p, err := namespacePath(args[0])
		if err != nil {
			return request{}, err
		}
		return f(cmd, p), nil
	}
}

// messageID reads "ledger:entry", "earliest" or "latest" as the API's message id.
func messageID(s string) (map[string]any, error) {
	switch s {
	case "earliest":
		return map[string]any{"ledgerId": -1, "entryId": -1, "partitionIndex": -1}, nil
	case "latest":
		return map[string]any{"ledgerId": int64(1<<63 - 1), "entryId": int64(1<<63 - 1), "partitionIndex": -1}, nil
	}
	l, e, ok := strings.Cut(s, ":")
	lid, err1 := strconv.ParseInt(l, 10, 64)
	eid, err2 := strconv.ParseInt(e, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return nil, fmt.Errorf("message id %q: want ledger:entry, earliest or latest", s)
	}
	return map[string]any{"ledgerId": lid, "entryId": eid, "partitionIndex": -1}, nil
}

// ago reads "10s", "2h" or "3d" as the time that long before now, in ms since 1970.
func ago(s string, now time.Time) (int64, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("time %q: want a duration such as 10s, 5m, 2h or 3d", s)
		}
		return now.AddDate(0, 0, -n).UnixMilli(), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("time %q: want a duration such as 10s, 5m, 2h or 3d", s)
	}
	return now.Add(-d).UnixMilli(), nil
}

// TopicExists asks whether a topic or partitioned topic exists.
func (c *Client) TopicExists(ctx context.Context, topic string) (bool, error) {
	p, err := topicPath(topic)
	if err != nil {
		return false, err
	}
	_, _, err = c.Do(ctx, http.MethodGet, "/admin/v2/"+p+"/stats", nil, nil)
	if se, ok := err.(*StatusError); ok && se.Status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}
