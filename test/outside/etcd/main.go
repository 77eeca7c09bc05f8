// Command etcd is upstream's etcd, built from its module, for tests that need members of their own to kill.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
