package cluster

import (
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	kversion "k8s.io/apimachinery/pkg/version"

	"wherry.dev/wherry/api/version"
)

// versionInfo is what /version says: the Kubernetes that is served, and the build that serves it. It emulates no older one, and works beside
// the minor before it, as during an upgrade.
func versionInfo() kversion.Info {
	parts := strings.SplitN(strings.TrimPrefix(version.Kubernetes, "v"), ".", 3)
	for len(parts) < 2 {
		parts = append(parts, "0")
	}
	minor, err := strconv.Atoi(parts[1])
	if err != nil {
		minor = 0
	}
	i := kversion.Info{Major: parts[0], Minor: strconv.Itoa(minor), EmulationMajor: parts[0], EmulationMinor: strconv.Itoa(minor), MinCompatibilityMajor: parts[0], MinCompatibilityMinor: strconv.Itoa(max(minor-1, 0)),
		GitVersion: version.Kubernetes, GitTreeState: "clean", BuildDate: "1970-01-01T00:00:00Z", GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return i
	}
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			i.GitCommit = s.Value
		case "vcs.time":
			i.BuildDate = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				i.GitTreeState = "dirty"
			}
		}
	}
	return i
}
