package bench

import (
	"os"
	"testing"
	"time"
)

// TestMeter uses CPU time and finds it, as the server's and as the client's.
func TestMeter(t *testing.T) {
	target := Target{Servers: []int{os.Getpid()}}
	m := target.meter()
	const work = 30 * time.Millisecond
	for {
		now, err := cpuTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now-m.client > work {
			break
		}
	}
	r := m.fill(Result{Count: 10})
	if r.ServerCPU < work.Seconds()/10 || r.ClientCPU < work.Seconds()/10 || r.Error != "" {
		t.Errorf("%+v", r)
	}
}

// TestMeterOfNothing says which process is not there: no process has a higher id than 1<<22.
func TestMeterOfNothing(t *testing.T) {
	r := Target{Servers: []int{1 << 23}}.meter().fill(Result{Count: 1})
	if r.Errors != 1 || r.Error == "" || r.ServerCPU != 0 {
		t.Errorf("%+v", r)
	}
}
