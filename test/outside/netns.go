package outside

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Netns is node i's network namespace, as a path.
func (c *Cluster) Netns(i int) string {
	return filepath.Join("/run/wherry", c.Name, "ns", "net-"+strconv.Itoa(i))
}

// Mountns is node i's mount namespace, as a path.
func (c *Cluster) Mountns(i int) string {
	return filepath.Join("/run/wherry", c.Name, "ns", "mnt-"+strconv.Itoa(i))
}

// In runs f on a thread in a network namespace. The thread is thrown away.
func In(netns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot be thrown away, and /proc shows its namespace as the whole process's: let another do it.
			done <- In(netns, f)
			runtime.UnlockOSThread()
			return
		}
		done <- func() error {
			fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open %s: %w", netns, err)
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", netns, err)
			}
			return f()
		}()
	}()
	return <-done
}

// Dial connects from inside a network namespace. A socket belongs to the namespace in which it was made.
func Dial(ctx context.Context, netns, network, address string) (conn net.Conn, err error) {
	if host, _, e := net.SplitHostPort(address); e != nil || net.ParseIP(host) == nil {
		return nil, fmt.Errorf("dial %s: give an address, not a name: it would be looked up elsewhere", address)
	}
	err = In(netns, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// HTTPFrom is a client whose packets start in a network namespace, each request on a connection of its own.
func HTTPFrom(netns string, timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return Dial(ctx, netns, network, address)
		}}}
}

// Get asks for a URL, and returns the body of an answer with status 200.
func Get(client *http.Client, url string) (string, error) {
	r, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s: %s: %s", url, r.Status, b)
	}
	return string(b), nil
}

// Resolve asks a DNS server from inside a network namespace, over udp or tcp, and returns the answer's code and records.
func Resolve(netns, network, server, name string, kind uint16) (code string, records []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := Dial(ctx, netns, network, net.JoinHostPort(server, "53"))
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	client := dns.Client{Net: network, Timeout: 5 * time.Second}
	answer, _, err := client.ExchangeWithConn(question, &dns.Conn{Conn: conn})
	if err != nil {
		return "", nil, fmt.Errorf("ask %s for %s: %w", server, name, err)
	}
	for _, r := range answer.Answer {
		switch r := r.(type) {
		case *dns.A:
			records = append(records, r.A.String())
		case *dns.SRV:
			records = append(records, fmt.Sprintf("%d %s", r.Port, r.Target))
		case *dns.PTR:
			records = append(records, r.Ptr)
		}
	}
	return dns.RcodeToString[answer.Rcode], records, nil
}

// Addresses are those of every interface in a network namespace, with prefix lengths.
func Addresses(netns string) (out []string, err error) {
	err = In(netns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			addresses, err := netlink.AddrList(l, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			for _, a := range addresses {
				out = append(out, l.Attrs().Name+" "+a.IPNet.String())
			}
		}
		return nil
	})
	return out, err
}

// Links are the names of the interfaces in a network namespace.
func Links(netns string) (out []string, err error) {
	err = In(netns, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			out = append(out, l.Attrs().Name)
		}
		return err
	})
	return out, err
}

// Ruleset is everything that nftables has in a network namespace, as nft prints it.
func Ruleset(netns string) (string, error) {
	out, err := exec.Command("nsenter", "--net="+netns, "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("list nftables in %s: %w: %s", netns, err, out)
	}
	return string(out), nil
}

// Mounts are the lines of /proc/self/mounts as a process in a mount namespace sees them.
func Mounts(mountns string) ([]string, error) {
	out, err := exec.Command("nsenter", "--mount="+mountns, "cat", "/proc/self/mounts").Output()
	if err != nil {
		return nil, fmt.Errorf("list mounts in %s: %w", mountns, err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// Identity is the number by which the kernel knows a namespace. Since Linux 6.18 it is never given out again; before, it is the inode's number, which
// another namespace may get as soon as this one is gone.
func Identity(path string) (uint64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var id uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.NS_GET_ID, uintptr(unsafe.Pointer(&id))); errno == 0 {
		return id, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Ino, nil
}

// OwnNetns is the network namespace of this process.
func OwnNetns() string { return filepath.Join("/proc", strconv.Itoa(os.Getpid()), "ns", "net") }
