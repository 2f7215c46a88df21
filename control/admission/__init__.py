"""The API server asks the control plane before it takes objects: sidecars for pods, and a look at configuration.

```text
API server --AdmissionReview over TLS--> serving --> mutating    pod -> JSON patch        (pymesh.control.injection)
                                                 --> validating  object -> allowed or not, with what is wrong
authority  --roots------------------> trust --caBundle--> the two webhook configurations
```
`review` is the message; `mutating` and `validating` are pure. A control plane that is away lets the webhooks' failure
policies speak; it holds nothing that has to be cleaned up.
"""
