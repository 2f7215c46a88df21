"""What a cluster needs to run the mesh: the manifests, as data, and how they get there.

```text
values --objects, crds--> the objects, in the order in which they are applied --apply--> the API server
                                             |--chart--> the Helm chart in deploy/chart
```
`pymesh install --dry-run` prints what `pymesh install` applies; the chart's defaults render to the same objects.
"""
