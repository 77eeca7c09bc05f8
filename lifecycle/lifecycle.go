// Package lifecycle names the stages of a pod's life. It is the vocabulary that code, spans, tests,
// documentation and the page share; it imports nothing, so that everything may import it.
package lifecycle

// Stage is one step of the story. Its text is the span's name.
type Stage string

// The stages of creation (C1 to C14), in the order of the story.
const (
	Request      Stage = "request"       // C1: the client sends the manifest
	Authenticate Stage = "authenticate"  // C2: who is it
	Authorize    Stage = "authorize"     // C3: may they
	Admit        Stage = "admit"         // C4: defaults, mutation, validation, policy
	Store        Stage = "store"         // C5: one etcd transaction
	Schedule     Stage = "schedule"      // C6: queue, filter, score, bind
	AdmitOnNode  Stage = "admit-on-node" // C7: the node checks what it really has
	Volumes      Stage = "volumes"       // C8: volumes are built or mounted
	Sandbox      Stage = "sandbox"       // C9: sandbox and address
	Pull         Stage = "pull"          // C10: images
	Start        Stage = "start"         // C11: containers are created and started
	Ready        Stage = "ready"         // C12: probes, readiness
	Endpoints    Stage = "endpoints"     // C13: the address joins the EndpointSlices
	Program      Stage = "program"       // C14: each node's proxy and DNS know it
)

// The stages of deletion (D1 to D6), in the order of the story.
const (
	Delete Stage = "delete" // D1: deletionTimestamp and grace period are stored
	Leave  Stage = "leave"  // D2: EndpointSlices mark the address terminating
	Drain  Stage = "drain"  // D3: every node stops sending new connections and acknowledges
	Stop   Stage = "stop"   // D4: preStop, SIGTERM, SIGKILL
	Clean  Stage = "clean"  // D5: containers, sandbox, volumes, cgroups are gone
	Forget Stage = "forget" // D6: the entry is removed from etcd
)

// Creation returns the stages C1 to C14 in order. The caller owns the slice.
func Creation() []Stage {
	return []Stage{Request, Authenticate, Authorize, Admit, Store, Schedule, AdmitOnNode, Volumes,
		Sandbox, Pull, Start, Ready, Endpoints, Program}
}

// Deletion returns the stages D1 to D6 in order. The caller owns the slice.
func Deletion() []Stage {
	return []Stage{Delete, Leave, Drain, Stop, Clean, Forget}
}
