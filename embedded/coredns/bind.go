package coredns

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/coredns/caddy/caddyfile"
)

// Bind returns the Corefile with a bind directive for these addresses in every server block that has none: without one, CoreDNS would listen
// on every address of the machine. Snippets and imports are expanded. Pure, but for the files that are imported.
func Bind(corefile string, addresses []netip.Addr) (string, error) {
	blocks, err := caddyfile.Parse("Corefile", strings.NewReader(corefile), nil)
	if err != nil {
		return "", fmt.Errorf("read Corefile: %w", err)
	}
	if len(blocks) == 0 {
		return "", fmt.Errorf("read Corefile: no server block")
	}
	w := &writer{line: 1}
	for _, block := range blocks {
		// In the order they were written, as far as it goes, so that an error names the line where the mistake is.
		directives := slices.SortedFunc(maps.Keys(block.Tokens), func(a, b string) int {
			return cmp.Or(cmp.Compare(block.Tokens[a][0].Line, block.Tokens[b][0].Line), cmp.Compare(a, b))
		})
		if len(directives) > 0 {
			w.goTo(block.Tokens[directives[0]][0].Line - 1)
		}
		w.WriteString(strings.Join(block.Keys, " ") + " {")
		if block.Tokens["bind"] == nil {
			w.WriteString(" bind")
			for _, a := range addresses {
				w.WriteString(" " + a.String())
			}
		}
		for _, directive := range directives {
			last := caddyfile.Token{Line: -1}
			for _, t := range block.Tokens[directive] {
				if t.Line != last.Line || t.File != last.File {
					w.newLine()
					w.goTo(t.Line)
				} else {
					w.WriteByte(' ')
				}
				w.WriteString(quote(t.Text))
				w.line += strings.Count(t.Text, "\n")
				last = t
				last.Line += strings.Count(t.Text, "\n")
			}
		}
		w.newLine()
		w.WriteByte('}')
		w.newLine()
	}
	return w.String(), nil
}

// writer knows the line it is at.
type writer struct {
	strings.Builder
	line int
}

func (w *writer) newLine() {
	w.WriteByte('\n')
	w.line++
}

// goTo goes on to a later line.
func (w *writer) goTo(line int) {
	for w.line < line {
		w.newLine()
	}
}

// quote writes a token so that it is read as one.
func quote(token string) string {
	if token != "" && !strings.ContainsAny(token, " \t\r\n\"") && token[0] != '#' {
		return token
	}
	return `"` + strings.ReplaceAll(token, `"`, `\"`) + `"`
}
