// Package etcd runs one etcd member inside this process: no peer socket, no client socket unless asked for, and an
// in-process client. Its data directory is an ordinary one: upstream's etcd, etcdctl and etcdutl work on it.
// Only cluster (wiring) and the store's tests import it; everyone else meets etcd's v3 client API.
package etcd

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	// memberName and peerURL only identify the single member inside its own data; nothing listens there.
	memberName   = "default"
	peerURL      = "http://127.0.0.1:2380"
	clusterToken = "wherry"

	// tick is etcd's clock. With one member it drives nothing but lease bookkeeping (the election is called for, not
	// waited for), so that it may be slow: a wake-up a second instead of ten. It is also the smallest lease, 2 ticks.
	tick          = time.Second
	electionTicks = 2

	// walSegment is how much of the log is preallocated at a time. etcd's 64 MB is for spinning disks; this is still
	// some 7,000 pods a segment, and makes the first start and a small directory cheap.
	walSegment = 16 << 20

	// DefaultQuota is the size in bytes at which etcd stops taking writes, upstream's recommended maximum.
	DefaultQuota = 8 << 30

	// maxRequest is etcd's own default, so that whatever is stored here can be restored into a stock etcd.
	maxRequest = 1536 << 10

	// snapshotEvery bounds the log that a start has to replay. catchUp is how many applied entries stay in memory for
	// followers, of which there are none: etcd's 5,000 would hold more than 10 MB of pods for nobody.
	snapshotEvery = 5000
	catchUp       = 500

	// defragAt is how many free MB in the database file make it worth rewriting at start.
	defragAt = 64
)

// Config says where the member lives.
type Config struct {
	// Dir is the data directory (etcd's --data-dir); made if absent. One process at a time may hold it.
	Dir string
	// Listen is an optional unix socket path for other clients on this machine, such as etcdctl with
	// --endpoints=unix://PATH. Empty: no socket at all.
	Listen string
	// Quota is the size in bytes at which it stops taking writes. 0: DefaultQuota.
	Quota int64
	// Log receives etcd's warnings and errors. Nil: slog.Default().
	Log *slog.Logger
}

// Etcd is a running member. Safe for concurrent use.
type Etcd struct {
	c      Config
	server *etcdserver.EtcdServer
	client *clientv3.Client
	lock   *os.File // holds the flock on the data directory
	grpc   *grpc.Server
	served sync.WaitGroup // the gRPC server's goroutine
	close  sync.Once
	err    error // of Close
}

var (
	// segmentOnce guards etcd's own package variable, which it offers for exactly this.
	segmentOnce sync.Once
	// starting is held from the making of a server to its election; see elect.
	starting sync.Mutex
)

// Start opens or makes the data directory and returns when the member serves writes: some 10 ms on an empty directory.
// ctx bounds the start only. An error says in one sentence what is wrong and how to mend it; nothing is left
// running, but the goroutine and the file with which etcd prepares the next segment of a log that it could not open after all: the process had better end.
func Start(ctx context.Context, c Config) (e *Etcd, err error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Quota == 0 {
		c.Quota = DefaultQuota
	}
	segmentOnce.Do(func() { wal.SegmentSizeBytes = walSegment })
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make etcd data directory %s: %w; give a directory that can be written", c.Dir, err)
	}
	if err := os.Chmod(c.Dir, 0o700); err != nil { // secrets lie in it
		return nil, fmt.Errorf("protect etcd data directory %s: %w; make it belong to this user", c.Dir, err)
	}
	e = &Etcd{c: c}
	if e.lock, err = lockDir(c.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.Close()
			e = nil
		}
	}()
	if err := checkDir(c.Dir); err != nil {
		return e, err
	}
	if err := e.lead(ctx, c); err != nil {
		return e, err
	}
	select {
	case <-e.server.ReadyNotify():
	case <-e.server.StopNotify():
		return e, fmt.Errorf("etcd in %s stopped while starting; its log above says why", c.Dir)
	case <-ctx.Done():
		return e, fmt.Errorf("start etcd in %s: %w", c.Dir, context.Cause(ctx))
	}
	e.client = v3client.New(e.server)
	if c.Listen != "" {
		if err := e.listen(c.Listen); err != nil {
			return e, err
		}
	}
	return e, nil
}

// errUnborn says that the directory's log holds nothing, not even who its members are.
var errUnborn = errors.New("etcd's log is empty")

// lead opens the member and makes it leader.
func (e *Etcd) lead(ctx context.Context, c Config) error {
	starting.Lock()
	defer starting.Unlock()
	err := e.begin(ctx, c)
	if !errors.Is(err, errUnborn) {
		return err
	}
	// A first start was killed after it made the log and before it wrote to it. etcd would wait for members that it does not know, for ever.
	e.server.HardStop()
	e.server = nil
	if err := os.RemoveAll(filepath.Join(c.Dir, "member")); err != nil {
		return fmt.Errorf("remove what a first start of etcd left: %w; make the directory writable for this user", err)
	}
	return e.begin(ctx, c)
}

func (e *Etcd) begin(ctx context.Context, c Config) (err error) {
	if e.server, err = open(c); err != nil {
		return err
	}
	e.server.Start()
	return e.elect(ctx)
}

