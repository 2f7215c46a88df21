"""The proxy of a pod: `pymesh pod sidecar`, `pymesh pod router`.

`environment` reads what Kubernetes tells a container of its pod, `bootstrap` makes Envoy's bootstrap of it, and
`probes` asks the application what the kubelet wants to know. It is one process with the proxy, and standard library
only: what it imports stays in memory for as long as the pod lives.
"""
