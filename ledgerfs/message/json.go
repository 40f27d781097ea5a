package message

// maxJSONDepth bounds the nesting of JSON that is shown as such. Deeper values are shown as text.
const maxJSONDepth = 200

// compactLen checks that b, which must be UTF-8, is one JSON value (RFC 8259) and counts its bytes without the
// white space between tokens.
func compactLen(b []byte) (int, bool) {
	p := jsonScan{b: b}
	p.space()
	if !p.value(0) {
		return 0, false
	}
	p.space()
	return len(b) - p.blanks, p.i == len(b)
}

// appendCompact appends b, which compactLen has accepted, without the white space between tokens.
func appendCompact(dst, b []byte) []byte {
	inString := false
	from := 0
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == ' ' || c == '\n' || c == '\r' || c == '\t'):
			dst = append(dst, b[from:i]...)
			from = i + 1
		}
	}
	return append(dst, b[from:]...)
}

type jsonScan struct {
	b      []byte
	i      int
	blanks int
}

func (p *jsonScan) space() {
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case ' ', '\n', '\r', '\t':
			p.i++
			p.blanks++
		default:
			return
		}
	}
}

func (p *jsonScan) byte(c byte) bool {
	if p.i < len(p.b) && p.b[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *jsonScan) word(w string) bool {
	if len(p.b)-p.i < len(w) || string(p.b[p.i:p.i+len(w)]) != w {
		return false
	}
	p.i += len(w)
	return true
}

func (p *jsonScan) value(depth int) bool {
	if p.i >= len(p.b) || depth > maxJSONDepth {
		return false
	}
	switch p.b[p.i] {
	case '{':
		p.i++
		if p.space(); p.byte('}') {
			return true
		}
		for {
			p.space()
			if !p.string() {
				return false
			}
			if p.space(); !p.byte(':') {
				return false
			}
			if p.space(); !p.value(depth + 1) {
				return false
			}
			if p.space(); p.byte('}') {
				return true
			}
			if !p.byte(',') {
				return false
			}
		}
	case '[':
		p.i++
		if p.space(); p.byte(']') {
			return true
		}
		for {
			if p.space(); !p.value(depth + 1) {
				return false
			}
			if p.space(); p.byte(']') {
				return true
			}
			if !p.byte(',') {
				return false
			}
		}
	case '"':
		return p.string()
	case 't':
		return p.word("true")
	case 'f':
		return p.word("false")
	case 'n':
		return p.word("null")
	}
	return p.number()
}

func (p *jsonScan) string() bool {
	if !p.byte('"') {
		return false
	}
	for p.i < len(p.b) {
		c := p.b[p.i]
		p.i++
		switch {
		case c == '"':
			return true
		case c < 0x20:
			return false
		case c == '\\':
			if p.i >= len(p.b) {
				return false
			}
			e := p.b[p.i]
			p.i++
			switch e {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if len(p.b)-p.i < 4 {
					return false
				}
				for _, h := range p.b[p.i : p.i+4] {
					if !('0' <= h && h <= '9' || 'a' <= h && h <= 'f' || 'A' <= h && h <= 'F') {
						return false
					}
				}
				p.i += 4
			default:
				return false
			}
		}
	}
	return false
}

func (p *jsonScan) digits() bool {
	from := p.i
	for p.i < len(p.b) && '0' <= p.b[p.i] && p.b[p.i] <= '9' {
		p.i++
	}
	return p.i > from
}

func (p *jsonScan) number() bool {
	p.byte('-')
	if !p.byte('0') && !p.digits() {
		return false
	}
	if p.byte('.') && !p.digits() {
		return false
	}
	if p.byte('e') || p.byte('E') {
		_ = p.byte('+') || p.byte('-')
		return p.digits()
	}
	return true
}
