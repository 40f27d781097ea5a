package expr

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/daybook/daybook/query/internal/value"
)

// jsonPath splits $.a.b[0]["c"] into names and indexes.
func jsonPath(p string) ([]string, bool) {
	if !strings.HasPrefix(p, "$") {
		return nil, false
	}
	p = p[1:]
	var out []string
	for p != "" {
		switch {
		case p[0] == '.':
			p = p[1:]
			n := strings.IndexAny(p, ".[")
			if n < 0 {
				n = len(p)
			}
			if n == 0 {
				return nil, false
			}
			out = append(out, p[:n])
			p = p[n:]
		case p[0] == '[':
			n := strings.IndexByte(p, ']')
			if n < 2 {
				return nil, false
			}
			in := p[1:n]
			if (in[0] == '"' || in[0] == '\'') && len(in) > 1 && in[len(in)-1] == in[0] {
				in = in[1 : len(in)-1]
			}
			out = append(out, in)
			p = p[n+1:]
		default:
			return nil, false
		}
	}
	return out, true
}

func jsonFind(text, path string) (json.RawMessage, bool, error) {
	steps, ok := jsonPath(path)
	if !ok {
		return nil, false, badArg("Invalid JSON path: '%s'", path)
	}
	if !json.Valid([]byte(text)) {
		return nil, false, nil
	}
	cur := json.RawMessage(text)
	for _, s := range steps {
		cur = bytes.TrimSpace(cur)
		if len(cur) == 0 {
			return nil, false, nil
		}
		switch cur[0] {
		case '{':
			m := map[string]json.RawMessage{}
			if json.Unmarshal(cur, &m) != nil {
				return nil, false, nil
			}
			v, ok := m[s]
			if !ok {
				return nil, false, nil
			}
			cur = v
		case '[':
			var l []json.RawMessage
			i, err := strconv.Atoi(s)
			if json.Unmarshal(cur, &l) != nil || err != nil || i < 0 || i >= len(l) {
				return nil, false, nil
			}
			cur = l[i]
		default:
			return nil, false, nil
		}
	}
	return bytes.TrimSpace(cur), true, nil
}

func jsonExtract(scalar bool) row {
	return func(a []*value.Vec, i int, out *value.Vec) error {
		raw, ok, err := jsonFind(a[0].Str[i], a[1].Str[i])
		if err != nil {
			return err
		}
		switch {
		case !ok, scalar && (raw[0] == '{' || raw[0] == '[' || string(raw) == "null"):
			out.SetNull(i)
		case scalar && raw[0] == '"':
			var s string
			if json.Unmarshal(raw, &s) != nil {
				out.SetNull(i)
				return nil
			}
			out.Str[i] = s
		default:
			out.Str[i] = string(raw)
		}
		return nil
	}
}

func jsonLength(a []*value.Vec, i int, out *value.Vec) error {
	var l []json.RawMessage
	if json.Unmarshal([]byte(a[0].Str[i]), &l) != nil {
		out.SetNull(i)
		return nil
	}
	out.I64[i] = int64(len(l))
	return nil
}

func jsonParse(a []*value.Vec, i int, out *value.Vec) error {
	var b bytes.Buffer
	if json.Compact(&b, []byte(a[0].Str[i])) != nil {
		return badArg("Cannot convert value to JSON: '%s'", a[0].Str[i])
	}
	out.Str[i] = b.String()
	return nil
}
