package wire

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"

	"wherry.dev/wherry/store"
)

// A big list that goes out compressed is put together from pieces of some dozen objects, each of which is encoded and compressed once,
// so that what a list costs is what has changed since the last one. Deflate allows that (RFC 1951): a piece refers to nothing before it and ends
// with a byte. Gzip's checksum of the whole follows from those of the pieces.
//
// Where a piece begins is decided by the object's key alone, so that an object that comes or goes changes the piece that it is in and no other.

const (
	pieceSize    = 32 // objects, on average
	fewestPieced = 64 // objects: shorter lists are mostly too small to be compressed
)

// piece is a part of a list. Immutable.
type piece struct {
	items    []identity
	deflated []byte
	size     int    // before that
	sum      uint32 // CRC-32 of it
	shift    uint32 // what a checksum is multiplied by when size bytes follow
}

// identity tells one revision of one object.
type identity struct {
	key      string
	revision int64
}

// rememberedPiece is the last piece that began with an object, which holds it: a tenth of what the objects themselves take.
type rememberedPiece struct {
	mu sync.Mutex
	p  *piece // guarded by mu
	by uint64 // guarded by mu; the Type's id
}

func newRememberedPiece() any { return &rememberedPiece{} }

// pieceKey is the key of what is remembered with an object.
type pieceKey struct {
	group, version string
	format         Format
}

var pieceSeed = maphash.MakeSeed()

// WriteStoredList answers with a page of stored objects if it goes out compressed and as it is. If not, it says false and has done nothing.
func (t *Type) WriteStoredList(w http.ResponseWriter, r *http.Request, code int, a Accept, l *store.ListResult) bool {
	if a.Rendering != AsObject || a.Pretty || a.Format != JSON && a.Format != Protobuf || len(l.Items) < fewestPieced || r.Method != http.MethodGet ||
		!strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		return false
	}
	var pieces []*piece
	size := 0
	rest := l.Items[1:] // before the first there is no comma
	for len(rest) > 0 {
		n := 1
		for n < len(rest) && maphash.String(pieceSeed, rest[n].Key)%pieceSize != 0 {
			n++
		}
		p, err := t.piece(rest[:n], a.Format)
		if err != nil {
			return false // and then said by who encodes it all
		}
		pieces, size, rest = append(pieces, p), size+p.size, rest[n:]
	}
	head, tail, err := t.frame(l, a.Format, size)
	if err != nil || len(head)+size+len(tail) <= compressAbove {
		return false
	}
	h := w.Header()
	h["Content-Type"] = []string{a.Format.MediaType()}
	h.Set("Content-Encoding", "gzip")
	h.Add("Vary", "Accept-Encoding")
	w.WriteHeader(code)
	c := compressors.Get().(*compressor)
	c.out.Reset(w)
	// As with compress, the only error is a client that went away.
	c.out.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
	c.stored(head)
	sum := crc32.ChecksumIEEE(head)
	for _, p := range pieces {
		c.out.Write(p.deflated)
		sum = times(sum, p.shift) ^ p.sum
	}
	c.stored(tail)
	sum = times(sum, shiftBy(len(tail))) ^ crc32.ChecksumIEEE(tail)
	c.out.Write([]byte{1, 0, 0, 0xff, 0xff}) // the last block, with nothing in it
	c.out.Write(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, sum), uint32(len(head)+size+len(tail))))
	c.out.Flush()
	c.out.Reset(nil)
	compressors.Put(c)
	return true
}

// stored writes b as it is, in blocks of deflate.
func (c *compressor) stored(b []byte) {
	const most = 1<<16 - 1
	for part := range slices.Chunk(b, most) {
		n := uint16(len(part))
		c.out.Write([]byte{0, byte(n), byte(n >> 8), ^byte(n), ^byte(n >> 8)})
		c.out.Write(part)
	}
}

