package house

import (
	"strings"
	"testing"
)

// read parses the tree this test lies in.
func read(t *testing.T) *Tree {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Files) < 100 || len(tree.Docs) == 0 {
		t.Fatalf("read %d sources and %d documents: that is not the whole tree", len(tree.Files), len(tree.Docs))
	}
	return tree
}

// layers says what of the product each area may import, besides itself. An area is the longest matching folder. The order
// is cmd → cluster → components → client → api → lifecycle; components meet through the Kubernetes API and never in code,
// so that each can run alone and be replaced by upstream's.
var layers = map[string][]string{
	"lifecycle": {},
	"trace":     {"lifecycle"},
	"pki":       {},
	"api":       {"lifecycle"},
	"client":    {"api", "lifecycle"},
	"store":     {"api", "lifecycle"},

	"apiserver":     {"api", "client", "lifecycle", "pki", "store", "trace"},
	"scheduler":     {"api", "client", "lifecycle", "trace"},
	"kubelet":       {"api", "client", "lifecycle", "pki", "trace"},
	"controllers/*": {"api", "client", "lifecycle", "pki", "trace"},
	"proxy":         {"api", "client", "lifecycle", "network/nft", "trace"},
	"dns":           {"api", "client", "lifecycle", "network/nft", "trace", "embedded/coredns"},

	"network/nft":       {}, // the netlink messages that proxy, dns and cni have in common
	"network/netnstest": {}, // network namespaces for tests
	"network/ack":       {"lifecycle"},
	"network/cni":       {"network/nft"}, // a small program of its own: nothing that makes its start slow
	"network/routes":    {"client", "lifecycle", "network/nft"},

	"embedded/*": {"internal/memory"},
	"bench":      {"api"}, // measures any Kubernetes, so it knows nothing of this one

	"cluster": {"api", "apiserver", "client", "controllers", "dns", "embedded", "internal/memory", "kubelet", "lifecycle", "network", "pki", "proxy", "scheduler", "store", "trace"},
	"cmd":     {"api", "bench", "cluster", "embedded", "network/cni", "pki", "trace"},

	"internal":        {},
	"internal/memory": {}, // what long-lived programs give back
	"test":            {},
}

// area finds the entry of layers that holds a package.
func area(pkg string) (name string, allowed []string, ok bool) {
	for folder := pkg; ; {
		if a, ok := layers[folder]; ok {
			return folder, a, true
		}
		i := strings.LastIndexByte(folder, '/')
		if i < 0 {
			return "", nil, false
		}
		if a, ok := layers[folder[:i]+"/*"]; ok {
			return folder, a, true // each folder below is an area of its own
		}
		folder = folder[:i]
	}
}

func within(pkg string, folders ...string) bool {
	for _, f := range folders {
		if pkg == f || strings.HasPrefix(pkg, f+"/") {
			return true
		}
	}
	return false
}

// verdict says why a package may not import another of the product; "" when it may.
func verdict(from, to string) string {
	name, allowed, ok := area(from)
	switch {
	case !ok:
		return "its folder has no place in the layers: give it one"
	case within(to, name):
		return ""
	case within(to, allowed...):
		return ""
	}
	return name + " may import only itself and [" + strings.Join(allowed, " ") + "]"
}

func TestPackagesImportOnlyLowerLayers(t *testing.T) {
	for _, f := range read(t).Files {
		if f.Test || within(f.Package, "test", "internal/testcluster") {
			continue // tests put real things beside each other; no layer may import what they do it with
		}
		for _, i := range f.Imports {
			to, ours := strings.CutPrefix(i, Module+"/")
			if !ours {
				continue
			}
			if why := verdict(f.Package, to); why != "" {
				t.Errorf("%s imports %s: %s", f.Path, to, why)
			}
		}
	}
}

// doors are foreign modules that only some folders may know, tests apart.
var doors = []struct {
	module, why string
	only        []string
}{
	{"go.etcd.io", "the store is the only door to etcd", []string{"store", "embedded/etcd"}},
	{"k8s.io/cri-api", "the runtime is reached through kubelet/runtime", []string{"kubelet/runtime"}},
	{"github.com/containerd/containerd", "foreign servers live in embedded", []string{"embedded/containerd"}},
	{"github.com/coredns", "foreign servers live in embedded", []string{"embedded/coredns"}},
	{"github.com/opencontainers/runc", "runc is a program of its own", nil},
	{"k8s.io/kubectl", "kubectl is a program of its own: its initialisers would slow every start", []string{"cmd/kubectl"}},
	{"k8s.io/kubernetes", "the product is not upstream; only test/foreign may use it", []string{"test/foreign"}},
	{"k8s.io/apiserver/pkg/server", "of k8s.io/apiserver only leaf packages are used", nil},
	{"k8s.io/apiserver/pkg/registry", "of k8s.io/apiserver only leaf packages are used", nil},
	{"k8s.io/apiserver/pkg/endpoints/handlers", "of k8s.io/apiserver only leaf packages are used", nil},
	{"k8s.io/apiserver/pkg/storage/cacher", "of k8s.io/apiserver only leaf packages are used", nil},
	{"k8s.io/apiserver/pkg/storage/etcd3", "of k8s.io/apiserver only leaf packages are used", nil},
	{"github.com/spf13/cobra", "flags are read in cmd", []string{"cmd"}},
}

// wiring are single files that may know a foreign module because they join parts, with the reason.
var wiring = map[string]string{
	"cluster/datastore.go go.etcd.io":                            "hands the client of the embedded etcd, or of an external one, to the store, which never sees the difference",
	"store/encryption/encryption.go k8s.io/apiserver/pkg/server": "reads the encryption configuration as upstream does, from a package that serves nothing",
	"apiserver/zpages.go k8s.io/apiserver/pkg/server":            "/statusz and /flagz are pages that upstream's packages make alone, of what they are given",
}

func TestForeignModulesHaveOneDoor(t *testing.T) {
	for _, f := range read(t).Files {
		for _, i := range f.Imports {
			for _, d := range doors {
				if !within(i, d.module) || within(f.Package, d.only...) {
					continue
				}
				if (f.Test || within(f.Package, "test")) && d.module != "k8s.io/kubernetes" {
					continue
				}
				if wiring[f.Path+" "+d.module] != "" {
					continue
				}
				t.Errorf("%s imports %s: %s", f.Path, i, d.why)
			}
		}
	}
}

// The rules must be able to fail.
func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		from, to string
		may      bool
	}{
		{"scheduler", "client", true},
		{"scheduler", "scheduler/plugins", true},
		{"scheduler", "kubelet", false},
		{"kubelet/podworker", "store", false},
		{"controllers/drain", "controllers/endpointslice", false},
		{"controllers/drain", "controllers/drain/inner", true},
		{"proxy", "network/nft", true},
		{"proxy", "network/cni", false},
		{"client", "apiserver", false},
		{"lifecycle", "api/kinds", false},
		{"cluster/local", "cluster", true},
		{"cluster", "cmd/wherry", false},
		{"embedded/etcd", "store", false},
		{"scheduler", "internal/testcluster", false},
		{"newfolder", "client", false},
	} {
		if why := verdict(c.from, c.to); (why == "") != c.may {
			t.Errorf("%s → %s: got %q, may = %v", c.from, c.to, why, c.may)
		}
	}
}
