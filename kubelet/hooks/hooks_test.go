package hooks

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// shell answers ExecSync as the last word of the command says.
type shell struct{ ran []string }

func (s *shell) ExecSync(ctx context.Context, id string, cmd []string, _ time.Duration) (stdout, stderr []byte, exit int32, err error) {
	s.ran = append(s.ran, id+": "+strings.Join(cmd, " "))
	switch cmd[len(cmd)-1] {
	case "fails":
		return []byte("out"), []byte("err"), 3, nil
	case "floods":
		return []byte(strings.Repeat("x", 2*maxAnswer)), nil, 1, nil
	case "gone":
		return nil, nil, 0, errors.New("container is gone")
	case "hangs":
		<-ctx.Done()
		return nil, nil, 0, ctx.Err()
	}
	return nil, nil, 0, nil
}

func command(words ...string) *v1.LifecycleHandler {
	return &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: words}}
}

func TestCommands(t *testing.T) {
	s := &shell{}
	r := &Runner{Exec: s}
	for _, c := range []struct {
		handler *v1.LifecycleHandler
		want    string // of the error; "" for none
	}{
		{command("sh", "well"), ""},
		{command("sh", "fails"), `command 'sh fails' exited with 3: err, message: "outerr"`},
		{command("sh", "gone"), "container is gone"},
		{&v1.LifecycleHandler{}, "invalid handler"},
	} {
		err := r.Run(t.Context(), &v1.Container{Name: "c"}, "id1", "", c.handler)
		if got := ""; err != nil {
			if got = err.Error(); c.want == "" || !strings.HasPrefix(got, c.want) {
				t.Errorf("error %q, want %q", got, c.want)
			}
		} else if c.want != "" {
			t.Errorf("no error, want %q", c.want)
		}
	}
	if len(s.ran) != 3 || s.ran[0] != "id1: sh well" {
		t.Errorf("ran %q", s.ran)
	}
	if err := r.Run(t.Context(), &v1.Container{}, "id", "", command("floods")); err == nil || len(err.Error()) > maxAnswer+200 {
		t.Errorf("an event would have to hold %d bytes", len(err.Error()))
	}
}

// TestEndWithTheGracePeriod: a hook ends when its time is over, whatever kind it is.
func TestEndWithTheGracePeriod(t *testing.T) {
	for what, h := range map[string]*v1.LifecycleHandler{"command": command("hangs"), "sleep": {Sleep: &v1.SleepAction{Seconds: 60}}} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				began := time.Now()
				err := (&Runner{Exec: &shell{}}).Run(ctx, &v1.Container{}, "id", "", h)
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 2*time.Second {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := (&Runner{}).Run(t.Context(), &v1.Container{}, "id", "", &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 7}}); err != nil || time.Since(began) != 7*time.Second {
			t.Errorf("sleep of 7 s: %v after %v", err, time.Since(began))
		}
	})
}

// TestRequests: what a container's server gets.
func TestRequests(t *testing.T) {
	got := make(chan *http.Request, 4)
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r
		w.WriteHeader(http.StatusInternalServerError) // the answer does not matter
	})
	plain, secure := httptest.NewServer(answer), httptest.NewTLSServer(answer)
	defer plain.Close()
	defer secure.Close()
	r := &Runner{UserAgent: "kube-lifecycle/test"}
	at := func(s *httptest.Server) (ip string, port int) {
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		port, _ = strconv.Atoi(u.Port())
		return u.Hostname(), port
	}
	secret := []v1.HTTPHeader{{Name: "Authorization", Value: "Bearer secret"}, {Name: "X-Own", Value: "1"}}
	for _, c := range []struct {
		name   string
		server *httptest.Server
		scheme v1.URIScheme
		named  bool
		bearer string
	}{
		{"http", plain, v1.URISchemeHTTP, false, "Bearer secret"},
		{"a port by its name", plain, v1.URISchemeHTTP, true, "Bearer secret"},
		{"https, whoever signed it", secure, v1.URISchemeHTTPS, false, "Bearer secret"},
		{"https to a plain port: without the credential", plain, v1.URISchemeHTTPS, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ip, number := at(c.server)
			port := intstr.FromInt(number)
			container := &v1.Container{}
			if c.named {
				port = intstr.FromString("web")
				container.Ports = []v1.ContainerPort{{Name: "web", ContainerPort: int32(number)}}
			}
			err := r.Run(t.Context(), container, "id", ip, &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Path: "/bye?x=1", Port: port, Scheme: c.scheme, HTTPHeaders: secret}})
			if err != nil {
				t.Fatal(err)
			}
			q := <-got
			if q.URL.RequestURI() != "/bye?x=1" || q.Header.Get("X-Own") != "1" || q.UserAgent() != "kube-lifecycle/test" || q.Header.Get("Authorization") != c.bearer {
				t.Errorf("got %s with %v", q.URL, q.Header)
			}
		})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	if err := r.Run(t.Context(), &v1.Container{}, "id", "127.0.0.1", &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt(free)}}); err == nil {
		t.Error("nobody listens, and that is no error")
	}
}
