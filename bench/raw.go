package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// raw sends requests and reads answers over one connection of HTTP/2, the protocol of Kubernetes' clients, without decoding them and one after the other, so
// that nothing has to be handed from one goroutine to another. client-go takes as long over a small object as the server does, net/http's client half as
// long, on the same processors, so that two servers measured through them look more alike than they are. Not safe for concurrent use.
type raw struct {
	ctx      context.Context // the connection ends with it
	dial     dialFunc
	base     *url.URL
	tls      *tls.Config
	headers  []hpack.HeaderField // who is asking
	encoding string              // media type

	conn *conn  // nil until the first request, and after an error
	kept []byte // the last answer's body
}

// conn is one connection and what both sides have agreed on.
type conn struct {
	net    *tls.Conn
	out    *bufio.Writer
	framer *http2.Framer
	encode *hpack.Encoder
	fields bytes.Buffer // what encode has written
	decode *hpack.Decoder
	used   time.Time // last
	stream uint32    // last
	send   int64     // bytes that the server takes in now, of all streams
	first  int64     // and of a new stream
	unsaid int64     // bytes that have come in since the server was told that more may come
	end    func() bool
}

const (
	maxAnswer  = 1 << 30 // bytes that one answer may have, and half of those that may be under way
	maxFrameIn = 16 << 10
	// stale is when a server may have given up a connection on which nobody answered its pings.
	stale = 10 * time.Second
)

// raws makes one for each worker.
func (t Target) raws(ctx context.Context, workers int) ([]*raw, error) {
	out := make([]*raw, workers)
	for i := range workers {
		c := t.config(i)
		base, _, err := rest.DefaultServerUrlFor(c)
		if err != nil {
			return nil, fmt.Errorf("address of the server: %w", err)
		}
		if base.Scheme != "https" {
			return nil, fmt.Errorf("%s: only https can be measured", base)
		}
		tc, err := rest.TLSConfigFor(c)
		if err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		if tc == nil {
			tc = &tls.Config{}
		}
		tc.NextProtos = []string{http2.NextProtoTLS}
		if tc.ServerName == "" {
			tc.ServerName = base.Hostname()
		}
		headers, err := identify(c)
		if err != nil {
			return nil, err
		}
		out[i] = &raw{ctx: ctx, dial: c.Dial, base: base, tls: tc, headers: headers, encoding: c.ContentType}
	}
	return out, nil
}

// identify asks client-go which headers it would send.
func identify(c *rest.Config) ([]hpack.HeaderField, error) {
	var seen seenHeaders
	through, err := rest.HTTPWrappersForConfig(c, &seen)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	req, err := http.NewRequest(http.MethodGet, c.Host, nil)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if _, err := through.RoundTrip(req); !errors.Is(err, errSeen) {
		return nil, fmt.Errorf("client: %w", err)
	}
	return seen.fields, nil
}

// seenHeaders is a connection that notes what would be sent.
type seenHeaders struct{ fields []hpack.HeaderField }

var errSeen = errors.New("nothing was sent")

// RoundTrip implements http.RoundTripper.
func (s *seenHeaders) RoundTrip(r *http.Request) (*http.Response, error) {
	for name, values := range r.Header {
		for _, v := range values {
			s.fields = append(s.fields, hpack.HeaderField{Name: strings.ToLower(name), Value: v, Sensitive: name == "Authorization"})
		}
	}
	return nil, errSeen
}

// connect dials and says how much may come in at once.
func (r *raw) connect() error {
	address := r.base.Host
	if r.base.Port() == "" {
		address += ":443"
	}
	plain, err := r.dial(r.ctx, "tcp", address)
	if err != nil {
		return err
	}
	c := &conn{net: tls.Client(plain, r.tls), stream: 1, send: 1<<16 - 1, first: 1<<16 - 1}
	if err := c.net.HandshakeContext(r.ctx); err != nil {
		plain.Close()
		return fmt.Errorf("TLS with %s: %w", address, err)
	}
	c.end = context.AfterFunc(r.ctx, func() { plain.Close() })
	c.out = bufio.NewWriterSize(c.net, 16<<10)
	c.framer = http2.NewFramer(c.out, bufio.NewReaderSize(c.net, 64<<10))
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(maxFrameIn)
	c.encode, c.decode = hpack.NewEncoder(&c.fields), hpack.NewDecoder(4096, nil)
	c.out.WriteString(http2.ClientPreface)
	c.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxAnswer})
	c.framer.WriteWindowUpdate(0, maxAnswer)
	r.conn = c
	return nil
}

// close ends the connection; the next request makes another.
func (r *raw) close() {
	if r.conn != nil {
		r.conn.end()
		r.conn.net.Close()
		r.conn = nil
	}
}

