"""Publishes the keys by which tokens are checked, as an issuer does: a JSON Web Key Set (RFC 7517)."""

import json
import os

from service import serve

KEYS = json.loads(os.environ["KEYS"])


def page(path, headers):
    return KEYS if path == "/keys.json" else None


serve(page)
