package house

import (
	"go/ast"
	"regexp"
	"strconv"
	"strings"
)

// Command is a top-level subcommand of wherry as its source in cmd/wherry declares it.
type Command struct {
	Name string
	Subs map[string]bool // names of subcommands at any depth below
	// Flags are those of the command and of everything below it, "--name" and "-o". Kubectl's are nil: they are not ours.
	Flags map[string]bool
}

var flagMethod = regexp.MustCompile(`^(String|Int|Int64|Bool|Duration|StringSlice|StringArray|IntSlice|StringToString|)Var(P?)$`)

// declared is what one function of cmd/wherry says and which other functions it calls.
type declared struct {
	uses  []string
	flags []string
	calls []string
	raw   bool // DisableFlagParsing
}

// Commands reads the command line from cmd/wherry: every function new...Command makes one command and those below it, and
// has the flags which it or the functions that it calls define.
func (t *Tree) Commands() map[string]*Command {
	functions := map[string]*declared{}
	for _, f := range t.Files {
		if f.Package != "cmd/wherry" || f.Test {
			continue
		}
		for _, d := range f.Syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				name := fn.Name.Name
				if fn.Recv != nil && len(fn.Recv.List) == 1 {
					name = receiver(fn.Recv.List[0].Type) + "." + name
				}
				functions[name] = declarations(fn)
			}
		}
	}
	commands := map[string]*Command{}
	var top []string // what the function that makes the root command calls: root.AddCommand(newUpCommand(), ...)
	for _, d := range functions {
		if len(d.uses) > 0 && d.uses[0] == "wherry" {
			top = d.calls
		}
	}
	for _, call := range top {
		if d := functions[call]; d != nil && strings.HasPrefix(call, "new") && len(d.uses) > 0 {
			c := &Command{Name: d.uses[0], Subs: map[string]bool{}, Flags: map[string]bool{"--help": true, "-h": true}}
			gather(functions, call, c, map[string]bool{})
			delete(c.Subs, c.Name)
			if d.raw {
				c.Flags = nil
			}
			commands[c.Name] = c
		}
	}
	return commands
}

func gather(functions map[string]*declared, name string, c *Command, seen map[string]bool) {
	d := functions[name]
	if d == nil || seen[name] {
		return
	}
	seen[name] = true
	for _, u := range d.uses {
		c.Subs[u] = true
	}
	for _, f := range d.flags {
		c.Flags[f] = true
	}
	for _, call := range d.calls {
		gather(functions, call, c, seen)
	}
}

func declarations(fn *ast.FuncDecl) *declared {
	d := &declared{}
	types := map[string]string{} // local variables of local struct types, for calls such as access.add
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			if id, ok := n.Type.(*ast.Ident); ok {
				for _, name := range n.Names {
					types[name.Name] = id.Name
				}
			}
		case *ast.KeyValueExpr:
			key, ok := n.Key.(*ast.Ident)
			if !ok {
				break
			}
			if use := literal(n.Value); key.Name == "Use" && use != "" {
				d.uses = append(d.uses, strings.Fields(use)[0])
			}
			if v, ok := n.Value.(*ast.Ident); ok && key.Name == "DisableFlagParsing" {
				d.raw = v.Name == "true"
			}
		case *ast.CallExpr:
			switch f := n.Fun.(type) {
			case *ast.Ident:
				d.calls = append(d.calls, f.Name)
			case *ast.SelectorExpr:
				if x, ok := f.X.(*ast.Ident); ok && types[x.Name] != "" {
					d.calls = append(d.calls, types[x.Name]+"."+f.Sel.Name)
				}
				if m := flagMethod.FindStringSubmatch(f.Sel.Name); m != nil && len(n.Args) > 2 {
					d.flags = append(d.flags, "--"+literal(n.Args[1]))
					if m[2] == "P" {
						d.flags = append(d.flags, "-"+literal(n.Args[2]))
					}
				}
			}
		}
		return true
	})
	return d
}

func literal(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok {
		if s, err := strconv.Unquote(l.Value); err == nil {
			return s
		}
	}
	return ""
}

var wherryLine = regexp.MustCompile(`^(?:[$#] )?(?:sudo )?(?:[A-Z_]+=\S+ )*(?:bin/)?wherry(?: |$)(.*)`)

// WrongCommand says what a line that calls wherry names that is not there; "" when all is, or when it calls something else.
func WrongCommand(commands map[string]*Command, line string) string {
	m := wherryLine.FindStringSubmatch(line)
	if m == nil {
		return ""
	}
	words := strings.Fields(m[1])
	if len(words) == 0 || strings.HasPrefix(words[0], "-") {
		return ""
	}
	c := commands[words[0]]
	switch {
	case c == nil && (words[0] == "help" || words[0] == "completion"):
		return "" // cobra's own
	case c == nil:
		return "wherry has no command " + words[0]
	case c.Flags == nil:
		return ""
	}
	if len(words) > 1 && len(c.Subs) > 0 && !strings.HasPrefix(words[1], "-") && !c.Subs[words[1]] && isWord(words[1]) {
		return "wherry " + c.Name + " has no command " + words[1]
	}
	for _, w := range words[1:] {
		if strings.ContainsAny(w, "|#;&>") && !strings.HasPrefix(w, "-") {
			break // another command, or a comment
		}
		flag, _, _ := strings.Cut(strings.Trim(w, "[]"), "=")
		if len(flag) > 1 && strings.HasPrefix(flag, "-") && !c.Flags[flag] {
			return "wherry " + c.Name + " has no flag " + flag
		}
	}
	return ""
}

// isWord leaves out placeholders such as NAME and things such as paths.
func isWord(s string) bool { return regexp.MustCompile(`^[a-z]+$`).MatchString(s) }

// Flags returns every flag of every command.
func Flags(commands map[string]*Command) map[string]bool {
	all := map[string]bool{}
	for _, c := range commands {
		for f := range c.Flags {
			all[f] = true
		}
	}
	return all
}
