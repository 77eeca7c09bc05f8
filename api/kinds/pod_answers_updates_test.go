package kinds

import (
	"encoding/json"
	"strings"
)

// podUpdateQuestions are changes to stored pods that have rules of their own. The first word is the operation, the
// second the pod; then come changes "path=value", those before "->" made to the stored pod.
func podUpdateQuestions() (questions []podCase) {
	for line := range strings.Lines(podUpdates) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		c := podCase{Op: words[0], Pod: words[1]}
		for _, word := range words[2:] {
			if word == "->" {
				c.Was, c.Set = c.Set, nil
				continue
			}
			path, value, set := strings.Cut(word, "=")
			change := change{}
			for step := range strings.SplitSeq(path, ".") {
				step = strings.ReplaceAll(step, "%", ".")
				if n := 0; len(step) < 3 && json.Unmarshal([]byte(step), &n) == nil {
					change.At = append(change.At, n)
				} else {
					change.At = append(change.At, step)
				}
			}
			if set {
				change.To = json.RawMessage(value)
			}
			c.Set = append(c.Set, change)
		}
		questions = append(questions, c)
	}
	return questions
}

const podUpdates = `
update ordinary spec.containers.0.image="x:2"
update ordinary spec.containers.0.image=""
update ordinary spec.containers.1={"name":"b","image":"b"}
update ordinary spec.containers.0.command=["a"]
update ordinary spec.activeDeadlineSeconds=5
update ordinary spec.activeDeadlineSeconds=0
update ordinary spec.activeDeadlineSeconds=-1
update ordinary spec.activeDeadlineSeconds=9 -> spec.activeDeadlineSeconds=10
update ordinary spec.activeDeadlineSeconds=9 -> spec.activeDeadlineSeconds=8
update ordinary spec.activeDeadlineSeconds=9 -> spec.activeDeadlineSeconds
update ordinary spec.terminationGracePeriodSeconds=9
update ordinary spec.tolerations=[{"key":"a","operator":"Exists"}]
update ordinary spec.tolerations=[{"key":"a","operator":"Exists"}] -> spec.tolerations=[{"key":"b","operator":"Exists"}]
update ordinary spec.tolerations=[{"key":"a","operator":"Exists","effect":"NoExecute","tolerationSeconds":3}] -> spec.tolerations=[{"key":"a","operator":"Exists","effect":"NoExecute","tolerationSeconds":4}]
update ordinary spec.tolerations=[{"key":"a","operator":"Exists"}] -> spec.tolerations
update ordinary spec.schedulingGates=[{"name":"a"}]
update ordinary spec.nodeName="n"
update ordinary spec.serviceAccountName="x" spec.serviceAccount="x"
update ordinary spec.nodeSelector={"a":"b"}
update ordinary metadata.labels.app="new" metadata.annotations.a="b"
update ordinary metadata.uid="other"
update ordinary metadata.resourceVersion
update ordinary metadata.name="other"
update ordinary metadata.finalizers=["new.example/x"] -> metadata.finalizers=["new.example/y"]
update ordinary metadata.deletionTimestamp="2026-01-01T00:00:00Z" metadata.deletionGracePeriodSeconds=30 -> metadata.finalizers=["new.example/y"]
update ordinary metadata.annotations={"kubernetes.io/config.mirror":"x"}
update ordinary metadata.annotations={"kubernetes.io/config.mirror":"x"} -> metadata.annotations={"kubernetes.io/config.mirror":"y"}
update ordinary metadata.annotations={"container.apparmor.security.beta.kubernetes.io/web":"unconfined"} -> metadata.annotations
update ordinary metadata.annotations={"controller.kubernetes.io/pod-deletion-cost":"a"}
update ordinary metadata.annotations={"controller.kubernetes.io/pod-deletion-cost":"+1"}
update ordinary metadata.annotations={"controller.kubernetes.io/pod-deletion-cost":"-10"}
update ordinary metadata.generation=0
update ordinary status.phase="Running"
update rich spec.schedulingGates=[{"name":"other"}]
update rich spec.schedulingGates
update rich spec.schedulingGates.2={"name":"new"}
update rich spec.nodeSelector.more="x"
update rich spec.nodeSelector={"disk":"hdd"}
update rich spec.nodeSelector
update rich spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.0.matchExpressions.3={"key":"x","operator":"Exists"}
update rich spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.0.matchExpressions.0={"key":"x","operator":"Exists"}
update rich spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.1={"matchExpressions":[{"key":"x","operator":"Exists"}]}
update rich spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution
update rich spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution
update rich spec.affinity.nodeAffinity
update rich spec.affinity
update rich spec.affinity.podAffinity
update rich spec.affinity -> spec.affinity={"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"x","operator":"Exists"}]}]}}}
update rich spec.affinity -> spec.affinity={"podAffinity":{}}
update rich spec.schedulingGates -> spec.nodeSelector.more="x"
update rich spec.initContainers.0.image="new"
update rich spec.initContainers.2={"name":"z","image":"z"}
update rich spec.ephemeralContainers=[{"name":"d","image":"d","imagePullPolicy":"Always","terminationMessagePolicy":"File"}]
update level spec.resources
update level spec.resources.requests.cpu="600m"
update host spec.containers.0.ports.0.hostPort=90
status ordinary status.phase="Running" status.podIP="10.0.0.1" status.podIPs=[{"ip":"10.0.0.1"}]
status ordinary status.podIP="10.0.0.1" status.podIPs=[{"ip":"10.0.0.1"},{"ip":"fd00::1"}] status.hostIP="10.1.1.1" status.hostIPs=[{"ip":"10.1.1.1"},{"ip":"fd00::2"}]
status ordinary status.podIPs=[{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]
status ordinary status.podIPs=[{"ip":"10.0.0.1"},{"ip":"fd00::1"},{"ip":"fd00::2"}]
status ordinary status.podIPs=[{"ip":"bad"}]
status ordinary status.podIPs=[{"ip":"010.0.0.1"}]
status ordinary status.podIPs=[{"ip":"010.0.0.1"}] -> status.podIPs=[{"ip":"010.0.0.1"}] status.phase="Running"
status ordinary status.hostIPs=[{"ip":"10.0.0.1"}]
status ordinary status.hostIP="10.0.0.2" status.hostIPs=[{"ip":"10.0.0.1"},{"ip":"10.0.0.3"}]
status ordinary status.qosClass="BestEffort"
status ordinary status.qosClass
status ordinary status.observedGeneration=-1
status ordinary status.observedGeneration=3 -> status.observedGeneration=0
status ordinary status.conditions=[{"type":"Ready","status":"True","observedGeneration":2},{"type":"Ready","status":"True","observedGeneration":3}] -> status.conditions=[{"type":"Ready","status":"False"},{"type":"Ready","status":"False"},{"type":"x.y/z","status":"True"}]
status ordinary status.conditions=[{"type":"a/b/c","status":"True"}]
status ordinary status.conditions=[{"type":"Ready","status":"True","observedGeneration":-2}]
status ordinary status.nominatedNodeName="n"
status ordinary status.nominatedNodeName="N_"
status ordinary spec.nodeName="node" -> status.nominatedNodeName="n"
status ordinary spec.nodeName="node" -> spec.nodeName="other" metadata.labels.app="y" metadata.ownerReferences=[{"apiVersion":"v1","kind":"X","name":"x","uid":"x"}]
status ordinary spec.restartPolicy="Never" status.containerStatuses=[{"name":"web","state":{"terminated":{"exitCode":1}}}] -> status.containerStatuses=[{"name":"web","state":{"running":{}}}]
status ordinary spec.restartPolicy="OnFailure" status.containerStatuses=[{"name":"web","state":{"terminated":{"exitCode":1}}}] -> status.containerStatuses=[{"name":"web","state":{"running":{}}}]
status ordinary spec.restartPolicy="OnFailure" status.containerStatuses=[{"name":"web","state":{"terminated":{"exitCode":0}}}] -> status.containerStatuses=[{"name":"web","state":{"running":{}}}]
status ordinary status.containerStatuses=[{"name":"web","state":{"terminated":{"exitCode":0}}}] -> status.containerStatuses=[{"name":"web","state":{"running":{}}}]
status ordinary status.containerStatuses=[{"name":"gone","state":{"terminated":{"exitCode":0}}}] -> status.containerStatuses=[{"name":"gone","state":{"running":{}}}]
status ordinary spec.restartPolicy="Never" spec.containers.0.restartPolicy="Never" spec.containers.0.restartPolicyRules=[{"action":"Restart","exitCodes":{"operator":"In","values":[3]}}] status.containerStatuses=[{"name":"web","state":{"terminated":{"exitCode":3}}}] -> status.containerStatuses=[{"name":"web","state":{"running":{}}}]
status ordinary spec.restartPolicy="Never" spec.containers.0.restartPolicy="Never" spec.containers.0.restartPolicyRules=[{"action":"Restart","exitCodes":{"operator":"NotIn","values":[3]}}] status.containerStatuses=[{"name":"web","state":{"terminated":{"exitCode":3}}}] -> status.containerStatuses=[{"name":"web","state":{"running":{}}}]
status ordinary status.ephemeralContainerStatuses=[{"name":"d","state":{"terminated":{"exitCode":0}}}] -> status.ephemeralContainerStatuses=[{"name":"d","state":{"running":{}}}]
status rich status.initContainerStatuses=[{"name":"prepare","state":{"terminated":{"exitCode":0}}}] -> status.initContainerStatuses=[{"name":"prepare","state":{"running":{}}}]
status rich status.resourceClaimStatuses=[{"name":"gpu","resourceClaimName":"g"},{"name":"gpu"},{"name":"none","resourceClaimName":"A_"}]
status rich status.resourceClaimStatuses=[{"name":"gpu","resourceClaimName":"g"}] -> status.resourceClaimStatuses
status rich status.extendedResourceClaimStatus={"requestMappings":[{"containerName":"main","resourceName":"example.com/dev","requestName":"r"}],"resourceClaimName":"c"}
status rich status.extendedResourceClaimStatus={"requestMappings":[{"containerName":"main","resourceName":"x","requestName":"R"},{"containerName":"main","resourceName":"x","requestName":"R"},{"containerName":"none"}],"resourceClaimName":"C_"}
status rich status.extendedResourceClaimStatus={"requestMappings":[],"resourceClaimName":""}
status rich status.containerStatuses=[{"name":"main","user":{"linux":{"uid":-1,"gid":-1,"supplementalGroups":[-1]}}}]
status windows status.containerStatuses=[{"name":"a","user":{"linux":{"uid":1,"gid":1}}}]
status rich status.containerStatuses=[{"name":"main","allocatedResourcesStatus":[{"name":"example.com/dev","resources":[{"resourceID":"a","health":"Healthy"},{"resourceID":"a","health":"Odd","message":""}]},{"name":"claim:gpu","resources":[]},{"name":"claim:nic/port"},{"name":"claim:nic"},{"name":"other"}]}]
status rich status.ephemeralContainerStatuses=[{"name":"d","allocatedResourcesStatus":[{"name":"x"}]}]
status ordinary metadata.deletionTimestamp="2026-01-01T00:00:00Z" metadata.deletionGracePeriodSeconds=30 -> status.phase="Failed"
ephemeralcontainers ordinary spec.ephemeralContainers=[{"name":"d","image":"d"}]
ephemeralcontainers ordinary spec.ephemeralContainers=[{"name":"d","image":"d","targetContainerName":"web"},{"name":"e","image":"e","targetContainerName":"none"},{"name":"web","image":"f"}]
ephemeralcontainers ordinary spec.ephemeralContainers=[{"name":"d","image":"d","ports":[{"containerPort":1}],"resources":{"requests":{"cpu":"1"}},"livenessProbe":{},"readinessProbe":{},"startupProbe":{},"lifecycle":{},"resizePolicy":[{"resourceName":"cpu","restartPolicy":"NotRequired"}],"restartPolicy":"Always"}]
ephemeralcontainers ordinary spec.ephemeralContainers=[{"name":"d","image":"d"}] -> spec.ephemeralContainers=[{"name":"d","image":"e"}]
ephemeralcontainers ordinary spec.ephemeralContainers=[{"name":"d","image":"d"}] -> spec.ephemeralContainers=[{"name":"e","image":"e"}]
ephemeralcontainers ordinary spec.ephemeralContainers=[{"name":"d","image":"d"}] -> spec.ephemeralContainers=[{"name":"e","image":"e"},{"name":"d","image":"d"}] spec.containers.0.image="other" metadata.labels.app="y"
ephemeralcontainers ordinary metadata.annotations={"kubernetes.io/config.mirror":"x"} spec.nodeName="n" -> spec.ephemeralContainers=[{"name":"e","image":"e"}]
ephemeralcontainers rich spec.ephemeralContainers=[{"name":"d","image":"d","volumeMounts":[{"name":"empty","mountPath":"/a","subPath":"x"},{"name":"none","mountPath":"/b","subPathExpr":"y"}]}]
resize ordinary spec.containers.0.resources={"requests":{"cpu":"200m","memory":"64Mi"},"limits":{"memory":"256Mi"}}
resize ordinary spec.containers.0.resources={"requests":{"cpu":"200m"},"limits":{"memory":"256Mi"}}
resize ordinary spec.containers.0.resources={"requests":{"cpu":"200m","memory":"512Mi"},"limits":{"memory":"256Mi"}}
resize ordinary spec.containers.0.resources={"requests":{"cpu":"100m","memory":"64Mi","ephemeral-storage":"1Gi"},"limits":{"memory":"128Mi"}}
resize ordinary spec.containers.0.resources={"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"memory":"64Mi","cpu":"100m"}}
resize ordinary spec.containers.0.resources
resize ordinary spec.containers.0.name="other"
resize ordinary spec.containers.1={"name":"b","image":"b"}
resize ordinary spec.containers.0.image="other" metadata.labels.app="y"
resize ordinary spec.containers.0.resizePolicy=[{"resourceName":"cpu","restartPolicy":"RestartContainer"}]
resize ordinary spec.resources={"requests":{"cpu":"1","memory":"1Gi"}}
resize ordinary status.containerStatuses=[{"name":"web","state":{"running":{}}}] -> spec.containers.0.resources.requests.cpu="150m"
resize ordinary status.containerStatuses=[{"name":"web","state":{"running":{}},"resources":{}}] -> spec.containers.0.resources.requests.cpu="150m"
resize ordinary metadata.annotations={"kubernetes.io/config.mirror":"x"} spec.nodeName="n" -> spec.containers.0.resources.requests.cpu="150m"
resize windows spec.containers.0.resources={"requests":{"cpu":"1"}}
resize rich spec.initContainers.0.resources={"limits":{"cpu":"200m"},"requests":{"cpu":"200m"}}
resize rich spec.initContainers.1.resources={"limits":{"cpu":"200m"}}
resize rich spec.initContainers.0.resizePolicy=[{"resourceName":"cpu","restartPolicy":"RestartContainer"}]
resize level spec.resources.requests.cpu="700m"
resize level spec.resources.requests.cpu="50m"
resize level spec.resources.limits.hugepages-2Mi="8Mi"
resize level spec.resources
resize level spec.resources.requests
`
