package bench

import (
	"encoding/json"
	"os/exec"
	"strconv"
	"testing"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/plane"
)

// addIdle measures what all processes of a control plane take while nothing is asked of them.
func (m *measurements) addIdle(t *testing.T, which, when string, p *plane.Plane) {
	t.Helper()
	args := []string{"bench", "idle", "--for", "20s", "-o", "-"}
	for _, process := range p.Processes {
		args = append(args, strconv.Itoa(process.PID()))
	}
	out, err := exec.Command(build.Wherry(t), args...).Output()
	if err != nil {
		t.Fatalf("wherry bench idle: %v", err)
	}
	var all []struct {
		Private int64   `json:"private"`
		CPU     float64 `json:"cpu"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatalf("wherry bench idle: %v", err)
	}
	var private, cpu float64
	for _, one := range all {
		private, cpu = private+float64(one.Private), cpu+one.CPU
	}
	m.add(which, when+", private MB", lower, private/1e6)
	m.add(which, when+", CPU % of a core", lower, cpu*100)
}
