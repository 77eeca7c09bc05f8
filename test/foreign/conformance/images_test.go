package conformance

import (
	"maps"
	"path/filepath"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/images"
)

const repository = "registry.k8s.io/e2e-test-images/"

// suiteImages are what the specs ask for, as upstream's own images are made up (k8s.io/kubernetes/test/images) as far as the specs look.
func suiteImages() ([]images.Image, error) {
	source, err := build.Source("k8s.io/kubernetes")
	if err != nil {
		return nil, err
	}
	root, err := build.Root()
	if err != nil {
		return nil, err
	}
	pause := filepath.Join(root, ".build", "pause") // Wherry's own
	file := func(parts ...string) string {
		return filepath.Join(append([]string{source, "test", "images"}, parts...)...)
	}
	agnhost := images.Image{
		Refs:     []string{repository + "agnhost:2.66.1", repository + "agnhost:2.55"},
		Debian:   []string{"bash", "curl", "bind9-dnsutils", "netcat-openbsd", "iproute2", "iperf", "socat", "ca-certificates", "libc-bin"},
		Busybox:  true,
		Programs: map[string]string{"agnhost": "agnhost"},
		Files:    map[string]string{"localhost.crt": file("agnhost", "porter", "localhost.crt"), "localhost.key": file("agnhost", "porter", "localhost.key")},
		Links:    map[string]string{"agnhost-2": "agnhost", "bin/nc": "nc.openbsd", "usr/local/bin/iperf": "/usr/bin/iperf"},
		Dirs:     map[string]int64{"uploads": 0o755, "home/user-defined-in-image": 0o755},
		Texts: map[string]string{
			"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nuser-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n",
			"etc/group":  "root:x:0:\nnobody:x:65534:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
		},
		Config: images.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, WorkingDir: "/", ExposedPorts: map[string]struct{}{"80/tcp": {}, "8080/tcp": {}, "8081/tcp": {}, "9376/tcp": {}, "5000/tcp": {}}},
	}
	shows := func(ref, name, picture string) images.Image {
		i := agnhost
		i.Refs = []string{repository + ref}
		i.Files = map[string]string{picture: file(name, "html", picture), "data.json": file(name, "html", "data.json"), "localhost.crt": agnhost.Files["localhost.crt"], "localhost.key": agnhost.Files["localhost.key"]}
		i.Config.Cmd = []string{"test-webserver"}
		i.Texts = maps.Clone(i.Texts)
		i.Texts["etc/os-release"] = "NAME=\"Alpine Linux\"\n" // which a spec looks for in a volume made of the image
		return i
	}
	busybox := images.Config{Cmd: []string{"sh"}, WorkingDir: "/"}
	return []images.Image{
		agnhost,
		shows("nautilus:1.8", "nautilus", "nautilus.jpg"),
		shows("kitten:1.8", "kitten", "kitten.jpg"),
		// Debian's BusyBox has a shell that loses variables with odd names: for specs that call it sh, it is bash. One that calls it /bin/sh wants BusyBox's own words for an error.
		{Refs: []string{repository + "busybox:1.37.0-2"}, Busybox: true, Debian: []string{"bash"}, Links: map[string]string{"usr/local/bin/sh": "/bin/bash"}, Config: busybox},
		{Refs: []string{repository + "nonroot:1.5"}, Busybox: true, Config: images.Config{Cmd: []string{"sh"}, WorkingDir: "/", User: "1234"}},
		{Refs: []string{repository + "nonewprivs:1.4"}, Busybox: true, Programs: map[string]string{"usr/local/bin/nnp": "nonewprivs"}, Modes: map[string]int64{"usr/local/bin/nnp": 0o6755},
			Config: images.Config{Cmd: []string{"nnp"}, WorkingDir: "/"}},
		{Refs: []string{"registry.k8s.io/pause:3.10.2"}, Files: map[string]string{"pause": pause}, Modes: map[string]int64{"pause": 0o755}, Config: images.Config{Entrypoint: []string{"/pause"}, WorkingDir: "/", User: "65535:65535"}},
		{Refs: []string{repository + "nginx:1.27.0-2", repository + "nginx:1.28.0-2"}, Debian: []string{"nginx-light"}, Busybox: true,
			Dirs: map[string]int64{"var/log/nginx": 0o755, "var/lib/nginx": 0o755, "run": 0o755},
			Texts: map[string]string{
				"etc/nginx/nginx.conf":            "user nobody nobody;\nworker_processes 1;\nerror_log /dev/stderr notice;\npid /run/nginx.pid;\nevents { worker_connections 128; }\nhttp { access_log /dev/stdout; server { listen 80; location / { root /usr/share/nginx/html; index index.html; } } }\n",
				"usr/share/nginx/html/index.html": "<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n",
			},
			Config: images.Config{Cmd: []string{"nginx", "-g", "daemon off;"}, WorkingDir: "/", ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGQUIT"}},
		{Refs: []string{repository + "glibc-dns-testing:2.1.1"}, Debian: []string{"bash", "bind9-dnsutils", "libc-bin", "coreutils", "grep", "sed"}, Busybox: true, Config: images.Config{Cmd: []string{"bash"}, WorkingDir: "/"}},
		{Refs: []string{repository + "sample-apiserver:1.29.2"}, Programs: map[string]string{"sample-apiserver": "sample-apiserver"}, Config: images.Config{Entrypoint: []string{"/sample-apiserver"}, WorkingDir: "/"}},
		{Refs: []string{"registry.k8s.io/etcd:3.7.0-0"}, Programs: map[string]string{"usr/local/bin/etcd": "etcd"}, Dirs: map[string]int64{"var/etcd": 0o700, "var/lib/etcd": 0o700},
			Config: images.Config{Cmd: []string{"etcd"}, WorkingDir: "/"}},
	}, nil
}
