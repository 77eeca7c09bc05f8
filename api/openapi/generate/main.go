// Command generate writes definitions.jsonl.zst, the OpenAPI definitions of the types that Wherry serves: it runs
// kube-openapi's generator over the sources of k8s.io/api, apimachinery, apiextensions and apiregistration, then a program made of what that wrote.
// It is a module of its own, so that the generator's dependencies are not the product's. Run it by `go generate` in
// the folder above after raising the k8s.io modules here and there.
package main

import (
	_ "embed"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"

	// Sources to read, and what dump imports: named here so that go.mod requires them.
	_ "github.com/klauspost/compress/zstd"
	_ "k8s.io/api/core/v1"
	_ "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	_ "k8s.io/client-go/kubernetes/scheme"
	_ "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	_ "k8s.io/kube-openapi/pkg/builder3/util"
	_ "k8s.io/kube-openapi/pkg/handler"

	"k8s.io/gengo/v2"
	"k8s.io/gengo/v2/generator"
	"k8s.io/kube-openapi/cmd/openapi-gen/args"
	"k8s.io/kube-openapi/pkg/generators"
)

const module = "wherry.dev/wherry/api/openapi/generate"

// packages are the groups and versions that are served now or will be, and what their types are made of.
var packages = []string{
	"k8s.io/api/admissionregistration/v1",
	"k8s.io/api/apps/v1",
	"k8s.io/api/authentication/v1",
	"k8s.io/api/authorization/v1",
	"k8s.io/api/autoscaling/v1",
	"k8s.io/api/autoscaling/v2",
	"k8s.io/api/batch/v1",
	"k8s.io/api/certificates/v1",
	"k8s.io/api/coordination/v1",
	"k8s.io/api/core/v1",
	"k8s.io/api/discovery/v1",
	"k8s.io/api/events/v1",
	"k8s.io/api/flowcontrol/v1",
	"k8s.io/api/networking/v1",
	"k8s.io/api/node/v1",
	"k8s.io/api/policy/v1",
	"k8s.io/api/rbac/v1",
	"k8s.io/api/resource/v1",
	"k8s.io/api/scheduling/v1",
	"k8s.io/api/scheduling/v1alpha3", // parts of jobs
	"k8s.io/api/storage/v1",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1",
	"k8s.io/api/storagemigration/v1",
	"k8s.io/apimachinery/pkg/api/resource",
	"k8s.io/apimachinery/pkg/apis/meta/v1",
	"k8s.io/apimachinery/pkg/runtime",
	"k8s.io/apimachinery/pkg/util/intstr",
	"k8s.io/apimachinery/pkg/version",
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1",
}

//go:embed dump.go.txt
var dumpSource []byte

func main() {
	if err := generate(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

// generate writes the definitions to the file out.
func generate(out string) error {
	work, err := os.MkdirTemp(".", "work")
	if err != nil {
		return fmt.Errorf("make a folder for generated sources: %w", err)
	}
	defer os.RemoveAll(work)
	definitions := filepath.Join(work, "definitions")
	if err := os.Mkdir(definitions, 0o755); err != nil {
		return fmt.Errorf("make a folder for generated sources: %w", err)
	}

	a := args.New()
	a.OutputDir = definitions
	a.OutputFile = "definitions.go"
	a.OutputPkg = module + "/" + filepath.ToSlash(definitions)
	a.OutputModelNameFile = "used" // definitions are named by the types' own OpenAPIModelName
	a.ReportFilename = filepath.Join(work, "report")
	targets := func(c *generator.Context) []generator.Target { return generators.GetOpenAPITargets(c, a, nil) }
	if err := gengo.Execute(generators.NameSystems(), generators.DefaultNameSystem(), targets, gengo.StdBuildTag, packages); err != nil {
		return fmt.Errorf("generate definitions: %w", err)
	}

	dump := append([]byte("package main\n\nimport definitions \""+a.OutputPkg+"\"\n\n"), dumpSource...)
	if err := os.WriteFile(filepath.Join(work, "main.go"), dump, 0o644); err != nil {
		return fmt.Errorf("write the dump program: %w", err)
	}
	run := exec.Command("go", "run", "./"+work, out)
	run.Stdout, run.Stderr = os.Stdout, os.Stderr
	if err := run.Run(); err != nil {
		return fmt.Errorf("dump definitions: %w", err)
	}
	return nil
}
