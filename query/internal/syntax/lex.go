package syntax

import (
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/daybook/daybook/query/internal/sqlerr"
)

type tokenKind uint8

const (
	tEOF tokenKind = iota
	tIdent
	tQuoted
	tString
	tBinary
	tInt
	tDecimal
	tDouble
	tOp
	tParam
)

type token struct {
	kind     tokenKind
	text     string // identifiers as written; strings decoded; numbers and operators as written
	upper    string // tIdent: upper case
	off, end int
	pos      sqlerr.Pos
	match    int // '(': index of its ')'; else -1
}

// is reports whether the token is the unquoted word w (upper case).
func (t token) is(w string) bool { return t.kind == tIdent && t.upper == w }

// op reports whether the token is the operator o.
func (t token) op(o string) bool { return t.kind == tOp && t.text == o }

// String is the token as messages show it.
func (t token) String() string {
	switch t.kind {
	case tEOF:
		return "<EOF>"
	case tString:
		return "'" + t.text + "'"
	case tQuoted:
		return `"` + t.text + `"`
	}
	return t.text
}

const (
	maxStatement = 1 << 20
	maxTokens    = 200_000
	maxDepth     = 150
)

func lex(s string) ([]token, error) {
	if len(s) > maxStatement {
		return nil, sqlerr.TextTooLarge.Errorf("statement is %d bytes long, the limit is %d", len(s), maxStatement)
	}
	var toks []token
	var open []int
	line, lineStart := 1, 0
	scanned := 0 // newlines are counted up to here
	// The column counts characters; a line of a million characters would make that quadratic, so it is
	// taken from the previous token on the same line.
	lastOff, lastPos := 0, sqlerr.Pos{Line: 1, Column: 1}
	place := func(i int) sqlerr.Pos {
		for ; scanned < i; scanned++ {
			if s[scanned] == '\n' {
				line++
				lineStart = scanned + 1
			}
		}
		if lastPos.Line == line && lastOff >= lineStart {
			lastPos.Column += utf8.RuneCountInString(s[lastOff:i])
		} else {
			lastPos = sqlerr.Pos{Line: line, Column: utf8.RuneCountInString(s[lineStart:i]) + 1}
		}
		lastOff = i
		return lastPos
	}
	i := 0
	for {
		for i < len(s) {
			c := s[i]
			if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
				i++
			} else if c == '-' && strings.HasPrefix(s[i:], "--") {
				if n := strings.IndexByte(s[i:], '\n'); n >= 0 {
					i += n
				} else {
					i = len(s)
				}
			} else if c == '/' && strings.HasPrefix(s[i:], "/*") {
				n := strings.Index(s[i+2:], "*/")
				if n < 0 {
					return nil, sqlerr.SyntaxError.At(place(i), "comment is not closed")
				}
				i += n + 4
			} else {
				break
			}
		}
		t := token{off: i, pos: place(i), match: -1}
		if i >= len(s) {
			t.end = i
			toks = append(toks, t)
			break
		}
		if len(toks) >= maxTokens {
			return nil, sqlerr.SyntaxError.At(t.pos, "statement has more than %d words", maxTokens)
		}
		c := s[i]
		switch {
		case c == 0:
			return nil, sqlerr.SyntaxError.At(t.pos, "statement contains a NUL character")
		case c == '\'':
			text, n, ok := quoted(s[i:], '\'')
			if !ok {
				return nil, sqlerr.SyntaxError.At(t.pos, "string is not closed")
			}
			t.kind, t.text = tString, text
			i += n
		case c == '"' || c == '`':
			text, n, ok := quoted(s[i:], c)
			if !ok {
				return nil, sqlerr.SyntaxError.At(t.pos, "quoted identifier is not closed")
			}
			if text == "" {
				return nil, sqlerr.SyntaxError.At(t.pos, "zero-length delimited identifier not allowed")
			}
			t.kind, t.text = tQuoted, text
			i += n
		case (c == 'x' || c == 'X') && i+1 < len(s) && s[i+1] == '\'':
			text, n, ok := quoted(s[i+1:], '\'')
			if !ok {
				return nil, sqlerr.SyntaxError.At(t.pos, "binary literal is not closed")
			}
			b, err := hex.DecodeString(strings.Map(func(r rune) rune {
				if unicode.IsSpace(r) {
					return -1
				}
				return r
			}, text))
			if err != nil {
				return nil, sqlerr.SyntaxError.At(t.pos, "binary literal must contain an even number of hexadecimal digits")
			}
			t.kind, t.text = tBinary, string(b)
			i += n + 1
		case c >= '0' && c <= '9' || c == '.' && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9':
			n, kind := number(s[i:])
			t.kind, t.text = kind, strings.ReplaceAll(s[i:i+n], "_", "")
			i += n
			if r, _ := utf8.DecodeRuneInString(s[i:]); i < len(s) && identPart(r) {
				return nil, sqlerr.SyntaxError.At(t.pos, "identifiers must not start with a digit; surround the identifier with double quotes")
			}
		case c == '?':
			t.kind, t.text = tParam, "?"
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n <= 1 {
				return nil, sqlerr.SyntaxError.At(t.pos, "statement is not valid UTF-8")
			}
			if identStart(r) {
				j := i
				for j < len(s) {
					r, n := utf8.DecodeRuneInString(s[j:])
					if !identPart(r) || r == utf8.RuneError && n <= 1 {
						break
					}
					j += n
				}
				t.kind, t.text = tIdent, s[i:j]
				t.upper = strings.ToUpper(t.text)
				i = j
				break
			}
			o := ""
			for _, two := range [...]string{"<>", "!=", "<=", ">=", "||", "->", "=>", "::"} {
				if strings.HasPrefix(s[i:], two) {
					o = two
				}
			}
			if o == "" {
				if !strings.ContainsRune("+-*/%=<>(),.;[]:", r) {
					return nil, sqlerr.SyntaxError.At(t.pos, "unexpected character %q", r)
				}
				o = string(r)
			}
			t.kind, t.text = tOp, o
			i += len(o)
			switch o {
			case "(":
				open = append(open, len(toks))
				if len(open) > maxDepth {
					return nil, sqlerr.SyntaxError.At(t.pos, "statement is nested more than %d levels deep", maxDepth)
				}
			case ")":
				if len(open) == 0 {
					return nil, sqlerr.SyntaxError.At(t.pos, "mismatched input ')'")
				}
				toks[open[len(open)-1]].match = len(toks)
				open = open[:len(open)-1]
			}
		}
		t.end = i
		toks = append(toks, t)
	}
	if len(open) > 0 {
		return nil, sqlerr.SyntaxError.At(toks[len(toks)-1].pos, "mismatched input '<EOF>'. Expecting: ')'")
	}
	return toks, nil
}

