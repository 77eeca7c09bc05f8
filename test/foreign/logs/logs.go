// Package logs reads what Kubernetes' components write to their logs, and tells what one run logged that another did not.
package logs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Complaint is an error or a warning with all that differs from run to run taken out.
type Complaint struct {
	Severity byte   // E, W or F
	Where    string // file and line
	Text     string
}

// String is one line.
func (c Complaint) String() string { return fmt.Sprintf("%c %s %s", c.Severity, c.Where, c.Text) }

// Complaints are those of a log, each with how often it was logged and one line as it stood there.
type Complaints map[Complaint]*Seen

// Seen is how often, and the first line of its kind.
type Seen struct {
	Count int
	First string
}

var header = regexp.MustCompile(`^([EWF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([^ \]]+)\] (.*)$`)

// What differs from run to run, in the order in which it is taken out: also which of several objects a race hit. Names made by controllers end in what upstream's generators make.
var varying = []struct {
	what *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+(:\d+)?(/\d+)?\b`), "ADDRESS"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "CONTAINER"},
	{regexp.MustCompile(`\b(churn-[0-9a-f]{8}(-[a-z0-9])?|w[0-9a-f]{8}s?\b)`), "NAME"},
	{regexp.MustCompile(`\.[0-9a-f]{16}\b`), ".EVENT"},
	{regexp.MustCompile(`(\b[a-z0-9.]+ \\?")[^"\\]+(\\?" (is forbidden|not found))`), "${1}NAME${2}"},
	{regexp.MustCompile(`(fulfilled on \S+ \\?")[^"\\]+(\\?": the object has been modified)`), "${1}NAME${2}"},
	{regexp.MustCompile(`\b(PVC|Job|CronJob|key|node|claim) \\?"?[-a-z0-9./]+\\?"? (failed|not found|is forbidden)`), "$1 NAME $2"},
	{regexp.MustCompile(`\bPVC [^ /]+/[^ /]+ had `), "PVC NAME/NAME had "},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ][0-9:.]+( ?[-+]\d{4})?( ?[A-Z]{1,4})?( m=[-+0-9.]+)?`), "TIME"},
	{regexp.MustCompile(`\b[0-9.]+(ns|µs|ms|s|m|h)\b`), "DURATION"},
	{regexp.MustCompile(`\b[a-z][-a-z0-9.]*-[a-z0-9]*\d[-a-z0-9]*\b`), "NAME"},
	{regexp.MustCompile(`\b[a-z][-a-z0-9.]*-[bcdfghjklmnpqrstvwxz2456789]{5,10}\b`), "NAME"},
	{regexp.MustCompile(`\d+`), "N"},
}

// values are the keys of a structured line that say of which object it speaks, not what went wrong.
var values = regexp.MustCompile(` [A-Za-z_][-A-Za-z0-9_.]*=("(?:[^"\\]|\\.)*"|\{[^}]*\}|<[^>]*>|[^ ]+)`)

// Normalize takes out of a message what differs from run to run: of a structured one the message and its error stay.
func Normalize(text string) string {
	if strings.HasPrefix(text, `"`) {
		text = values.ReplaceAllStringFunc(text, func(pair string) string {
			if strings.HasPrefix(pair, " err=") || strings.HasPrefix(pair, " reason=") {
				return pair
			}
			return ""
		})
	}
	for _, v := range varying {
		text = v.what.ReplaceAllString(text, v.to)
	}
	return text
}

// Read gathers the complaints of a log.
func Read(r io.Reader) (Complaints, error) {
	all := Complaints{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		m := header.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		c := Complaint{Severity: m[1][0], Where: m[2], Text: Normalize(m[3])}
		if all[c] == nil {
			all[c] = &Seen{First: lines.Text()}
		}
		all[c].Count++
	}
	return all, lines.Err()
}

// ReadFile is Read of a file.
func ReadFile(path string) (Complaints, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Read(f)
}

// Beyond returns, in order, what c has and none of the others have.
func (c Complaints) Beyond(others ...Complaints) (out []Complaint) {
	for one := range c {
		if !slices.ContainsFunc(others, func(o Complaints) bool { return o[one] != nil }) {
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b Complaint) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// Recorded reads complaints as Record wrote them.
func Recorded(path string) (Complaints, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := Complaints{}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(f) == 3 && len(f[0]) == 1 && f[0] != "#" {
			all[Complaint{Severity: f[0][0], Where: f[1], Text: f[2]}] = &Seen{}
		}
	}
	return all, nil
}

// Extend adds complaints to a file of them, whose first line says what they are, when WHERRY_FOREIGN_RECORD is set: what upstream's parts log against upstream is
// gathered over many runs.
func Extend(path, what string, more ...Complaints) error {
	if os.Getenv("WHERRY_FOREIGN_RECORD") == "" {
		return nil
	}
	all, err := Recorded(path)
	if err != nil {
		return err
	}
	for _, complaints := range more {
		for c, seen := range complaints {
			all[c] = seen
		}
	}
	var b strings.Builder
	fmt.Fprintln(&b, "# "+what)
	if err := all.Record(&b); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// Record writes complaints, one a line, in order.
func (c Complaints) Record(w io.Writer) error {
	for _, one := range c.Beyond() {
		if _, err := fmt.Fprintln(w, one); err != nil {
			return err
		}
	}
	return nil
}
