"""Why a request is answered as it is: it is sent through the real proxies' engines, on a network that is not there.

``source`` says who is in the mesh and what each proxy is told, from files or from a running control plane; ``walk``
sends the request and collects what the proxies decided and logged; ``story`` puts that into words.
"""
