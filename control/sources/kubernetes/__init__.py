"""Resources from a Kubernetes API server.

`access` finds the server and who we are, `client` speaks to it, `kinds` names what is looked at, one `reflector`
for each kind keeps a copy current, and `mesh` makes the configuration of what they hold.
"""
