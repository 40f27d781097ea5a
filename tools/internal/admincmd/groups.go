package admincmd

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

var tenants = group{
	name: "tenants", aliases: []string{"tenant"}, short: "the tenants of the cluster",
	verbs: []verb{
		{use: "list", short: "list the tenants", call: func(*cobra.Command, []string) (request, error) { return get("/admin/v2/tenants"), nil }},
		{use: "get TENANT", short: "show a tenant", args: 1, call: func(_ *cobra.Command, a []string) (request, error) {
			return get("/admin/v2/tenants/%s", seg(a[0])), nil
		}},
		{use: "create TENANT", short: "create a tenant", example: "  daybook tenants create acme", args: 1, flags: tenantFlags,
			call: func(cmd *cobra.Command, a []string) (request, error) {
				return put(tenantInfo(cmd), "/admin/v2/tenants/%s", seg(a[0])), nil
			}},
		{use: "update TENANT", short: "change a tenant's roles and clusters", args: 1, flags: tenantFlags,
			call: func(cmd *cobra.Command, a []string) (request, error) {
				return post(tenantInfo(cmd), "/admin/v2/tenants/%s", seg(a[0])), nil
			}},
		{use: "delete TENANT", short: "delete a tenant that has no namespaces", args: 1, flags: forceFlag("delete its namespaces too"),
			call: func(cmd *cobra.Command, a []string) (request, error) {
				return del("/admin/v2/tenants/%s", seg(a[0])).withForce(cmd), nil
			}},
	},
}

func tenantFlags(cmd *cobra.Command) {
	cmd.Flags().StringSliceP("admin-roles", "r", nil, "roles that may administer the tenant")
	cmd.Flags().StringSliceP("allowed-clusters", "c", []string{"standalone"}, "clusters that the tenant may use")
}

func tenantInfo(cmd *cobra.Command) any {
	roles, _ := cmd.Flags().GetStringSlice("admin-roles")
	cl, _ := cmd.Flags().GetStringSlice("allowed-clusters")
	if roles == nil {
		roles = []string{}
	}
	return map[string]any{"adminRoles": roles, "allowedClusters": cl}
}

var namespaces = group{
	name: "namespaces", aliases: []string{"namespace"}, short: "the namespaces of a tenant",
	verbs: []verb{
		{use: "list TENANT", short: "list a tenant's namespaces", example: "  daybook namespaces list public", args: 1,
			call: func(_ *cobra.Command, a []string) (request, error) {
				return get("/admin/v2/namespaces/%s", seg(a[0])), nil
			}},
		{use: "create TENANT/NAMESPACE", short: "create a namespace", example: "  daybook namespaces create acme/orders", args: 1,
			call: onNamespace(func(_ *cobra.Command, p string) request { return put(nil, "/admin/v2/namespaces/%s", p) })},
		{use: "delete TENANT/NAMESPACE", short: "delete an empty namespace", args: 1, flags: forceFlag("delete its topics too"),
			call: onNamespace(func(cmd *cobra.Command, p string) request { return del("/admin/v2/namespaces/%s", p).withForce(cmd) })},
		{use: "policies TENANT/NAMESPACE", short: "show the policies", args: 1,
			call: onNamespace(func(_ *cobra.Command, p string) request { return get("/admin/v2/namespaces/%s", p) })},
		{use: "topics TENANT/NAMESPACE", short: "list the topics, partitions one by one", args: 1,
			call: onNamespace(func(_ *cobra.Command, p string) request { return get("/admin/v2/namespaces/%s/topics", p) })},
	},
}

