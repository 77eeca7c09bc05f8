package podworker

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/status"
)

// Verb is a kind of step that a worker takes towards the desired state.
type Verb string

const (
	MountVolumes Verb = "volumes" // C8
	RunSandbox   Verb = "sandbox" // C9
	ResetSandbox Verb = "reset"   // takes a dead sandbox's network and containers down, so that it can be replaced
	EnsureImage  Verb = "image"   // C10
	Create       Verb = "create"  // C11, first half: everything that may be done before it is the container's turn
	Start        Verb = "start"   // C11, second half, with the postStart hook
	Kill         Verb = "kill"    // stops one container so that it is restarted
	Remove       Verb = "remove"  // forgets an ended instance
	Resize       Verb = "resize"  // gives running containers the resources that the pod has now
)

// Step is one thing to be done. It names what it acts on, so that the same step is not begun twice.
type Step struct {
	Do        Verb
	Container string // spec name; for Remove and ResetSandbox empty
	ID        string // runtime's ID, where the step acts on something that exists
	Attempt   int
	Kind      string // runtime.ContainerKind...
	After     *runtime.Container
	Reason    string // of Kill, for its event
	Replace   bool   // of Kill: the container is made anew, whatever the exit of this instance says
}

// Key identifies a step under way.
type Key struct {
	Do   Verb
	Name string // container name or ID
}

// Key returns what must not be under way twice.
func (s Step) Key() Key {
	switch s.Do {
	case Kill, Remove, ResetSandbox:
		return Key{s.Do, s.ID}
	}
	return Key{s.Do, s.Container}
}

// Image is what is known about a container's image for one attempt to start it.
type Image struct {
	Attempt int
	Ref     string // how the runtime names it; empty while it is not there
	Info    *runtime.Image
	Waiting *status.Waiting // why it is not there
	Retry   time.Time       // when to look again
}

// Backoff is a container's delay between restarts.
type Backoff struct {
	Delay   time.Duration
	Updated time.Time
}

// Crash loops: 10 s, doubled each time up to 5 min, forgotten when a container ran for 10 min (core/v1 restartPolicy).
const (
	crashFirst = 10 * time.Second
	crashLimit = 5 * time.Minute
)

// Next is the back-off after one more restart.
func (b Backoff) Next(now, ended time.Time) Backoff {
	if b.Delay == 0 || b.expired(ended) {
		return Backoff{crashFirst, now}
	}
	return Backoff{min(2*b.Delay, crashLimit), now}
}

func (b Backoff) expired(ended time.Time) bool { return ended.Sub(b.Updated) > 2*crashLimit }

// until is when a container that ended may be started again; the first time at once.
func (b Backoff) until(ended time.Time) time.Time {
	if b.Delay == 0 || b.expired(ended) {
		return time.Time{}
	}
	return ended.Add(b.Delay)
}

// View is all that a decision looks at. Decide reads it only.
type View struct {
	Now      time.Time
	Pod      *v1.Pod
	Runtime  runtime.Pod // newest first
	Mounted  bool        // C8 is done
	Images   map[string]Image
	Busy     map[Key]bool
	Retry    map[Key]time.Time         // a step that failed is not begun before
	Failed   map[string]status.Waiting // by container: why its last create or start failed
	Backoffs map[string]Backoff
	// Unhealthy are running instances, by ID, that must be killed, with the reason: a failed liveness or startup probe
	// or postStart hook.
	Unhealthy map[string]string
	// Started says whether a running instance has passed its startup probe.
	Started func(id string) bool
	// Replaced are instances, by ID, that were killed to be made anew.
	Replaced map[string]bool
	// Applied is what instances were given, by ID; Pod says what they are to have.
	Applied map[string]v1.ResourceRequirements
}

// Plan is what a decision comes to.
type Plan struct {
	Steps   []Step
	Wake    time.Time                 // when time alone makes a difference; zero: never
	Waiting map[string]status.Waiting // containers that are held back, and why
	// Finished says that no container runs and none will be started: the pod has come to its end.
	Finished bool
}

// decision is a Plan in the making.
type decision struct {
	*View
	Plan
	sandbox *runtime.Sandbox // newest; nil if none
	ready   bool             // the sandbox can take containers
	resize  bool             // a running container is to have other resources
}

// Decide compares the pod with what the runtime has and says what to do next. It is pure, and idempotent: the same
// view gives the same steps, and steps under way are not repeated.
func Decide(v *View) Plan {
	d := &decision{View: v, Plan: Plan{Waiting: map[string]status.Waiting{}}}
	if len(v.Runtime.Sandboxes) > 0 {
		d.sandbox = &v.Runtime.Sandboxes[0]
	}
	if d.finished() {
		d.Finished = true
		return d.Plan
	}
	d.step(Step{Do: MountVolumes}, !v.Mounted)
	d.decideSandbox()
	d.decideContainers()
	d.step(Step{Do: Resize}, d.resize)
	d.decideRemoval()
	return d.Plan
}

