package bench

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// maxFrame bounds what a watch stream may make a reader keep; a pod is some kilobytes.
const maxFrame = 16 << 20

// frames reads the events of a watch stream without decoding them: lines of JSON, or protobuf behind its length.
type frames struct {
	r    *bufio.Reader
	json bool
	buf  []byte
}

func newFrames(r io.Reader, json bool) *frames {
	return &frames{r: bufio.NewReaderSize(r, 64<<10), json: json}
}

// next returns the next event, which is good until the next call.
func (f *frames) next() ([]byte, error) {
	if f.json {
		f.buf = f.buf[:0]
		for {
			part, err := f.r.ReadSlice('\n')
			f.buf = append(f.buf, part...)
			if err != bufio.ErrBufferFull || len(f.buf) > maxFrame {
				return f.buf, err
			}
		}
	}
	var length [4]byte
	if _, err := io.ReadFull(f.r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(length[:]))
	if n > maxFrame {
		return nil, fmt.Errorf("an event of %d bytes", n)
	}
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	f.buf = f.buf[:n]
	_, err := io.ReadFull(f.r, f.buf)
	return f.buf, err
}

// watchedName begins the names of the pods whose events are counted; six digits follow.
const watchedName = "watched-"

// watchedPod tells from its bytes which pod an event added, -1 for none.
func watchedPod(frame []byte) int {
	if !bytes.Contains(frame[:min(len(frame), 96)], []byte("ADDED")) {
		return -1
	}
	i := bytes.Index(frame, []byte(watchedName))
	if i < 0 || len(frame) < i+len(watchedName)+6 {
		return -1
	}
	n := 0
	for _, c := range frame[i+len(watchedName):][:6] {
		if c < '0' || c > '9' {
			return -1
		}
		n = 10*n + int(c-'0')
	}
	return n
}
