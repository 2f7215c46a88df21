"""The ratings: stars per product. Only version 2 of the reviews asks for them."""

from service import serve

STARS = {"/ratings/1": 5, "/ratings/2": 4, "/ratings/3": 2}


def page(path, headers):
    stars = STARS.get(path)
    return None if stars is None else {"stars": stars}


serve(page)
