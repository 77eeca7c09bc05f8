package local

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestOneAtATime(t *testing.T) {
	needPrivate(t)
	unlock, err := lockCluster(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := lockCluster(ctx, "one"); err == nil || !strings.Contains(err.Error(), "another `wherry up` or `down` of cluster one is at work") {
		t.Error(err)
	}
	for what, other := range map[string]func(context.Context) (func(), error){
		"another cluster's": func(ctx context.Context) (func(), error) { return lockCluster(ctx, "two") }, "the machine's": lockMachine,
	} {
		free, err := other(t.Context())
		if err != nil {
			t.Fatal(what, err)
		}
		free()
	}
	unlock()
	again, err := lockCluster(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	again()
	nothingLeft(t, "one")
}

// TestLocksAreNotSharedWhenTheyGo: the holder removes the file, so that others who have it open already must not take it for the lock.
func TestLocksAreNotSharedWhenTheyGo(t *testing.T) {
	needPrivate(t)
	var holders, held atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 100 {
				f, err := tryLock(runRoot + ".lock")
				if err != nil {
					t.Error(err)
					return
				}
				if f == nil {
					continue
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				held.Add(1)
				holders.Add(-1)
				if err := os.Remove(runRoot + ".lock"); err != nil {
					t.Error(err)
				}
				f.Close()
			}
		})
	}
	all.Wait()
	if held.Load() < 16 {
		t.Errorf("the lock was held %d times only", held.Load())
	}
	nothingLeft(t, "lock")
}

// TestStaleLocks: files that a killed `up` left stop nobody, and go.
func TestStaleLocks(t *testing.T) {
	needPrivate(t)
	for _, path := range []string{runRoot + ".lock", runRoot + ".t4-stale.lock"} {
		if err := os.WriteFile(path, []byte("left"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Down(t.Context(), "t4-stale", "", ""); !errors.Is(err, ErrNoCluster) {
		t.Error(err)
	}
	nothingLeft(t, "t4-stale")
}

// TestUpsSideBySide: a cluster that takes its time to become Ready holds up no other, and they choose different subnets.
func TestUpsSideBySide(t *testing.T) {
	needPrivate(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	slow := []string{"t4-slow-1", "t4-slow-2", "t4-slow-3"}
	var ups sync.WaitGroup
	for _, name := range slow {
		ups.Go(func() { // its node never says Ready
			if _, err := Up(ctx, UpOptions{Name: name, DataDir: t.TempDir()}); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	subnets := map[string]bool{}
	for _, name := range slow { // all of them wait at the same time
		deadline := time.Now().Add(20 * time.Second)
		for {
			if c, err := load(name, ""); err == nil {
				if p, ok := c.running(1); ok {
					p.close()
					subnets[c.Subnet] = true
					break
				}
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s did not start beside the others", name)
			}
			time.Sleep(time.Millisecond)
		}
	}
	if len(subnets) != len(slow) {
		t.Errorf("%d clusters chose the subnets %v", len(slow), subnets)
	}
	if _, err := Up(t.Context(), UpOptions{Name: "t4-quick", ServerArgs: []string{"--fail"}}); err == nil || !strings.Contains(err.Error(), "node t4-quick-1 ended") {
		t.Errorf("beside them: %v", err)
	}
	if err := Down(t.Context(), "t4-none", "", ""); !errors.Is(err, ErrNoCluster) {
		t.Errorf("beside them: %v", err)
	}
	cancel()
	ups.Wait()
	nothingLeft(t, "t4-slow")
}