// step adds a step if it is wanted, not under way, and not waiting after a failure.
func (d *decision) step(s Step, wanted bool) bool {
	if !wanted || d.Busy[s.Key()] {
		return false
	}
	if t := d.Retry[s.Key()]; d.Now.Before(t) {
		d.wake(t)
		return false
	}
	d.Steps = append(d.Steps, s)
	return true
}

func (d *decision) wake(t time.Time) {
	if d.Wake.IsZero() || t.Before(d.Wake) {
		d.Wake = t
	}
}

// usable says whether containers can run in a sandbox.
func usable(pod *v1.Pod, s *runtime.Sandbox) bool {
	return s.Ready && (pod.Spec.HostNetwork || len(s.IPs) > 0 || !s.Detailed)
}

func (d *decision) decideSandbox() {
	if d.sandbox != nil && usable(d.Pod, d.sandbox) {
		// A second ready sandbox is a leftover of a kubelet that died between making it and knowing it.
		for i := 1; i < len(d.Runtime.Sandboxes); i++ {
			if old := &d.Runtime.Sandboxes[i]; old.Ready {
				d.step(Step{Do: ResetSandbox, ID: old.ID}, true)
			}
		}
		d.ready = d.sandbox.Detailed
		return
	}
	attempt := 0
	if d.sandbox != nil {
		attempt = d.sandbox.Attempt + 1
		for i := range d.Runtime.Containers {
			if c := &d.Runtime.Containers[i]; c.State == runtime.Running || c.State == runtime.Unknown {
				d.step(Step{Do: ResetSandbox, ID: d.sandbox.ID}, true)
				return
			}
		}
		if d.sandbox.Ready {
			d.step(Step{Do: ResetSandbox, ID: d.sandbox.ID}, true)
			return
		}
	}
	d.step(Step{Do: RunSandbox, Attempt: attempt}, true)
}

// instance is the newest instance of a container; nil if the runtime has none.
func (d *decision) instance(name string) *runtime.Container {
	for i := range d.Runtime.Containers {
		if d.Runtime.Containers[i].Name == name {
			return &d.Runtime.Containers[i]
		}
	}
	return nil
}

// here says whether an instance lives in the present sandbox.
func (d *decision) here(c *runtime.Container) bool {
	return c != nil && d.sandbox != nil && (c.SandboxID == "" || c.SandboxID == d.sandbox.ID)
}

// begun says whether a regular container was ever started in this sandbox: then initialization is over.
func (d *decision) begun() bool {
	for i := range d.Pod.Spec.Containers {
		if c := d.instance(d.Pod.Spec.Containers[i].Name); c != nil && c.State != runtime.Created && (d.sandbox == nil || d.here(c)) {
			return true
		}
	}
	return false
}

func (d *decision) decideContainers() {
	spec := &d.Pod.Spec
	begun := d.begun()
	// Images of the containers to come are looked for while earlier things happen.
	proceed := true // whether what comes next in the order may be started
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		if containers.IsSidecar(c) {
			d.image(c, false)
			if !d.running(c, runtime.ContainerKindSidecar, proceed || begun) && !begun {
				proceed = false
			}
			continue
		}
		if begun {
			continue
		}
		d.image(c, true)
		if proceed && !d.initDone(c) {
			proceed = false
		}
	}
	if begun {
		proceed = true
	}
	turn := proceed
	for i := range spec.Containers {
		c := &spec.Containers[i]
		d.image(c, false)
		if proceed && !d.regular(c, turn) {
			// One that is about to start goes first; one that cannot start for now holds nobody up.
			turn = false
		}
	}
	if proceed || begun {
		for i := range spec.EphemeralContainers {
			c := v1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
			if x := d.instance(c.Name); x == nil || x.State == runtime.Created {
				d.image(&c, false)
				d.launch(&c, x, runtime.ContainerKindEphemeral, 0, true)
			}
		}
	}
}

// attempt is the number of the instance that is, or would be, started next.
func next(x *runtime.Container) int {
	switch {
	case x == nil:
		return 0
	case x.State == runtime.Created:
		return x.Attempt
	}
	return x.Attempt + 1
}

