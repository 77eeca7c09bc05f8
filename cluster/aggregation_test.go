package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"wherry.dev/wherry/pki"
)

func TestTrust(t *testing.T) {
	authority := func() *pki.Pairs {
		keys, err := pki.Ensure(t.TempDir(), pki.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return keys.Pairs()
	}
	own, other := authority(), authority()
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, other.CA.CertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := trust(own, Authentication{})
	if err != nil || string(plain.ClientCA) != string(own.CA.CertPEM) || string(plain.ProxyCA) != string(own.FrontProxyCA.CertPEM) || !slices.Equal(plain.AllowedNames, []string{"front-proxy-client"}) {
		t.Errorf("%+v %v", plain, err)
	}
	more, err := trust(own, Authentication{ClientCAFile: file, RequestHeader: RequestHeader{CAFile: file, AllowedNames: []string{"gate"}, UserHeaders: []string{"X-User", "X-Remote-User"}}})
	if err != nil || string(more.ClientCA) != string(own.CA.CertPEM)+string(other.CA.CertPEM) || string(more.ProxyCA) != string(own.FrontProxyCA.CertPEM)+string(other.CA.CertPEM) ||
		!slices.Equal(more.AllowedNames, []string{"front-proxy-client", "gate"}) || !slices.Equal(more.UsernameHeaders, []string{"X-Remote-User", "X-User"}) || !slices.Equal(more.GroupHeaders, []string{"X-Remote-Group"}) {
		t.Errorf("%+v %v", more, err)
	}
	if anybody, err := trust(own, Authentication{RequestHeader: RequestHeader{CAFile: file}}); err != nil || len(anybody.AllowedNames) != 0 {
		t.Errorf("%+v %v", anybody, err)
	}
	if _, err := trust(own, Authentication{ClientCAFile: file + ".missing"}); err == nil {
		t.Error("a file that is not there is trusted")
	}
}
