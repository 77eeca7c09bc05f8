// Package version holds what the linker wrote about this build.
package version

var (
	// Wherry is the version of this program, as git describes the commit.
	Wherry = "unknown"
	// Kubernetes is the version of the API that is served: that of the k8s.io modules in go.mod.
	Kubernetes = "v1.37.2"
)
