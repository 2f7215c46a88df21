"""The control plane at scale: one API server, many services, many sidecars."""
