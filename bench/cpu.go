package bench

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what a process, all of its threads, has used so far. The kernel has a clock of it for each process
// (clock_getcpuclockid(3)), which is finer than the hundredths of a second in /proc.
func cpuTime(pid int) (time.Duration, error) {
	const ofProcess = 2
	var t unix.Timespec
	if err := unix.ClockGettime(^int32(pid)<<3|ofProcess, &t); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// meter measures what the servers' processes and this one use while something runs.
type meter struct {
	t              Target
	server, client time.Duration
	err            error
}

func (t Target) meter() meter {
	m := meter{t: t}
	m.server, m.client, m.err = t.used()
	return m
}

// used is what the processes of the servers, and this one, have used so far.
func (t Target) used() (server, client time.Duration, err error) {
	for _, pid := range t.Servers {
		one, err := cpuTime(pid)
		if err != nil {
			return 0, 0, err
		}
		server += one
	}
	client, err = cpuTime(os.Getpid())
	return server, client, err
}

// fill adds to r what was used since the meter was made, for each of r's operations. A result without an error of its own gets the meter's.
func (m meter) fill(r Result) Result {
	server, client, err := m.t.used()
	if err == nil {
		err = m.err
	}
	switch {
	case err != nil && r.Error == "":
		r.Errors, r.Error = r.Errors+1, err.Error()
	case err == nil && r.Count > 0:
		r.ServerCPU = (server - m.server).Seconds() / float64(r.Count)
		r.ClientCPU = (client - m.client).Seconds() / float64(r.Count)
	}
	return r
}
