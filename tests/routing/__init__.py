"""Routing judged by second readings of the standards: what our control plane makes, in our proxy and in Envoy."""
