// Package whole tells the whole story of a pod on real nodes, once on one node and once on three, and checks the effect of
// every stage from outside: etcd's bytes, cgroup files, mounts, nftables, DNS answers, packets. It needs root.
package whole

import (
	"slices"
	"testing"

	"wherry.dev/wherry/test/outside"
)

func TestMain(m *testing.M) { outside.Main(m) }

// TestOneNode tells the story where server and node are one process, and tries the client's commands there.
func TestOneNode(t *testing.T) {
	tellAll(t, "a", 1, func(s *story) {
		s.Run("commands", s.commands)
		s.Run("bad input", s.badInput)
	})
}

// TestThreeNodes tells it with the pod on an agent's node and requests from every other.
func TestThreeNodes(t *testing.T) {
	tellAll(t, "b", 3, func(s *story) {
		s.Run("rollout", s.rollout)
	})
}

// tellAll brings a cluster up, tells the story, takes the cluster down, and looks whether anything stayed.
func tellAll(t *testing.T, suffix string, nodes int, more func(*story)) {
	outside.Need(t)
	before, err := outside.Surroundings()
	if err != nil {
		t.Fatal(err)
	}
	c := outside.Up(t, suffix, nodes, "--server-arg=--listen-etcd")
	s := &story{Cluster: c, node: nodes} // the last node: an agent's where there is one
	s.begin(t)
	for _, stage := range s.creation() {
		if !c.Run(stage.name, stage.check) {
			t.FailNow() // the later ones stand on it
		}
	}
	more(s)
	if t.Failed() {
		return
	}
	// Something of each kind is left for down to take away.
	s.KubectlInput(manifest("left", c.NodeName(s.node)), "create", "-f", "-")
	s.Kubectl("wait", "--for=condition=Ready", "pod/web", "-n", "left", "--timeout=30s")
	traces, err := c.Traces()
	if err != nil {
		t.Fatal(err)
	}
	s.Run("deletion", s.deletion)
	s.Run("down", func(t *testing.T) {
		c.Down()
		left, err := traces.Left()
		if err != nil {
			t.Fatal(err)
		}
		if len(left) > 0 {
			t.Errorf("down left %d things: %q", len(left), left[:min(len(left), 20)])
		}
		after, err := outside.Surroundings()
		if err != nil {
			t.Fatal(err)
		}
		if before != after {
			t.Errorf("the network namespace that up was called in is not as it was\nbefore: %s\nafter: %s", before, after)
		}
		s.checkKubeconfig(t)
	})
}

// TestResidueCheckSeesARunningCluster holds the residue check to account: of a cluster that runs it must see a lot.
func TestResidueCheckSeesARunningCluster(t *testing.T) {
	outside.Need(t)
	c := outside.Up(t, "r", 1)
	c.Kubectl("run", "pod", "--image=wherry.dev/sample:1")
	c.Kubectl("wait", "--for=condition=Ready", "pod/pod", "--timeout=30s")
	traces, err := c.Traces()
	if err != nil {
		t.Fatal(err)
	}
	left, err := traces.Left()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/run/wherry/" + c.Name, "/var/lib/wherry/" + c.Name} {
		if !slices.Contains(left, want) {
			t.Errorf("the residue check does not see %s of a running cluster", want)
		}
	}
	for _, want := range []string{"a net namespace", "a mnt namespace", ": cgroup: ", ": mountinfo: ", ": cmdline: "} {
		if !containsText(left, want) {
			t.Errorf("the residue check sees no process by its %q", want)
		}
	}
}

// TestSideBySide: a cluster that goes leaves nothing in one that was made beside it, and does it no harm.
func TestSideBySide(t *testing.T) {
	outside.Need(t)
	first := outside.Up(t, "x", 1)
	first.Kubectl("run", "pod", "--image=wherry.dev/sample:1")
	first.Kubectl("wait", "--for=condition=Ready", "pod/pod", "--timeout=30s")
	second := outside.Up(t, "y", 2)
	traces, err := first.Traces()
	if err != nil {
		t.Fatal(err)
	}
	first.Down()
	left, err := traces.Left()
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("down left %d things, such as %q", len(left), left[:min(len(left), 8)])
	}
	second.Kubectl("run", "pod", "--image=wherry.dev/sample:1")
	second.Kubectl("wait", "--for=condition=Ready", "pod/pod", "--timeout=30s")
}
