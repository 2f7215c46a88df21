"""Derived collections: what the resources say together."""
