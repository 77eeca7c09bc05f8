package memory

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A start touches most of the program's file once: every package's initialisers and tables. What is mapped of it counts as the process's
// until the machine is short of memory. forgetProgram unmaps it: the pages stay in the page cache as long as there is
// room, and what is needed comes from there when it is touched, sixteen pages at a time, at about a microsecond.
//
// Only the program's own file is forgotten, which is mapped from the process's first moment to its last, and of it only
// what cannot be written and was not changed: there the file says what the pages say.
func forgetProgram() { forget("/proc/self/exe", 'p') }

// ForgetFile unmaps what is mapped of a file and shared with it, for reading only, as forgetProgram does of the program's. The caller sees to it that
// the file stays mapped until it returns: where it no longer is, something else may be.
func ForgetFile(path string) { forget(path, 's') }

// forget unmaps the pages of a file's private ('p') or shared ('s') mappings. What fails stays mapped.
func forget(path string, sharing byte) {
	var file syscall.Stat_t
	if syscall.Stat(path, &file) != nil {
		return
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer smaps.Close()
	for _, m := range unchanged(smaps, file.Ino, sharing) {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// unchanged reads smaps, and returns what is mapped of the file with this inode in this way, cannot be written, and has no page that differs from the file's.
func unchanged(smaps io.Reader, inode uint64, sharing byte) (found []mapping) {
	lines := bufio.NewScanner(smaps)
	var now mapping
	of := false // now is of the file and cannot be written
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 {
			continue
		}
		if !strings.HasSuffix(f[0], ":") { // start-end perms offset dev inode path
			of = false
			if _, err := fmt.Sscanf(f[0], "%x-%x", &now.start, &now.end); err != nil || len(f) < 6 || len(f[1]) != 4 {
				continue
			}
			n, err := strconv.ParseUint(f[4], 10, 64)
			of = err == nil && n == inode && f[1][0] == 'r' && f[1][1] == '-' && f[1][3] == sharing
			continue
		}
		if of && f[0] == "Anonymous:" {
			if f[1] == "0" {
				found = append(found, now)
			}
			of = false
		}
	}
	return found
}
