package subresources

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"slices"

	"golang.org/x/net/websocket"
)

// What a client may call the messages of a stream that only goes its way; the first is meant where it says nothing.
const (
	binaryMessages = "binary.k8s.io"
	base64Messages = "base64.binary.k8s.io"
)

// overWebSocket answers with a WebSocket whose messages are what body yields; an empty one comes first. It returns when body has ended, or the client
// has gone.
func overWebSocket(w http.ResponseWriter, r *http.Request, body io.Reader) {
	websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			if len(c.Protocol) == 0 {
				return nil
			}
			i := slices.IndexFunc(c.Protocol, func(p string) bool { return p == binaryMessages || p == base64Messages })
			if i < 0 {
				return errors.New("requested protocols are not supported") // a 403
			}
			c.Protocol = c.Protocol[i : i+1]
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			send := func(b []byte) error { return websocket.Message.Send(ws, b) }
			if p := ws.Config().Protocol; len(p) > 0 && p[0] == base64Messages {
				send = func(b []byte) error { return websocket.Message.Send(ws, base64.StdEncoding.EncodeToString(b)) }
			}
			gone := make(chan struct{})
			go func() { // nothing is expected from the client but its end
				defer close(gone)
				_, _ = io.Copy(io.Discard, ws)
				if c, ok := body.(io.Closer); ok {
					c.Close()
				}
			}()
			copyMessages(send, body)
			ws.Close()
			<-gone
		},
	}.ServeHTTP(w, r)
}

// copyMessages sends each piece of body as a message, until one side ends.
func copyMessages(send func([]byte) error, body io.Reader) {
	if send(nil) != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 && send(buf[:n]) != nil || err != nil {
			return
		}
	}
}
