package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options choose what Read writes. They are PodLogOptions without what the caller has resolved.
type Options struct {
	Follow     bool
	Tail       int64     // only the last lines; negative for all
	Since      time.Time // only what was written from then on; zero for all
	Timestamps bool      // each line begins with its time
	Limit      int64     // at most so many bytes are written; negative for no limit
	Stream     Stream
	// Ended is closed when the container has ended: a follower then reads to the end of the file and returns. Nil
	// means it has ended, so that Follow has nothing to wait for.
	Ended <-chan struct{}
}

// timestamp is how times are written: nine digits always, so that lines align.
const timestamp = "2006-01-02T15:04:05.000000000Z07:00"

// Read writes a container's log from the file at path. A follower waits for more until the container ends, across
// rotations of the file; ctx ends it without an error. Lines which are not in the CRI format are left out. w is written
// to from the calling goroutine only; if it has a Flush method, that is called before waiting.
func Read(ctx context.Context, path string, o Options, w io.Writer) error {
	if o.Limit == 0 || o.Tail == 0 && !o.Follow {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("failed to try resolving symlinks in path %q: %w", path, err)
	}
	r := &reader{path: path, o: o, out: limited{w: w, left: o.Limit}, file: f, begins: true}
	defer func() { r.file.Close() }()
	if o.Tail >= 0 {
		at, err := tailOffset(f, o.Tail, o.Stream)
		if err != nil {
			return fmt.Errorf("find the last %d lines of %s: %w", o.Tail, path, err)
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return fmt.Errorf("read log %s: %w", path, err)
		}
	}
	if o.Follow && o.Ended != nil {
		// Watch before reading: what is written in between is then seen as an event. The directory rather than the
		// file, for rotation puts another file in its place.
		if r.watch, err = fsnotify.NewWatcher(); err != nil {
			return fmt.Errorf("watch log %s: %w", path, err)
		}
		defer r.watch.Close()
		if err := r.watch.Add(filepath.Dir(path)); err != nil {
			return fmt.Errorf("watch log %s: %w", path, err)
		}
	}
	err = r.run(ctx)
	if errors.Is(err, errLimit) || ctx.Err() != nil {
		return nil
	}
	return err
}

type reader struct {
	path   string
	o      Options
	out    limited
	file   *os.File
	watch  *fsnotify.Watcher // nil when not following
	rest   []byte            // a line whose end is not written yet
	begins bool              // the next record begins a line
	line   []byte            // reused for output
}

func (r *reader) run(ctx context.Context) error {
	buffered := bufio.NewReaderSize(r.file, 64<<10)
	ended := false
	for {
		if err := r.drain(ctx, buffered); err != nil {
			return err
		}
		if r.watch == nil || ended {
			// Nothing more will come: what has no newline is all there is of it.
			if len(r.rest) > 0 {
				return r.emit(r.rest)
			}
			return nil
		}
		next, again, err := r.rotated()
		if err != nil {
			return err
		}
		if again {
			buffered.Reset(r.file)
			r.rest = r.rest[:0]
			continue
		}
		if next != nil {
			// Nobody writes to the old file any more; take what came between our last read and the change.
			if err := r.drain(ctx, buffered); err != nil {
				next.Close()
				return err
			}
			r.file.Close()
			r.file = next
			buffered.Reset(next)
			r.rest = r.rest[:0]
			continue
		}
		r.out.flush()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.o.Ended:
			ended = true
		case _, ok := <-r.watch.Events:
			if !ok {
				return errors.New("log watch ended")
			}
		case err := <-r.watch.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) { // an overflow only means: look
				return fmt.Errorf("watch log %s: %w", r.path, err)
			}
		}
	}
}

// drain writes every whole line up to the present end of the file.
func (r *reader) drain(ctx context.Context, b *bufio.Reader) error {
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		part, err := b.ReadSlice('\n')
		switch {
		case err == nil && len(r.rest) == 0:
			if err := r.emit(part); err != nil {
				return err
			}
		case err == nil:
			r.rest = append(r.rest, part...)
			if err := r.emit(r.rest); err != nil {
				return err
			}
			r.rest = r.rest[:0]
		case errors.Is(err, bufio.ErrBufferFull) || errors.Is(err, io.EOF):
			if len(r.rest)+len(part) > maxLine {
				return fmt.Errorf("read log %s: a line is longer than %d bytes", r.path, maxLine)
			}
			r.rest = append(r.rest, part...)
			if errors.Is(err, io.EOF) {
				return nil
			}
		default:
			return fmt.Errorf("read log %s: %w", r.path, err)
		}
	}
}

