"""What is told to the authors of resources in the resources' own `status`, by the conventions of their APIs.

Pure functions from what is in force to what `status` should say; who writes it is
:mod:`pymesh.control.sources.kubernetes.status`.

```text
Object (as the API server has it, typed, with findings) --gateways, routes, others--> a status
                                                        --events-------------------> what is wrong, as an Event
```
A status says what is so, not what is hoped: what is refused is not `Accepted`, whatever else is right about it.
"""
