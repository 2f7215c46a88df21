"""The filter contract as one table of cases, each run by the harness, by the simulator and by the proxy."""
