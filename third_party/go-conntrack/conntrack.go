// Package conntrack stands in for the module of this name, which counts and traces connections. CoreDNS' metrics name it by way of
// Prometheus' HTTP client, which nothing here makes. Its tracing pages are templates, which an initialiser reaches: with them linked in, no
// exported method of the whole program can be left out. See docs/decisions.
package conntrack

import (
	"context"
	"net"
)

// Dial is net.Dialer's DialContext.
type Dial = func(ctx context.Context, network, addr string) (net.Conn, error)

// DialerOpt is an option of NewDialContextFunc.
type DialerOpt func(*Dial)

// DialWithDialContextFunc lets dial make the connections.
func DialWithDialContextFunc(dial Dial) DialerOpt { return func(d *Dial) { *d = dial } }

// DialWithTracing changes nothing: nobody could look at the trace.
func DialWithTracing() DialerOpt { return func(*Dial) {} }

// DialWithName changes nothing: nobody reads the count.
func DialWithName(string) DialerOpt { return func(*Dial) {} }

// NewDialContextFunc dials as net.Dialer does, or as an option says.
func NewDialContextFunc(opts ...DialerOpt) Dial {
	dial := Dial((&net.Dialer{}).DialContext)
	for _, o := range opts {
		o(&dial)
	}
	return dial
}
