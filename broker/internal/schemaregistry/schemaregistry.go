// Package schemaregistry keeps the schemas of topics in the metadata store.
//
// # Promises
//
// The schemas of a topic are numbered from 0 in the order in which they were first stored. A schema that is
// there already keeps its version; one with another type or definition is refused with IncompatibleSchema.
// Deleting hides the schemas from clients but keeps them, and the numbers go on, so that a message is always
// decoded by the schema it was written with. Forget, for topics that are deleted, removes everything.
//
// Every change is one transaction, conditional on the revision of the topic's index that it was made from;
// whoever loses tries again. All methods may be called by any goroutine. Errors are serr.Errors.
package schemaregistry

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/schema"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

// A Registry is the schemas of all topics.
type Registry struct {
	meta raftmeta.Store
	now  func() time.Time
}

// New makes a registry. now is the clock for the times that schemas carry.
func New(meta raftmeta.Store, now func() time.Time) *Registry { return &Registry{meta, now} }

// maxRetries bounds how often a change is made anew because another one came first.
const maxRetries = 20

func notFound() *serr.Error { return serr.TopicNotFound.Errorf("Schema not found") }

func (r *Registry) index(ctx context.Context, n topicname.Name) (*schema.Index, raftmeta.Revision, error) {
	it, err := r.meta.Get(ctx, schema.IndexKey(n))
	if errors.Is(err, raftmeta.ErrNotFound) {
		return &schema.Index{}, 0, nil
	}
	if err != nil {
		return nil, 0, serr.MetadataError.Wrapf(err, "the schemas of %v cannot be read", n)
	}
	x, err := schema.DecodeIndex(it.Value)
	if err != nil {
		return nil, 0, serr.MetadataError.Wrapf(err, "the schemas of %v cannot be read", n)
	}
	return x, it.Mod, nil
}

func (r *Registry) stored(ctx context.Context, n topicname.Name, version int64) (*schema.Stored, error) {
	it, err := r.meta.Get(ctx, schema.VersionKey(n, version))
	if errors.Is(err, raftmeta.ErrNotFound) {
		return nil, notFound()
	}
	if err != nil {
		return nil, serr.MetadataError.Wrapf(err, "schema %d of %v cannot be read", version, n)
	}
	s, err := schema.Decode(it.Value)
	if err != nil {
		return nil, serr.MetadataError.Wrapf(err, "schema %d of %v cannot be read", version, n)
	}
	return s, nil
}

func find(x *schema.Index, h schema.Hash) (int64, bool) {
	for i := range x.Entries {
		if e := &x.Entries[i]; !e.Deleted && e.Hash == h {
			return e.Version, true
		}
	}
	return 0, false
}

func latest(x *schema.Index) (int64, bool) {
	for _, e := range slices.Backward(x.Entries) {
		if !e.Deleted {
			return e.Version, true
		}
	}
	return 0, false
}

// Put stores the schema, if the topic does not have it, and returns its version. A topic that has schemas, but
// not this one, is IncompatibleSchema; a definition that is none is IncompatibleSchema with status 422.
func (r *Registry) Put(ctx context.Context, n topicname.Name, info schema.Info, user string) (int64, error) {
	if err := check(info); err != nil {
		return 0, err
	}
	h := info.Hash()
	for range maxRetries {
		x, rev, err := r.index(ctx, n)
		if err != nil {
			return 0, err
		}
		if v, ok := find(x, h); ok {
			return v, nil
		}
		if err := r.compatible(ctx, n, x, info); err != nil {
			return 0, err
		}
		s := schema.Stored{Info: info, Version: x.Next, Created: r.now().UnixMilli(), User: user}
		record, err := s.Encode()
		if err != nil {
			return 0, serr.MetadataError.Wrapf(err, "the schema of %v cannot be stored", n)
		}
		x.Next++
		x.Entries = append(x.Entries, schema.IndexEntry{Version: s.Version, Hash: h})
		if ok, err := r.commit(ctx, n, x, rev, raftmeta.Put(schema.VersionKey(n, s.Version), record)); err != nil || ok {
			return s.Version, err
		}
	}
	return 0, busy(n)
}

func check(info schema.Info) error {
	if !info.Type.HasSchema() {
		return serr.IncompatibleSchema.Errorf("Schema type %v cannot be stored", info.Type).WithStatus(422)
	}
	if err := info.Validate(); err != nil {
		return serr.IncompatibleSchema.Wrapf(err, "Invalid schema definition data for %v schema", info.Type).WithStatus(422)
	}
	return nil
}

func busy(n topicname.Name) error {
	return serr.ServiceNotReady.Errorf("the schemas of %v are changing too fast", n)
}

