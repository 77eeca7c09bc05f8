package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

const sample = `2026-11-20T10:00:00.1Z stdout F one
2026-11-20T10:00:01.000000002+00:00 stderr F two
2026-11-20T10:00:02Z stdout P thr
2026-11-20T10:00:02.5Z stdout F ee
garbage
2026-11-20T10:00:03Z stdout F
2026-11-20T10:00:04Z stdout F:x four
`

func write(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Error(err)
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, sample)
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"all", Options{Tail: -1, Limit: -1}, "one\ntwo\nthree\n\nfour\n"},
		{"tail 0", Options{Tail: 0, Limit: -1}, ""},
		{"tail 1", Options{Tail: 1, Limit: -1}, "four\n"},
		{"tail counts a split line once", Options{Tail: 3, Limit: -1}, "three\n\nfour\n"},
		{"tail beyond", Options{Tail: 99, Limit: -1}, "one\ntwo\nthree\n\nfour\n"},
		{"exactly all", Options{Tail: 5, Limit: -1}, "one\ntwo\nthree\n\nfour\n"},
		{"all but one", Options{Tail: 4, Limit: -1}, "two\nthree\n\nfour\n"},
		{"stderr", Options{Tail: -1, Limit: -1, Stream: Stderr}, "two\n"},
		{"tail of a stream", Options{Tail: 1, Limit: -1, Stream: Stderr}, "two\n"},
		{"since", Options{Tail: -1, Limit: -1, Since: at("2026-11-20T10:00:03Z")}, "\nfour\n"},
		{"limit", Options{Tail: -1, Limit: 5}, "one\nt"},
		{"limit at a line's end", Options{Tail: -1, Limit: 4}, "one\n"},
		{"limit 0", Options{Tail: -1, Limit: 0}, ""},
		{"timestamps", Options{Tail: -1, Limit: -1, Timestamps: true}, "2026-11-20T10:00:00.100000000Z one\n2026-11-20T10:00:01.000000002Z two\n" +
			"2026-11-20T10:00:02.000000000Z three\n2026-11-20T10:00:03.000000000Z \n2026-11-20T10:00:04.000000000Z four\n"},
		{"follow of what has ended", Options{Follow: true, Tail: 1, Limit: -1}, "four\n"},
	} {
		var out bytes.Buffer
		if err := Read(t.Context(), path, c.o, &out); err != nil || out.String() != c.want {
			t.Errorf("%s: %q (%v), want %q", c.name, out.String(), err, c.want)
		}
	}
	if err := Read(t.Context(), path+"x", Options{Tail: -1, Limit: -1}, io.Discard); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// TestTailMatchesAll: the last n lines are what the end of the whole says, wherever chunks fall.
func TestTailMatchesAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	rapid.Check(t, func(rt *rapid.T) {
		var text strings.Builder
		for range rapid.IntRange(0, 40).Draw(rt, "records") {
			tag := "F"
			if rapid.IntRange(0, 4).Draw(rt, "partial") == 0 {
				tag = "P"
			}
			size := rapid.SampledFrom([]int{0, 1, 100, 8000, 16384, 70000}).Draw(rt, "size")
			fmt.Fprintf(&text, "2026-11-20T10:00:00.123456789Z stdout %s %s\n", tag, strings.Repeat("x", size))
		}
		text.WriteString("2026-11-20T10:00:00Z stdout F end\n")
		if err := os.WriteFile(path, []byte(text.String()), 0o640); err != nil {
			rt.Fatal(err)
		}
		var all, tail bytes.Buffer
		if err := Read(t.Context(), path, Options{Tail: -1, Limit: -1}, &all); err != nil {
			rt.Fatal(err)
		}
		n := rapid.IntRange(1, 45).Draw(rt, "n")
		if err := Read(t.Context(), path, Options{Tail: int64(n), Limit: -1}, &tail); err != nil {
			rt.Fatal(err)
		}
		lines := strings.SplitAfter(strings.TrimSuffix(all.String(), "\n"), "\n")
		want := strings.Join(lines[max(0, len(lines)-n):], "") + "\n"
		if tail.String() != want {
			rt.Fatalf("tail %d: %d bytes, want %d", n, tail.Len(), len(want))
		}
	})
}

// signals is a writer that tells when it holds a text.
type signals struct {
	mu   sync.Mutex
	b    bytes.Buffer
	news chan struct{}
}

func (s *signals) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
	return s.b.Write(p)
}

func (s *signals) wait(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		have := s.b.String()
		s.mu.Unlock()
		if have == want {
			return
		}
		select {
		case <-s.news:
		case <-deadline:
			t.Fatalf("have %q, want %q", have, want)
		}
	}
}