func quoted(s string, q byte) (text string, n int, ok bool) {
	i := 1
	double := false
	for i < len(s) {
		switch {
		case s[i] != q:
			i++
		case i+1 < len(s) && s[i+1] == q:
			double = true
			i += 2
		default:
			text = s[1:i]
			if double {
				text = strings.ReplaceAll(text, string([]byte{q, q}), string(q))
			}
			return text, i + 1, !strings.ContainsRune(text, 0)
		}
	}
	return "", 0, false
}

func number(s string) (n int, kind tokenKind) {
	digits := func() {
		for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n] == '_' && n > 0 && n+1 < len(s) && s[n+1] >= '0' && s[n+1] <= '9') {
			n++
		}
	}
	kind = tInt
	digits()
	if n < len(s) && s[n] == '.' {
		kind = tDecimal
		n++
		digits()
	}
	if n < len(s) && (s[n] == 'e' || s[n] == 'E') {
		m := n + 1
		if m < len(s) && (s[m] == '+' || s[m] == '-') {
			m++
		}
		if m < len(s) && s[m] >= '0' && s[m] <= '9' {
			n = m
			kind = tDouble
			digits()
		}
	}
	return n, kind
}

func identStart(r rune) bool { return r == '_' || unicode.IsLetter(r) }

func identPart(r rune) bool {
	return r == '_' || r == '$' || r == '@' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.Is(unicode.Mn, r)
}

// reserved are the words that Trino does not take as identifiers unless quoted.
var reserved = func() map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(`ALTER AND AS BETWEEN BY CASE CAST CONSTRAINT CREATE CROSS CUBE CURRENT_CATALOG CURRENT_DATE
		CURRENT_PATH CURRENT_ROLE CURRENT_SCHEMA CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER DEALLOCATE DELETE DESCRIBE
		DISTINCT DROP ELSE END ESCAPE EXCEPT EXECUTE EXISTS EXTRACT FALSE FOR FROM FULL GROUP GROUPING HAVING IN INNER
		INSERT INTERSECT INTO IS JOIN LEFT LIKE LOCALTIME LOCALTIMESTAMP NATURAL NORMALIZE NOT NULL ON OR ORDER OUTER
		PREPARE RECURSIVE RIGHT ROLLUP SELECT TABLE THEN TRIM TRUE UESCAPE UNION UNNEST USING VALUES WHEN WHERE WITH`) {
		m[w] = true
	}
	return m
}()