// image has a container's image looked for if the container is going to be started.
func (d *decision) image(c *v1.Container, isInit bool) {
	x := d.instance(c.Name)
	if x != nil && (x.State == runtime.Running || x.State == runtime.Created && d.here(x)) {
		return
	}
	// In a new sandbox initialization starts over, so that an init container that had succeeded runs again.
	if x != nil && (x.State == runtime.Exited && !d.restarts(c, x) && (!isInit || d.here(x)) || d.held(c, x)) {
		return
	}
	n := next(x)
	img, ok := d.Images[c.Name]
	if ok && img.Attempt == n && img.Ref != "" {
		return
	}
	if ok && img.Attempt == n && img.Waiting != nil {
		d.Waiting[c.Name] = *img.Waiting
		if d.Now.Before(img.Retry) {
			d.wake(img.Retry)
			return
		}
	}
	d.step(Step{Do: EnsureImage, Container: c.Name, Attempt: n}, true)
}

// held says whether a container that ended waits out its back-off, and has it shown.
func (d *decision) held(c *v1.Container, x *runtime.Container) bool {
	if x.State != runtime.Exited {
		return false
	}
	b := d.Backoffs[c.Name]
	t := b.until(x.FinishedAt)
	if !d.Now.Before(t) {
		return false
	}
	d.wake(t)
	d.Waiting[c.Name] = status.Waiting{Reason: reasonCrashLoop,
		Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", b.Delay, c.Name, containers.Title(d.Pod))}
	return true
}

const reasonCrashLoop = "CrashLoopBackOff"

// launch takes the next step of starting a container: create it, and when it is its turn start it. It says whether
// the container is on its way, so that later ones wait for it; one that cannot start for now is not.
func (d *decision) launch(c *v1.Container, x *runtime.Container, kind string, attempt int, turn bool) (coming bool) {
	if !d.ready || !d.Mounted {
		return true
	}
	if x != nil && x.State == runtime.Created && !d.here(x) {
		x = nil // made for a sandbox that is gone; removed by decideRemoval
	}
	if x != nil && x.State == runtime.Created {
		if d.Busy[Key{Create, c.Name}] {
			return true
		}
		d.step(Step{Do: Start, Container: c.Name, ID: x.ID, Attempt: x.Attempt, Kind: kind}, turn)
		return true
	}
	img := d.Images[c.Name]
	if img.Attempt != attempt || img.Ref == "" {
		return img.Attempt != attempt || img.Waiting == nil
	}
	if w, ok := d.Failed[c.Name]; ok {
		d.Waiting[c.Name] = w
	}
	create := Step{Do: Create, Container: c.Name, Attempt: attempt, Kind: kind}
	if x != nil {
		after := *x // the list it is in changes while the step is under way
		create.After = &after
	}
	if d.Now.Before(d.Retry[create.Key()]) {
		d.wake(d.Retry[create.Key()])
		return false
	}
	d.step(create, true)
	return true
}

// healthy deals with a running instance and says whether it may stay.
func (d *decision) healthy(c *v1.Container, x *runtime.Container) bool {
	if why, bad := d.Unhealthy[x.ID]; bad {
		// Who fails a probe has failed, however politely it then ends.
		d.step(Step{Do: Kill, Container: c.Name, ID: x.ID, Reason: why, Replace: Restarts(d.Pod, c, sigkilled)}, true)
		return false
	}
	if x.Hash != "" && x.Hash != containers.Hash(c) {
		d.step(Step{Do: Kill, Container: c.Name, ID: x.ID, Reason: fmt.Sprintf("Container %s definition changed, will be restarted", c.Name), Replace: true}, true)
		return false
	}
	if was, ok := d.Applied[x.ID]; ok && !sameResources(was, c.Resources) {
		if restartsForResize(c, was) {
			d.step(Step{Do: Kill, Container: c.Name, ID: x.ID, Reason: fmt.Sprintf("Container %s resize requires restart", c.Name), Replace: true}, true)
			return false
		}
		d.resize = true
	}
	return true
}

// running keeps a sidecar running and says whether what comes after it may start: it runs and has passed its startup
// probe and postStart hook.
func (d *decision) running(c *v1.Container, kind string, may bool) bool {
	x := d.instance(c.Name)
	if x != nil && x.State == runtime.Running && d.here(x) {
		return d.healthy(c, x) && d.Started(x.ID) && !d.Busy[Key{Start, c.Name}]
	}
	if x != nil && x.State == runtime.Unknown {
		d.step(Step{Do: Kill, Container: c.Name, ID: x.ID, Reason: fmt.Sprintf("Container %s is in unknown state, try killing it before restart", c.Name)}, true)
		return false
	}
	if !may || x != nil && d.held(c, x) {
		return false
	}
	d.launch(c, x, kind, next(x), true)
	return false
}

// initDone runs an init container to its end and says whether it has succeeded.
func (d *decision) initDone(c *v1.Container) bool {
	x := d.instance(c.Name)
	switch {
	case x != nil && x.State == runtime.Exited && d.here(x):
		if x.ExitCode == 0 {
			return true
		}
		if !d.restarts(c, x) || d.held(c, x) {
			return false
		}
	case x != nil && x.State == runtime.Running && d.here(x):
		d.healthy(c, x)
		return false
	case x != nil && x.State == runtime.Unknown:
		d.step(Step{Do: Kill, Container: c.Name, ID: x.ID, Reason: fmt.Sprintf("Init container %s is in unknown state, try killing it before restart", c.Name)}, true)
		return false
	}
	d.launch(c, x, runtime.ContainerKindInit, next(x), true)
	return false
}

// regular keeps a container as its restart policy says, and says whether the next in order may start.
func (d *decision) regular(c *v1.Container, turn bool) bool {
	x := d.instance(c.Name)
	switch {
	case d.Busy[Key{Start, c.Name}]:
		return false
	case x != nil && x.State == runtime.Running && d.here(x):
		d.healthy(c, x)
		return true
	case x != nil && x.State == runtime.Unknown:
		d.step(Step{Do: Kill, Container: c.Name, ID: x.ID, Reason: fmt.Sprintf("Container %s is in unknown state, try killing it before restart", c.Name)}, true)
		return true
	case x != nil && x.State == runtime.Exited && (!d.restarts(c, x) || d.held(c, x)):
		return true
	}
	return !d.launch(c, x, "", next(x), turn)
}

// restarts says whether a container that ended is started again.
func (d *decision) restarts(c *v1.Container, x *runtime.Container) bool {
	return d.Replaced[x.ID] || Restarts(d.Pod, c, x.ExitCode)
}

// sigkilled is the exit code of who had to be killed.
const sigkilled = 137

// Restarts holds the restart policies: the container's own rules, its own policy, the pod's (core/v1, KEP-5307). An
// init container that succeeded is never restarted.
func Restarts(pod *v1.Pod, c *v1.Container, exit int32) bool {
	if containers.IsSidecar(c) {
		return true
	}
	isInit := false
	for i := range pod.Spec.InitContainers {
		isInit = isInit || pod.Spec.InitContainers[i].Name == c.Name
	}
	if isInit && exit == 0 {
		return false
	}
	for i := range c.RestartPolicyRules {
		r := &c.RestartPolicyRules[i]
		if r.ExitCodes == nil {
			continue
		}
		in := false
		for _, v := range r.ExitCodes.Values {
			in = in || v == exit
		}
		if in == (r.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = v1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return exit != 0
	}
	return true
}

// finished says whether the pod has come to its end: each regular container has ended and is not restarted, or an
// init container has failed for good. Sidecars do not count: they end with the pod.
func (d *decision) finished() bool {
	if !d.begun() {
		for i := range d.Pod.Spec.InitContainers {
			c := &d.Pod.Spec.InitContainers[i]
			x := d.instance(c.Name)
			if x != nil && !containers.IsSidecar(c) && x.State == runtime.Exited && x.ExitCode != 0 && !d.restarts(c, x) {
				return true
			}
		}
	}
	for i := range d.Pod.Spec.Containers {
		c := &d.Pod.Spec.Containers[i]
		x := d.instance(c.Name)
		if x == nil || x.State != runtime.Exited || d.restarts(c, x) || d.Busy[Key{Start, c.Name}] {
			return false
		}
	}
	return len(d.Pod.Spec.Containers) > 0
}

// decideRemoval forgets ended instances but the newest two of each container (the last is the user's, for logs
// --previous), and those made but never started in a sandbox that is gone.
func (d *decision) decideRemoval() {
	seen := map[string]int{}
	for i := range d.Runtime.Containers {
		x := &d.Runtime.Containers[i]
		seen[x.Name]++
		switch {
		case x.State == runtime.Created && seen[x.Name] == 1 && !d.here(x) && d.sandbox != nil,
			x.State == runtime.Created && seen[x.Name] > 1,
			x.State == runtime.Exited && seen[x.Name] > 2:
			d.step(Step{Do: Remove, ID: x.ID}, true)
		}
	}
	for i := 1; i < len(d.Runtime.Sandboxes); i++ {
		s := &d.Runtime.Sandboxes[i]
		if s.Ready || !d.ready {
			continue
		}
		inUse := false
		for j := range d.Runtime.Containers {
			inUse = inUse || d.Runtime.Containers[j].SandboxID == s.ID
		}
		if !inUse {
			d.step(Step{Do: Remove, ID: s.ID}, true)
		}
	}
}