// TestFollow: a follower sees lines as they are written, the second half of a torn one, goes on in the new file after a rotation, and ends with the container.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, sample)
	ended := make(chan struct{})
	out := &signals{news: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() {
		done <- Read(t.Context(), path, Options{Follow: true, Tail: 1, Limit: -1, Ended: ended}, out)
	}()
	out.wait(t, "four\n")
	write(t, path, "2026-11-20T10:00:05Z stdout F fi")
	write(t, path, "ve\n")
	out.wait(t, "four\nfive\n")
	// Rotation: the runtime writes to the moved file until it is told.
	if err := os.Rename(path, path+".20261120-100006"); err != nil {
		t.Fatal(err)
	}
	write(t, path+".20261120-100006", "2026-11-20T10:00:06Z stdout F six\n")
	write(t, path, "2026-11-20T10:00:07Z stdout F seven\n")
	out.wait(t, "four\nfive\nsix\nseven\n")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(t, path, "2026-11-20T10:00:07Z stdout F 7\n")
	out.wait(t, "four\nfive\nsix\nseven\n7\n")
	write(t, path, "2026-11-20T10:00:08Z stdout F last")
	close(ended)
	out.wait(t, "four\nfive\nsix\nseven\n7\nlast\n")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestFollowCanceled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, sample)
	ctx, cancel := context.WithCancel(t.Context())
	out := &signals{news: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() {
		done <- Read(ctx, path, Options{Follow: true, Tail: 1, Limit: -1, Ended: make(chan struct{})}, out)
	}()
	out.wait(t, "four\n")
	cancel()
	if err := <-done; err != nil {
		t.Fatalf("a follower that goes away: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for line := range strings.Lines(sample) {
		f.Add([]byte(line))
	}
	f.Add([]byte("2026-11-20T10:00:00Z stdout P:a:b   spaces "))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parse(line)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatal(err)
			}
			return
		}
		if s := Stream(r.stream); s != Stdout && s != Stderr {
			t.Fatalf("stream %q", s)
		}
		if !bytes.HasSuffix(bytes.TrimSuffix(line, []byte("\n")), r.content) {
			t.Fatalf("content %q is not the end of %q", r.content, line)
		}
		_, _ = r.when()
	})
}

func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "0.log")
		fill := func(s string) { write(t, path, strings.Repeat(s, 100)) }
		fill("a")
		var reopened int
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- Rotate(ctx, RotateConfig{MaxSize: 100, MaxFiles: 3, Running: func() []File { return []File{{"c1", path}} },
				Reopen: func(context.Context, string) error {
					reopened++
					f, err := os.Create(path)
					if err != nil {
						return err
					}
					return f.Close()
				}})
		}()
		for _, s := range []string{"b", "c", "d"} {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			fill(s)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if reopened != 4 {
			t.Errorf("reopened %d times", reopened)
		}
		old, err := rotatedFiles(path)
		if err != nil || len(old) != 2 || !strings.HasSuffix(old[0], ".gz") || strings.HasSuffix(old[1], ".gz") {
			t.Fatalf("kept %v %v", old, err)
		}
		f, err := os.Open(old[0])
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(z); err != nil || string(text) != strings.Repeat("c", 100) {
			t.Errorf("archive %q %v", text, err)
		}
		if text, _ := os.ReadFile(old[1]); string(text) != strings.Repeat("d", 100) {
			t.Errorf("newest %q", text)
		}
	})
}

// TestRotateUndone: when the runtime cannot reopen, its file has its name back, and what a crash left is tidied.
func TestRotateUndone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, "text")
	write(t, path+".20261120-100000", "old")
	write(t, path+".20261120-100000.gz", "archive")
	write(t, path+".20261120-110000.tmp", "half")
	write(t, path+".note", "not ours")
	err := rotate(t.Context(), RotateConfig{MaxFiles: 5, Reopen: func(context.Context, string) error { return errors.New("runtime is gone") }}, File{"c1", path}, time.Now())
	if err == nil || !strings.Contains(err.Error(), "runtime is gone") {
		t.Errorf("error %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "text" {
		t.Errorf("current file: %q %v", b, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), "0.log 0.log.20261120-100000.gz 0.log.note"; got != want {
		t.Errorf("left %s, want %s", got, want)
	}
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "0.log")
	line := "2026-11-20T10:00:00.123456789Z stdout F " + strings.Repeat("x", 120) + "\n"
	write(b, path, strings.Repeat(line, 100_000))
	b.SetBytes(int64(len(line)) * 100_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := Read(b.Context(), path, Options{Tail: -1, Limit: -1}, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