// frame is what comes before and after the pieces, which have size bytes: the list's own fields and its first object.
func (t *Type) frame(l *store.ListResult, f Format, size int) (head, tail []byte, err error) {
	lm := ListMeta(l)
	first, err := t.appendItem(nil, l.Items[0], f)
	if err != nil {
		return nil, nil, err
	}
	if f == Protobuf {
		m, err := lm.Marshal()
		if err != nil {
			return nil, nil, err
		}
		m = append(appendField(nil, 1, m), first...)
		head = append(slices.Clone(t.list.proto), 2<<3|2)
		head = binary.AppendUvarint(head, uint64(len(m)+size))
		return append(head, m...), []byte(unknownTail), nil
	}
	m, err := t.jsonListMeta(lm)
	if err != nil {
		return nil, nil, err
	}
	head = append(slices.Clone(t.list.json), `"metadata":`...)
	head = append(head, m...)
	head = append(head, `,"items":[`...)
	return append(head, first[1:]...), []byte("]}\n"), nil
}

// appendItem appends an object as it is found in a list, in JSON after a comma.
func (t *Type) appendItem(b []byte, o *store.Object, f Format) ([]byte, error) {
	one, err := t.stored(o, f)
	switch {
	case err != nil:
		return nil, err
	case f == Protobuf:
		return appendField(b, 2, one.b), nil
	case t.Kind.Custom: // free objects say what they are in lists too
		return t.object.appendJSON(append(b, ','), one.b), nil
	}
	return append(append(b, ',', '{'), one.b...), nil
}

// piece returns the piece of objects, made anew unless the last one that began with the same object is the same.
func (t *Type) piece(objects []*store.Object, f Format) (*piece, error) {
	if objects[0].Memo == nil {
		return t.makePiece(objects, f)
	}
	key := t.jsonPiece
	if f == Protobuf {
		key = t.protoPiece
	}
	slot := objects[0].Memo.Get(key, newRememberedPiece).(*rememberedPiece)
	slot.mu.Lock() // many ask for the same at once: one makes it
	defer slot.mu.Unlock()
	if slot.p != nil && slot.by == t.id && slices.EqualFunc(objects, slot.p.items, func(o *store.Object, i identity) bool {
		return o.Revision == i.revision && o.Key == i.key
	}) {
		return slot.p, nil
	}
	p, err := t.makePiece(objects, f)
	if err == nil {
		slot.p, slot.by = p, t.id
	}
	return p, err
}

// deflater compresses a piece at a time.
type deflater struct {
	raw []byte
	out bytes.Buffer
	z   *flate.Writer
}

var deflaters = sync.Pool{New: func() any {
	d := &deflater{}
	d.z, _ = flate.NewWriter(&d.out, flate.BestSpeed) // the level is valid: no error
	return d
}}

func (t *Type) makePiece(objects []*store.Object, f Format) (*piece, error) {
	d := deflaters.Get().(*deflater)
	defer deflaters.Put(d)
	d.raw = d.raw[:0]
	d.out.Reset()
	p := &piece{items: make([]identity, len(objects))}
	for i, o := range objects {
		var err error
		p.items[i] = identity{o.Key, o.Revision}
		if d.raw, err = t.appendItem(d.raw, o, f); err != nil {
			d.raw = nil
			return nil, err
		}
	}
	d.z.Reset(&d.out)
	d.z.Write(d.raw) // to memory: no error
	d.z.Flush()      // up to a whole byte
	p.deflated = bytes.Clone(d.out.Bytes())
	p.size, p.sum, p.shift = len(d.raw), crc32.ChecksumIEEE(d.raw), shiftBy(len(d.raw))
	if cap(d.raw) > 1<<20 { // of an unusual piece
		d.raw = nil
	}
	return p, nil
}

// A checksum is a polynomial over the field of two elements, modulo that of CRC-32, its highest power in the lowest bit. That of a text followed by
// another is the first one's times x to the power of the other's bits, plus the other's.

const (
	one  = uint32(1) << 31
	xTo8 = uint32(1) << 23
)

// times multiplies two polynomials.
func times(a, b uint32) uint32 {
	product := uint32(0)
	for power := one; power != 0; power >>= 1 {
		if a&power != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1 // times x
		if carry != 0 {
			b ^= crc32.IEEE
		}
	}
	return product
}

// shiftBy is x to the power of 8 n.
func shiftBy(n int) uint32 {
	out := one
	for square := xTo8; n > 0; n >>= 1 {
		if n&1 != 0 {
			out = times(out, square)
		}
		square = times(square, square)
	}
	return out
}
