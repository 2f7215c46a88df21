"""Raw HTTP vectors and what real origins make of what the proxy sends on: the proxy and no origin may disagree.

`vectors` reads the data files, `send` plays a vector and a marked request behind it, `origins` runs the servers and
reads what each understood, `agreement` compares that with the proxy's own log and with what the vector expects.
"""
