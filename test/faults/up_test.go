package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wherry.dev/wherry/test/outside"
)

// TestUpKilled kills `wherry up` at several points of its way. A second one makes the cluster whole, and down takes a half one
// away, without a trace.
func TestUpKilled(t *testing.T) {
	outside.Need(t)
	before, err := outside.Surroundings()
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range []struct {
		point string
		again bool
	}{
		{"DATA/cluster.json", false}, {"RUN/ns/net-1", false}, {"RUN/1", false}, {"RUN/2/wherry.pid", false},
		{"RUN/ns/net-1", true}, {"DATA/node-1/pki", true}, {"RUN/1", true}, {"DATA/node-1/lock", true}, {"RUN/2", true},
	} {
		t.Run(fmt.Sprintf("%s, up again %v", strings.ReplaceAll(at.point, "/", " "), at.again), func(t *testing.T) {
			c := outside.New(t, fmt.Sprintf("u%d", i), 2)
			path := filepath.Join(c.DataDir(), strings.TrimPrefix(at.point, "DATA/"))
			if strings.HasPrefix(at.point, "RUN/") {
				path = filepath.Join("/run/wherry", c.Name, strings.TrimPrefix(at.point, "RUN/"))
			}
			up := c.StartUp("--nodes", "2")
			outside.Eventually(t, 10*time.Second, func() error {
				_, err := os.Stat(path)
				return err
			})
			if err := unix.Kill(up.Process.Pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
			_ = up.Wait() // killed
			traces := c.NameOnly()
			if at.again {
				c.Continue("--nodes", "2")
				run(c, "pod")
				if traces, err = c.Traces(); err != nil {
					t.Fatal(err)
				}
			}
			c.Down()
			left, err := traces.Left()
			if err != nil {
				t.Fatal(err)
			}
			if len(left) > 0 {
				t.Errorf("down left %d things, such as %q", len(left), left[:min(len(left), 8)])
			}
			if after, err := outside.Surroundings(); err != nil || after != before {
				t.Errorf("the network namespace is not as it was (%v)\nbefore: %s\nafter: %s", err, before, after)
			}
			if _, err := os.Stat(c.DataDir()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left", c.DataDir())
			}
		})
	}
}
