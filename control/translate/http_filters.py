"""The built-in HTTP filters of outbound listeners and gateways, and what routes say of them.

Fault injection and CORS stand in every such chain, switched off; a route that needs one brings its configuration along,
which switches it on. So a change of routes never changes a listener, and requests that need neither pass neither.
"""

from __future__ import annotations

from typing import Any, Final

from pymesh.control.resources.fault import GRPC_STATUSES, Abort, Delay, Fault
from pymesh.control.resources.gateway_api import Cors
from pymesh.control.resources.percent import Percent
from pymesh.control.resources.traffic import CorsPolicy, StringMatch
from pymesh.control.translate.wire import extension, seconds, wrapped
from pymesh.control.xds import pb

FAULT: Final = "envoy.filters.http.fault"
CORS: Final = "envoy.filters.http.cors"
_HTTP: Final = "envoy.extensions.filters.http"


def switched_off() -> list[dict[str, Any]]:
    """The filters that routes switch on, in Istio's order."""
    fault = extension(FAULT, pb.message(f"{_HTTP}.fault.v3.HTTPFault")())
    cors = extension(CORS, pb.message(f"{_HTTP}.cors.v3.Cors")())
    return [{**one, "disabled": True} for one in (fault, cors)]


def say(route: Any, fault: Fault | None = None, cors: CorsPolicy | Cors | None = None) -> None:
    """Set what a route says of the filters."""
    said = {}
    if fault is not None:
        said[FAULT] = _fault(fault)
    if isinstance(cors, CorsPolicy):
        said[CORS] = _cors_policy(cors)
    elif cors is not None:
        said[CORS] = _cors(cors)
    for name, message in said.items():
        route.typed_per_filter_config[name].CopyFrom(pb.pack(message))


def _fault(fault: Fault) -> Any:
    made = pb.message(f"{_HTTP}.fault.v3.HTTPFault")()
    if fault.delay is not None:
        made.delay.CopyFrom(_delay(fault.delay))
    if fault.abort is not None:
        made.abort.CopyFrom(_abort(fault.abort))
    return made


def _delay(delay: Delay) -> Any:
    made = pb.message("envoy.extensions.filters.common.fault.v3.FaultDelay")(fixed_delay=seconds(delay.fixed_delay))
    if delay.percentage is not None:
        made.percentage.CopyFrom(_share(delay.percentage))
    else:
        made.percentage.numerator = delay.percent
    return made


def _abort(abort: Abort) -> Any:
    made = pb.message(f"{_HTTP}.fault.v3.FaultAbort")()
    if abort.percentage is not None:
        made.percentage.CopyFrom(_share(abort.percentage))
    if abort.grpc_status is not None:
        made.grpc_status = GRPC_STATUSES.index(abort.grpc_status)
    elif abort.http_status is not None:
        made.http_status = abort.http_status
    return made


def _share(percent: Percent) -> Any:
    return pb.message("envoy.type.v3.FractionalPercent")(numerator=percent.millionths, denominator="MILLION")


def _cors_policy(policy: CorsPolicy) -> Any:
    made = pb.message(f"{_HTTP}.cors.v3.CorsPolicy")(
        allow_origin_string_match=[_string(one) for one in policy.allow_origins],
        allow_methods=",".join(policy.allow_methods),
        allow_headers=",".join(policy.allow_headers),
        expose_headers=",".join(policy.expose_headers),
    )
    if "allowOrigins" not in policy.where:
        made.allow_origin_string_match.extend(_matcher(exact=origin) for origin in policy.allow_origin)
    if policy.max_age is not None:
        made.max_age = str(int(policy.max_age.total_seconds()))
    if policy.allow_credentials is not None:
        made.allow_credentials.value = policy.allow_credentials
    if policy.unmatched_preflights != "UNSPECIFIED":
        made.forward_not_matching_preflights.value = policy.unmatched_preflights == "FORWARD"
    return made


def _cors(cors: Cors) -> Any:
    made = pb.message(f"{_HTTP}.cors.v3.CorsPolicy")(
        allow_origin_string_match=[_matcher(safe_regex={"regex": one}) for one in cors.origin_patterns()],
        allow_methods=",".join(cors.allow_methods),
        allow_headers=",".join(cors.allow_headers),
        expose_headers=",".join(cors.expose_headers),
        max_age=str(cors.max_age),
        # The standard has the gateway answer every preflight.
        forward_not_matching_preflights=wrapped(False),
    )
    if cors.allow_credentials:
        made.allow_credentials.value = True
    return made


def _string(match: StringMatch) -> Any:
    if match.exact is not None:
        return _matcher(exact=match.exact)
    if match.prefix is not None:
        return _matcher(prefix=match.prefix)
    return _matcher(safe_regex={"regex": match.regex})


def _matcher(**pattern: Any) -> Any:
    return pb.message("envoy.type.matcher.v3.StringMatcher")(**pattern)
