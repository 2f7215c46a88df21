"""When the proxies send a request again.

A request that may have been processed is repeated only if that does no harm, or if whoever wrote the rule has asked for
it (``docs/decisions/006-who-may-be-asked-twice.md``). So conditions come in three sorts:

* *unprocessed*: nothing has reached an application. These hold for every method, and are the default;
* *told*: the answer itself, by a status or header that the rule names, asks for another attempt. As written;
* *sweeping*: whatever has failed. They hold for idempotent methods; a rule that matches requests by method means the
  method that it names.

Envoy knows nothing of methods here: a rule with a sweeping condition becomes two routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from pymesh.control.resources.gateway_api import Retry
from pymesh.control.resources.traffic import Retries
from pymesh.control.translate.wire import extension, seconds, wrapped
from pymesh.control.xds import pb

_UNPROCESSED = ("connect-failure", "refused-stream", "reset-before-request")
_SWEEPING = frozenset({"5xx", "gateway-error", "reset"})
#: Istio's, beside the first.
_ATTEMPTS = 2
#: RFC 9110, section 9.2.2.
_IDEMPOTENT = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"


@dataclass(frozen=True, slots=True)
class RetryRule:
    """What a resource says of retries, whichever API it belongs to."""

    conditions: tuple[str, ...] = _UNPROCESSED
    statuses: tuple[int, ...] = ()
    attempts: int = _ATTEMPTS
    per_try_timeout: timedelta | None = None
    back_off: timedelta | None = None
    avoids_previous_hosts: bool = True

    @classmethod
    def of_istio(cls, retries: Retries | None) -> Self:
        """A VirtualService's."""
        if retries is None:
            return cls()
        named = retries.conditions()
        statuses = tuple(int(one) for one in named if one.isdigit())
        return cls(
            tuple(one for one in named if not one.isdigit()) or (() if statuses else _UNPROCESSED),
            statuses,
            retries.attempts,
            retries.per_try_timeout,
            retries.backoff,
            retries.retry_ignore_previous_hosts,
        )

    @classmethod
    def of_gateway_api(cls, retry: Retry | None, backend_request: timedelta | None) -> Self:
        """An HTTPRoute's: whatever keeps an answer from coming, and the statuses that it names."""
        if retry is None:
            return cls(per_try_timeout=backend_request)
        conditions = (*_UNPROCESSED, "reset")
        attempts = _ATTEMPTS if retry.attempts is None else retry.attempts
        return cls(conditions, retry.codes, attempts, backend_request, retry.backoff)

    def is_sweeping(self) -> bool:
        """It would repeat what may have been processed."""
        return not _SWEEPING.isdisjoint(self.conditions)

    def sparing(self) -> RetryRule:
        """The same for methods that are not idempotent."""
        kept = [one for one in self.conditions if one not in _SWEEPING]
        return RetryRule(
            tuple(dict.fromkeys([*kept, *_UNPROCESSED])),
            self.statuses,
            self.attempts,
            self.per_try_timeout,
            self.back_off,
            self.avoids_previous_hosts,
        )

    def policy(self) -> dict[str, Any] | None:
        """Envoy's RetryPolicy."""
        if self.attempts == 0:
            # The time of the one attempt is limited all the same.
            limit = self.per_try_timeout
            return {"per_try_timeout": seconds(limit), "num_retries": wrapped(0)} if limit else None
        named = [*self.conditions]
        if self.statuses and "retriable-status-codes" not in named:
            named.append("retriable-status-codes")
        policy: dict[str, Any] = {
            "retry_on": ",".join(named),
            "num_retries": wrapped(self.attempts),
            "retriable_status_codes": self.statuses,
        }
        if self.avoids_previous_hosts:
            predicate = pb.message("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")()
            policy["retry_host_predicate"] = [extension("envoy.retry_host_predicates.previous_hosts", predicate)]
            policy["host_selection_retry_max_attempts"] = 5
        if self.per_try_timeout is not None:
            policy["per_try_timeout"] = seconds(self.per_try_timeout)
        if self.back_off is not None:
            policy["retry_back_off"] = {"base_interval": seconds(self.back_off)}
        return policy


def by_method(made: Sequence[Any], rule: RetryRule, names_method: bool) -> list[Any]:
    """The routes with the retries of their rule, where they forward: one for idempotent methods, one for the others."""
    found = []
    for route in made:
        if route.WhichOneof("action") != "route":
            found.append(route)
            continue
        if rule.is_sweeping() and rule.attempts and not names_method:
            idempotent = pb.Route()
            idempotent.CopyFrom(route)
            idempotent.match.headers.add(name=":method", string_match={"safe_regex": {"regex": _IDEMPOTENT}})
            found.append(_with(idempotent, rule))
            found.append(_with(route, rule.sparing()))
        else:
            found.append(_with(route, rule))
    return found


def _with(route: Any, rule: RetryRule) -> Any:
    policy = rule.policy()
    if policy is None:
        route.route.ClearField("retry_policy")
    else:
        route.route.retry_policy.CopyFrom(pb.message("envoy.config.route.v3.RetryPolicy")(**policy))
    return route
