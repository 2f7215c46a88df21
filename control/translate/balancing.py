"""How a cluster's endpoints are chosen: a DestinationRule's ``loadBalancer`` as Envoy's policy."""

from __future__ import annotations

from typing import Any

from pymesh.control.resources.destination import LoadBalancer


def set_policy(cluster: Any, balancer: LoadBalancer, sticky: bool) -> None:
    """Set ``lb_policy`` and its settings. ``sticky``: some route to the cluster is to keep a client where it is."""
    hashed = balancer.consistent_hash
    if hashed is None:
        # A request that no such route has given a hash goes anywhere.
        cluster.lb_policy = "MAGLEV" if sticky else balancer.simple or LoadBalancer.DEFAULT
    elif hashed.maglev is not None:
        cluster.lb_policy = "MAGLEV"
        if hashed.maglev.table_size:
            cluster.maglev_lb_config.table_size.value = hashed.maglev.table_size
    else:
        cluster.lb_policy = "RING_HASH"
        told = hashed.ring_hash.minimum_ring_size if hashed.ring_hash else hashed.minimum_ring_size or 1024
        if told:
            cluster.ring_hash_lb_config.minimum_ring_size.value = told
