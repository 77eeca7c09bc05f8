package house

import (
	"go/ast"
	"path"
	"strings"
	"testing"
)

// longest is how many lines a source file may have; past 400 look twice (CONTRIBUTING.md).
const longest = 700

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range read(t).Files {
		if !f.Test {
			documented[f.Package] = documented[f.Package] || f.Syntax.Doc != nil
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no doc comment", pkg)
		}
	}
}

func TestSourcesKeepTheStyle(t *testing.T) {
	for _, f := range read(t).Files {
		switch path.Base(f.Package) {
		case "util", "utils", "common", "helpers", "misc":
			t.Errorf("%s: a package named %s says nothing about what is in it", f.Path, path.Base(f.Package))
		}
		if f.Test {
			continue
		}
		if f.Lines > longest {
			t.Errorf("%s has %d lines, more than %d: split it where the nouns part", f.Path, f.Lines, longest)
		}
		for _, d := range f.Syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init: wiring is plain code in cluster", f.Path)
			}
		}
	}
}

// What is committed is true on every machine, not only on the one where it was written.
func TestNothingNamesThisMachine(t *testing.T) {
	tree := read(t)
	if len(tree.Root) < len("/a/b") {
		t.Skip("the tree lies too near to / for its path to be told from others")
	}
	for _, f := range tree.Files {
		if strings.Contains(f.Text, tree.Root+"/") {
			t.Errorf("%s names %s", f.Path, tree.Root)
		}
	}
	for _, doc := range tree.Docs {
		if strings.Contains(document(t, tree, doc), tree.Root+"/") {
			t.Errorf("%s names %s", doc, tree.Root)
		}
	}
}

// TestNobodyAsksAgainAndAgain: waiting for a cache by asking it every 100 ms, as cache.WaitForCacheSync does, made a start three times as long.
func TestNobodyAsksAgainAndAgain(t *testing.T) {
	for _, f := range read(t).Files {
		if !f.Test && !strings.HasPrefix(f.Path, "test/") && strings.Contains(f.Text, "WaitForCacheSync(") {
			t.Errorf("%s calls WaitForCacheSync, which polls: use cache.WaitFor with HasSyncedChecker", f.Path)
		}
	}
}
