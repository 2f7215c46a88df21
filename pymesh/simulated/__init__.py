"""Proxies on a network that is not there: the real ones, under a clock and among sockets that Python plays."""
