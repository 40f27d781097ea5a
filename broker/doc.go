// Package broker is the map of the broker: the folders below it serve topics to Pulsar clients.
//
// A publish goes down: wire, conn, topic, and on to ledgerfs/mledger; its receipt comes back the same way, in
// order. A subscription reads its managed ledger and hands entries up through a sink to conn. Nothing else calls
// upwards.
//
//	server               puts a broker together: listeners, start order, stop order
//	wire, wire/wirepb    frames and commands of the client protocol, as values and bytes
//	serr                 failures with their wire code, HTTP status and text
//	client               our own small client of the protocol
//	brokertest           a broker's topics in one process, for tests
//	internal/conn        one connection of the client protocol
//	internal/topics      the topics that are loaded: finds, creates, loads, unloads, deletes them
//	internal/topic       one topic: its producers, its subscriptions
//	internal/subscription, internal/dispatch
//	                     one subscription: its consumers and its cursor; who gets which entry
//	internal/adminapi    the admin REST API and lookup over HTTP
//	internal/policy      tenants, namespaces, partitioned topics; what may be created
//	internal/schemaregistry
//	                     the schemas of topics
//	internal/ownership   which broker serves a topic
//	internal/meter       rates for statistics
package broker
