"""The answer of an App to a client of another protocol: its items become parts, and these become events.

Drives the encoder of one turn. The end that the supervisor writes if the turn fails leaves before the first
event, as the will of the worker.

Where to read next: `dialects.sources` and `dialects.encoder`, which do the work; `serve` calls this module.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

from agentscope_protocol.wire.frames import MAX_ANSWER, MAX_WORDS
from agentscope_worker.dialects.encoder import Encoder
from agentscope_worker.dialects.native_items import AgentFailed
from agentscope_worker.dialects.sources import Source
from agentscope_worker.runtime.compat.finish_reasons import Outcome

MAX_REQUEST: Final = 64 * 1024
"""Maximum bytes of a request that goes into a will: it stays in the supervisor's memory as long as the run. A
request with an inline image is longer, and is not kept."""


class TooLarge(Exception):
    """The App's answer does not fit; the message is for the client."""


class Translator:
    """One turn. `will`: sends the will. `send`: sends one event, and waits until there is credit for another;
    None: the answer is not streamed. `is_cancelled`: whether the turn is; then nothing may be sent."""

    def __init__(
        self,
        encoder: Encoder,
        will: Callable[[bytes, bytes, bytes], None],
        send: Callable[[bytes], Awaitable[None]] | None,
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._encoder: Final = encoder
        self._source: Final = Source(encoder.request.run_id)
        self._will: Final = will
        self._send: Final = send
        self._is_cancelled: Final = is_cancelled
        self._has_begun = False
        self._size = 0

    async def begin(self) -> None:
        """Send what leaves before the App yields anything."""
        if self._encoder.begins_at_once:
            await self._begin()

    async def run(self, answers: AsyncIterator[Any]) -> bool:
        """Send what the App yields. Returns whether the answer is complete; if not, the turn is cancelled.

        Raises: AgentFailed, TooLarge, TypeError when the App yields something that is no message, and what
        the App raises.
        """
        encoder = self._encoder
        async for answer in answers:
            if self._is_cancelled() or not (self._has_begun or await self._begin()):
                return False
            for part in self._source.take(answer):
                if not await self._leave(encoder.part(part)):
                    return False
        if encoder.error is not None:
            raise AgentFailed(encoder.error)
        return not self._is_cancelled()

    async def end(self, outcome: Outcome) -> bytes:
        """Send the end of a complete answer; returns the result of the run. `outcome`: of its model calls."""
        encoder = self._encoder
        used = outcome.usage.tokens
        if any(used):  # by all calls, also those that the App does not yield
            encoder.input_tokens, encoder.output_tokens = used
        if not self._has_begun:
            await self._begin()
        await self._leave(encoder.close())
        await self._leave(encoder.end(outcome.reason))
        result = encoder.result()
        if len(result) > MAX_ANSWER:
            raise TooLarge(f"an answer of over {MAX_ANSWER} bytes")
        return result

    async def _begin(self) -> bool:
        self._has_begun = True
        events = self._encoder.begin()
        will = self._encoder.will()
        request = will.request if len(will.request) <= MAX_REQUEST else b""
        if len(will.end) + len(will.result) + len(request) + MAX_REQUEST > MAX_WORDS:
            raise TooLarge("what the client sent beside its message is too large")
        self._will(will.end, will.result, request)
        return await self._leave(events)

    async def _leave(self, events: Iterable[bytes]) -> bool:
        for event in events:
            self._size += len(event)
            if self._send is None:
                if self._size > MAX_ANSWER:
                    raise TooLarge(f"an answer of over {MAX_ANSWER} bytes must be streamed")
            elif len(event) > MAX_ANSWER:
                raise TooLarge(f"an event of {len(event)} bytes is over the limit of {MAX_ANSWER}")
            else:
                await self._send(event)
                if self._is_cancelled():
                    return False
        return True
