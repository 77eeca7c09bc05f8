package main

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// said runs one command line and returns its exit code and what it wrote to standard error.
func said(t *testing.T, args ...string) (int, string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old, out := os.Stderr, os.Stdout
	os.Stderr = w
	if os.Stdout, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	code := run(args)
	os.Stdout.Close()
	os.Stderr, os.Stdout = old, out
	w.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return code, string(b)
}

func TestWrongUsageIsTwoAndOneSentence(t *testing.T) {
	for line, want := range map[string]string{
		"nonsense":                   `unknown command "nonsense"`,
		"token nonsense":             `unknown command "nonsense"`,
		"bench nonsense":             `unknown command "nonsense"`,
		"up --nonsense":              "unknown flag: --nonsense",
		"up now":                     "unknown command",
		"up --nodes many":            "invalid argument",
		"up --nodes -1":              "a cluster on this machine has 1 to 200 nodes",
		"down everything":            "unknown command",
		"list -o yaml":               "use json",
		"trace pod":                  "accepts 1 arg(s), received 0",
		"images import":              "requires at least 1 arg(s)",
		"bench idle":                 "requires at least 1 arg(s)",
		"server --pod-cidr nonsense": "invalid argument",
		"agent --node-ip nonsense":   "invalid argument",
		"agent --node-ip 10.0.0.1":   "which cluster? give --server",
	} {
		code, err := said(t, strings.Fields(line)...)
		if code != 2 || !strings.Contains(err, want) || !strings.Contains(err, "--help`") {
			t.Errorf("wherry %s: exit code %d and %q, want 2 and %q", line, code, err, want)
		}
	}
	for _, line := range []string{"", "--help", "token", "trace pod --help", "version", "version -o json"} {
		if code, err := said(t, strings.Fields(line)...); code != 0 {
			t.Errorf("wherry %s: exit code %d: %s", line, code, err)
		}
	}
	if code, err := said(t, "trace", "pod", "web", "--kubeconfig", "/nonexistent"); code != 1 || strings.Count(err, "\n") != 1 {
		t.Errorf("a failure: exit code %d, %q", code, err)
	}
}

// Other people's scripts call these names.
func TestFlagsAreAContract(t *testing.T) {
	root := newRoot()
	for path, flags := range map[string][]string{
		"up": {"name", "nodes", "data-dir", "kubeconfig"}, "down": {"name", "data-dir", "kubeconfig"}, "images import": {"name", "data-dir"},
		"token create": {"name", "data-dir", "kubeconfig"}, "trace pod": {"name", "data-dir", "kubeconfig", "namespace", "follow", "output"},
		"bench api": {"name", "data-dir", "kubeconfig"}, "bench pods": {"name", "data-dir", "kubeconfig"}, "list": {"output"}, "version": {"output"}, "check": {"output"},
		"server": {"name", "data-dir", "container-runtime-endpoint", "disable"}, "agent": {"server", "token", "ca-hash", "data-dir"},
	} {
		c, rest, err := root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 {
			t.Fatal(path, err)
		}
		for _, f := range flags {
			if c.Flags().Lookup(f) == nil && c.InheritedFlags().Lookup(f) == nil {
				t.Errorf("wherry %s has no --%s", path, f)
			}
		}
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s does not say what it does", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

func TestKubectlsCluster(t *testing.T) {
	for line, want := range map[string]string{
		"get pods":                        "get pods",
		"--name none-such get pods":       "--context wherry-none-such get pods",
		"--name=none-such get pods":       "--context wherry-none-such get pods",
		"--data-dir /x --name=n get":      "--context wherry-n get",
		"--name":                          "--name",
		"get --name x":                    "get --name x",
		"--name n --kubeconfig f get pod": "--context wherry-n --kubeconfig f get pod",
	} {
		if got := clusterArgument(strings.Fields(line)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}
