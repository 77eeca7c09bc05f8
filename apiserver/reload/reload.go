// Package reload tells of changes of a configuration file, however it is changed: written over, renamed into place, or by the links
// that a mounted ConfigMap turns. The API server's authenticators and authorizers and the wiring import it.
package reload

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must be left alone before it is read: editors and cp write in several steps. In a folder that is never left
// alone it is read after patience.
const (
	settle   = 100 * time.Millisecond
	patience = 10 * settle
)

// recheck is how often the file is read although nothing was told: some file systems tell nothing.
const recheck = time.Minute

// Watch calls changed with the file's content whenever it differs from known, until ctx ends. changed is never called twice at once; what
// it refuses stays refused until the file changes again. A file that cannot be read is logged and left for later.
func Watch(ctx context.Context, path string, known []byte, changed func(context.Context, []byte) error, log *slog.Logger) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer watcher.Close()
	// The folder, not the file: a file that is renamed into place is another file.
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	timer := time.NewTimer(0) // it may have changed since known was read
	defer timer.Stop()
	var first time.Time // of what was told since the file was read
	for {
		told := false
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			told = true
		case err := <-watcher.Errors: // an overflow: look
			log.Debug("watch a configuration file", "file", path, "error", err)
			told = true
		case <-timer.C:
		}
		if told {
			if first.IsZero() {
				first = time.Now()
			}
			if time.Since(first) < patience {
				timer.Reset(settle)
			}
			continue
		}
		first = time.Time{}
		timer.Reset(recheck)
		content, err := os.ReadFile(path)
		if err != nil {
			log.Warn("a configuration file cannot be read; what was in it before stays in force", "file", path, "error", err)
			continue
		}
		if bytes.Equal(content, known) {
			continue
		}
		known = content
		if err := changed(ctx, content); err != nil {
			log.Error("a configuration file has changed and is wrong; what was in it before stays in force", "file", path, "error", err)
			continue
		}
		log.Info("a configuration file has changed and is in force", "file", path)
	}
}
