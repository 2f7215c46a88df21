"""The webhooks: what an API server asks and is told."""
