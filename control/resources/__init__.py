"""Users' resources: Istio's, Kubernetes', the Gateway API's and our own, parsed and checked one by one."""
