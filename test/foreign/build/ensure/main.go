// Command ensure builds the foreign programs that are named to it, or all of them, and prints where they are.
package main

import (
	"fmt"
	"os"

	"wherry.dev/wherry/test/foreign/build"
)

func main() {
	names := os.Args[1:]
	if len(names) == 0 {
		for _, p := range build.Programs {
			names = append(names, p.Name)
		}
	}
	for _, name := range names {
		path, err := build.Ensure(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(path)
	}
}
