package runtime

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Client calls one container runtime. Safe for concurrent use; holds no lock across a call. Every method but
// RunSandbox and StartContainer ends with its context, and each gives up after two minutes where the call has no natural longer duration.
type Client struct {
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	conn    *grpc.ClientConn
}

// Dial prepares a client for the runtime at endpoint, a unix socket's path or a unix:// URL. It does not wait for the
// runtime: calls fail until it is there, and the connection comes back by itself when the runtime does.
func Dial(endpoint string) (*Client, error) {
	if strings.HasPrefix(endpoint, "/") {
		endpoint = "unix://" + endpoint
	}
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectLimit},
			MinConnectTimeout: 3 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("dial container runtime at %s: %w", endpoint, err)
	}
	return &Client{runtime: cri.NewRuntimeServiceClient(conn), images: cri.NewImageServiceClient(conn), conn: conn}, nil
}

// New makes a client of ready-made service clients, such as the fake's.
func New(runtime cri.RuntimeServiceClient, images cri.ImageServiceClient) *Client {
	return &Client{runtime: runtime, images: images}
}

// Close ends the connection; calls under way fail.
func (c *Client) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// IsNotFound says that the runtime does not know the thing named in a call.
func IsNotFound(err error) bool { return status.Code(unwrap(err)) == codes.NotFound }

// IsUnavailable says that the runtime itself could not be reached.
func IsUnavailable(err error) bool { return status.Code(unwrap(err)) == codes.Unavailable }

// Message is the runtime's own text of an error with its code, and without what was wrapped around it here, as upstream
// shows it of sandboxes and images.
func Message(err error) string {
	if s, ok := status.FromError(unwrap(err)); ok && s.Code() != codes.OK {
		return fmt.Sprintf("rpc error: code = %s desc = %s", s.Code(), s.Message())
	}
	return err.Error()
}

// Description is the runtime's own text of an error without its code, which is what upstream shows of a container that
// could not be made or started.
func Description(err error) string {
	if s, ok := status.FromError(unwrap(err)); ok && s.Code() != codes.OK {
		return s.Message()
	}
	return err.Error()
}

func unwrap(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
			return err
		}
		err = inner
	}
}

func limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, defaultRequestTimeout)
}

// Version is the runtime's name and version as a node's nodeInfo shows it, such as containerd and 2.4.2.
func (c *Client) Version(ctx context.Context) (name, version, apiVersion string, err error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.runtime.Version(ctx, &cri.VersionRequest{Version: "v1"})
	if err != nil {
		return "", "", "", fmt.Errorf("ask runtime for its version: %w", err)
	}
	return r.GetRuntimeName(), strings.TrimPrefix(r.GetRuntimeVersion(), "v"), r.GetRuntimeApiVersion(), nil
}

// Handler is a runtime handler with what it can do (Node.status.runtimeHandlers).
type Handler struct {
	Name                    string
	RecursiveReadOnlyMounts bool
	UserNamespaces          bool
}

// Health is the runtime's own report on itself.
type Health struct {
	RuntimeReady   bool
	RuntimeMessage string // "reason:... message:..." as upstream joins them
	NetworkReady   bool
	NetworkMessage string
	Handlers       []Handler
	// SupplementalGroupsPolicy says that the runtime can keep the image's groups out (Node.status.features).
	SupplementalGroupsPolicy bool
}

// Health asks the runtime for its conditions and handlers.
func (c *Client) Health(ctx context.Context) (Health, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return Health{}, fmt.Errorf("ask runtime for its status: %w", err)
	}
	var h Health
	for _, cond := range r.GetStatus().GetConditions() {
		msg := ""
		if !cond.GetStatus() {
			msg = fmt.Sprintf("%s reason:%s message:%s", cond.GetType(), cond.GetReason(), cond.GetMessage())
		}
		switch cond.GetType() {
		case "RuntimeReady":
			h.RuntimeReady, h.RuntimeMessage = cond.GetStatus(), msg
		case "NetworkReady":
			h.NetworkReady, h.NetworkMessage = cond.GetStatus(), msg
		}
	}
	for _, x := range r.GetRuntimeHandlers() {
		h.Handlers = append(h.Handlers, Handler{x.GetName(), x.GetFeatures().GetRecursiveReadOnlyMounts(), x.GetFeatures().GetUserNamespaces()})
	}
	h.SupplementalGroupsPolicy = r.GetFeatures().GetSupplementalGroupsPolicy()
	return h, nil
}

// SetPodCIDR tells runtimes which configure a network of their own the node's pod range.
func (c *Client) SetPodCIDR(ctx context.Context, cidr string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	_, err := c.runtime.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{
		RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: cidr}}})
	if err != nil {
		return fmt.Errorf("tell runtime the pod range %s: %w", cidr, err)
	}
	return nil
}
