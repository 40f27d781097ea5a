package expr

import (
	"strings"
	"unicode/utf8"

	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// Like builds x LIKE pattern [ESCAPE escape]; escape may be nil.
func Like(x, pattern, escape Expr) (Expr, error) {
	args := []Expr{x, pattern}
	if escape != nil {
		args = append(args, escape)
	}
	for i, a := range args {
		c, ok := Coerce(a, value.VarcharType)
		if !ok {
			return nil, sqlerr.TypeMismatch.Errorf("LIKE must be of type varchar (actual: %s)", a.Type())
		}
		args[i] = Fold(c)
	}
	var fixed *likePattern
	if p, ok := args[1].(*Const); ok && p.Val != nil {
		e := ""
		known := true
		if escape != nil {
			c, ok := args[2].(*Const)
			known = ok && c.Val != nil
			if known {
				e = c.Val.(string)
			}
		}
		if known {
			lp, err := compileLike(p.Val.(string), e, escape != nil)
			if err != nil {
				return nil, err
			}
			fixed = lp
		}
	}
	return &Func{Name: "LIKE", T: value.BooleanType, Args: args, CanFail: fixed == nil, eval: strict(func(a []*value.Vec, i int, out *value.Vec) error {
		p := fixed
		if p == nil {
			e := ""
			if len(a) > 2 {
				e = a[2].Str[i]
			}
			var err error
			if p, err = compileLike(a[1].Str[i], e, len(a) > 2); err != nil {
				return err
			}
		}
		out.I64[i] = boolInt(p.match(a[0].Str[i]))
		return nil
	}, value.BooleanType)}, nil
}

// MatchLike reports whether s is LIKE pattern; it serves SHOW … LIKE.
func MatchLike(s, pattern, escape string) (bool, error) {
	p, err := compileLike(pattern, escape, escape != "")
	if err != nil {
		return false, err
	}
	return p.match(s), nil
}

// A likePattern is text between percent signs; in it, anyRune stands for one character.
type likePattern struct {
	parts      [][]rune // between the percent signs
	plain      []string // the same as text where there is no underscore, else ""
	open, tail bool     // begins, ends with a percent sign
}

const anyRune rune = -1

func compileLike(pattern, escape string, has bool) (*likePattern, error) {
	var esc rune = -2
	if has {
		r, n := utf8.DecodeRuneInString(escape)
		if escape == "" || n != len(escape) {
			return nil, badArg("Escape string must be a single character")
		}
		esc = r
	}
	p := &likePattern{}
	var cur []rune
	percent, first := false, true
	flush := func() {
		if len(cur) > 0 {
			p.parts = append(p.parts, cur)
			s := ""
			if !contains(cur, anyRune) {
				s = string(cur)
			}
			p.plain = append(p.plain, s)
			cur = nil
		}
	}
	rs := []rune(pattern)
	for i := 0; i < len(rs); i++ {
		switch r := rs[i]; {
		case r == esc:
			if i++; i == len(rs) || rs[i] != '%' && rs[i] != '_' && rs[i] != esc {
				return nil, badArg("Escape character must be followed by '%%', '_' or the escape character itself")
			}
			cur = append(cur, rs[i])
			percent = false
		case r == '%':
			if first {
				p.open = true
			}
			flush()
			percent = true
		case r == '_':
			cur = append(cur, anyRune)
			percent = false
		default:
			cur = append(cur, r)
			percent = false
		}
		first = false
	}
	flush()
	p.tail = percent
	return p, nil
}

func contains(rs []rune, r rune) bool {
	for _, x := range rs {
		if x == r {
			return true
		}
	}
	return false
}

// prefix reports how many bytes of s the part takes at its beginning, -1 if it does not match.
func prefix(s string, part []rune, plain string) int {
	if plain != "" {
		if strings.HasPrefix(s, plain) {
			return len(plain)
		}
		return -1
	}
	n := 0
	for _, r := range part {
		if n >= len(s) {
			return -1
		}
		c, k := utf8.DecodeRuneInString(s[n:])
		if r != anyRune && r != c {
			return -1
		}
		n += k
	}
	return n
}

func (p *likePattern) match(s string) bool {
	if len(p.parts) == 0 {
		return s == "" || p.open
	}
	for i, part := range p.parts {
		last := i == len(p.parts)-1
		if i == 0 && !p.open {
			n := prefix(s, part, p.plain[i])
			if n < 0 {
				return false
			}
			s = s[n:]
			if last && !p.tail {
				return s == ""
			}
			continue
		}
		if last && !p.tail {
			// The last part must match at the end.
			if p.plain[i] != "" {
				return strings.HasSuffix(s, p.plain[i])
			}
			from := len(s)
			for range part {
				if from == 0 {
					return false
				}
				_, k := utf8.DecodeLastRuneInString(s[:from])
				from -= k
			}
			return prefix(s[from:], part, "") == len(s)-from
		}
		if p.plain[i] != "" {
			k := strings.Index(s, p.plain[i])
			if k < 0 {
				return false
			}
			s = s[k+len(p.plain[i]):]
			continue
		}
		for {
			if n := prefix(s, part, ""); n >= 0 {
				s = s[n:]
				break
			}
			if s == "" {
				return false
			}
			_, k := utf8.DecodeRuneInString(s)
			s = s[k:]
		}
	}
	return true
}
