"""A mesh of plain processes on one machine: control plane, gateways, and a sidecar beside every app.

`meshfile` says what to run, `plan` decides names and ports, `resources` and `bootstrap` write what the planes read,
`process` and `runner` run it, `traffic`, `stats` and `table` show it, `check` holds it to its promises.
"""
