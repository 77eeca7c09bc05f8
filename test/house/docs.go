package house

import (
	"path"
	"regexp"
	"strings"
)

// Mention is a piece of a document that names something: what stands between backquotes, a link's target, or a line of a
// code block.
type Mention struct {
	Line int
	Text string
	Kind MentionKind
}

// MentionKind says where a mention was found.
type MentionKind int

// The kinds of mentions.
const (
	Quoted MentionKind = iota // between backquotes
	Link                      // the target of a link, relative to the document
	Block                     // a line of a code block
)

var (
	quoted = regexp.MustCompile("`([^`]+)`")
	linked = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// Mentions reads a Markdown document.
func Mentions(text string) []Mention {
	var all []Mention
	fenced := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if fenced {
			all = append(all, Mention{i + 1, strings.TrimSpace(line), Block})
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(line, -1) {
			all = append(all, Mention{i + 1, m[1], Quoted})
		}
		for _, m := range linked.FindAllStringSubmatch(line, -1) {
			all = append(all, Mention{i + 1, m[1], Link})
		}
	}
	return all
}

var (
	reference = regexp.MustCompile(`^([A-Za-z0-9_./-]+\.go): (.+)$`)
	pathLike  = regexp.MustCompile(`^[A-Za-z0-9_.*-]+(/[A-Za-z0-9_.*-]+)*/?$`)
	sourceish = regexp.MustCompile(`\.(go|md|yaml|yml|zst|c|sh|txt)$`)
)

// Missing says what a quoted text or a link in doc names that is not in the tree; "" when all is there or it names no
// path. Quoted paths are relative to the root or to the document's folder:
//
//	scheduler/schedule.go: decide, scheduler.bind    a file and what it declares
//	store/watchcache/                                a file or folder
func (t *Tree) Missing(doc string, m Mention) string {
	text := m.Text
	if m.Kind == Link {
		if strings.Contains(text, "://") || strings.HasPrefix(text, "#") {
			return ""
		}
		text, _, _ = strings.Cut(text, "#")
		if !t.Paths[path.Join(path.Dir(doc), text)] {
			return "no " + path.Join(path.Dir(doc), text)
		}
		return ""
	}
	if r := reference.FindStringSubmatch(text); r != nil {
		file := t.source(doc, r[1])
		if file == nil {
			return "no source " + r[1]
		}
		names := file.Names()
		for _, name := range strings.Split(r[2], ", ") {
			if !names[strings.TrimSuffix(name, "()")] {
				return r[1] + " declares no " + name
			}
		}
		return ""
	}
	if !pathLike.MatchString(text) || strings.Contains(text, "*") {
		return ""
	}
	first, _, deeper := strings.Cut(text, "/")
	switch {
	case deeper && strings.Contains(first, ".") && !strings.HasPrefix(first, "."):
		return "" // an import path, an API group, an image
	case first == "bin":
		return "" // what the build makes
	case !deeper && !sourceish.MatchString(text):
		return "" // a word
	}
	clean := strings.TrimSuffix(text, "/")
	if t.Paths[clean] || t.Paths[path.Join(path.Dir(doc), clean)] {
		return ""
	}
	return "no " + clean
}

func (t *Tree) source(doc, name string) *File {
	for _, f := range t.Files {
		if f.Path == name || f.Path == path.Join(path.Dir(doc), name) {
			return f
		}
	}
	return nil
}
