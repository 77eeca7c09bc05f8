// Command wherry is a Kubernetes in one binary. Each subcommand has a file of its own here: flags, then one call.
package main

import "os"

func main() { os.Exit(run(os.Args[1:])) }
