package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// shown reads what a volume's user sees: every file that can be reached without names that begin with two dots.
func shown(t interface{ Fatalf(string, ...any) }, dir string) map[string]string {
	found := map[string]string{}
	var walk func(string)
	walk = func(rel string) {
		entries, err := os.ReadDir(filepath.Join(dir, rel))
		if err != nil {
			t.Fatalf("read %s: %v", rel, err)
		}
		for _, e := range entries {
			name := filepath.Join(rel, e.Name())
			if strings.HasPrefix(e.Name(), "..") {
				continue
			}
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatalf("a shown name leads nowhere: %v", err)
			}
			if info.IsDir() {
				walk(name)
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatalf("%v", err)
			}
			found[name] = string(b)
		}
	}
	walk("")
	return found
}

func contents(p payload) map[string]string {
	m := map[string]string{}
	for k, f := range p {
		m[k] = string(f.data)
	}
	return m
}

func drawPayload(t *rapid.T, label string) payload {
	p := payload{}
	for _, name := range []string{"a", "b", "dir/c", "dir/d", "deep/er/e"} {
		if rapid.Bool().Draw(t, label+name) {
			p[name] = file{data: []byte(rapid.SampledFrom([]string{"", "one", "two", strings.Repeat("x", 5000)}).Draw(t, label+name+"=")), mode: 0o644}
		}
	}
	return p
}

// TestWriteShowsExactly: after any sequence of writes the volume shows the last payload and nothing else, and only one
// data directory is left. Writing the same again changes nothing.
func TestWriteShowsExactly(t *testing.T) {
	base := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range rapid.IntRange(1, 4).Draw(t, "writes") {
			p := drawPayload(t, fmt.Sprint(i))
			if _, err := writeAtomically(dir, p, nil); err != nil {
				t.Fatal(err)
			}
			if got, want := shown(t, dir), contents(p); !maps.Equal(got, want) {
				t.Fatalf("shows %v, want %v", got, want)
			}
			before, err := os.Readlink(filepath.Join(dir, "..data"))
			if err != nil {
				t.Fatal(err)
			}
			changed, err := writeAtomically(dir, p, nil)
			if after, _ := os.Readlink(filepath.Join(dir, "..data")); err != nil || changed || after != before {
				t.Fatalf("writing the same again: changed %v, err %v", changed, err)
			}
			hidden, err := filepath.Glob(filepath.Join(dir, "..2*"))
			if err != nil || len(hidden) != 1 {
				t.Fatalf("data directories: %v %v", hidden, err)
			}
		}
	})
}

// TestWriteAfterCrash: whatever a crash left of a write (here each prefix of its steps, made by hand), the shown
// content is the old or the new, and the next write makes it right.
func TestWriteAfterCrash(t *testing.T) {
	old := payload{"a": {data: []byte("old"), mode: 0o644}, "gone": {data: []byte("old"), mode: 0o644}}
	next := payload{"a": {data: []byte("new"), mode: 0o644}, "more": {data: []byte("new"), mode: 0o600}}
	steps := []func(dir string) error{
		func(dir string) error { return os.Mkdir(filepath.Join(dir, "..2026_01_01_00_00_00.123"), 0o700) },
		func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "..2026_01_01_00_00_00.123/a"), []byte("ne"), 0o600)
		},
		func(dir string) error {
			return fill2(filepath.Join(dir, "..2026_01_01_00_00_00.123"), next)
		},
		func(dir string) error {
			return os.Symlink("..2026_01_01_00_00_00.123", filepath.Join(dir, "..data_tmp"))
		},
		func(dir string) error {
			return os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
		},
		func(dir string) error { return os.Remove(filepath.Join(dir, "gone")) },
	}
	for crash := range len(steps) + 1 {
		dir := t.TempDir()
		if _, err := writeAtomically(dir, old, nil); err != nil {
			t.Fatal(err)
		}
		for _, step := range steps[:crash] {
			if err := step(dir); err != nil {
				t.Fatal(err)
			}
		}
		a, err := os.ReadFile(filepath.Join(dir, "a"))
		if err != nil || string(a) != "old" && string(a) != "new" {
			t.Errorf("crash after step %d: a is %q (%v)", crash, a, err)
		}
		if _, err := writeAtomically(dir, next, nil); err != nil {
			t.Errorf("crash after step %d: %v", crash, err)
			continue
		}
		if got := shown(t, dir); !maps.Equal(got, contents(next)) {
			t.Errorf("crash after step %d: shows %v", crash, got)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), "..2") {
				names = append(names, e.Name())
			}
		}
		if want := []string{"..data", "a", "more"}; !slices.Equal(names, want) || len(entries) != 4 {
			t.Errorf("crash after step %d: left %v of %d", crash, names, len(entries))
		}
	}
}

func fill2(dir string, p payload) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return fill(dir, p, nil)
}

// TestWriteIsAtomic: a reader that opens two files through one data directory never sees an old one beside a new one.
func TestWriteIsAtomic(t *testing.T) {
	dir := t.TempDir()
	version := func(i int) payload {
		b := []byte(fmt.Sprint(i))
		return payload{"a": {data: b, mode: 0o644}, "b": {data: b, mode: 0o644}}
	}
	if _, err := writeAtomically(dir, version(0), nil); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			now, err := os.OpenRoot(filepath.Join(dir, "..data"))
			if errors.Is(err, fs.ErrNotExist) {
				// Between following the link and opening what it named, the write after next removed that: the reader
				// looks again, as any would. The link itself is always there.
				if _, err := os.Lstat(filepath.Join(dir, "..data")); err != nil {
					t.Errorf("data link: %v", err)
					return
				}
				continue
			}
			if err != nil {
				t.Errorf("data link: %v", err)
				return
			}
			a, errA := fs.ReadFile(now.FS(), "a")
			b, errB := fs.ReadFile(now.FS(), "b")
			now.Close()
			if errA == nil && errB == nil && string(a) != string(b) {
				t.Errorf("a is %s while b is %s", a, b)
			}
		}
	})
	for i := range 200 {
		if _, err := writeAtomically(dir, version(i+1), nil); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	reader.Wait()
}

func TestWriteRefusesPaths(t *testing.T) {
	for _, path := range []string{"", "/a", "..", "../a", "a/../b", "..a", "a//b", "a/./b", strings.Repeat("x", 256), "a\x00b", "a/" + strings.Repeat("y/", 4000) + "b"} {
		dir := t.TempDir()
		if _, err := writeAtomically(dir, payload{path: {mode: 0o644}}, nil); err == nil {
			t.Errorf("%.20q was written", path)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Errorf("%.20q left something", path)
		}
	}
}

func TestWriteModes(t *testing.T) {
	dir := t.TempDir()
	if _, err := writeAtomically(dir, payload{"a": {mode: 0o400}, "d/b": {mode: 0o640}}, nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"a": 0o400, "d/b": 0o640, "..data/": fs.ModeDir | 0o755, "d": fs.ModeDir | 0o755} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v (%v), want %v", name, info.Mode(), err, want)
		}
	}
}
