// Package schemapb is the stored records of package schema, generated from schema.proto.
package schemapb
