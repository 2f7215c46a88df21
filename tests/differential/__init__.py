"""Random configurations and random requests: ours and Envoy must decide the same.

`tables.py` makes a bootstrap from a seed, `asking.py` makes requests that hit its routes or nearly do, `origin.py`
stands behind both proxies, `client.py` asks, `judging.py` compares. Nothing here knows what is right: Envoy does.
"""
