package memory

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"syscall"
	"time"
)

// The garbage collector runs when the heap has doubled, which a small heap under load does many times a second: a fifth of all the
// work was collecting. So a busy process may make more garbage before it is collected, and an idle one goes back to little: how often
// the collector runs tells which it is, so that nothing has to be polled.
const (
	idlePercent = 100 // Go's default
	maxPercent  = 800
	maxGarbage  = 64 << 20 // bytes that a busy process may leave lying; never more than a sixteenth of the machine
	// idleInterval between two collections says that the process is idle; Go collects every two minutes if nothing else asks for it.
	idleInterval = 3 * time.Second
)

// gcPercent is how much garbage, in parts of a hundred of what is alive, may be made until the next collection.
func gcPercent(interval time.Duration, live, garbage uint64) int {
	if interval > idleInterval || live == 0 {
		return idlePercent
	}
	return int(min(maxPercent, max(idlePercent, garbage*100/live)))
}

// PaceCollector adapts the collector to what the process does, from now on, for the whole process. A start is busy. It does nothing where
// the user has decided, by the variable GOGC.
var PaceCollector = sync.OnceFunc(func() {
	if os.Getenv("GOGC") != "" {
		return
	}
	garbage := uint64(maxGarbage)
	var machine syscall.Sysinfo_t
	if syscall.Sysinfo(&machine) == nil {
		garbage = min(garbage, uint64(machine.Totalram)*uint64(machine.Unit)/16)
	}
	p := &pacer{last: time.Now(), percent: maxPercent, garbage: garbage}
	debug.SetGCPercent(p.percent)
	eachCollection(p.collected)
})

// eachCollection calls f after each collection, which is when a thing that nobody knows is found, until it returns false.
func eachCollection(f func() bool) {
	runtime.AddCleanup(new([64]byte), func(f func() bool) {
		if f() {
			eachCollection(f)
		}
	}, f)
}

// pacer decides anew after each collection.
type pacer struct {
	last    time.Time
	percent int
	garbage uint64
}

func (p *pacer) collected() bool {
	now := time.Now()
	percent := gcPercent(now.Sub(p.last), read("/gc/heap/live:bytes"), p.garbage)
	p.last = now
	if percent != p.percent {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	return true
}

// read is the value of one of the runtime's metrics.
func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
