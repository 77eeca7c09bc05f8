package memory

import (
	"context"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestPays(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		free, objects, live uint64
		want                bool
	}{
		{0, 10 * mib, 10 * mib, false},
		{8 * mib, 10 * mib, 10 * mib, true},
		{4 * mib, 14 * mib, 10 * mib, true},
		{4 * mib, 5 * mib, 10 * mib, false}, // what was alive has been swept since
		{60 * mib, 1010 * mib, 1010 * mib, false},
		{60 * mib, 1020 * mib, 1010 * mib, true},
	} {
		if got := pays(c.free, c.objects, c.live); got != c.want {
			t.Errorf("%d MiB free, %d MiB of objects, %d MiB alive: %v", c.free/mib, c.objects/mib, c.live/mib, got)
		}
	}
}

const smaps = `00400000-027e6000 r-xp 00000000 fe:00 77 /usr/local/bin/a program
Size:              36760 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
027e6000-07180000 r--p 023e6000 fe:00 77 /usr/local/bin/a program
Anonymous:             0 kB
07180000-07280000 r--p 07d80000 fe:00 77 /usr/local/bin/a program
Anonymous:             4 kB
07280000-07380000 rw-p 06d80000 fe:00 77 /usr/local/bin/a program
Anonymous:             0 kB
7f5600000000-7f5700000000 r--s 00000000 fe:00 77 /usr/local/bin/a program
Anonymous:             0 kB
7f5700000000-7f5800000000 r--p 00000000 fe:00 78 /var/lib/db
Anonymous:             0 kB
c000000000-c004000000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7ffe7b9f2000-7ffe7ba13000 ---p 00000000 00:00 0                          [stack]
`

func TestOnlyUnchangedPartsOfTheProgramAreForgotten(t *testing.T) {
	want := []mapping{{0x400000, 0x27e6000}, {0x27e6000, 0x7180000}}
	if got := unchanged(strings.NewReader(smaps), 77, 'p'); !reflect.DeepEqual(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	want = []mapping{{0x7f5600000000, 0x7f5700000000}}
	if got := unchanged(strings.NewReader(smaps), 77, 's'); !reflect.DeepEqual(got, want) {
		t.Errorf("shared with the file: got %x, want %x", got, want)
	}
}

// The program's own mappings are found, and it goes on without them.
func TestForgetProgram(t *testing.T) {
	var self syscall.Stat_t
	if err := syscall.Stat("/proc/self/exe", &self); err != nil {
		t.Skip(err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	if len(unchanged(f, self.Ino, 'p')) == 0 {
		t.Error("nothing of the program's own file was found")
	}
	for range 3 {
		forgetProgram()
		TestPays(t)
	}
}

// A mapped file that was forgotten reads as before, also what was written to it meanwhile.
func TestForgetFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write([]byte("before")); err != nil {
		t.Fatal(err)
	}
	mapped, err := syscall.Mmap(int(f.Fd()), 0, os.Getpagesize(), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(mapped)
	for _, want := range []string{"before", "behind"} {
		if _, err := f.WriteAt([]byte(want), 0); err != nil {
			t.Fatal(err)
		}
		ForgetFile(f.Name())
		if got := string(mapped[:6]); got != want {
			t.Errorf("reads %q, want %q", got, want)
		}
	}
	ForgetFile(f.Name() + " that is not there")
}

func TestGiveBackEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := GiveBack(ctx, nil); err != nil {
		t.Error(err)
	}
}
