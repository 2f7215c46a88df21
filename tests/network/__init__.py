"""The mesh's policies as rules of the network below it."""
