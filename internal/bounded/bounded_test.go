package bounded

import (
	"testing"
)

// recorder is a test that takes note of its failures.
type recorder struct {
	testing.TB
	failed int
}

func (r *recorder) Errorf(string, ...any) { r.failed++ }

var kept []byte

func TestWork(t *testing.T) {
	modest := &recorder{TB: t}
	Work(modest, 10, func() { kept = make([]byte, 1<<20) })
	if modest.failed != 0 {
		t.Error("a megabyte is too much")
	}
	greedy := &recorder{TB: t}
	Work(greedy, 10, func() {
		for range 2 * Memory >> 20 {
			kept = make([]byte, 1<<20)
		}
	})
	if greedy.failed != 1 {
		t.Error("twice the bound was let through")
	}
	fed := &recorder{TB: t}
	Work(fed, 2*Memory/MemoryPerByte, func() {
		for range 2 * Memory >> 20 {
			kept = make([]byte, 1<<20)
		}
	})
	if fed.failed != 0 {
		t.Error("a large input gets no more than a small one")
	}
}
