package sqlcmd

import "strings"

// split cuts text into the statements that end with a semicolon, and what comes after the last one.
// Semicolons in quotes and comments do not count.
func split(text string) (statements []string, rest string) {
	start := 0
	for i := 0; i < len(text); {
		switch {
		case text[i] == '\'' || text[i] == '"':
			end := strings.IndexByte(text[i+1:], text[i])
			if end < 0 {
				return statements, text[start:]
			}
			i += end + 2
		case strings.HasPrefix(text[i:], "--"):
			end := strings.IndexByte(text[i:], '\n')
			if end < 0 {
				return statements, text[start:]
			}
			i += end + 1
		case strings.HasPrefix(text[i:], "/*"):
			end := strings.Index(text[i+2:], "*/")
			if end < 0 {
				return statements, text[start:]
			}
			i += end + 4
		case text[i] == ';':
			if s := strings.TrimSpace(text[start:i]); s != "" {
				statements = append(statements, s)
			}
			i++
			start = i
		default:
			i++
		}
	}
	return statements, text[start:]
}
