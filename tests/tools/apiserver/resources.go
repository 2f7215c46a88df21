//go:build resources

// Nothing of this is built: it keeps the modules whose files define Istio's and the Gateway API's resources in go.mod,
// where tests/kubernetes/crds.py finds them.
package main

import (
	_ "istio.io/api/networking/v1"
	_ "sigs.k8s.io/gateway-api/apis/v1"
)