// do sends one request; an answer of 300 or more is an error with the server's words. The answer's body is there when keep asks for it, compressed as it
// may have come, until the next request.
func (r *raw) do(method, path, contentType string, body []byte, keep bool) (answer, error) {
	if r.conn != nil && time.Since(r.conn.used) > stale {
		r.close()
	}
	if r.conn == nil {
		if err := r.connect(); err != nil {
			return answer{}, err
		}
	}
	a, err := r.exchange(method, path, contentType, body, keep)
	if err != nil {
		r.close()
		return answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if a.status >= 300 {
		text, _ := a.content()
		return answer{}, fmt.Errorf("%s %s: %d: %q", method, path, a.status, text[:min(len(text), 300)])
	}
	return a, nil
}

// exchange does it on the connection there is.
func (r *raw) exchange(method, path, contentType string, body []byte, keep bool) (answer, error) {
	c := r.conn
	c.used = time.Now()
	c.stream += 2
	c.fields.Reset()
	field := func(name, value string) { c.encode.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	field(":authority", r.base.Host)
	field(":method", method)
	field(":path", strings.TrimSuffix(r.base.Path, "/")+path)
	field(":scheme", "https")
	field("accept", r.encoding)
	if body != nil {
		field("content-type", contentType)
		field("content-length", strconv.Itoa(len(body)))
	}
	field("accept-encoding", "gzip")
	for _, f := range r.headers {
		c.encode.WriteField(f)
	}
	a := answer{keep: keep, body: r.kept[:0]}
	defer func() { r.kept = a.body }()
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: c.fields.Bytes(), EndStream: body == nil, EndHeaders: true}); err != nil {
		return a, err
	}
	window := c.first
	for more := body != nil; more; {
		n := min(int64(len(body)), c.send, window, maxFrameIn)
		if n > 0 || len(body) == 0 {
			more = int(n) < len(body)
			if err := c.framer.WriteData(c.stream, !more, body[:n]); err != nil {
				return a, err
			}
			body, c.send, window = body[n:], c.send-n, window-n
			continue
		}
		before := c.first
		if err := c.next(&a, &window); err != nil {
			return a, err
		}
		window += c.first - before
		if a.ended {
			return a, errors.New("the server answered before it had read the request")
		}
	}
	if c.unsaid > maxAnswer/2 {
		if err := c.framer.WriteWindowUpdate(0, uint32(c.unsaid)); err != nil {
			return a, err
		}
		c.unsaid = 0
	}
	for !a.ended {
		if err := c.next(&a, &window); err != nil {
			return a, err
		}
	}
	return a, nil
}

// answer is what a request has brought so far.
type answer struct {
	status     int
	compressed bool
	keep       bool
	size       int    // of the body as it came
	body       []byte // if it is kept, or an error
	ended      bool
}

// content is the body as it was before it was compressed.
func (a *answer) content() ([]byte, error) {
	if !a.compressed {
		return a.body, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(a.body))
	if err != nil {
		return nil, fmt.Errorf("uncompress an answer: %w", err)
	}
	return io.ReadAll(z)
}

// length is the content's, which gzip tells at its end.
func (a *answer) length() int {
	if !a.compressed || len(a.body) < 4 {
		return len(a.body)
	}
	return int(binary.LittleEndian.Uint32(a.body[len(a.body)-4:]))
}

// next sends what has been written, and reads one frame into a. window is what the server takes in on the current stream.
func (c *conn) next(a *answer, window *int64) error {
	if c.out.Buffered() > 0 {
		if err := c.out.Flush(); err != nil {
			return err
		}
	}
	frame, err := c.framer.ReadFrame()
	if err != nil {
		return err
	}
	ours := frame.Header().StreamID == c.stream
	switch f := frame.(type) {
	case *http2.HeadersFrame:
		return c.headers(f, a, ours)
	case *http2.DataFrame:
		c.unsaid += int64(f.Header().Length)
		if !ours {
			return nil
		}
		a.size += len(f.Data())
		if a.size > maxAnswer {
			return fmt.Errorf("an answer of more than %d bytes", maxAnswer)
		}
		if a.keep || a.status >= 300 {
			a.body = append(a.body, f.Data()...)
		}
		a.ended = f.StreamEnded()
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.send += int64(f.Increment)
		} else if ours {
			*window += int64(f.Increment)
		}
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if n, ok := f.Value(http2.SettingInitialWindowSize); ok {
			c.first = int64(n)
		}
		if n, ok := f.Value(http2.SettingHeaderTableSize); ok {
			c.encode.SetMaxDynamicTableSizeLimit(n)
		}
		return c.framer.WriteSettingsAck()
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.framer.WritePing(true, f.Data)
		}
	case *http2.RSTStreamFrame:
		if ours {
			return fmt.Errorf("the server ended the request: %s", f.ErrCode)
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server ended the connection: %s", f.ErrCode)
	}
	return nil
}

// headers reads an answer's status, and whether it is compressed.
func (c *conn) headers(f *http2.HeadersFrame, a *answer, ours bool) error {
	ended := f.StreamEnded()
	c.decode.SetEmitFunc(func(h hpack.HeaderField) {
		switch {
		case !ours:
		case h.Name == ":status":
			a.status, _ = strconv.Atoi(h.Value)
		case h.Name == "content-encoding":
			a.compressed = h.Value == "gzip"
		}
	})
	if _, err := c.decode.Write(f.HeaderBlockFragment()); err != nil {
		return err
	}
	for done := f.HeadersEnded(); !done; {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		more, ok := frame.(*http2.ContinuationFrame)
		if !ok {
			return fmt.Errorf("%s in the middle of an answer's headers", frame.Header().Type)
		}
		if _, err := c.decode.Write(more.HeaderBlockFragment()); err != nil {
			return err
		}
		done = more.HeadersEnded()
	}
	if ours && ended {
		a.ended = true
	}
	return c.decode.Close()
}

// encodePod writes a pod as requests of this encoding carry it.
func (r *raw) encodePod(pod *corev1.Pod) ([]byte, error) {
	for _, info := range scheme.Codecs.SupportedMediaTypes() {
		if info.MediaType == r.encoding {
			pod.APIVersion, pod.Kind = "v1", "Pod"
			return runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), pod)
		}
	}
	return nil, fmt.Errorf("encoding %s is not known", r.encoding)
}

// deleteNow is the body of a deletion without grace.
var deleteNow, _ = json.Marshal(metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, GracePeriodSeconds: new(int64)})
