package podworker

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/runtime"
)

// Termination messages: what is shown of one, and the part of the log taken in its place (core/v1 TerminationMessagePolicy).
const (
	maxMessage  = 4096
	maxFallback = 2048
	maxLines    = 80
)

func (w *worker) logDir(pod *v1.Pod) string {
	return filepath.Join(w.c.LogsDir, containers.LogDirName(pod.Namespace, pod.Name, string(pod.UID)))
}

func (w *worker) makeLogDir(pod *v1.Pod) error {
	if err := os.MkdirAll(w.logDir(pod), 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	return nil
}

// hostsPath is the pod's /etc/hosts on the host.
func (w *worker) hostsPath(pod *v1.Pod) string {
	return filepath.Join(w.c.Volumes.PodDir(pod.UID), "etc-hosts")
}

// writeHosts makes the pod's /etc/hosts. It is written in place: containers hold a bind mount of the very file.
func (w *worker) writeHosts(pod *v1.Pod, ips []string) error {
	content, err := containers.HostsFile(pod, ips, w.c.DNS.ClusterDomain, w.c.HostsFile)
	if err != nil {
		return err
	}
	path := w.hostsPath(pod)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return fmt.Errorf("write the pod's hosts file: %w", err)
	}
	// Every user in the pod reads it, whatever the kubelet's umask is.
	if err := os.Chmod(path, 0o644); err != nil {
		return fmt.Errorf("write the pod's hosts file: %w", err)
	}
	return nil
}

// terminationFile makes the file behind a container's termination message path; "" if it has none.
func (w *worker) terminationFile(pod *v1.Pod, c *v1.Container, attempt int) (string, error) {
	if c.TerminationMessagePath == "" {
		return "", nil
	}
	dir := filepath.Join(w.c.Volumes.PodDir(pod.UID), "containers", c.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make directory for termination messages: %w", err)
	}
	path := filepath.Join(dir, fmt.Sprintf("termination-%d", attempt))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o666)
	if err != nil {
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	defer f.Close()
	if err := f.Chmod(0o666); err != nil { // whoever the container runs as writes it
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	return path, nil
}

// collectMessages reads the termination messages of instances that have ended since. The files are small and local.
func (w *worker) collectMessages() {
	if w.pod == nil {
		return
	}
	for i := range w.rt.Containers {
		x := &w.rt.Containers[i]
		if x.State != runtime.Exited {
			continue
		}
		if _, ok := w.messages[x.ID]; ok {
			continue
		}
		w.messages[x.ID] = w.terminationMessage(x)
	}
}

func (w *worker) terminationMessage(x *runtime.Container) string {
	if path := x.Annotations[runtime.AnnotationTerminationHostPath]; path != "" && within(path, w.c.Volumes.PodDir(w.uid)) {
		if m := head(path, maxMessage); m != "" {
			return m
		}
	}
	if x.ExitCode != 0 && x.Annotations[runtime.AnnotationTerminationPolicy] == string(v1.TerminationMessageFallbackToLogsOnError) && x.LogPath != "" {
		return lastLines(x.LogPath)
	}
	return ""
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// head reads the start of a file; a file that is not there is empty. A pod could have put a link in its place, so
// none is followed.
func head(path string, limit int64) string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return ""
	}
	return string(b)
}

// lastLines is the end of a container's log without the CRI's line heads (time, stream, tag).
func lastLines(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const window = 64 << 10
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	start := max(info.Size()-window, 0)
	b, err := io.ReadAll(io.NewSectionReader(f, start, window))
	if err != nil {
		return ""
	}
	lines := strings.SplitAfter(string(b), "\n")
	if start > 0 {
		lines = lines[1:]
	}
	var out []string
	size := 0
	for i := len(lines) - 1; i >= 0 && len(out) < maxLines; i-- {
		parts := strings.SplitN(lines[i], " ", 4)
		if len(parts) < 4 {
			continue
		}
		text := parts[3]
		if parts[2] == "P" {
			text = strings.TrimSuffix(text, "\n")
		}
		if size+len(text) > maxFallback {
			out = append(out, text[len(text)-(maxFallback-size):])
			break
		}
		size += len(text)
		out = append(out, text)
	}
	var b2 strings.Builder
	for i := len(out) - 1; i >= 0; i-- {
		b2.WriteString(out[i])
	}
	return b2.String()
}
