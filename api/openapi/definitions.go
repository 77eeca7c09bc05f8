package openapi

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"

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

// readDefinitions unpacks the file and returns the definitions that the models named in wanted need, themselves included, by the
// schema that pick chooses.
func readDefinitions(wanted map[string]bool, pick func(*definition) json.RawMessage) (map[string]json.RawMessage, error) {
	z, err := zstd.NewReader(bytes.NewReader(definitionsFile), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("unpack definitions: %w", err)
	}
	defer z.Close()
	every := map[string]json.RawMessage{}
	lines := bufio.NewReaderSize(z, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var d definition
			if err := json.Unmarshal(line, &d); err != nil {
				return nil, fmt.Errorf("read definitions: %w", err)
			}
			every[d.Name] = pick(&d)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("unpack definitions: %w", err)
		}
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
		schema, ok := every[name]
		if !ok {
			return nil, fmt.Errorf("no definition of %s: run go generate in api/openapi after adding its package", name)
		}
		found[name] = schema
		queue = append(queue, references(schema)...)
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
