package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// save takes a snapshot of a running member.
func save(t *testing.T, e *Etcd, path string) {
	t.Helper()
	r, err := e.Client().SnapshotWithVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Snapshot.Close()
	if err := SaveSnapshot(r.Snapshot, path); err != nil {
		t.Fatal(err)
	}
}

// What a snapshot has comes back, in a new directory and in one in use before; revisions only ever grow, and old ones are compacted.
func TestRestore(t *testing.T) {
	dir, file := filepath.Join(t.TempDir(), "etcd"), filepath.Join(t.TempDir(), "s.db")
	e, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if _, err := e.Client().Put(t.Context(), fmt.Sprintf("k%d", i), "before"); err != nil {
			t.Fatal(err)
		}
	}
	save(t, e, file)
	s, err := InspectSnapshot(file)
	if err != nil || s.Keys != 50 || s.Revision != 51 {
		t.Fatalf("inspected %+v, %v", s, err)
	}
	last, err := e.Client().Put(t.Context(), "k0", "after")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := RestoreSnapshot(t.Context(), file, dir); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Fatalf("restore into a directory in use: %v", err)
	}
	e.Close()
	for i, to := range []string{dir, filepath.Join(t.TempDir(), "new", "etcd")} {
		kept, err := RestoreSnapshot(t.Context(), file, to)
		if err != nil || (kept != "") != (i == 0) {
			t.Fatalf("restore: kept %q, %v", kept, err)
		}
		e, err := Start(t.Context(), Config{Dir: to})
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.Client().Get(t.Context(), "k0")
		if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "before" || r.Header.Revision <= last.Header.Revision {
			t.Fatalf("read %v, %v", r, err)
		}
		if _, err := e.Client().Get(t.Context(), "k0", clientv3.WithRev(last.Header.Revision)); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Fatalf("a revision from before the restore: %v", err)
		}
		if _, err := e.Client().Put(t.Context(), "k0", "again"); err != nil {
			t.Fatal(err)
		}
		e.Close()
		if kept != "" {
			old, err := Start(t.Context(), Config{Dir: kept})
			if err != nil {
				t.Fatal(err)
			}
			if r, err := old.Client().Get(t.Context(), "k0"); err != nil || string(r.Kvs[0].Value) != "after" {
				t.Fatalf("the state before is %v, %v", r, err)
			}
			old.Close()
		}
		if left, _ := filepath.Glob(to + ".restoring*"); len(left) > 0 {
			t.Fatalf("left behind: %v", left)
		}
	}
}

