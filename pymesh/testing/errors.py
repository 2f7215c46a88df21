"""What tests of meshes are told."""


class MeshError(Exception):
    """A mesh, or something in it, that is not there: what is wrong, and how to say it."""


class NoAnswerError(ConnectionError):
    """A request got no answer: the connection was refused, closed or lost."""
