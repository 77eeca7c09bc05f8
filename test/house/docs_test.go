package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wherry.dev/wherry/lifecycle"
)

func document(t *testing.T, tree *Tree, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(tree.Root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDocumentsNameOnlyWhatIsThere(t *testing.T) {
	tree := read(t)
	commands, targets := tree.Commands(), makeTargets(document(t, tree, "Makefile"))
	flags := Flags(commands)
	seen := 0
	for _, doc := range tree.Docs {
		for _, m := range Mentions(document(t, tree, doc)) {
			seen++
			if m.Kind != Block {
				if what := tree.Missing(doc, m); what != "" {
					t.Errorf("%s:%d: `%s`: %s", doc, m.Line, m.Text, what)
				}
			}
			if m.Kind == Link {
				continue
			}
			if what := WrongCommand(commands, m.Text); what != "" {
				t.Errorf("%s:%d: `%s`: %s", doc, m.Line, m.Text, what)
			}
			if what := wrongTarget(targets, m.Text); what != "" {
				t.Errorf("%s:%d: `%s`: %s", doc, m.Line, m.Text, what)
			}
			if flag, _, _ := strings.Cut(m.Text, "="); m.Kind == Quoted && strings.HasPrefix(m.Text, "--") && !strings.Contains(flag, " ") && !flags[flag] {
				t.Errorf("%s:%d: `%s`: no command has that flag", doc, m.Line, m.Text)
			}
		}
	}
	if seen < 100 {
		t.Errorf("found only %d mentions in %d documents", seen, len(tree.Docs))
	}
}

// Comments and messages name commands and sources, too.
func TestSourcesNameOnlyWhatIsThere(t *testing.T) {
	tree := read(t)
	commands := tree.Commands()
	called := regexp.MustCompile("`(wherry [a-z][^`\n]*)`")
	file := regexp.MustCompile(`(?:[a-z0-9_-]+/)+[a-z0-9_]+\.(?:go|md)\b`)
	folders := map[string]bool{}
	for p := range tree.Paths {
		first, _, _ := strings.Cut(p, "/")
		folders[first] = true
	}
	for _, f := range tree.Files {
		if within(f.Package, "test/house") {
			continue // it names what is not there, to see that it is found
		}
		for _, m := range called.FindAllStringSubmatch(f.Text, -1) {
			if what := WrongCommand(commands, m[1]); what != "" {
				t.Errorf("%s: `%s`: %s", f.Path, m[1], what)
			}
		}
		for _, group := range f.Syntax.Comments {
			for _, name := range file.FindAllString(group.Text(), -1) {
				first, _, _ := strings.Cut(name, "/")
				if folders[first] && !tree.Paths[name] && !tree.Paths[f.Package+"/"+name] {
					t.Errorf("%s: a comment names %s, which is not there", f.Path, name)
				}
			}
		}
	}
}

// Every stage of the story has its row, with the file and the function that are checked above.
func TestArchitectureTellsTheWholeStory(t *testing.T) {
	tree := read(t)
	rows := map[string]string{}
	row := regexp.MustCompile("(?m)^\\| ([CD][0-9]+) `([a-z-]+)` \\|(.*)$")
	for _, m := range row.FindAllStringSubmatch(document(t, tree, "ARCHITECTURE.md"), -1) {
		rows[m[2]] += m[3]
	}
	for _, stage := range append(lifecycle.Creation(), lifecycle.Deletion()...) {
		found := false
		for _, m := range Mentions(rows[string(stage)]) {
			found = found || reference.MatchString(m.Text)
		}
		if !found {
			t.Errorf("ARCHITECTURE.md has no row of stage %q that names a file and a function", stage)
		}
	}
}

func makeTargets(makefile string) map[string]bool {
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z -]*):`).FindAllStringSubmatch(makefile, -1) {
		for _, name := range strings.Fields(m[1]) {
			targets[name] = true
		}
	}
	return targets
}

func wrongTarget(targets map[string]bool, line string) string {
	words := strings.Fields(strings.TrimPrefix(strings.TrimPrefix(line, "$ "), "sudo "))
	if len(words) == 0 || words[0] != "make" {
		return ""
	}
	for _, w := range words[1:] {
		if isWord(strings.ReplaceAll(w, "-", "")) && !strings.HasPrefix(w, "-") && !targets[w] {
			return "no target " + w
		}
		if strings.HasPrefix(w, "#") {
			break
		}
	}
	return ""
}

// The checks must be able to fail, and must not see ghosts.
func TestMissing(t *testing.T) {
	tree := read(t)
	for text, want := range map[string]bool{ // is something missing?
		"test/house/house.go: Read":              false,
		"test/house/house.go: Read, File.Names":  false,
		"test/house/house.go: Forget":            true,
		"test/house/nothing.go: Read":            true,
		"test/house/":                            false,
		"test/nowhere/":                          true,
		"nothing.go":                             true,
		"go.mod":                                 false,
		"k8s.io/client-go":                       false,
		"Pending":                                false,
		"/var/lib/wherry":                        false,
		"network.wherry.dev/programmed-revision": false,
	} {
		if got := tree.Missing("README.md", Mention{Text: text}); (got != "") != want {
			t.Errorf("%q: got %q", text, got)
		}
	}
	if tree.Missing("docs/x.md", Mention{Kind: Link, Text: "nowhere.md"}) == "" {
		t.Error("a link to nowhere went unnoticed")
	}
}

func TestWrongCommand(t *testing.T) {
	commands := read(t).Commands()
	if len(commands) < 10 || !commands["up"].Flags["--nodes"] || !commands["trace"].Flags["-f"] || !commands["server"].Flags["--max-pods"] || !commands["bench"].Subs["rollout"] {
		t.Fatalf("the command line was not read: %v", commands)
	}
	for line, want := range map[string]bool{ // is something wrong?
		"wherry up --nodes 3":                     false,
		"sudo wherry up --name x --nodes 3":       false,
		"$ bin/wherry trace pod web-1 -n shop -f": false,
		"wherry bench api --workers 16 -o a.json": false,
		"wherry kubectl get pods --anything":      false,
		"wherry trace pod x | less --raw":         false,
		"wherry --help":                           false,
		"kubectl get pods":                        false,
		"wherry fly":                              true,
		"wherry up --wings 2":                     true,
		"wherry trace node x":                     true,
		"wherry token destroy":                    true,
		"wherry server --nodes 3":                 true,
	} {
		if got := WrongCommand(commands, line); (got != "") != want {
			t.Errorf("%q: got %q", line, got)
		}
	}
	if wrongTarget(map[string]bool{"up": true}, "make up NODES=3") != "" || wrongTarget(map[string]bool{"up": true}, "make tea") == "" {
		t.Error("make targets are not told apart")
	}
}
