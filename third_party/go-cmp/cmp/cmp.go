// Package cmp stands in for the module of this name, of which etcd's self-check (ETCD_VERIFY) uses Diff on two maps. The module lists
// types' methods by reflection: with that linked in, no exported method of the whole program can be left out. See docs/decisions.
package cmp

import (
	"fmt"
	"reflect"
)

// Option is none: there are no options.
type Option interface{ none() }

// Diff is empty when x and y are deeply equal (reflect.DeepEqual), and says both otherwise; of two maps with string keys only the entries that differ.
func Diff(x, y any, _ ...Option) string {
	if reflect.DeepEqual(x, y) {
		return ""
	}
	a, ok1 := x.(map[string]string)
	b, ok2 := y.(map[string]string)
	if !ok1 || !ok2 {
		return fmt.Sprintf("- %+v\n+ %+v\n", x, y)
	}
	diff := ""
	for k, v := range a {
		if w, there := b[k]; !there {
			diff += fmt.Sprintf("- %q: %q\n", k, v)
		} else if v != w {
			diff += fmt.Sprintf("- %q: %q\n+ %q: %q\n", k, v, k, w)
		}
	}
	for k, w := range b {
		if _, there := a[k]; !there {
			diff += fmt.Sprintf("+ %q: %q\n", k, w)
		}
	}
	return diff
}
