"""Outlier detection of a cluster, with what Istio sets beside what it is asked for."""

from __future__ import annotations

from typing import Any

from pymesh.control.resources.outlier import OutlierDetection
from pymesh.control.translate.wire import seconds, wrapped
from pymesh.control.xds import pb


def set_outlier_detection(cluster: Any, layers: list[OutlierDetection | None]) -> None:
    """The first of the policies that has any."""
    wanted = next((one for one in layers if one is not None), None)
    if wanted is not None:
        # As Istio: 0 where nobody says anything, and not Envoy's 50, since services have few endpoints.
        cluster.common_lb_config.healthy_panic_threshold.value = wanted.min_health_percent
        cluster.outlier_detection.CopyFrom(pb.message("envoy.config.cluster.v3.OutlierDetection")(**_message(wanted)))


def _message(wanted: OutlierDetection) -> dict[str, Any]:
    """Its fields.

    Rows of failures eject always or, with zero, never; success rates never do, since Istio has no field for them.
    """
    made: dict[str, Any] = {"enforcing_success_rate": wrapped(0)}
    rows = {
        ("consecutive_5xx", "enforcing_consecutive_5xx"): wanted.consecutive_5xx_errors,
        ("consecutive_gateway_failure", "enforcing_consecutive_gateway_failure"): wanted.consecutive_gateway_errors,
    }
    if wanted.split_external_local_origin_errors:
        made["split_external_local_origin_errors"] = True
        made["enforcing_local_origin_success_rate"] = wrapped(0)
        names = ("consecutive_local_origin_failure", "enforcing_consecutive_local_origin_failure")
        rows[names] = wanted.consecutive_local_origin_failures or None
    for (row, enforcing), failures in rows.items():
        if failures is not None:
            made[row] = wrapped(failures)
            made[enforcing] = wrapped(100 if failures else 0)
    for name, time in (("interval", wanted.interval), ("base_ejection_time", wanted.base_ejection_time)):
        if time is not None:
            made[name] = seconds(time)
    if wanted.max_ejection_percent:
        made["max_ejection_percent"] = wrapped(wanted.max_ejection_percent)
    return made
