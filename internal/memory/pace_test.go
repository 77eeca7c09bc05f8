package memory

import (
	"testing"
	"time"
)

func TestGCPercent(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		interval      time.Duration
		live, garbage uint64
		want          int
	}{
		{100 * time.Millisecond, 10 * mib, 128 * mib, 800}, // small and busy
		{100 * time.Millisecond, 64 * mib, 128 * mib, 200},
		{100 * time.Millisecond, 3000 * mib, 128 * mib, 100}, // big: never less than the default
		{100 * time.Millisecond, 20 * mib, 16 * mib, 100},    // a small machine
		{2 * time.Minute, 10 * mib, 128 * mib, 100},          // idle
		{time.Millisecond, 0, 128 * mib, 100},
	} {
		if got := gcPercent(c.interval, c.live, c.garbage); got != c.want {
			t.Errorf("collected after %v with %d MiB alive: %d%%, want %d%%", c.interval, c.live/mib, got, c.want)
		}
	}
}
