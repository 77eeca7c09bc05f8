package logs

import (
	"strings"
	"testing"
)

func TestWhatVariesIsTakenOut(t *testing.T) {
	for _, pair := range [][2]string{
		{`"Error syncing" logger="x" item="churn-17/web-6d4cf56db6" err="Operation cannot be fulfilled on replicasets.apps \"web-6d4cf56db6\": the object has been modified"`,
			`"Error syncing" logger="x" item="churn-2/db-0" err="Operation cannot be fulfilled on replicasets.apps \"web-5c8b9d7f48\": the object has been modified"`},
		{`"x" err="Operation cannot be fulfilled on persistentvolumeclaims \"data\": the object has been modified; try"`, `"x" err="Operation cannot be fulfilled on persistentvolumeclaims \"data-db-2\": the object has been modified; try"`},
		{`events \"kept-56959b45c4-jjxc7.18ebdc0a3f1100c7\" is forbidden`, `events \"kept-56959b45c4-aaxc8.28ebdc0a3f1100c7\" is forbidden`},
		{`"books" err="PVC churn-0b6d9a8e/data had negative ref count -1" pod="churn-0b6d9a8e/after"`, `"books" err="PVC churn-1b6d9a8f/data-db-2 had negative ref count -2" pod="churn-1b6d9a8f/x"`},
		{`failed after 1.203s at 2026-11-27 08:00:00.1 +0000 UTC m=+12.3: dial tcp 192.168.49.1:6443`, `failed after 12ms at 2026-11-27 09:00:00.12 +0000 UTC m=+1.3: dial tcp 192.168.49.1:7443`},
		{`pod 0b6d9a8e-9a55-4b1e-a5a6-0123456789ab is gone`, `pod 1b6d9a8e-9a55-4b1e-a5a6-0123456789ab is gone`},
	} {
		if a, b := Normalize(pair[0]), Normalize(pair[1]); a != b {
			t.Errorf("not alike:\n%s\n%s", a, b)
		}
	}
	if a, b := Normalize(`"Error syncing" err="not found"`), Normalize(`"Error syncing" err="forbidden"`); a == b {
		t.Errorf("two different errors became one: %s", a)
	}
}

func TestBeyond(t *testing.T) {
	log := func(lines ...string) Complaints {
		c, err := Read(strings.NewReader(strings.Join(lines, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ours := log(`I1127 08:00:00.000001       1 a.go:1] fine`, `E1127 08:00:00.000001       1 a.go:2] bad pod-x7k2p`, `W1127 08:00:01.000001       1 b.go:3] "odd" pod="x/y" err="no"`,
		`E1127 08:00:09.000001      17 a.go:2] bad pod-b2k4p`)
	theirs := log(`E1127 07:00:00.000001      10 a.go:2] bad pod-zz2xp`)
	got := ours.Beyond(theirs)
	if len(got) != 1 || got[0].String() != `W b.go:3 "odd" err="no"` {
		t.Errorf("got %v", got)
	}
	if n := ours[Complaint{'E', "a.go:2", "bad NAME"}]; n == nil || n.Count != 2 {
		t.Errorf("counted %+v", n)
	}
	var b strings.Builder
	if err := ours.Record(&b); err != nil || strings.Count(b.String(), "\n") != 2 {
		t.Errorf("recorded %q, %v", b.String(), err)
	}
}