// A snapshot that is cut short or damaged is neither written nor restored.
func TestDamagedSnapshot(t *testing.T) {
	dir := t.TempDir()
	e, err := Start(t.Context(), Config{Dir: filepath.Join(dir, "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good.db")
	save(t, e, good)
	e.Close()
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for name, b := range map[string][]byte{"cut": whole[:len(whole)-700], "flipped": flipped, "empty": nil} {
		path := filepath.Join(dir, name+".db")
		if err := SaveSnapshot(bytes.NewReader(b), path); err == nil || !strings.Contains(err.Error(), "take another") {
			t.Errorf("%s is saved: %v", name, err)
		}
		if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
			t.Errorf("%s left %v", name, left)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, "restored")
		if _, err := RestoreSnapshot(t.Context(), path, to); err == nil || exists(to) {
			t.Errorf("%s is restored: %v", name, err)
		}
	}
}

// Old snapshots and halves of killed writers go; files of others stay.
func TestPrune(t *testing.T) {
	dir := t.TempDir()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	names := []string{"mine.db", "notes", SnapshotName(begin) + partialSuffix}
	for i := range 5 {
		names = append(names, SnapshotName(begin.Add(time.Duration(i)*time.Hour)))
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := PruneSnapshots(dir, 2); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"etcd-20260101T030000Z.db", "etcd-20260101T040000Z.db", "mine.db", "notes"}; !slices.Equal(left, want) {
		t.Fatalf("left %v, want %v", left, want)
	}
}

func TestUpkeep(t *testing.T) {
	const mb, plenty = 1 << 20, 100 << 30
	for name, test := range map[string]struct {
		size size
		want upkeep
	}{
		"nothing":                       {size{database: 100 * mb, used: 90 * mb, quota: 8192 * mb, free: plenty}, upkeep{}},
		"half is free":                  {size{database: 300 * mb, used: 100 * mb, quota: 8192 * mb, free: plenty}, upkeep{defrag: true}},
		"a small one is not worth it":   {size{database: 60 * mb, used: 1 * mb, quota: 8192 * mb, free: plenty}, upkeep{}},
		"no room to rewrite it":         {size{database: 3000 * mb, used: 1000 * mb, quota: 8192 * mb, free: 500 * mb}, upkeep{}},
		"full, and nothing to give":     {size{database: 8192 * mb, used: 8190 * mb, quota: 8192 * mb, free: plenty, refusing: true}, upkeep{compact: true}},
		"full, but much was deleted":    {size{database: 8192 * mb, used: 100 * mb, quota: 8192 * mb, free: plenty, refusing: true}, upkeep{compact: true, defrag: true, allow: true}},
		"the disk has room again":       {size{database: 10 * mb, used: 10 * mb, quota: 8192 * mb, free: plenty, refusing: true}, upkeep{allow: true}},
		"the disk has hardly any again": {size{database: 10 * mb, used: 10 * mb, quota: 8192 * mb, free: diskLow + 1, refusing: true}, upkeep{}},
	} {
		if got := test.size.decide(); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
	if u := (size{database: 10 * mb, quota: 8192 * mb, free: mb}).decide(); !strings.Contains(u.refuse, "make room") {
		t.Errorf("a full disk: %+v", u)
	}
}

// A database that has reached its quota refuses writes; after deletions it takes them again by itself.
func TestQuota(t *testing.T) {
	e, err := Start(t.Context(), Config{Dir: t.TempDir(), Quota: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	value := strings.Repeat("x", 256<<10)
	upkeep := func() {
		t.Helper()
		s, err := e.look(t.Context())
		if err == nil {
			err = e.maintain(t.Context(), s)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// Upkeep finds room between the values a few times, until they are all there is.
	n, full := 0, false
	for !full {
		before := n
		for err = nil; err == nil; n++ {
			_, err = e.Client().Put(t.Context(), fmt.Sprint(n), value)
		}
		if n--; !errors.Is(err, rpctypes.ErrNoSpace) || n > 1000 {
			t.Fatalf("put number %d: %v", n, err)
		}
		full = n == before
		upkeep()
	}
	for i := range n {
		if _, err := e.Client().Delete(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatalf("delete while writes are refused: %v", err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		upkeep()
		if _, err = e.Client().Put(t.Context(), "a", value); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("put after all was deleted: %v", err)
		}
		time.Sleep(50 * time.Millisecond) // etcd compacts in its own time
	}
}

// fullDir makes this test binary a program that fills the disk of its data directory, a small file system of its own.
const fullDir = "ETCD_TEST_FULL_DIR"

// A disk that fills up: writes are refused in time, what was acknowledged is kept, deletions are taken, and writes again when there is room.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", `mount -t tmpfs -o size=256m tmpfs "$1" && exec "$2"`, "sh", dir, os.Args[0])
	cmd.Env = append(os.Environ(), fullDir+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "recovered") {
		t.Fatalf("%v: %s", err, out)
	}
}

func fillDisk(dir string) (err error) {
	ctx := context.Background()
	e, err := Start(ctx, Config{Dir: filepath.Join(dir, "etcd")})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	maintained := make(chan error, 1)
	go func() { maintained <- e.Maintain(ctx) }()
	// Somebody else takes nearly all of it, and etcd's own writes the rest.
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if err := unix.Fallocate(int(ballast.Fd()), 0, 0, int64(st.Bavail)*int64(st.Bsize)-diskGood-(8<<20)); err != nil {
		return err
	}
	value := strings.Repeat("x", 64<<10)
	n := 0
	deadline := time.Now().Add(40 * time.Second)
	for err = nil; err == nil; n++ {
		if time.Now().After(deadline) {
			return fmt.Errorf("after %d writes none was refused", n)
		}
		_, err = e.Client().Put(ctx, fmt.Sprint(n), value)
		time.Sleep(5 * time.Millisecond) // 13 MB a second
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		return fmt.Errorf("write number %d: %w", n, err)
	}
	if _, err := e.Client().Delete(ctx, "0"); err != nil {
		return fmt.Errorf("deletion on a full disk: %w", err)
	}
	r, err := e.Client().Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || r.Count != int64(n-2) {
		return fmt.Errorf("%d keys of %d acknowledged: %w", r.Count, n-2, err)
	}
	if err := os.Remove(ballast.Name()); err != nil {
		return err
	}
	ballast.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = e.Client().Put(ctx, "again", "v"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("with room again: %w", err)
		}
	}
	cancel()
	if err := <-maintained; err != nil {
		return err
	}
	return e.Close()
}