var topics = group{
	name: "topics", aliases: []string{"topic"}, short: "topics: create, list, inspect, delete",
	verbs: []verb{
		{use: "list TENANT/NAMESPACE", short: "list the topics, partitions one by one", example: "  daybook topics list public/default", args: 1,
			call: onNamespace(func(_ *cobra.Command, p string) request { return get("/admin/v2/persistent/%s", p) })},
		{use: "list-partitioned-topics TENANT/NAMESPACE", short: "list the partitioned topics", args: 1,
			call: onNamespace(func(_ *cobra.Command, p string) request { return get("/admin/v2/persistent/%s/partitioned", p) })},
		{use: "create TOPIC", short: "create a topic without partitions", example: "  daybook topics create orders", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return put(nil, "/admin/v2/%s", p) })},
		{use: "create-partitioned-topic TOPIC", short: "create a topic with partitions", example: "  daybook topics create-partitioned-topic -p 4 orders", args: 1,
			flags: partitionsFlag, call: onTopic(func(cmd *cobra.Command, p string) request {
				return put(num(cmd, "partitions"), "/admin/v2/%s/partitions", p)
			})},
		{use: "update-partitioned-topic TOPIC", short: "add partitions", args: 1,
			flags: partitionsFlag, call: onTopic(func(cmd *cobra.Command, p string) request {
				return post(num(cmd, "partitions"), "/admin/v2/%s/partitions", p)
			})},
		{use: "get-partitioned-topic-metadata TOPIC", short: "show the number of partitions, 0 for none", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return get("/admin/v2/%s/partitions", p) })},
		{use: "delete TOPIC", short: "delete a topic without partitions", args: 1, flags: forceFlag("disconnect its clients"),
			call: onTopic(func(cmd *cobra.Command, p string) request { return del("/admin/v2/%s", p).withForce(cmd) })},
		{use: "delete-partitioned-topic TOPIC", short: "delete a topic and its partitions", args: 1, flags: forceFlag("disconnect its clients"),
			call: onTopic(func(cmd *cobra.Command, p string) request { return del("/admin/v2/%s/partitions", p).withForce(cmd) })},
		{use: "stats TOPIC", short: "show rates, producers, subscriptions and backlogs", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return get("/admin/v2/%s/stats", p) })},
		{use: "partitioned-stats TOPIC", short: "show the statistics of a topic with partitions", args: 1,
			flags: func(cmd *cobra.Command) { cmd.Flags().Bool("per-partition", false, "show each partition too") },
			call: onTopic(func(cmd *cobra.Command, p string) request {
				per, _ := cmd.Flags().GetBool("per-partition")
				return get("/admin/v2/%s/partitioned-stats", p).with("perPartition", strconv.FormatBool(per))
			})},
		{use: "stats-internal TOPIC", short: "show the ledgers and cursors", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return get("/admin/v2/%s/internalStats", p) })},
		{use: "lookup TOPIC", short: "show which broker serves the topic", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return get("/lookup/v2/topic/%s", p) })},
		{use: "last-message-id TOPIC", short: "show the id of the last message", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return get("/admin/v2/%s/lastMessageId", p) })},
		{use: "terminate TOPIC", short: "end a topic: no more messages are taken", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return post(nil, "/admin/v2/%s/terminate", p) })},
		{use: "unload TOPIC", short: "close a topic; the next use loads it again", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return put(nil, "/admin/v2/%s/unload", p) })},
		{use: "subscriptions TOPIC", short: "list the subscriptions", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return get("/admin/v2/%s/subscriptions", p) })},
		{use: "create-subscription TOPIC", short: "create a subscription", example: "  daybook topics create-subscription -s audit -m earliest orders", args: 1,
			flags: flags(subFlag, func(cmd *cobra.Command) {
				cmd.Flags().StringP("messageId", "m", "latest", "where it starts: latest, earliest or ledger:entry")
			}),
			call: func(cmd *cobra.Command, a []string) (request, error) {
				p, err := topicPath(a[0])
				if err != nil {
					return request{}, err
				}
				id, err := messageID(str(cmd, "messageId"))
				return put(id, "/admin/v2/%s/subscription/%s", p, seg(str(cmd, "subscription"))), err
			}},
		{use: "unsubscribe TOPIC", short: "delete a subscription", args: 1, flags: flags(subFlag, forceFlag("disconnect its consumers")),
			call: onTopic(func(cmd *cobra.Command, p string) request {
				return del("/admin/v2/%s/subscription/%s", p, seg(str(cmd, "subscription"))).withForce(cmd)
			})},
		{use: "skip TOPIC", short: "skip messages of a subscription", args: 1,
			flags: flags(subFlag, func(cmd *cobra.Command) { cmd.Flags().IntP("count", "n", 0, "how many") }),
			call: onTopic(func(cmd *cobra.Command, p string) request {
				return post(nil, "/admin/v2/%s/subscription/%s/skip/%d", p, seg(str(cmd, "subscription")), num(cmd, "count"))
			})},
		{use: "clear-backlog TOPIC", short: "skip all messages of a subscription", args: 1, flags: subFlag,
			call: onTopic(func(cmd *cobra.Command, p string) request {
				return post(nil, "/admin/v2/%s/subscription/%s/skip_all", p, seg(str(cmd, "subscription")))
			})},
		{use: "reset-cursor TOPIC", short: "move a subscription to a message or a time", example: "  daybook topics reset-cursor -s audit -t 2h orders\n  daybook topics reset-cursor -s audit -m earliest orders", args: 1,
			flags: flags(subFlag, func(cmd *cobra.Command) {
				cmd.Flags().StringP("time", "t", "", "this long ago: 10s, 5m, 2h, 3d")
				cmd.Flags().StringP("messageId", "m", "", "to this message: latest, earliest or ledger:entry")
				cmd.MarkFlagsOneRequired("time", "messageId")
				cmd.MarkFlagsMutuallyExclusive("time", "messageId")
			}),
			call: func(cmd *cobra.Command, a []string) (request, error) {
				p, err := topicPath(a[0])
				if err != nil {
					return request{}, err
				}
				if m := str(cmd, "messageId"); m != "" {
					id, err := messageID(m)
					return post(id, "/admin/v2/%s/subscription/%s/resetcursor", p, seg(str(cmd, "subscription"))), err
				}
				at, err := ago(str(cmd, "time"), time.Now())
				return post(nil, "/admin/v2/%s/subscription/%s/resetcursor/%d", p, seg(str(cmd, "subscription")), at), err
			}},
	},
}

