"""pymesh: a service mesh with a Rust data plane and a Python control plane.

Nothing native is imported here: the control plane and the filter contract work where the extension does not load.
"""
