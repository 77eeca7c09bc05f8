package reload

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// A file is read again when it is written over, renamed into place and turned by a link, and what is refused is not asked for again.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config", "one")
	ctx, cancel := context.WithCancel(t.Context())
	got, done := make(chan string), make(chan error, 1)
	go func() {
		done <- Watch(ctx, path, []byte("one"), func(_ context.Context, b []byte) error {
			got <- string(b)
			if string(b) == "wrong" {
				return errors.New("refused")
			}
			return nil
		}, slog.New(slog.DiscardHandler))
	}()
	expect := func(want string) {
		t.Helper()
		c := <-got
		for c == "" { // a file that is written over is empty for a moment, and Watch may look just then
			c = <-got
		}
		if c != want {
			t.Errorf("%q, want %q", c, want)
		}
	}
	write("config", "two")
	expect("two")
	write("config", "wrong")
	expect("wrong")
	write("next", "three")
	if err := os.Rename(filepath.Join(dir, "next"), path); err != nil {
		t.Fatal(err)
	}
	expect("three")
	write("target", "four")
	if err := os.Symlink("target", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "link"), path); err != nil {
		t.Fatal(err)
	}
	expect("four")
	// A folder in which something happens all the time.
	busy, stop := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for busy.Err() == nil {
			os.WriteFile(filepath.Join(dir, "noise"), []byte("noise"), 0o600)
		}
	}()
	write("target", "five")
	expect("five")
	stop()
	<-stopped
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Watch(t.Context(), filepath.Join(dir, "none", "config"), nil, nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder that is not there")
	}
}
