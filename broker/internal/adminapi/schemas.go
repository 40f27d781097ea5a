package adminapi

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/schema"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// postSchema is Pulsar's PostSchemaPayload.
type postSchema struct {
	Type       string            `json:"type"`
	Schema     string            `json:"schema"`
	Properties map[string]string `json:"properties"`
}

// getSchema is Pulsar's GetSchemaResponse.
type getSchema struct {
	Version    int64             `json:"version"`
	Type       string            `json:"type"`
	Timestamp  int64             `json:"timestamp"`
	Data       string            `json:"data"`
	Properties map[string]string `json:"properties"`
}

func showSchema(s *schema.Stored) (getSchema, error) {
	data, err := schemaText(&s.Info)
	if err != nil {
		return getSchema{}, err
	}
	return getSchema{s.Version, s.Type.String(), s.Created, data, merge(nil, s.Properties)}, nil
}

// schemaText is the definition as text: the two of a key/value schema as an object, a native protobuf descriptor,
// which is binary, in Pulsar's JSON form already.
func schemaText(i *schema.Info) (string, error) {
	if i.Type != schema.KeyValue {
		return string(i.Data), nil
	}
	k, v, err := i.KeyValue()
	if err != nil {
		return "", serr.MetadataError.Wrapf(err, "the stored schema is damaged")
	}
	part := func(p *schema.Info) any {
		if p.Type.HasAvroDefinition() && json.Valid(p.Data) {
			return json.RawMessage(p.Data)
		}
		if len(p.Data) == 0 {
			return ""
		}
		return base64.StdEncoding.EncodeToString(p.Data)
	}
	b, err := json.Marshal(map[string]any{"key": part(&k), "value": part(&v)})
	if err != nil {
		return "", fmt.Errorf("show schema: %w", err)
	}
	return string(b), nil
}

// readSchema is the schema in the body.
func (r *request) readSchema() (schema.Info, error) {
	var p postSchema
	if ok, err := r.decode(&p); err != nil {
		return schema.Info{}, err
	} else if !ok {
		return schema.Info{}, failure(http.StatusBadRequest, "The schema is missing")
	}
	t, err := schema.ParseType(p.Type)
	if err != nil {
		return schema.Info{}, failure(http.StatusUnprocessableEntity, "Unknown schema type %s", p.Type)
	}
	i := schema.Info{Type: t, Data: []byte(p.Schema), Properties: p.Properties}
	if t == schema.KeyValue {
		// Text cannot hold the stored form, which has sizes in it, so it comes as an object of two definitions.
		var kv struct{ Key, Value json.RawMessage }
		if err := json.Unmarshal(i.Data, &kv); err != nil {
			return i, failure(http.StatusUnprocessableEntity, "Invalid schema definition data for %v schema", t)
		}
		k, err1 := definition(kv.Key)
		v, err2 := definition(kv.Value)
		if err1 != nil || err2 != nil {
			return i, failure(http.StatusUnprocessableEntity, "Invalid schema definition data for %v schema", t)
		}
		i.Data = schema.AppendKeyValue(nil, k, v)
	}
	return i, nil
}

// definition is one half of a key/value schema: JSON as it stands, or base64 in a string.
func definition(b json.RawMessage) ([]byte, error) {
	var s string
	if json.Unmarshal(b, &s) == nil {
		d, err := base64.StdEncoding.DecodeString(s)
		if d == nil {
			d = []byte{}
		}
		return d, err
	}
	if len(b) == 0 {
		return []byte{}, nil
	}
	return b, nil
}

func (a *api) schemas() {
	const base = "/admin/v2/schemas/{tenant}/{namespace}/{topic}"
	add := func(method, path string, h func(r *request, n topicname.Name) (any, error)) {
		a.routes.add(method, base+path, func(r *request) (any, error) {
			r.vars = append(r.vars, "domain", topicname.Persistent.String())
			n, err := r.topicName()
			if err != nil {
				return nil, err
			}
			return h(r, n)
		})
	}
	add("GET", "/schema", func(r *request, n topicname.Name) (any, error) {
		s, err := a.Schemas.Latest(r.Context(), n)
		if err != nil {
			return nil, err
		}
		return showSchema(s)
	})
	add("GET", "/schema/{version}", func(r *request, n topicname.Name) (any, error) {
		v, err := r.number("version")
		if err != nil {
			return nil, failure(http.StatusBadRequest, "Invalid version %s", r.text("version"))
		}
		s, err := a.Schemas.Get(r.Context(), n, v)
		if err != nil {
			return nil, err
		}
		return showSchema(s)
	})
	add("GET", "/schemas", func(r *request, n topicname.Name) (any, error) {
		all, err := a.Schemas.Versions(r.Context(), n)
		if err != nil {
			return nil, err
		}
		out := make([]getSchema, 0, len(all))
		for _, s := range all {
			g, err := showSchema(s)
			if err != nil {
				return nil, err
			}
			out = append(out, g)
		}
		return map[string]any{"getSchemaResponses": out}, nil
	})
	add("GET", "/metadata", func(r *request, n topicname.Name) (any, error) {
		all, err := a.Schemas.Versions(r.Context(), n)
		if err != nil || len(all) == 0 {
			return unset{}, err
		}
		show := func(s *schema.Stored) map[string]any {
			h := s.Hash()
			return map[string]any{"version": s.Version, "hash": base64.StdEncoding.EncodeToString(h[:])}
		}
		index := make([]any, len(all))
		for i, s := range all {
			index[i] = show(s)
		}
		return map[string]any{"info": show(all[len(all)-1]), "index": index}, nil
	})
	add("POST", "/schema", func(r *request, n topicname.Name) (any, error) {
		i, err := r.readSchema()
		if err != nil {
			return nil, err
		}
		if err := a.Policies.CheckNamespace(r.Context(), n.NamespaceName()); err != nil {
			return nil, err
		}
		v, err := a.Schemas.Put(r.Context(), n, i, "")
		if err != nil {
			return nil, err
		}
		return versionResponse(v), nil
	})
	add("DELETE", "/schema", func(r *request, n topicname.Name) (any, error) {
		v, err := a.Schemas.Delete(r.Context(), n)
		if err != nil {
			return nil, err
		}
		return map[string]int64{"version": v}, nil
	})
	add("POST", "/version", func(r *request, n topicname.Name) (any, error) {
		i, err := r.readSchema()
		if err != nil {
			return nil, err
		}
		v, ok, err := a.Schemas.Find(r.Context(), n, i)
		if err != nil {
			return nil, err
		}
		if !ok {
			v = -1
		}
		return map[string]int64{"version": v}, nil
	})
	add("POST", "/compatibility", func(r *request, n topicname.Name) (any, error) {
		i, err := r.readSchema()
		if err != nil {
			return nil, err
		}
		err = a.Schemas.Check(r.Context(), n, i)
		compatible := err == nil
		if err != nil && !(errors.Is(err, serr.IncompatibleSchema) && serr.From(err).Status == http.StatusConflict) {
			return nil, err
		}
		return map[string]any{"compatibility": compatible, "schemaCompatibilityStrategy": "FULL"}, nil
	})
}

// versionResponse is Pulsar's PostSchemaResponse.
func versionResponse(v int64) any {
	return map[string]any{"version": map[string]any{"version": v}}
}
