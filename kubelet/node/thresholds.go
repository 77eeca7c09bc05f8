package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Thresholds are hard eviction thresholds: with less than that the node is under pressure (upstream's evictionHard).
type Thresholds struct {
	MemoryAvailable, NodeFSAvailable, NodeFSInodesFree, PIDAvailable Threshold
}

// Threshold is an amount, or a part of what there is in all. The zero value is never passed.
type Threshold struct {
	Amount   int64   // bytes, or a number of inodes or processes
	Fraction float64 // of all, when Amount is 0
}

// Of is the amount, of so much in all.
func (t Threshold) Of(all int64) int64 {
	if t.Amount > 0 {
		return t.Amount
	}
	return int64(t.Fraction * float64(all))
}

// DefaultThresholds are upstream's on Linux.
func DefaultThresholds() Thresholds {
	return Thresholds{MemoryAvailable: Threshold{Amount: 100 << 20}, NodeFSAvailable: Threshold{Fraction: 0.10}, NodeFSInodesFree: Threshold{Fraction: 0.05}}
}

// thresholdSignals are the names that thresholds go by, upstream's.
var thresholdSignals = []string{"memory.available", "nodefs.available", "nodefs.inodesFree", "pid.available"}

// ParseThresholds reads upstream's notation, such as "memory.available<100Mi,nodefs.available<10%". Signals that are not named are not
// watched; the empty text is the defaults.
func ParseThresholds(text string) (Thresholds, error) {
	if text == "" {
		return DefaultThresholds(), nil
	}
	var t Thresholds
	fields := []*Threshold{&t.MemoryAvailable, &t.NodeFSAvailable, &t.NodeFSInodesFree, &t.PIDAvailable}
	seen := map[string]bool{}
	for one := range strings.SplitSeq(text, ",") {
		signal, value, ok := strings.Cut(strings.TrimSpace(one), "<")
		i := slices.Index(thresholdSignals, signal)
		switch {
		case !ok:
			return Thresholds{}, fmt.Errorf("eviction threshold %q: write it as signal<value", one)
		case i < 0:
			return Thresholds{}, fmt.Errorf("eviction threshold %q: the signals are %s", one, strings.Join(thresholdSignals, ", "))
		case seen[signal]:
			return Thresholds{}, fmt.Errorf("eviction threshold %q: %s is given twice", one, signal)
		}
		seen[signal] = true
		if percent, is := strings.CutSuffix(value, "%"); is {
			p, err := strconv.ParseFloat(percent, 64)
			if err != nil || !(p >= 0 && p < 100) {
				return Thresholds{}, fmt.Errorf("eviction threshold %q: a percentage is at least 0 and less than 100", one)
			}
			fields[i].Fraction = p / 100
			continue
		}
		q, err := resource.ParseQuantity(value)
		if err != nil || q.Sign() < 0 {
			return Thresholds{}, fmt.Errorf("eviction threshold %q: the value is a percentage or an amount such as 100Mi", one)
		}
		fields[i].Amount = q.Value()
	}
	return t, nil
}
