package house

import (
	"bytes"
	"os"
	"testing"
)

// maxBinary is what the binary may weigh, in bytes, with all that is embedded in it.
const maxBinary = 120_000_000

// The linker leaves out methods that nobody calls, unless reachable code looks methods up by reflection: one template package
// linked in costs 30 MB (docs/decisions/0013-small-binary.md).
func TestBinaryLeavesOutWhatNobodyCalls(t *testing.T) {
	path := os.Getenv("WHERRY_BINARY")
	if path == "" {
		t.Skip("WHERRY_BINARY names no binary that `make build` made")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Names of functions are in the table for stack traces, stripped or not.
	for function, who := range map[string]string{
		"text/template.(*state).evalField":                              "a template is executed",
		"github.com/google/go-cmp/cmp/internal/value.appendTypeName":    "go-cmp formats a type",
		"golang.org/x/net/trace.Events":                                 "built without the tag grpcnotrace (see the Makefile), or a dependency imports golang.org/x/net/trace",
		"github.com/containerd/containerd/v2/cmd/containerd/server.New": "containerd is linked in",
	} {
		if bytes.Contains(b, []byte(function+"\x00")) {
			t.Errorf("%s has %s: %s; `go build -ldflags=-dumpdep` tells who leads there", path, function, who)
		}
	}
	if !bytes.Contains(b, []byte("main.main\x00")) {
		t.Error("no names of functions are in the binary: this test sees nothing")
	}
	if len(b) > maxBinary {
		t.Errorf("%s is %d MB, more than %d", path, len(b)/1_000_000, maxBinary/1_000_000)
	}
}
