"""What a cluster has beside its API server, as small as it can be: a node on which pods run as processes.

| file | does what in a cluster does |
|---|---|
| `network.py` | the network: a namespace for the node and one for each pod, and no way out; kube-proxy; DNS |
| `container.py` | the container runtime: a process with its own root, volumes, user and process ids |
| `volumes.py` | what of a pod's spec is files and environment: projected tokens, ConfigMaps, the downward API |
| `probes.py` | startup, readiness and liveness |
| `pod.py` | the kubelet's part for one pod: init containers, native sidecars, restarts, graceful end |
| `wire.py` | a look at what pods say to each other |
| `node.py` | the kubelet's loop, and the controllers that a mesh needs: Deployments, EndpointSlices |

A pod is run by what its spec says; a field that is not known here is an error with its name, so that nothing that an
injected spec asks for goes unnoticed. An image stands for the machine's own file system, over which a container writes.
"""
