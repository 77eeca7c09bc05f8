// Package house checks that the house is as its papers say: who may import whom, what every package must have, and that
// README, ARCHITECTURE and the other documents name nothing that is not there. It reads sources and runs nothing, in a second
// or two. Nobody imports it.
package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Module is the path before every package of the product.
const Module = "wherry.dev/wherry"

// File is one Go source of the module. Paths are relative to the root, with slashes.
type File struct {
	Path    string
	Package string // folder; "" never occurs: there is no package at the root
	Test    bool   // a _test.go file
	Lines   int
	Text    string
	Syntax  *ast.File
	Imports []string
}

// Tree is what lies below the root of the repository. Immutable after Read.
type Tree struct {
	Root  string
	Files []*File         // Go sources of this module, without testdata
	Docs  []string        // Markdown files
	Paths map[string]bool // every file and folder
}

// Root finds the folder with go.mod at or above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return "", fmt.Errorf("no go.mod at or above the working directory")
}

// Read parses the tree. Folders that begin with a dot, testdata, and folders that are modules of their own hold no
// sources of the product; their names count as paths all the same.
func Read(root string) (*Tree, error) {
	t := &Tree{Root: root, Paths: map[string]bool{}}
	fset := token.NewFileSet()
	foreign := "" // the folder whose sources are not the product's
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil || rel == "." {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() && (d.Name() == ".git" || rel == "bin" || rel == ".build") {
			return fs.SkipDir
		}
		t.Paths[rel] = true
		if foreign != "" && !strings.HasPrefix(rel+"/", foreign+"/") {
			foreign = ""
		}
		if d.IsDir() {
			_, noModule := os.Stat(filepath.Join(name, "go.mod"))
			if foreign == "" && (d.Name() == "testdata" || noModule == nil) {
				foreign = rel
			}
			return nil
		}
		if strings.HasSuffix(rel, ".md") && foreign == "" {
			t.Docs = append(t.Docs, rel)
		}
		if !strings.HasSuffix(rel, ".go") || foreign != "" {
			return nil
		}
		f, err := readFile(fset, name, rel)
		if err != nil {
			return err
		}
		t.Files = append(t.Files, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the tree: %w", err)
	}
	return t, nil
}

func readFile(fset *token.FileSet, name, rel string) (*File, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	syntax, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	f := &File{Path: rel, Package: path.Dir(rel), Test: strings.HasSuffix(rel, "_test.go"), Lines: strings.Count(string(text), "\n"), Text: string(text), Syntax: syntax}
	for _, i := range syntax.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		f.Imports = append(f.Imports, p)
	}
	return f, nil
}

// Names returns what the file declares at its top level: functions, methods as both "Name" and "Receiver.Name", types,
// constants and variables.
func (f *File) Names() map[string]bool {
	names := map[string]bool{}
	for _, d := range f.Syntax.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names[d.Name.Name] = true
			if d.Recv != nil && len(d.Recv.List) == 1 {
				names[receiver(d.Recv.List[0].Type)+"."+d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					names[s.Name.Name] = true
				case *ast.ValueSpec:
					for _, n := range s.Names {
						names[n.Name] = true
					}
				}
			}
		}
	}
	return names
}

// receiver is the name of a method's type, without star and type parameters.
func receiver(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}
