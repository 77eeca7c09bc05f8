package etcd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// writerDir, when set, makes this test binary a program that starts etcd there and writes numbered keys, saying each
// number after it was acknowledged.
const writerDir = "ETCD_TEST_WRITER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		write(dir)
		return
	}
	if dir := os.Getenv(fullDir); dir != "" {
		if err := fillDisk(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("recovered")
		return
	}
	os.Exit(m.Run())
}

func write(dir string) {
	e, err := Start(context.Background(), Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	first := 0
	if r, err := e.Client().Get(context.Background(), "k", clientv3.WithPrefix(), clientv3.WithCountOnly()); err == nil {
		first = int(r.Count)
	}
	for i := first; ; i++ {
		if _, err := e.Client().Put(context.Background(), fmt.Sprintf("k%06d", i), "v"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(i)
	}
}

// A killed process loses nothing it acknowledged, leaves no stale lock, and the next one starts, whenever the kill came.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acknowledged := -1
	// The first rounds end while etcd is making its directory, the later ones in the midst of writes.
	for _, lines := range []int{0, 0, 0, 1, 50, 120} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		scan := bufio.NewScanner(out)
		if lines == 0 { // as soon as there is anything of a directory to spoil
			for !exists(filepath.Join(dir, "member")) && cmd.Process.Signal(syscall.Signal(0)) == nil {
			}
		}
		for i := 0; i < lines && scan.Scan(); i++ {
			if acknowledged, err = strconv.Atoi(scan.Text()); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Process.Kill()
		for scan.Scan() { // what it had said before it died counts too
			if n, err := strconv.Atoi(scan.Text()); err == nil {
				acknowledged = n
			}
		}
		cmd.Wait()
		if lines > 0 && acknowledged < 0 {
			t.Fatalf("the writer wrote nothing: %s", &stderr)
		}
	}
	if acknowledged < 170 {
		t.Fatalf("last acknowledged write is %d: the rounds did not build on each other", acknowledged)
	}
	e, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	r, err := e.Client().Get(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	if int(r.Count) <= acknowledged {
		t.Fatalf("%d keys on disk, %d acknowledged", r.Count, acknowledged+1)
	}
	for i, kv := range r.Kvs {
		if want := fmt.Sprintf("k%06d", i); string(kv.Key) != want {
			t.Fatalf("key %d is %s, want %s", i, kv.Key, want)
		}
	}
}

// A first start that was killed while it made the database, at any of its bytes, is no damage.
func TestKilledWhileMakingDatabase(t *testing.T) {
	for _, length := range []int{0, 1, 4096, 16384} {
		dir := t.TempDir()
		database := filepath.Join(dir, "member", "snap", "db")
		if err := os.MkdirAll(filepath.Dir(database), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(database, make([]byte, length), 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := Start(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatalf("%d bytes: %v", length, err)
		}
		if _, err := e.Client().Put(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		e.Close()
	}
}

// A first start that was killed when the log was there, and nothing in it, is begun anew.
func TestKilledBeforeFirstEntry(t *testing.T) {
	dir := t.TempDir()
	e, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	path := filepath.Join(dir, "member", "wal")
	log, err := wal.OpenForRead(zap.NewNop(), path, &walpb.Snapshot{})
	if err != nil {
		t.Fatal(err)
	}
	members, _, _, err := log.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	log.Close()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if log, err = wal.Create(zap.NewNop(), path, members); err != nil {
		t.Fatal(err)
	}
	log.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if e, err = Start(ctx, Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Client().Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A directory in use is refused at once, by who holds it, and is free after Close.
func TestInUse(t *testing.T) {
	dir := t.TempDir()
	e, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Config{Dir: dir})
	if want := fmt.Sprintf("in use by process %d", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("second start: %v, want %q", err, want)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	e, err = Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatalf("start after Close: %v", err)
	}
	e.Close()
}

// Damage is one sentence with the mend, never an exit or a hang.
func TestDamaged(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"log overwritten": func(dir string) error {
			logs, _ := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
			return os.WriteFile(logs[0], bytes.Repeat([]byte{0xa5}, 4096), 0o600)
		},
		"log names gone": func(dir string) error {
			logs, _ := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
			return os.Rename(logs[0], filepath.Join(filepath.Dir(logs[0]), "x.wal"))
		},
		"database overwritten": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "member", "snap", "db"), bytes.Repeat([]byte{0xa5}, 1<<16), 0o600)
		},
		"member is a file": func(dir string) error {
			if err := os.RemoveAll(filepath.Join(dir, "member")); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "member"), nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := abandoned(t)
			quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
			e, err := Start(t.Context(), Config{Dir: dir, Log: quiet})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Client().Put(t.Context(), "k", "v"); err != nil {
				t.Fatal(err)
			}
			e.Close()
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			e, err = Start(ctx, Config{Dir: dir, Log: quiet})
			if err == nil {
				e.Close()
				t.Fatal("started on a damaged directory")
			}
			if ctx.Err() != nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "; ") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("not one sentence with the mend: %v", err)
			}
		})
	}
}

// abandoned is a directory for an etcd that fails to open it: a goroutine of etcd's, of which nobody has a handle, may still make the next file of
// the log there, one, while the directory is removed.
func abandoned(t *testing.T) string {
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		deadline := time.Now().Add(30 * time.Second)
		for err := os.RemoveAll(dir); err != nil; err = os.RemoveAll(dir) {
			if time.Now().After(deadline) {
				t.Error(err)
				return
			}
		}
	})
	return dir
}

// Other programs reach the member through the socket and see what was written in process.
func TestListen(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	e, err := Start(t.Context(), Config{Dir: filepath.Join(dir, "data"), Listen: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Client().Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Get(t.Context(), "k")
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "v" {
		t.Fatalf("read through the socket: %v, %v", r, err)
	}
}

// BenchmarkStart is an empty directory to the first acknowledged write, and the stop.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		e, err := Start(b.Context(), Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Client().Put(b.Context(), "a", "b"); err != nil {
			b.Fatal(err)
		}
		e.Close()
	}
}
