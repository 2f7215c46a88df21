"""The discovery service: what a proxy is told, and how it says whether it took it."""
