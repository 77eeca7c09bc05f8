// Command containerd is the container runtime that comes with Wherry: containerd 2.x with the plugins of a Kubernetes node. It is
// embedded in wherry, compressed, and started as its child.
package main

import (
	"os"

	"wherry.dev/wherry/embedded/containerd/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:])) }
