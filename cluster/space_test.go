package cluster

import (
	"math"
	"path/filepath"
	"strings"
	"testing"
)

// TestFullDisk: a server that has no room says so before it makes anything that counts on it.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := checkSpace(dir, 0); err != nil {
		t.Errorf("nothing is needed: %v", err)
	}
	err := checkSpace(dir, math.MaxUint64)
	if err == nil || !strings.Contains(err.Error(), "data directory "+dir+" has ") || !strings.HasSuffix(err.Error(), "MiB, or choose another --data-dir") {
		t.Error(err)
	}
	if err := checkSpace(filepath.Join(dir, "none"), 0); err == nil {
		t.Error("a directory that is not there has room")
	}
}
