package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tempDir is a directory that is free of mounts when the test ends.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		mounts, err := mountsBelow(dir)
		if err != nil {
			t.Error(err)
		}
		for _, m := range mounts {
			_ = unix.Unmount(m, unix.MNT_DETACH)
		}
	})
	return dir
}

func TestRemoveTree(t *testing.T) {
	dir := t.TempDir()
	keep := filepath.Join(dir, "keep")
	must(t, os.Mkdir(keep, 0o755))
	must(t, os.WriteFile(filepath.Join(keep, "file"), nil, 0o644))
	top := filepath.Join(dir, "top")
	for i := range 700 { // more than one read of a directory
		must(t, os.MkdirAll(filepath.Join(top, "many", string(rune('a'+i%26))+filepath.Base(os.TempDir())+string(rune('0'+i/26))), 0o755))
	}
	must(t, os.MkdirAll(filepath.Join(top, "a/b/c"), 0o500))
	must(t, os.Symlink(keep, filepath.Join(top, "a/link")))
	must(t, removeTree(top))
	must(t, removeTree(top)) // not there any more: no error
	must(t, removeTree(filepath.Join(top, "x/y")))
	if _, err := os.Lstat(top); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(keep, "file")); err != nil {
		t.Errorf("deleted through a link: %v", err)
	}
}

// TestRemoveStopsAtMounts: a bind mount of the same file system, which its device number does not give away, is not
// deleted through; nor is a bound file. With unmounting, what was bound stays as it was.
func TestRemoveStopsAtMounts(t *testing.T) {
	needsMounts(t)
	dir := tempDir(t)
	precious := filepath.Join(dir, "precious")
	must(t, os.MkdirAll(filepath.Join(precious, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(precious, "file"), []byte("x"), 0o644))
	top := filepath.Join(dir, "top with space")
	bound, boundFile := filepath.Join(top, "a/bound"), filepath.Join(top, "a/zfile")
	must(t, os.MkdirAll(bound, 0o755))
	must(t, os.WriteFile(boundFile, nil, 0o644))
	must(t, unix.Mount(precious, bound, "", unix.MS_BIND, ""))
	must(t, unix.Mount(filepath.Join(precious, "file"), boundFile, "", unix.MS_BIND, ""))
	must(t, unix.Mount("tmpfs", filepath.Join(bound, "sub"), "tmpfs", 0, ""))
	if err := removeTree(top); !errors.Is(err, errMount) {
		t.Fatalf("removing over a mount: %v", err)
	}
	must(t, removeWithMounts(top))
	if _, err := os.Lstat(top); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(precious, "file")); err != nil || string(b) != "x" {
		t.Errorf("precious file: %q %v", b, err)
	}
}

func TestUnmountStacked(t *testing.T) {
	needsMounts(t)
	dir := tempDir(t)
	at := filepath.Join(dir, "at")
	must(t, os.Mkdir(at, 0o755))
	must(t, unmount(at)) // nothing mounted
	must(t, mountTmpfs(at, 1<<20, false))
	must(t, mountTmpfs(at, 1<<20, true))
	busy, err := os.Create(filepath.Join(at, "busy"))
	must(t, err)
	defer busy.Close()
	must(t, unmount(at))
	if on, err := isMountPoint(at); err != nil || on {
		t.Errorf("still mounted: %v %v", on, err)
	}
	must(t, unmount(filepath.Join(dir, "absent")))
}

