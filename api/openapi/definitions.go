package openapi

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"weak"

	"github.com/klauspost/compress/zstd"
)

// definitionsFile holds a JSON object a line for each type: name, v3 and v2, sorted by name.
//
//go:embed definitions.jsonl.zst
var definitionsFile []byte

// definition is one type's schema in both dialects, as JSON.
type definition struct {
	Name string          `json:"name"`
	V3   json.RawMessage `json:"v3"`
	V2   json.RawMessage `json:"v2"`
}

// definitions are all that the file holds. Immutable.
type definitions struct{ byName map[string]*definition }

// source unpacks the file, and remembers what was in it for as long as somebody uses it: documents are asked for one after another. The
// zero value is ready.
type source struct {
	mu   sync.Mutex
	last weak.Pointer[definitions] // guarded by mu
}

func (s *source) definitions() (*definitions, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.last.Value(); d != nil {
		return d, nil
	}
	z, err := zstd.NewReader(bytes.NewReader(definitionsFile), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("unpack definitions: %w", err)
	}
	defer z.Close()
	every := map[string]*definition{}
	lines := bufio.NewReaderSize(z, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var d definition
			if err := json.Unmarshal(line, &d); err != nil {
				return nil, fmt.Errorf("read definitions: %w", err)
			}
			every[d.Name] = &d
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("unpack definitions: %w", err)
		}
	}
	out := &definitions{every}
	s.last = weak.Make(out)
	return out, nil
}

// read returns the definitions that the models named in wanted need, themselves included, by the
// schema that pick chooses.
func (s *source) read(wanted map[string]bool, pick func(*definition) json.RawMessage) (map[string]json.RawMessage, error) {
	every, err := s.definitions()
	if err != nil {
		return nil, err
	}
	found := make(map[string]json.RawMessage, len(wanted)*4)
	queue := make([]string, 0, len(wanted))
	for name := range wanted {
		queue = append(queue, name)
	}
	for len(queue) > 0 {
		name := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if _, ok := found[name]; ok {
			continue
		}
		d := every.byName[name]
		if d == nil {
			return nil, fmt.Errorf("no definition of %s: run go generate in api/openapi after adding its package", name)
		}
		found[name] = pick(d)
		queue = append(queue, references(found[name])...)
	}
	return found, nil
}

// references returns the names of the models that a schema refers to.
func references(schema json.RawMessage) (names []string) {
	const mark = `"$ref":"#/`
	for rest := []byte(schema); ; {
		at := bytes.Index(rest, []byte(mark))
		if at < 0 {
			return names
		}
		rest = rest[at+len(mark):]
		end := bytes.IndexByte(rest, '"')
		if end < 0 {
			return names
		}
		ref := rest[:end]
		names = append(names, string(ref[bytes.LastIndexByte(ref, '/')+1:]))
		rest = rest[end:]
	}
}

// Definitions returns the v3 schemas of the named models and of all that they refer to. The caller owns the map.
func Definitions(models ...string) (map[string]json.RawMessage, error) {
	wanted := map[string]bool{}
	for _, m := range models {
		wanted[m] = true
	}
	return (&source{}).read(wanted, func(d *definition) json.RawMessage { return d.V3 })
}