// open recovers the member from its directory. etcd reports most damage by a fatal log line or a panic; the logger
// turns the first into the second, and here both become an error.
func open(c Config) (s *etcdserver.EtcdServer, err error) {
	defer func() {
		if r := recover(); r != nil {
			c.Log.Debug("etcd panicked while opening its data", "panic", r, "stack", string(debug.Stack()))
			err = damaged(c.Dir, fmt.Errorf("%v", r))
		}
	}()
	urls := types.MustNewURLs([]string{peerURL})
	logger := zapLogger(c.Log)
	s, err = etcdserver.NewServer(config.ServerConfig{
		Name:                              memberName,
		DataDir:                           c.Dir,
		PeerURLs:                          urls,
		ClientURLs:                        types.URLs{url.URL{Scheme: "http", Host: "127.0.0.1:2379"}},
		InitialPeerURLsMap:                types.URLsMap{memberName: urls},
		InitialClusterToken:               clusterToken,
		NewCluster:                        true,
		TickMs:                            uint(tick / time.Millisecond),
		ElectionTicks:                     electionTicks,
		InitialElectionTickAdvance:        true,
		SnapshotCount:                     snapshotEvery,
		SnapshotCatchUpEntries:            catchUp,
		MaxSnapFiles:                      2,
		MaxWALFiles:                       2,
		QuotaBackendBytes:                 c.Quota,
		MaxTxnOps:                         128,
		MaxRequestBytes:                   maxRequest,
		MaxConcurrentStreams:              1 << 20,
		StrictReconfigCheck:               true,
		AuthToken:                         "", // no tokens: the only clients are this process and whoever may open the socket
		BcryptCost:                        10,
		WarningApplyDuration:              time.Second,
		WarningUnaryRequestDuration:       3 * time.Second,
		DowngradeCheckTime:                time.Hour, // no peers whose versions could change
		BootstrapDefragThresholdMegabytes: defragAt,
		MaxLearners:                       1,
		V2Deprecation:                     config.V2DeprDefault,
		Logger:                            logger,
		LocalAddress:                      "127.0.0.1",
		ServerFeatureGate:                 features.NewDefaultServerFeatureGate(memberName, logger),
		Metrics:                           "basic",
	})
	if err != nil {
		return nil, damaged(c.Dir, err)
	}
	return s, nil
}

// elect makes the only member leader now, instead of after an election timeout: the message is the one by which a
// leader hands over. It must not come before raft has applied all that it replays: raft would look for membership changes
// among entries that etcd may already have dropped from memory, and panic. Only raft's own status tells, and that etcd
// publishes as an expvar of the server made last; callers hold starting.
func (e *Etcd) elect(ctx context.Context) error {
	published, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return errors.New("elect the embedded etcd member: etcd publishes no raft.status")
	}
	id := uint64(e.server.MemberID())
	m := &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: proto.Uint64(id), From: proto.Uint64(id)}
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	for e.server.Lead() == 0 {
		changed := e.server.LeaderChangedNotify()
		s, ok := published().(raft.Status)
		if ok && s.ID == id && s.GetCommit() == 0 {
			return errUnborn // the members are committed with the first thing that is written
		}
		if ok && s.ID == id && s.Applied > 0 && s.Applied == s.GetCommit() {
			if err := e.server.Process(ctx, m); err != nil {
				return fmt.Errorf("elect the embedded etcd member: %w", err)
			}
		}
		select {
		case <-changed:
		case <-retry.C:
		case <-e.server.StopNotify():
			return errors.New("elect the embedded etcd member: etcd stopped; its log above says why")
		case <-ctx.Done():
			return fmt.Errorf("elect the embedded etcd member: %w", context.Cause(ctx))
		}
	}
	return nil
}

// listen serves the v3 API on a unix socket, readable by this user only.
func (e *Etcd) listen(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace etcd socket %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for etcd clients on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("protect etcd socket %s: %w", path, err)
	}
	e.grpc = v3rpc.Server(e.server, nil, nil)
	e.served.Go(func() { _ = e.grpc.Serve(l) }) // ends with Stop; its error says only that
	return nil
}

// Client reaches the member without a socket. It belongs to Etcd: callers do not close it.
func (e *Etcd) Client() *clientv3.Client { return e.client }

// Stopped is closed when the member has stopped, by Close or because it could not go on (a full or broken disk).
func (e *Etcd) Stopped() <-chan struct{} { return e.server.StopNotify() }

// Close stops the member and gives the directory free. Whatever was acknowledged is on disk already. It may be called
// more than once.
func (e *Etcd) Close() error {
	e.close.Do(func() {
		if e.client != nil {
			e.err = e.client.Close()
			if errors.Is(e.err, context.Canceled) {
				e.err = nil // the in-process client has no connection to close and says so by this
			}
		}
		if e.grpc != nil {
			e.grpc.Stop()
			e.served.Wait()
		}
		if e.server != nil {
			e.server.HardStop()
		}
		if e.lock != nil {
			e.lock.Close()
		}
	})
	return e.err
}

// damaged explains why a data directory cannot be opened.
func damaged(dir string, err error) error {
	mend := "restore a snapshot with `wherry snapshot restore`, or move the directory away to start empty"
	switch text := err.Error(); {
	case strings.Contains(text, "no space left"):
		mend = "make room on the disk and start again"
	case strings.Contains(text, "permission denied"), strings.Contains(text, "read-only"):
		mend = "make the directory writable for this user"
	case strings.Contains(text, "locked"):
		mend = "stop the other etcd that uses it"
	}
	return fmt.Errorf("open etcd data in %s: %w; %s", filepath.Clean(dir), err, mend)
}
