"""The reviews: version 1 is text alone; version 2, chosen by `VERSION`, adds stars from the ratings."""

import os

from service import call, serve

VERSION = os.environ["VERSION"]
TEXTS = {
    "1": ["Boils before I am awake.", "The lid could close better."],
    "2": ["Warm, and it does not scratch."],
    "3": ["Bright enough to find the way home."],
}


def page(path, headers):
    product = path.removeprefix("/reviews/")
    if product not in TEXTS:
        return None
    found = {"version": VERSION, "reviews": TEXTS[product]}
    if VERSION != "v1":
        found["stars"] = call("ratings", f"/ratings/{product}", headers)["stars"]
    return found


serve(page)
