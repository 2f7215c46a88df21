"""Where users' resources come from."""
