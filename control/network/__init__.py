"""The mesh's policies as rules of the network below it: defence in depth, where a proxy is missing or gone around.

```text
store --layer4--> who may connect to which ports --network_policy--> Kubernetes NetworkPolicies
                                                 --nftables--------> a ruleset for a plain host
```
Networks know addresses and ports, not identities and requests. What is written here lets in at least whom the mesh
would let in: where a policy cannot be said in a network's words, the network's rule is the wider one.
"""
