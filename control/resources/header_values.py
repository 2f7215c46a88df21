"""Values of headers as users write them: text, with ``%COMMANDS%`` of Envoy's that both proxies know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from pymesh.control.resources.decode import Problem
from pymesh.control.resources.diagnostics import did_you_mean

#: A token (RFC 9110, section 5.6.2), as are methods and names of cookies.
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: What may stand between percent signs, without an argument.
COMMANDS: Final = frozenset(
    {
        "ACCESS_LOG_TYPE", "BYTES_RECEIVED", "BYTES_SENT", "CONNECTION_ID", "CONNECTION_TERMINATION_DETAILS",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_DIRECT_REMOTE_PORT", "DOWNSTREAM_LOCAL_ADDRESS", "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_PORT", "DOWNSTREAM_LOCAL_URI_SAN", "DOWNSTREAM_PEER_CERT_V_END",
        "DOWNSTREAM_PEER_CERT_V_START", "DOWNSTREAM_PEER_DNS_SAN", "DOWNSTREAM_PEER_EMAIL_SAN",
        "DOWNSTREAM_PEER_FINGERPRINT_256", "DOWNSTREAM_PEER_IP_SAN", "DOWNSTREAM_PEER_ISSUER",
        "DOWNSTREAM_PEER_SERIAL", "DOWNSTREAM_PEER_SUBJECT", "DOWNSTREAM_PEER_URI_SAN",
        "DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_REMOTE_PORT",
        "DOWNSTREAM_TLS_CIPHER", "DOWNSTREAM_TLS_VERSION", "DOWNSTREAM_TRANSPORT_FAILURE_REASON", "DURATION",
        "EMIT_TIME", "FILTER_CHAIN_NAME", "GRPC_STATUS", "GRPC_STATUS_NUMBER", "HOSTNAME", "PATH", "PROTOCOL",
        "REQUESTED_SERVER_NAME", "REQUEST_DURATION", "REQUEST_HEADERS_BYTES", "REQUEST_TX_DURATION",
        "RESPONSE_CODE", "RESPONSE_CODE_DETAILS", "RESPONSE_DURATION", "RESPONSE_FLAGS", "RESPONSE_FLAGS_LONG",
        "RESPONSE_HEADERS_BYTES", "RESPONSE_TRAILERS_BYTES", "RESPONSE_TX_DURATION", "ROUNDTRIP_DURATION",
        "ROUTE_NAME", "SPAN_ID", "START_TIME", "STREAM_ID", "TRACE_ID", "UPSTREAM_CLUSTER",
        "UPSTREAM_CLUSTER_RAW", "UPSTREAM_CONNECTION_ID", "UPSTREAM_HOST", "UPSTREAM_HOST_NAME",
        "UPSTREAM_HOST_NAME_WITHOUT_PORT", "UPSTREAM_LOCAL_ADDRESS", "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_LOCAL_PORT", "UPSTREAM_LOCAL_URI_SAN", "UPSTREAM_PEER_CERT_V_END",
        "UPSTREAM_PEER_CERT_V_START", "UPSTREAM_PEER_DNS_SAN", "UPSTREAM_PEER_IP_SAN", "UPSTREAM_PEER_ISSUER",
        "UPSTREAM_PEER_SUBJECT", "UPSTREAM_PEER_URI_SAN", "UPSTREAM_PROTOCOL", "UPSTREAM_REMOTE_ADDRESS",
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "UPSTREAM_REMOTE_PORT", "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        "UPSTREAM_TLS_CIPHER", "UPSTREAM_TLS_VERSION", "UPSTREAM_TRANSPORT_FAILURE_REASON",
        "VIRTUAL_CLUSTER_NAME",
    }
)  # fmt: skip
#: What may have an argument, which the proxies judge.
_ARGUED = re.compile(
    r"(START_TIME|EMIT_TIME|GRPC_STATUS|REQUESTED_SERVER_NAME|COMMON_DURATION|\w+_ADDRESS_WITHOUT_PORT)\([^)]+\)"
    r"|(PATH|QUERY_PARAM)\([^)]+\)(:\d+)?"
)
_OF_A_HEADER = re.compile(
    r"(REQ|RESP|TRAILER|REQUEST_HEADER|RESPONSE_HEADER|RESPONSE_TRAILER)"
    r"\(:?[!#$&'*+.^_`|~0-9A-Za-z-]+(\?:?[!#$&'*+.^_`|~0-9A-Za-z-]+)?\)(:\d+)?"
)
#: What only a line of a log can tell.
_ONLY_OF_A_LOG = re.compile(
    r"ENVIRONMENT\([^()%]+\)(:\d+)?"
    r"|(DYNAMIC_METADATA\(|METADATA\(DYNAMIC:)[^()%:]+(:[^()%:]+)*\)(:\d+)?"
)
_PART = re.compile(r"%%|%(?P<command>(?:\([^)]*\)|[^%(])*)%|(?P<open>%)")
#: What no line of text holds.
CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def value_problems(field: str, values: Mapping[str, str], *, commands: bool = True) -> Iterator[Problem]:
    """What keeps the proxies from taking the values."""
    for name, value in values.items():
        if CONTROL.search(value):
            yield Problem(field, f"{name}: a header's value is one line of text", "remove control characters")
        if commands:
            yield from _command_problems(field, value, f"{name}: ")


def log_problems(field: str, text: str, before: str = "") -> Iterator[Problem]:
    """What keeps the proxies from writing a line of a log in this format; ``before`` begins each message."""
    yield from _command_problems(field, text, before, log=True)


def _command_problems(field: str, text: str, before: str, *, log: bool = False) -> Iterator[Problem]:
    for found in _PART.finditer(text):
        command = found["command"]
        if found["open"]:
            yield Problem(field, f"{before}a '%' is not closed", "write %% for a percent sign")
            continue
        if command is None or command in COMMANDS or _OF_A_HEADER.fullmatch(command) or _ARGUED.fullmatch(command):
            continue
        if log and _ONLY_OF_A_LOG.fullmatch(command):
            continue
        more = ("DYNAMIC_METADATA(FILTER:KEY)", "ENVIRONMENT(NAME)") if log else ()
        known = [f"%{one}%" for one in (*sorted(COMMANDS), "REQ(NAME)", "RESP(NAME)", *more)]
        hint = did_you_mean(f"%{command}%", known, otherwise="write %% for a percent sign")
        yield Problem(field, f"{before}%{command}% is not known", hint)
