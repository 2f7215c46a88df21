"""One process with a sidecar: `pymesh run -- COMMAND`.

`settings` says who the workload is, `sidecar` runs its proxy, `application` runs the command in the foreground,
`registration` tells a control plane on this machine of the workload, and `order` puts them in the order of a pod:
the sidecar first in, last out.
"""
