// Command wherry is a Kubernetes in one binary. Each subcommand has a file of its own here: flags, then one call.
package main

import (
	"os"

	"wherry.dev/wherry/embedded/containerd"
)

func main() {
	// containerd is this same binary as a child; its command line is its own.
	if len(os.Args) > 1 && os.Args[1] == "containerd" {
		os.Exit(containerd.Main(os.Args[2:]))
	}
	os.Exit(run(os.Args[1:]))
}
