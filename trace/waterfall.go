package trace

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"wherry.dev/wherry/lifecycle"
)

// Style says how a waterfall is drawn.
type Style struct {
	Width  int  // columns; at least 60 are used
	Colour bool // ANSI colours
	ASCII  bool // no block characters
}

// Waterfall draws creation and deletion, each stage a line: what, where, when, how long, and why. now ends what still goes on.
func Waterfall(w io.Writer, t Trace, now time.Time, style Style) error {
	style.Width = max(style.Width, 60)
	p := &painter{w: w, Style: style, now: now}
	p.printf("pod %s/%s  %s\n", t.Namespace, t.Pod, t.PodUID)
	leaving := map[lifecycle.Stage]bool{}
	for _, s := range lifecycle.Deletion() {
		leaving[s] = true
	}
	var creation, deletion []Span
	for _, s := range t.Spans {
		if leaving[s.Stage] {
			deletion = append(deletion, s)
		} else {
			creation = append(creation, s)
		}
	}
	p.section("creation", creation)
	p.section("deletion", deletion)
	if t.Dropped > 0 {
		p.printf("(%d further spans were not kept)\n", t.Dropped)
	}
	return p.err
}

type painter struct {
	w io.Writer
	Style
	now time.Time
	err error
}

func (p *painter) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// line is one line of the waterfall: a span, and what the user reads of it.
type line struct {
	span  Span
	what  string
	where string
}

func (p *painter) section(title string, spans []Span) {
	if len(spans) == 0 {
		return
	}
	begin, end := spans[0].Start, spans[0].Start
	lines := make([]line, len(spans))
	whatWidth, whereWidth := 0, 0
	for i, s := range spans {
		begin = earlier(begin, s.Start)
		end = later(end, s.Start.Add(s.Duration(p.now)))
		what := string(s.Stage)
		if s.Detail != "" {
			what += " " + s.Detail
		}
		where := s.Component
		if s.Node != "" {
			where += "@" + s.Node
		}
		lines[i] = line{span: s, what: what, where: where}
		whatWidth = max(whatWidth, utf8.RuneCountInString(what))
		whereWidth = max(whereWidth, utf8.RuneCountInString(where))
	}
	whatWidth, whereWidth = min(whatWidth, 34), min(whereWidth, 26)
	total := end.Sub(begin)
	p.printf("\n%s: %s%s\n", title, length(total), p.culprits(spans, total))
	barWidth := max(10, p.Width-whatWidth-whereWidth-9-6)
	for _, l := range lines {
		p.printf("  %s %s %s %8s", pad(l.what, whatWidth), pad(l.where, whereWidth), p.bar(l.span, begin, total, barWidth), length(l.span.Duration(p.now)))
		if mark := p.mark(l.span); mark != "" {
			p.printf("  %s", mark)
		}
		p.printf("\n")
		if note := note(l.span); note != "" {
			p.printf("  %s   %s\n", strings.Repeat(" ", whatWidth), note)
		}
	}
	for _, l := range lines {
		if l.span.Outcome == Waiting {
			p.printf("  %s\n", p.paint("33", fmt.Sprintf("waiting in %s for %s: %s", l.what, length(l.span.Duration(p.now)), l.span.Message)))
		}
	}
}

// culprits names what took the time: the stages that, where they were the last to go on, held up the end.
func (p *painter) culprits(spans []Span, total time.Duration) string {
	if total <= 0 {
		return ""
	}
	shares := criticalPath(spans, p.now)
	slices.SortFunc(shares, func(a, b share) int { return int(b.took - a.took) })
	var out []string
	for _, s := range shares[:min(3, len(shares))] {
		if percent := int(100 * s.took / total); percent >= 5 {
			out = append(out, fmt.Sprintf("%s %s (%d%%)", s.stage, length(s.took), percent))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return ", mostly " + strings.Join(out, ", ")
}

type share struct {
	stage lifecycle.Stage
	took  time.Duration
}

// criticalPath walks back from the end: the time belongs to the span that was the last to be busy, then to the one before it.
func criticalPath(spans []Span, now time.Time) []share {
	took := map[lifecycle.Stage]time.Duration{}
	var at time.Time
	ends := make([]time.Time, len(spans))
	for i := range spans {
		ends[i] = spans[i].Start.Add(spans[i].Duration(now))
		at = later(at, ends[i])
	}
	used := make([]bool, len(spans))
	for {
		best := -1
		for i := range spans {
			if used[i] || !spans[i].Start.Before(at) {
				continue
			}
			if best < 0 || earlier(ends[i], at).After(earlier(ends[best], at)) ||
				earlier(ends[i], at).Equal(earlier(ends[best], at)) && spans[i].Start.After(spans[best].Start) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		used[best] = true
		took[spans[best].Stage] += earlier(ends[best], at).Sub(spans[best].Start)
		at = spans[best].Start
	}
	out := make([]share, 0, len(took))
	for stage, d := range took {
		out = append(out, share{stage, d})
	}
	slices.SortFunc(out, func(a, b share) int { return strings.Compare(string(a.stage), string(b.stage)) })
	return out
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// bar places the span between begin and begin+total, to an eighth of a column.
func (p *painter) bar(s Span, begin time.Time, total time.Duration, width int) string {
	if total <= 0 {
		total = 1
	}
	from := int(int64(s.Start.Sub(begin)) * int64(width) * 8 / int64(total))
	to := int(int64(s.Start.Sub(begin)+s.Duration(p.now)) * int64(width) * 8 / int64(total))
	from = min(from, width*8-1)
	to = min(max(to, from+1), width*8)
	var b strings.Builder
	for column := range width {
		left, right := max(from, column*8)-column*8, min(to, column*8+8)-column*8
		filled := right - left
		switch {
		case filled <= 0:
			b.WriteByte(' ')
		case p.ASCII:
			b.WriteByte('#')
		case filled == 8:
			b.WriteRune('█')
		case left > 0: // block elements grow from the left only; the right half is the nearest to a late start
			b.WriteRune('▐')
		default:
			b.WriteRune(rune('█' + 8 - filled))
		}
	}
	colour := map[Outcome]string{OK: "32", Failed: "31", Waiting: "33"}[s.Outcome]
	return p.paint(colour, b.String())
}

func (p *painter) mark(s Span) string {
	switch s.Outcome {
	case Failed:
		return p.paint("31", "failed: "+s.Message)
	case Waiting:
		return p.paint("33", "waiting")
	default:
		return ""
	}
}

func (p *painter) paint(colour, text string) string {
	if !p.Colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// noteWidth bounds the attributes that are printed below a stage.
const noteWidth = 160

func note(s Span) string {
	if s.Outcome == OK && s.Stage != lifecycle.Schedule && s.Stage != lifecycle.Pull && s.Stage != lifecycle.Ready && s.Stage != lifecycle.Drain && s.Stage != lifecycle.Stop {
		return ""
	}
	parts := make([]string, 0, len(s.Attrs))
	for _, a := range s.Attrs {
		parts = append(parts, a.Key+": "+a.Value)
	}
	text := strings.Join(parts, "; ")
	if utf8.RuneCountInString(text) > noteWidth {
		text = string([]rune(text)[:noteWidth-1]) + "…"
	}
	return text
}

func pad(text string, width int) string {
	n := utf8.RuneCountInString(text)
	if n > width {
		return string([]rune(text)[:width-1]) + "…"
	}
	return text + strings.Repeat(" ", width-n)
}

// length writes a duration to three figures.
func length(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.2fms", float64(d)/1e6)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0fms", float64(d)/1e6)
	case d < time.Minute:
		return fmt.Sprintf("%.2fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
