"""The control plane: users' resources in, each proxy's configuration and identity out."""
