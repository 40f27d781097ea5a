// Package metapb is what the metadata store writes to its log and its state, generated from meta.proto.
package metapb
