package apiserver

import (
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// inflight keeps one user's flood from starving the others: when the server is full, whoever has more than a fair
// share of it is told to come back. The system itself (nodes, control plane, administrators) always gets in. It is
// a small stand-in for priority and fairness (KEP-1040), without queues.
type inflight struct {
	limit int

	mu    sync.Mutex
	total int            // guarded by mu
	users map[string]int // guarded by mu; requests being served of each user that is not exempt
}

func newInflight(limit int) *inflight { return &inflight{limit: limit, users: map[string]int{}} }

// enter admits a request or refuses it with a 429; leave must be called when it is done.
func (f *inflight) enter(u user.Info, _ *apirequest.RequestInfo) (leave func(), err error) {
	if exempt(u) {
		return func() {}, nil
	}
	name := u.GetName()
	f.mu.Lock()
	defer f.mu.Unlock()
	mine := f.users[name]
	others := len(f.users)
	if mine == 0 {
		others++
	}
	// The share is of the whole, so that a lone user may fill the server, and a newcomer always finds room above the limit.
	if share := max(1, f.limit/others); f.total >= f.limit && mine >= share {
		return nil, apierrors.NewTooManyRequests("The server has received too many requests and has asked us to try again later", 1)
	}
	f.users[name] = mine + 1
	f.total++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.total--
		if f.users[name]--; f.users[name] == 0 {
			delete(f.users, name)
		}
	}, nil
}

// exempt are those whom the cluster cannot do without.
func exempt(u user.Info) bool {
	for _, g := range u.GetGroups() {
		switch g {
		case user.SystemPrivilegedGroup, user.NodesGroup:
			return true
		}
	}
	switch u.GetName() {
	case user.KubeControllerManager, user.KubeScheduler, user.KubeProxy, user.APIServerUser:
		return true
	}
	return false
}
