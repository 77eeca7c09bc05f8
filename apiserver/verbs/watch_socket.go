package verbs

import (
	"context"
	"errors"
	"io"

	"golang.org/x/net/websocket"

	"wherry.dev/wherry/apiserver/wire"
	"wherry.dev/wherry/store"
)

// overWebSocket is Watch for a client that asked for a WebSocket: each event is a message, of text where the encoding is text. As upstream, it wants an
// origin and takes whatever one protocol the client names.
func overWebSocket(ctx context.Context, f *framer, w store.Watcher) {
	websocket.Handler(func(ws *websocket.Conn) {
		ctx, cancel := context.WithCancel(ctx)
		gone := make(chan struct{})
		go func() { // nothing is expected from the client but its end
			defer close(gone)
			defer cancel()
			_, _ = io.Copy(io.Discard, ws)
		}()
		stop := context.AfterFunc(ctx, func() { ws.Close() }) // a client that reads no more must not hold us
		defer func() {
			stop()
			cancel()
			ws.Close()
			<-gone
		}()
		if f.r.Accept.Format == wire.JSON {
			ws.PayloadType = websocket.TextFrame
		} else {
			ws.PayloadType = websocket.BinaryFrame
		}
		sendEvents(ctx, f, w, ws)
	}).ServeHTTP(f.r.Writer, f.r.HTTP)
}

// sendEvents writes each event at once, until the watch or the client ends.
func sendEvents(ctx context.Context, f *framer, w store.Watcher, out io.Writer) {
	var buf []byte
	for {
		events, err := w.Next(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				if b := f.failed(buf[:0], err); len(b) > 0 {
					_, _ = out.Write(wire.Unframed(f.r.Accept.Format, b))
				}
			}
			return
		}
		for i := range events {
			b, err := f.append(buf[:0], &events[i])
			if err != nil {
				b = f.failed(buf[:0], err)
			}
			if _, werr := out.Write(wire.Unframed(f.r.Accept.Format, b)); werr != nil || err != nil {
				return
			}
			if f.s.Watched != nil {
				f.s.Watched.Events(1, len(b))
			}
			if buf = b; cap(buf) > 4*flushAbove { // one huge event must not hold its memory for the life of the watch
				buf = nil
			}
		}
	}
}