// compatible fails if the topic has schemas of which info, which is none of them, cannot be the successor.
func (r *Registry) compatible(ctx context.Context, n topicname.Name, x *schema.Index, info schema.Info) error {
	v, ok := latest(x)
	if !ok {
		return nil
	}
	last, err := r.stored(ctx, n, v)
	if err != nil {
		return err
	}
	if last.Type != info.Type {
		return serr.IncompatibleSchema.Errorf("Incompatible schema: exists schema type %v, new schema type %v", last.Type, info.Type)
	}
	return serr.IncompatibleSchema.Errorf("Incompatible schema: differs from version %d, and schemas of a topic cannot change", v)
}

func (r *Registry) commit(ctx context.Context, n topicname.Name, x *schema.Index, rev raftmeta.Revision, ops ...raftmeta.Op) (bool, error) {
	b, err := x.Encode()
	if err != nil {
		return false, serr.MetadataError.Wrapf(err, "the schemas of %v cannot be stored", n)
	}
	key := schema.IndexKey(n)
	res, err := r.meta.Commit(ctx, raftmeta.Txn{
		If:   []raftmeta.Cond{raftmeta.ModIs(key, rev)},
		Then: append(ops, raftmeta.Put(key, b)),
	})
	if err != nil {
		return false, serr.MetadataError.Wrapf(err, "the schemas of %v cannot be stored", n)
	}
	return res.OK, nil
}

// Check fails as Put would, and stores nothing.
func (r *Registry) Check(ctx context.Context, n topicname.Name, info schema.Info) error {
	if err := check(info); err != nil {
		return err
	}
	x, _, err := r.index(ctx, n)
	if err != nil {
		return err
	}
	if _, ok := find(x, info.Hash()); ok {
		return nil
	}
	return r.compatible(ctx, n, x, info)
}

// Find is the version of the schema if the topic has it.
func (r *Registry) Find(ctx context.Context, n topicname.Name, info schema.Info) (version int64, ok bool, err error) {
	x, _, err := r.index(ctx, n)
	if err != nil {
		return 0, false, err
	}
	version, ok = find(x, info.Hash())
	return version, ok, nil
}

// Latest is the topic's newest schema, TopicNotFound "Schema not found" if it has none.
func (r *Registry) Latest(ctx context.Context, n topicname.Name) (*schema.Stored, error) {
	x, _, err := r.index(ctx, n)
	if err != nil {
		return nil, err
	}
	v, ok := latest(x)
	if !ok {
		return nil, notFound()
	}
	return r.stored(ctx, n, v)
}

// Get is the topic's schema of that version, TopicNotFound "Schema not found" if there is none or it was
// deleted.
func (r *Registry) Get(ctx context.Context, n topicname.Name, version int64) (*schema.Stored, error) {
	x, _, err := r.index(ctx, n)
	if err != nil {
		return nil, err
	}
	for i := range x.Entries {
		if e := &x.Entries[i]; e.Version == version && !e.Deleted {
			return r.stored(ctx, n, version)
		}
	}
	return nil, notFound()
}

// Decoder is as Get, but also finds deleted schemas: messages were written with them.
func (r *Registry) Decoder(ctx context.Context, n topicname.Name, version int64) (*schema.Stored, error) {
	return r.stored(ctx, n, version)
}

// Versions are all schemas of the topic that are not deleted, oldest first.
func (r *Registry) Versions(ctx context.Context, n topicname.Name) ([]*schema.Stored, error) {
	x, _, err := r.index(ctx, n)
	if err != nil {
		return nil, err
	}
	var out []*schema.Stored
	for i := range x.Entries {
		if x.Entries[i].Deleted {
			continue
		}
		s, err := r.stored(ctx, n, x.Entries[i].Version)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Delete hides all schemas of the topic. As in Pulsar the deletion takes a version of its own, which it
// returns; next is then the first one that a new schema can get. A topic without schemas is TopicNotFound.
func (r *Registry) Delete(ctx context.Context, n topicname.Name) (version int64, err error) {
	for range maxRetries {
		x, rev, err := r.index(ctx, n)
		if err != nil {
			return 0, err
		}
		if _, ok := latest(x); !ok {
			return 0, notFound()
		}
		for i := range x.Entries {
			x.Entries[i].Deleted = true
		}
		version := x.Next
		x.Next++
		if ok, err := r.commit(ctx, n, x, rev); err != nil || ok {
			return version, err
		}
	}
	return 0, busy(n)
}

// Forget removes all that is stored of the topic's schemas, once no message needs them. It is no error if there
// is nothing.
func (r *Registry) Forget(ctx context.Context, n topicname.Name) error {
	key := schema.IndexKey(n)
	_, err := r.meta.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{
		raftmeta.Delete(key), raftmeta.DeleteRange(key+"/", raftmeta.PrefixEnd(key+"/")),
	}})
	if err != nil {
		return serr.MetadataError.Wrapf(err, "the schemas of %v cannot be removed", n)
	}
	return nil
}
