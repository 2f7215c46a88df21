"""`pymesh bench`: load on an HTTP server, and what it answered. The generator itself is `rust/load`."""