func partitionsFlag(cmd *cobra.Command) {
	cmd.Flags().IntP("partitions", "p", 0, "number of partitions")
	_ = cmd.MarkFlagRequired("partitions")
}

var subscriptions = group{
	name: "subscriptions", aliases: []string{"subscription"}, short: "the subscriptions of a topic",
	verbs: []verb{
		{use: "list TOPIC", short: "list the subscriptions", args: 1,
			call: onTopic(func(_ *cobra.Command, p string) request { return get("/admin/v2/%s/subscriptions", p) })},
	},
}

var schemas = group{
	name: "schemas", aliases: []string{"schema"}, short: "the schemas of topics",
	verbs: []verb{
		{use: "get TOPIC", short: "show a schema", args: 1,
			flags: func(cmd *cobra.Command) { cmd.Flags().IntP("version", "v", -1, "this version, not the newest") },
			call: onTopic(func(cmd *cobra.Command, p string) request {
				if v := num(cmd, "version"); v >= 0 {
					return get("/admin/v2/schemas/%s/schema/%d", schemaPath(p), v)
				}
				return get("/admin/v2/schemas/%s/schema", schemaPath(p))
			})},
		{use: "upload TOPIC", short: "store a schema from a file", example: "  daybook schemas upload -f orders.json orders", args: 1,
			flags: func(cmd *cobra.Command) {
				cmd.Flags().StringP("filename", "f", "", `file with {"type":…,"schema":…,"properties":{}}`)
				_ = cmd.MarkFlagRequired("filename")
			},
			call: func(cmd *cobra.Command, a []string) (request, error) {
				p, err := topicPath(a[0])
				if err != nil {
					return request{}, err
				}
				b, err := os.ReadFile(str(cmd, "filename"))
				if err != nil {
					return request{}, err
				}
				if !json.Valid(b) {
					return request{}, fmt.Errorf("%s is not JSON", str(cmd, "filename"))
				}
				return post(json.RawMessage(b), "/admin/v2/schemas/%s/schema", schemaPath(p)), nil
			}},
		{use: "delete TOPIC", short: "delete a topic's schemas", args: 1, flags: forceFlag("delete them for good"),
			call: onTopic(func(cmd *cobra.Command, p string) request {
				return del("/admin/v2/schemas/%s/schema", schemaPath(p)).withForce(cmd)
			})},
	},
}

// schemaPath is the path of a topic without its domain.
func schemaPath(topic string) string {
	for i := range topic {
		if topic[i] == '/' {
			return topic[i+1:]
		}
	}
	return topic
}

var clusters = group{
	name: "clusters", aliases: []string{"cluster"}, short: "the clusters",
	verbs: []verb{
		{use: "list", short: "list the clusters", call: func(*cobra.Command, []string) (request, error) { return get("/admin/v2/clusters"), nil }},
		{use: "get CLUSTER", short: "show a cluster", args: 1, call: func(_ *cobra.Command, a []string) (request, error) {
			return get("/admin/v2/clusters/%s", seg(a[0])), nil
		}},
	},
}

var brokers = group{
	name: "brokers", aliases: []string{"broker"}, short: "the brokers",
	verbs: []verb{
		{use: "list CLUSTER", short: "list the brokers of a cluster", args: 1, call: func(_ *cobra.Command, a []string) (request, error) {
			return get("/admin/v2/brokers/%s", seg(a[0])), nil
		}},
		{use: "healthcheck", short: "ask the broker for its health", call: func(*cobra.Command, []string) (request, error) { return get("/admin/v2/brokers/health"), nil }},
		{use: "leader-broker", short: "show the leader", call: func(*cobra.Command, []string) (request, error) { return get("/admin/v2/brokers/leaderBroker"), nil }},
		{use: "version", short: "show the broker's version", call: func(*cobra.Command, []string) (request, error) { return get("/admin/v2/brokers/version"), nil }},
	},
}
