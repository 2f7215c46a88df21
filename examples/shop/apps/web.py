"""The shop's front: one page made of the catalog and the reviews of one product."""

from service import call, serve


def page(path, headers):
    product = path.removeprefix("/products/") if path.startswith("/products/") else "1"
    if path != "/" and not product.isdigit():
        return None
    catalog = call("catalog", "/products", headers)
    reviews = call("reviews", f"/reviews/{product}", headers)
    return {"catalog": catalog, "reviews": reviews}


serve(page)
