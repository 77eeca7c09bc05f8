// Command wherry-cni is the pod network's CNI plugin. It is a program of its own because a runtime executes it twice for every
// pod: its start must cost little, which the large binary's does not.
package main

import (
	"runtime"

	"wherry.dev/wherry/network/cni"
)

func main() {
	// The plugin opens sockets in the pod's namespace by switching this thread there and back.
	runtime.LockOSThread()
	cni.Main()
}