// maxLine bounds what is held of a line that does not end. Runtimes split at 16 KiB.
const maxLine = 16 << 20

// rotated returns the file now at path if it is another than the one being read; nil if it is not, or not there yet.
// again says that it is the same file, cut short, and reading begins anew.
func (r *reader) rotated() (next *os.File, again bool, err error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // moved away; the runtime is about to open a new one
	}
	if err != nil {
		return nil, false, fmt.Errorf("follow log: %w", err)
	}
	have, err := r.file.Stat()
	if err != nil {
		return nil, false, fmt.Errorf("follow log: %w", err)
	}
	if os.SameFile(now, have) {
		if at, err := r.file.Seek(0, io.SeekCurrent); err == nil && at > now.Size() {
			// Truncated in place (copytruncate): begin again.
			if _, err := r.file.Seek(0, io.SeekStart); err != nil {
				return nil, false, fmt.Errorf("follow log: %w", err)
			}
			return nil, true, nil
		}
		return nil, false, nil
	}
	next, err = os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("follow log: %w", err)
	}
	return next, false, nil
}

// emit writes one record, if the options choose it.
func (r *reader) emit(line []byte) error {
	rec, err := parse(line)
	if err != nil {
		return nil // not ours to judge: a crash may have torn a line
	}
	if r.o.Stream != Both && Stream(rec.stream) != r.o.Stream {
		return nil
	}
	begins := r.begins
	r.begins = !rec.partial
	r.line = r.line[:0]
	if !r.o.Since.IsZero() || r.o.Timestamps && begins {
		at, err := rec.when()
		if err != nil {
			return nil
		}
		if at.Before(r.o.Since) {
			return nil
		}
		if r.o.Timestamps && begins {
			r.line = at.AppendFormat(r.line, timestamp)
			r.line = append(r.line, ' ')
		}
	}
	r.line = append(r.line, rec.content...)
	if !rec.partial {
		r.line = append(r.line, '\n')
	}
	return r.out.write(r.line)
}

// limited writes at most left bytes; negative is no limit.
type limited struct {
	w    io.Writer
	left int64
}

var errLimit = errors.New("byte limit reached")

func (l *limited) write(b []byte) error {
	cut := false
	if l.left >= 0 {
		if cut = int64(len(b)) >= l.left; cut {
			b = b[:l.left]
		}
		l.left -= int64(len(b))
	}
	if _, err := l.w.Write(b); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	if cut {
		return errLimit
	}
	return nil
}

func (l *limited) flush() {
	switch f := l.w.(type) {
	case interface{ Flush() }:
		f.Flush()
	case interface{ Flush() error }:
		_ = f.Flush() // the next write says it again
	}
}

// tailOffset is where the last n lines of a file begin, reading backwards from its end. A line that the runtime split
// into records counts once; a filter counts its stream's lines only.
func tailOffset(f io.ReaderAt, n int64, stream Stream) (int64, error) {
	size, err := sizeOf(f)
	if err != nil || n == 0 {
		return size, err
	}
	const chunk, header = 64 << 10, 128
	// buf holds the bytes from offset at on; behind them lies the beginning of what was read before, so that every
	// record's header is whole. next is where the record behind the one looked at begins.
	buf := make([]byte, chunk+header)
	held := 0 // bytes of buf that are of use
	next := size
	for end := size; end > 0; {
		at := max(end-chunk, 0)
		var keep [header]byte
		overlap := copy(keep[:], buf[:held])
		if _, err := f.ReadAt(buf[:end-at], at); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		held = int(end-at) + copy(buf[end-at:], keep[:overlap])
		for i := int(end-at) - 1; i >= 0; i-- {
			start := at + int64(i) + 1
			if buf[i] != '\n' || start == size {
				continue
			}
			if counts(buf[i+1:held], stream) {
				if n--; n < 0 {
					return next, nil // one too many: what follows it is wanted
				}
			}
			next = start
		}
		end = at
	}
	// The file's first line has no newline before it.
	if counts(buf[:held], stream) && n == 0 {
		return next, nil
	}
	return 0, nil
}

// counts says whether the record that begins here ends a line of the stream.
func counts(b []byte, stream Stream) bool {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[:i]
	}
	rec, err := parse(b)
	return err == nil && !rec.partial && (stream == Both || Stream(rec.stream) == stream)
}

func sizeOf(f io.ReaderAt) (int64, error) {
	if s, ok := f.(interface{ Stat() (fs.FileInfo, error) }); ok {
		info, err := s.Stat()
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	if s, ok := f.(interface{ Size() int64 }); ok {
		return s.Size(), nil
	}
	return 0, errors.New("the log's size is unknown")
}
