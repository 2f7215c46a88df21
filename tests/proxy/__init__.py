"""A running proxy, ours or Envoy, over one and the same bootstrap: what differential tests stand on."""
