"""Real HTTP servers that say what they understood.

Each writes one JSON object on a line of its standard output for every request that it saw, and answers with the same
object (`tests/conformance/corpus/seen.py` reads them). They share nothing but that: one parser each is the point.
"""
