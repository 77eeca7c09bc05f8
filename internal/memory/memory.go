// Package memory keeps what a process takes from the machine near what it needs: while it works, and most of all once it has
// worked. The server, the agent and the runtime import it, which are Go programs that stay for long and are idle most of the time.
package memory

import (
	"context"
	"runtime/debug"
	"syscall"
	"time"
)

const (
	// startSettles is when a start's garbage is garbage: after the caches are filled and the first objects are written.
	startSettles = 5 * time.Second
	// quiet is how long a process must have done little before its memory is looked at: a collection of garbage is work too.
	quiet = 10 * time.Second
	// idleShare of a processor is little.
	idleShare = 0.1
	// worthwhile is how many bytes there must be to give back for another collection; and a sixteenth of what is alive, which is what it has to look at.
	worthwhile = 8 << 20
)

// GiveBack gives the machine back what only the start needed, and then, whenever the process has been busy and is idle again, what
// only that needed, until ctx ends. Go's runtime does the same in time, but waits minutes for its next collection, and does not know of the program's
// file. Nothing is done while nothing happens: only a collection makes it look again. forget, if not nil, is called to unmap further files.
func GiveBack(ctx context.Context, forget func()) error {
	collections := make(chan struct{}, 1)
	eachCollection(func() bool {
		select {
		case collections <- struct{}{}:
		default:
		}
		return ctx.Err() == nil
	})
	started := time.NewTimer(startSettles)
	defer started.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-started.C:
	}
	files := func() {
		forgetProgram()
		if forget != nil {
			forget()
		}
	}
	debug.FreeOSMemory()
	files()

	look := time.NewTimer(quiet)
	defer look.Stop()
	waiting, began, used := true, time.Now(), processorTime()
	wait := func() {
		waiting, began, used = true, time.Now(), processorTime()
		look.Reset(quiet)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-collections:
			if !waiting {
				wait()
			}
		case <-look.C:
			waiting = false
			if float64(processorTime()-used) > idleShare*float64(time.Since(began)) {
				wait()
				continue
			}
			if pays(read("/memory/classes/heap/free:bytes"), read("/memory/classes/heap/objects:bytes"), read("/gc/heap/live:bytes")) {
				debug.FreeOSMemory() // the collection in it makes this look once more, and find nothing
			}
			files()
		}
	}
}

// pays says whether to collect and give back: free memory is held for reuse, and of the objects those may be garbage that were not alive
// at the last collection.
func pays(free, objects, live uint64) bool {
	return free+objects-min(objects, live) >= max(worthwhile, live/16)
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
