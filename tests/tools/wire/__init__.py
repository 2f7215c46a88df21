"""Independent HTTP for tests: a client and an origin for both versions, with no code of the proxy's in them.

HTTP/2 is the Python library `h2`; HTTP/1 is written here, small and strict, because a test must be able to send and
to notice what a library would tidy up.
"""
