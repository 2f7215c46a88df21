"""Transparent capture: the kernel's rules that lead a workload's connections through its proxy."""
