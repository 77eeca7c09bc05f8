// Package logs reads what containers have written, from the files in which the runtime keeps it (CRI logging
// format), for kubectl logs, and rotates those files before they fill the disk. It may be imported by the kubelet only.
package logs

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// Stream is where a line was written to.
type Stream string

const (
	Both   Stream = "" // as a filter: either
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// record is one line of a log file: TIME STREAM TAGS CONTENT\n. Its slices are parts of the line.
type record struct {
	time    []byte // RFC 3339 with nanoseconds
	stream  []byte
	partial bool // the container's line goes on in the next record of the stream
	content []byte
}

var errMalformed = errors.New("malformed log record")

// parse reads one line, with or without its newline, without copying.
func parse(line []byte) (record, error) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	var r record
	var tags []byte
	var ok bool
	if r.time, line, ok = bytes.Cut(line, []byte(" ")); !ok || len(r.time) == 0 {
		return record{}, fmt.Errorf("%w: no timestamp", errMalformed)
	}
	if r.stream, line, ok = bytes.Cut(line, []byte(" ")); !ok {
		return record{}, fmt.Errorf("%w: no stream", errMalformed)
	}
	if s := Stream(r.stream); s != Stdout && s != Stderr {
		return record{}, fmt.Errorf("%w: unexpected stream %q", errMalformed, r.stream)
	}
	// An empty line may come without the space that would precede its content.
	if tags, r.content, ok = bytes.Cut(line, []byte(" ")); !ok && len(tags) == 0 {
		return record{}, fmt.Errorf("%w: no tag", errMalformed)
	}
	// Tags are separated by colons; only the first means anything so far.
	switch first, _, _ := bytes.Cut(tags, []byte(":")); string(first) {
	case "P":
		r.partial = true
	case "F":
	default:
		return record{}, fmt.Errorf("%w: unexpected tag %q", errMalformed, tags)
	}
	return r, nil
}

// when is the record's time.
func (r *record) when() (time.Time, error) {
	return time.Parse(time.RFC3339Nano, string(r.time))
}
