package bench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Idle is what one process takes while nothing happens.
type Idle struct {
	PID     int     `json:"pid"`
	Command string  `json:"command"`
	PSS     int64   `json:"pss"`     // bytes; pages shared by n processes count 1/n
	Private int64   `json:"private"` // bytes of its own
	CPU     float64 `json:"cpu"`     // share of one core
}

// MeasureIdle watches processes for a while without touching them.
func MeasureIdle(ctx context.Context, pids []int, d time.Duration) ([]Idle, error) {
	before := make([]time.Duration, len(pids))
	for i, pid := range pids {
		t, err := cpuTime(pid)
		if err != nil {
			return nil, err
		}
		before[i] = t
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(d):
	}
	elapsed := time.Since(began)
	out := make([]Idle, len(pids))
	for i, pid := range pids {
		t, err := cpuTime(pid)
		if err != nil {
			return nil, err
		}
		m, err := memory(pid)
		if err != nil {
			return nil, err
		}
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		fields := strings.Split(strings.TrimRight(string(command), "\x00"), "\x00")
		out[i] = Idle{PID: pid, Command: strings.Join(fields[:min(2, len(fields))], " "), PSS: m.pss, Private: m.private, CPU: float64(t-before[i]) / float64(elapsed)}
	}
	return out, nil
}

// footprint is what a process takes, in bytes: its share of all that it has mapped, what nobody else has mapped, and what is no file's.
type footprint struct{ pss, private, anonymous int64 }

func memory(pid int) (m footprint, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, fmt.Errorf("process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "Pss:":
			m.pss += kb << 10
		case "Private_Clean:", "Private_Dirty:":
			m.private += kb << 10
		case "Anonymous:":
			m.anonymous += kb << 10
		}
	}
	return m, nil
}
