package programs

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// need skips a test where `make` has not put the programs in place.
func need(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := fs.Stat(files, "files/"+name+".zst"); err != nil {
			t.Skipf("built without %s", name)
		}
	}
}

// list is what is in a directory, hidden files too.
func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func unpack(t *testing.T, dir string, names ...string) string {
	t.Helper()
	to, err := Unpack(dir, names...)
	if err != nil {
		t.Fatal(err)
	}
	if !complete(to, names) {
		t.Fatalf("%s is not complete: %v", to, list(t, to))
	}
	return to
}

// TestUnpackedOnceForEachContent: the name says what is in it, so what is there is neither written again nor mixed up.
func TestUnpackedOnceForEachContent(t *testing.T) {
	need(t, "runc", "wherry-cni")
	dir := filepath.Join(t.TempDir(), "bin")
	first := unpack(t, dir, "wherry-cni")
	before, err := os.Stat(filepath.Join(first, "wherry-cni"))
	if err != nil {
		t.Fatal(err)
	}
	if again := unpack(t, dir, "wherry-cni"); again != first {
		t.Errorf("the second time it was %s, not %s", again, first)
	}
	after, err := os.Stat(filepath.Join(first, "wherry-cni"))
	if err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("it was written again (%v)", err)
	}
	if other := unpack(t, dir, "wherry-cni", "runc"); other == first || len(list(t, other)) != 2 {
		t.Errorf("%s has %v", other, list(t, other))
	}
	if all := list(t, dir); len(all) != 2 {
		t.Errorf("%v in %s, want the two directories alone", all, dir)
	}
}

// TestWhatACrashTore: a file that is short, missing or not executable is made anew, and nothing else is left.
func TestWhatACrashTore(t *testing.T) {
	need(t, "wherry-cni")
	for what, tear := range map[string]func(file string) error{
		"half a file":    func(file string) error { return os.Truncate(file, 1000) },
		"an empty file":  func(file string) error { return os.Truncate(file, 0) },
		"no file":        os.Remove,
		"not executable": func(file string) error { return os.Chmod(file, 0o644) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			to := unpack(t, dir, "wherry-cni")
			if err := tear(filepath.Join(to, "wherry-cni")); err != nil {
				t.Fatal(err)
			}
			if again := unpack(t, dir, "wherry-cni"); again != to {
				t.Errorf("unpacked to %s, not to %s", again, to)
			}
			if all := list(t, dir); len(all) != 1 {
				t.Errorf("%v is left", all)
			}
		})
	}
}

// TestReadOnly: programs that are there already are found on a file system that nobody may write to; those that are not cannot be made.
func TestReadOnly(t *testing.T) {
	need(t, "runc", "wherry-cni")
	if os.Getuid() == 0 {
		// Root writes everywhere; a directory that cannot be made is as good.
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if to, err := Unpack(file, "runc"); err == nil {
			t.Errorf("unpacked to %s below a file", to)
		}
		return
	}
	dir := t.TempDir()
	to := unpack(t, dir, "wherry-cni")
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755)
	if again := unpack(t, dir, "wherry-cni"); again != to {
		t.Errorf("found %s, not %s", again, to)
	}
	if to, err := Unpack(dir, "runc"); err == nil {
		t.Errorf("unpacked to %s", to)
	}
}

func TestManyAtOnce(t *testing.T) {
	need(t, "wherry-cni")
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := Unpack(dir, "wherry-cni"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left := list(t, dir); len(left) != 1 {
		t.Errorf("%v is left", left)
	}
}

func TestUnknownProgram(t *testing.T) {
	if _, err := Unpack(t.TempDir(), "no-such"); err == nil || err.Error() != "this binary was built without no-such: build it with `make build`" {
		t.Error(err)
	}
}
