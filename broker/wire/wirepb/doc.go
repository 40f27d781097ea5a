// Package wirepb is the commands of the Pulsar client protocol as messages, generated from commands.proto. Package wire
// codes those of the publish and dispatch paths by hand.
package wirepb
