package adminapi

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/daybook/daybook/ledgerfs/topicname"
)

// A router finds the handler for a method and an escaped path. A pattern is a path whose segments in braces
// stand for any segment ({domain} for those that are one); of several patterns that match, the one with the earliest literal segment where they
// differ wins. (http.ServeMux refuses such patterns where neither is the narrower one.)
type router struct {
	byLength [maxSegments + 1][]route
}

const maxSegments = 14

type route struct {
	method   string
	segments []string
	handle   handler
}

func (r *router) add(method, pattern string, h handler) {
	s := strings.Split(pattern[1:], "/")
	r.byLength[len(s)] = append(r.byLength[len(s)], route{method, s, h})
}

func isVariable(segment string) bool { return strings.HasPrefix(segment, "{") }

func (r *router) sort() {
	for _, routes := range r.byLength {
		slices.SortStableFunc(routes, func(a, b route) int {
			return slices.CompareFunc(a.segments, b.segments, func(x, y string) int {
				switch {
				case isVariable(x) && isVariable(y):
					return 0
				case isVariable(x):
					return 1
				case isVariable(y):
					return -1
				}
				return cmp.Compare(x, y)
			})
		})
	}
}

// find is the handler for the path, with the variables of its pattern as names and values in turn.
func (r *router) find(method, escaped string) (handler, []string, error) {
	notFound := failure(http.StatusNotFound, "HTTP 404 Not Found")
	path := strings.TrimSuffix(strings.TrimPrefix(escaped, "/"), "/")
	segments := strings.Split(path, "/")
	if len(segments) > maxSegments {
		return nil, nil, notFound
	}
	for i, s := range segments {
		v, err := topicname.UnescapeREST(s)
		if err != nil {
			return nil, nil, failure(http.StatusBadRequest, "HTTP 400 Bad Request")
		}
		segments[i] = v
	}
	known := false
	for i := range r.byLength[len(segments)] {
		c := &r.byLength[len(segments)][i]
		if !c.matches(segments) {
			continue
		}
		known = true
		if c.method != method && !(method == http.MethodHead && c.method == http.MethodGet) {
			continue
		}
		var vars []string
		for j, s := range c.segments {
			if isVariable(s) {
				vars = append(vars, s[1:len(s)-1], segments[j])
			}
		}
		return c.handle, vars, nil
	}
	if known {
		return nil, nil, failure(http.StatusMethodNotAllowed, "HTTP 405 Method Not Allowed")
	}
	return nil, nil, notFound
}

func (c *route) matches(segments []string) bool {
	for i, s := range c.segments {
		switch {
		case segments[i] == "":
			return false
		case s == "{domain}": // not every word: a path of another resource is not that of a topic
			if _, err := topicname.ParseDomain(segments[i]); err != nil {
				return false
			}
		case !isVariable(s) && s != segments[i]:
			return false
		}
	}
	return true
}
