"""So many requests for each tenant in each window of time, counted in Redis for all replicas of a service together.

The filter waits for Redis beside the workers (`lane = "async"`). While Redis cannot be reached the hook fails, and the
resource's `failurePolicy` says whether tenants get in meanwhile (OPEN) or not. It needs `pip install redis` where the
proxy runs.
"""

import time
from dataclasses import dataclass, field
from datetime import timedelta

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pymesh.filters import Context, HttpFilter, Reply, Request


@dataclass
class Settings:
    """Where Redis is, and how much a tenant has."""

    redis: str
    limit: int
    window: timedelta = timedelta(minutes=1)
    header: str = "x-tenant"
    #: Tenants with another limit.
    limits: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.window < timedelta(seconds=1):
            raise ValueError("window must be at least 1s")


class TenantQuota(HttpFilter[Settings]):
    """Answers 429 to tenants that have used up their share of the window."""

    lane = "async"
    Config = Settings

    async def setup(self) -> None:
        # Once more at once, for a connection that Redis has closed meanwhile; not more, for that takes time.
        self.redis = Redis.from_url(self.config.redis, retry=Retry(NoBackoff(), 1))

    async def close(self) -> None:
        await self.redis.aclose()

    async def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        tenant = request.headers.get(self.config.header)
        if tenant is None:
            return Reply(400, f"{self.config.header} is missing\n".encode())
        limit = self.config.limits.get(tenant, self.config.limit)
        seconds = int(self.config.window.total_seconds())
        now = time.time()
        window = int(now // seconds)
        key = f"quota:{tenant}:{window}"
        # In one step, so that no key is left behind without an end.
        async with self.redis.pipeline(transaction=True) as both:
            used, _ = await both.incr(key).expire(key, 2 * seconds).execute()
        if used > limit:
            left = max(1, int((window + 1) * seconds - now))
            return Reply(429, b"the quota is used up\n", {"retry-after": str(left)})
        request.headers["x-quota-left"] = str(limit - used)
        return None
