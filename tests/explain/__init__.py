"""`pymesh explain`: what it says, and whether the mesh does what it says."""
