"""Sidecars for pods: a pod as its author wrote it becomes one whose connections pass a proxy.

```text
pod, settings --policy--> is it wanted? --inject--> pod with a sidecar --patch--> JSON patch
```
:func:`inject.inject` is a pure function. The webhook of the control plane (`admission`, `webhooks`) and `pymesh inject`
(`documents`) both call it, so that a manifest that was injected offline is the one that the cluster would have made.

The dialect is Istio's: labels and annotations `sidecar.istio.io/...` and `traffic.sidecar.istio.io/...`, containers
`istio-init` and `istio-proxy`, ports 15020, 15021 and 15090, the token's audience `istio-ca`, the roots in the
ConfigMap `istio-ca-root-cert`. What an annotation asks for and we do not do is refused by name.
"""
