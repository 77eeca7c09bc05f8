package node

import (
	"strings"
	"testing"
)

func TestParseThresholds(t *testing.T) {
	for text, want := range map[string]Thresholds{
		"":                       DefaultThresholds(),
		"memory.available<100Mi": {MemoryAvailable: Threshold{Amount: 100 << 20}},
		"memory.available<5%, nodefs.available<1Gi,nodefs.inodesFree<2.5%,pid.available<10%": {MemoryAvailable: Threshold{Fraction: .05},
			NodeFSAvailable: Threshold{Amount: 1 << 30}, NodeFSInodesFree: Threshold{Fraction: .025}, PIDAvailable: Threshold{Fraction: .1}},
		"nodefs.available<0%": {},
	} {
		if got, err := ParseThresholds(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"nodefs.available":                       "signal<value",
		"swap.available<1Gi":                     "the signals are",
		"nodefs.available<101%":                  "percentage",
		"nodefs.available<-1%":                   "percentage",
		"nodefs.available<NaN%":                  "percentage",
		"memory.available<many":                  "amount",
		"memory.available<-1":                    "amount",
		"pid.available<1%,pid.available<2%":      "twice",
		"memory.available<1Gi,,pid.available<1%": "signal<value",
	} {
		if _, err := ParseThresholds(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if got := (Threshold{Fraction: .1}).Of(1000); got != 100 {
		t.Errorf("a tenth of 1000 is %d", got)
	}
	if got := (Threshold{Amount: 7, Fraction: .1}).Of(1000); got != 7 {
		t.Errorf("seven are %d", got)
	}
}