// TestSubPath: what a subPath shows, and what it must never show.
func TestSubPath(t *testing.T) {
	needsMounts(t)
	dir := tempDir(t)
	outside := filepath.Join(dir, "outside")
	volume := filepath.Join(dir, "volume")
	must(t, os.MkdirAll(filepath.Join(outside, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "etc/secret"), []byte("secret"), 0o600))
	must(t, os.MkdirAll(filepath.Join(volume, "data/sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(volume, "data/file"), []byte("content"), 0o644))
	must(t, os.Symlink("data", filepath.Join(volume, "inner")))
	must(t, os.Symlink(outside, filepath.Join(volume, "absolute")))
	must(t, os.Symlink("../outside", filepath.Join(volume, "up")))
	must(t, os.Symlink("nowhere", filepath.Join(volume, "dangling")))
	must(t, os.Symlink("/proc/self/root", filepath.Join(volume, "magic")))
	n := 0
	target := func() string { n++; return filepath.Join(dir, "targets", string(rune('a'+n))) }

	for _, part := range []string{"data", "inner", "inner/sub", "data/sub/../sub/."} {
		if part == "data/sub/../sub/." {
			if err := subPath(volume, part, target()); err == nil {
				t.Errorf("%s: has '..' and was shown", part)
			}
			continue
		}
		at := target()
		if err := subPath(volume, part, at); err != nil {
			t.Errorf("%s: %v", part, err)
		}
		if on, err := isMountPoint(at); err != nil || !on {
			t.Errorf("%s: not mounted: %v", part, err)
		}
	}
	file := target()
	must(t, subPath(volume, "inner/file", file))
	if b, err := os.ReadFile(file); err != nil || string(b) != "content" {
		t.Errorf("file: %q %v", b, err)
	}
	for _, part := range []string{"absolute", "absolute/etc", "up", "up/etc/secret", "magic", "magic/etc", "../outside", "/etc", "dangling", "data/file/x", "absolute/new/dir"} {
		at := target()
		if err := subPath(volume, part, at); err == nil {
			t.Errorf("%s was shown", part)
		}
		if on, _ := isMountPoint(at); on {
			t.Errorf("%s: something is mounted", part)
		}
	}
	if _, err := os.Lstat(filepath.Join(outside, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a directory was made outside the volume")
	}

	// What is missing is made, with the volume's mode and its setgid bit inherited.
	must(t, os.Chmod(volume, 0o2770|os.ModeSetgid))
	must(t, os.Chown(volume, -1, 4321))
	must(t, subPath(volume, "inner/made/deep", target()))
	must(t, subPath(volume, "made/deep", target()))
	info, err := os.Stat(filepath.Join(volume, "made/deep"))
	must(t, err)
	if st := info.Sys().(interface{}); st == nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o770 {
		t.Errorf("made directory has mode %v", info.Mode())
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(volume, "made/deep"), &st))
	if st.Gid != 4321 {
		t.Errorf("made directory belongs to group %d", st.Gid)
	}

	// The same again is kept; a replaced file is shown anew.
	must(t, subPath(volume, "inner/file", file))
	must(t, os.WriteFile(filepath.Join(volume, "data/new"), []byte("new"), 0o644))
	must(t, os.Rename(filepath.Join(volume, "data/new"), filepath.Join(volume, "data/file")))
	must(t, subPath(volume, "inner/file", file))
	if b, err := os.ReadFile(file); err != nil || string(b) != "new" {
		t.Errorf("replaced file: %q %v", b, err)
	}
	// A directory in place of a file changes the target's kind too.
	must(t, os.Remove(filepath.Join(volume, "data/file")))
	must(t, os.Mkdir(filepath.Join(volume, "data/file"), 0o755))
	must(t, subPath(volume, "inner/file", file))
	if info, err := os.Stat(file); err != nil || !info.IsDir() {
		t.Errorf("directory in place of a file: %v %v", info, err)
	}
}

// TestSubPathRace: a container swaps a directory for a link to the outside while the kubelet binds it, over and over.
// Whatever is bound lies inside the volume.
func TestSubPathRace(t *testing.T) {
	needsMounts(t)
	dir := tempDir(t)
	outside, volume := filepath.Join(dir, "outside"), filepath.Join(dir, "volume")
	must(t, os.MkdirAll(filepath.Join(outside, "b"), 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "b/marker"), nil, 0o644))
	must(t, os.MkdirAll(filepath.Join(volume, "a/b"), 0o755))
	must(t, os.Symlink("../outside", filepath.Join(volume, "link")))
	stop := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		a, link := filepath.Join(volume, "a"), filepath.Join(volume, "link")
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	})
	target := filepath.Join(dir, "target")
	bound, refused := 0, 0
	for range 2000 {
		if err := subPath(volume, "a/b", target); err != nil {
			refused++
			continue
		}
		bound++
		if _, err := os.Lstat(filepath.Join(target, "marker")); err == nil {
			t.Fatal("the outside was bound")
		}
		if bound%8 == 0 {
			must(t, unmount(target))
		}
	}
	close(stop)
	attacker.Wait()
	t.Logf("bound %d, refused %d", bound, refused)
	if bound == 0 || refused == 0 {
		t.Log("the race was not tight: one side always won")
	}
}

func TestUnescapeMount(t *testing.T) {
	for in, want := range map[string]string{`/a`: `/a`, `/a\040b`: `/a b`, `/a\134b\011`: "/a\\b\t", `/a\04`: `/a\04`} {
		if got := unescapeMount(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
