"""What becomes of requests whose filter misbehaves, and of everybody else, on a running proxy."""
