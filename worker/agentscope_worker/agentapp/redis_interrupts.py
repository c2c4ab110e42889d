"""The interrupt backend for several workers and hosts: states and signals in Redis.

Keys and channels are those of agentscope-runtime, so that both can share a Redis.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from agentscope_worker.agentapp.interrupts import BaseInterruptBackend, TaskState

log = logging.getLogger(__name__)

RETRY_AFTER: Final = 1.0
"""Seconds between attempts to subscribe again after the connection was lost."""

POLL: Final = 1.0
"""Seconds that one read of a subscription waits. With redis-py 8 a cancelled read that waits without a limit
does not end."""

_COMPARE_AND_SET: Final = """
local matches = redis.call('get', KEYS[1]) == ARGV[2]
if matches == (ARGV[3] == '1') then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'ex', ARGV[4])
return 1
"""


class RedisInterruptBackend(BaseInterruptBackend):
    def __init__(self, redis_url: str) -> None:
        try:
            import redis.asyncio
            from redis.asyncio.retry import Retry
            from redis.backoff import ExponentialBackoff
        except ImportError as error:
            raise ImportError(
                "interrupt_redis_url needs the redis package; install it with: "
                "pip install 'agentscope-supervisor[redis]'"
            ) from error
        self._lost: Final = (redis.ConnectionError, redis.TimeoutError, OSError)
        self.redis_client: Final[Any] = redis.asyncio.from_url(
            redis_url,
            decode_responses=True,
            # Newer clients wait for up to ten seconds by default, as long as a stop may take.
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), 3),
        )

    async def publish_event(self, channel: str, message: str) -> None:
        await self.redis_client.publish(channel, message)

    async def subscribe_listen(
        self, channel: str, on_subscribed: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[str, None]:
        while True:
            pubsub = self.redis_client.pubsub()
            try:
                await pubsub.subscribe(channel)
                while True:
                    message = await pubsub.get_message(timeout=POLL)
                    if message is None:
                        continue
                    if message["type"] == "subscribe":
                        on_subscribed()
                    elif message["type"] == "message":
                        yield message["data"]
            except self._lost as error:
                log.warning("lost the Redis connection that stop signals come on: %s", error)
            finally:
                await pubsub.aclose()
            await asyncio.sleep(RETRY_AFTER)

    async def set_task_state(self, key: str, state: TaskState, ttl: int = 3600) -> None:
        await self.redis_client.set(_key(key), state.value, ex=ttl)

    async def compare_and_set_state(
        self,
        key: str,
        new_state: TaskState,
        expected_state: TaskState,
        negate: bool = False,
        ttl: int = 3600,
    ) -> bool:
        arguments = (new_state.value, expected_state.value, "1" if negate else "0", ttl)
        return bool(await self.redis_client.eval(_COMPARE_AND_SET, 1, _key(key), *arguments))

    async def get_task_state(self, key: str) -> TaskState | None:
        value = await self.redis_client.get(_key(key))
        return TaskState(value) if value else None

    async def delete_task_state(self, key: str) -> None:
        await self.redis_client.delete(_key(key))

    async def aclose(self) -> None:
        await self.redis_client.aclose()


def _key(key: str) -> str:
    return f"state:{key}"
