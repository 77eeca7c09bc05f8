// Package routes joins the nodes' pod networks: on every node a route to each other node's podCIDRs, straight to the node where the two share
// a link, through a VXLAN tunnel where they do not. It also lets the node forward, masks pod addresses towards the world
// outside the cluster, and answers for pod addresses of this node that nobody has. It works in the network namespace of its process.
//
// Desired state is computed by a pure function (Plan) from the Nodes and what the kernel says about the way to each; then the
// kernel's routes with Wherry's protocol number are made equal to it. Nothing is polled: Node events and the kernel's
// own notices of routes, addresses and links start the next round.
package routes
