"""What tests and benchmarks share: peers, ports, processes, certificates and small origins."""
