"""The catalog: which products there are. Runs with two replicas."""

import os

from service import serve

PRODUCTS = [
    {"id": 1, "name": "tin kettle", "price": "24.00"},
    {"id": 2, "name": "wool blanket", "price": "61.50"},
    {"id": 3, "name": "hand lamp", "price": "18.90"},
]


def page(path, headers):
    if path.partition("?")[0] == "/products":
        return {"products": PRODUCTS, "replica": os.environ["REPLICA"]}
    return None


serve(page)
