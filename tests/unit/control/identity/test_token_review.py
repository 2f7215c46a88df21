"""Tokens that an API server judges: what it is asked, what of its answers is believed, and for how long."""

import asyncio
import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pymesh.control.identity import token_review, verdicts
from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.token_review import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS, TokenReviews
from pymesh.control.identity.tokens import UnavailableError
from pymesh.control.identity.verdicts import FRESH_FOR

START = datetime(2026, 1, 1, tzinfo=UTC)
CART = Identity("cluster.local", "shop", "cart")


def jwt(audience: object = "istio-ca", lasts: timedelta = timedelta(hours=1), **more: object) -> str:
    claims = {"aud": audience, "exp": (START + lasts).timestamp(), **more}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


class Server:
    """An API server that says what it is told to say."""

    def __init__(self) -> None:
        self.now = START
        self.is_up = True
        self.asked: list[tuple[str, Any]] = []
        self.status: dict[str, Any] = {
            "authenticated": True,
            "audiences": ["istio-ca"],
            "user": {"username": "system:serviceaccount:shop:cart"},
        }
        self.reviews = TokenReviews(self.create, "cluster.local", clock=lambda: self.now)

    async def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append((path, body))
        await asyncio.sleep(0)
        if not self.is_up:
            raise UnavailableError("the API server does not answer")
        return {**body, "status": self.status}

    def who(self, token: str) -> Identity | None:
        return asyncio.run(self.reviews.authenticate(token))

    def is_gateway(self) -> bool:
        return asyncio.run(self.reviews.is_gateway(CART))


def test_a_token_is_shown_with_its_audience_and_proves_its_service_account() -> None:
    server, token = Server(), jwt()
    assert server.who(token) == CART
    ((path, body),) = server.asked
    assert path == TOKEN_REVIEWS
    assert body["spec"] == {"token": token, "audiences": ["istio-ca"]}


@pytest.mark.parametrize(
    "token",
    ["", "x", "a.b", "a.%%%.c", "a.e30.c.d", jwt("api"), jwt(["x", "y"]), jwt(lasts=timedelta(0)), jwt(x="y" * 20_000)],
)
def test_nobody_is_asked_about_what_cannot_be_a_token_for_us(token: str) -> None:
    server = Server()
    assert server.who(token) is None
    assert not server.asked


@pytest.mark.parametrize(
    "changed",
    [
        {"authenticated": False, "error": "expired"},
        {"audiences": None},
        {"audiences": ["api"]},
        {"user": {"username": "system:node:n1"}},
        {"user": {"username": "system:serviceaccount:shop"}},
        {"user": {"username": "system:serviceaccount:SHOP:cart"}},
        {"user": {}},
    ],
)
def test_only_a_service_account_with_our_audience_is_believed(changed: dict[str, Any]) -> None:
    server = Server()
    server.status |= changed
    assert server.who(jwt()) is None


def test_an_answer_is_remembered_for_a_while_and_a_withdrawn_token_is_noticed() -> None:
    server, token = Server(), jwt()
    assert server.who(token) == server.who(token) == CART
    assert len(server.asked) == 1
    server.status["authenticated"] = False
    server.now += FRESH_FOR
    assert server.who(token) is None
    server.status["authenticated"] = True
    server.now += FRESH_FOR
    assert server.who(token) == CART


def test_those_who_ask_together_ask_once() -> None:
    server, token = Server(), jwt()

    async def together() -> list[Identity | None]:
        return await asyncio.gather(*(server.reviews.authenticate(token) for _ in range(20)))

    assert set(asyncio.run(together())) == {CART}
    assert len(server.asked) == 1


def test_while_nobody_can_be_asked_a_proved_token_holds_until_its_end() -> None:
    server, token = Server(), jwt(lasts=timedelta(hours=1))
    assert server.who(token) == CART
    server.is_up = False
    server.now += timedelta(minutes=59)
    assert server.who(token) == CART
    with pytest.raises(UnavailableError):
        server.who(jwt(jti="another"))
    server.now += timedelta(minutes=1)
    assert server.who(token) is None


def test_a_refusal_does_not_hold() -> None:
    server, token = Server(), jwt()
    server.status["authenticated"] = False
    assert server.who(token) is None
    server.is_up = False
    server.now += FRESH_FOR
    with pytest.raises(UnavailableError):
        server.who(token)


def test_made_up_tokens_push_out_none_that_was_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "MOST", 10)
    server, token = Server(), jwt()
    assert server.who(token) == CART
    server.status = {"authenticated": False}
    for number in range(20):
        assert server.who(jwt(number=number)) is None
    server.now, server.is_up = START + FRESH_FOR * 2, False
    assert server.who(token) == CART


def test_no_more_than_some_thousands_wait_to_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and goes away again leaves his question behind."""
    monkeypatch.setattr(token_review, "_MOST_WAITING", 40)
    server = Server()

    async def rush() -> None:
        going_on = asyncio.Event()

        async def create(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
            await going_on.wait()
            return {**body, "status": server.status}

        reviews = TokenReviews(create, "cluster.local", clock=lambda: server.now)
        asked = [asyncio.create_task(reviews.authenticate(jwt(number=number))) for number in range(40)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked[0].cancel()
        with pytest.raises(UnavailableError, match="too many wait"):
            await reviews.authenticate(jwt(number=40))
        going_on.set()
        assert set(await asyncio.gather(*asked[1:])) == {CART}
        assert await reviews.authenticate(jwt(number=40)) == CART

    asyncio.run(rush())


def test_of_a_token_the_last_answer_counts() -> None:
    server, token = Server(), jwt()
    refused, proved = {"authenticated": False}, server.status
    for round_, (status, answer) in enumerate([(refused, None), (proved, CART), (refused, None), (proved, CART)]):
        server.now, server.status = START + FRESH_FOR * round_, status
        assert (server.who(token), server.who(token)) == (answer, answer)
    assert len(server.asked) == 4


def test_a_gateway_is_who_may_list_the_secrets_of_its_namespace() -> None:
    server = Server()
    server.status = {"allowed": True}
    assert server.is_gateway()
    ((path, body),) = server.asked
    assert path == SUBJECT_ACCESS_REVIEWS
    assert body["spec"]["user"] == "system:serviceaccount:shop:cart"
    assert body["spec"]["resourceAttributes"] == {
        "namespace": "shop",
        "verb": "list",
        "version": "v1",
        "resource": "secrets",
    }
    server.is_up = False
    server.now += FRESH_FOR
    assert server.is_gateway()
    server.is_up, server.status = True, {"allowed": False}
    server.now += FRESH_FOR
    assert not server.is_gateway()


def test_one_who_gives_up_waiting_takes_the_answer_from_nobody() -> None:
    server, token = Server(), jwt()

    async def scene() -> Identity | None:
        first = asyncio.ensure_future(server.reviews.authenticate(token))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(server.reviews.authenticate(token))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(scene()) == CART
    assert len(server.asked) == 1
