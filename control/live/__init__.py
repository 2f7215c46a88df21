"""What the mesh does right now: its proxies' metrics, read while somebody looks, as one graph.

A tick goes through the modules in this order: :mod:`scrape` fetches a proxy's page, :mod:`samples` says by how much
its counters grew, :mod:`window` adds up the last ticks, :mod:`graph` makes the picture of them, :mod:`deltas` the
difference to the last one. :mod:`collector` is the clock, and the only one with state and tasks; the rest is pure, but
for the fetch.
"""
