"""Sidecars for pods: what `inject` makes, the webhook, and what the injected containers do."""
