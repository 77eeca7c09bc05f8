// Package bounded holds what code does about one input to a bound of work, so that a fuzz target finds not only what ends in a panic but also what
// makes a server busy or full. It is for tests.
package bounded

import (
	"runtime"
	"runtime/metrics"
	"syscall"
	"testing"
	"time"
)

const (
	// Memory is what may be allocated in all, and MemoryPerByte what each byte of the input may add: far more than any honest decoder needs, far
	// less than a server has.
	Memory        = 256 << 20
	MemoryPerByte = 16 << 10
	// Processor is what may be used of one processor. It is not a time on the clock: a busy machine does not make it more.
	Processor = 20 * time.Second
)

// Work does what is to be done about an input of size bytes, and fails the test when that took more than there is for it. What other goroutines allocate
// in the meantime counts.
func Work(t testing.TB, size int, do func()) {
	t.Helper()
	runtime.LockOSThread() // whose time is counted
	defer runtime.UnlockOSThread()
	allocated, used := allocations(), processor(t)
	do()
	allocated, used = allocations()-allocated, processor(t)-used
	if most := uint64(Memory + size*MemoryPerByte); allocated > most {
		t.Errorf("%d bytes of input made for %d bytes of memory, more than %d", size, allocated, most)
	}
	if used > Processor {
		t.Errorf("%d bytes of input used the processor for %v, longer than %v", size, used, Processor)
	}
}

// allocations is how many bytes this process has allocated since its start.
func allocations() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// processor is how long this thread has run.
func processor(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	const thisThread = 1 // RUSAGE_THREAD
	if err := syscall.Getrusage(thisThread, &u); err != nil {
		t.Fatalf("ask for the processor's time: %v", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
