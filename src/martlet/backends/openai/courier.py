"""Carries requests to a server and its replies back, in a thread with an event loop of its own.

Everything but `send`, `cancel`, `collect` and `close` runs in that thread. A request that fails in
passing is sent again, with exponential backoff and full jitter ("Exponential Backoff And Jitter",
AWS Architecture Blog, 2015); a wait takes no place of another request.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

from martlet.backends.base import SampleDelta, SampleOutput, SampleRequest
from martlet.backends.openai.body import HttpAsk
from martlet.backends.openai.exchange import Exchange, Letter
from martlet.backends.openai.pace import LONGEST_WAIT_S, Pace
from martlet.backends.openai.refusals import (
    MAX_NUM_ATTEMPTS,
    RequestRefusedError,
    TransientError,
    backoff_s,
)
from martlet.backends.openai.server import Server
from martlet.errors import MartletError, UnavailableError

logger = logging.getLogger(__name__)

PATIENCE_S = 600.0
"""How long a server may answer nothing before a run ends; what is finished is kept."""
_QUIET_S = 10.0
"""Silence after which, and between which, the user is told why."""

Ticket = int
Event = SampleDelta | SampleOutput | MartletError


@dataclass(kw_only=True, eq=False)
class _Parcel:
    """A request on its way."""

    ticket: Ticket
    letter: Letter
    num_attempts: int = 0
    num_waits: int = 0
    """Attempts that were nobody's fault."""
    is_cancelled: bool = False
    task: asyncio.Task[None] | None = None


class Courier:
    """Keeps as many requests under way as a server takes well.

    Args:
        server: Who is asked.
        headers: Carry the key.
        pace: Says how many at once; used by this thread alone.
        why_gone: Says why a server that does not answer never will again; None while it may.
        trust_env: Whether the environment's proxies are used.
    """

    def __init__(
        self,
        server: Server,
        *,
        headers: dict[str, str],
        pace: Pace,
        why_gone: Callable[[], MartletError | None] = lambda: None,
        trust_env: bool = True,
    ) -> None:
        self._server = server
        self._pace = pace
        self._why_gone = why_gone
        self._waiting: deque[_Parcel] = deque()
        self._parcels: dict[Ticket, _Parcel] = {}
        self._num_under_way = 0
        self._last_answer = self._last_word = time.monotonic()
        self._wake: asyncio.TimerHandle | None = None
        self._events: SimpleQueue[tuple[Ticket | None, Event]] = SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._exchange = Exchange(
            server,
            headers=headers,
            trust_env=trust_env,
            on_headers=lambda given: pace.note_limits(time.monotonic(), given),
        )
        self._thread = Thread(target=self._run, name="martlet-courier", daemon=True)
        self._thread.start()

    @property
    def window(self) -> int:
        """Requests that are under way at once, for now."""
        return self._pace.window

    def send(self, ticket: Ticket, request: SampleRequest, ask: HttpAsk) -> None:
        """Takes a request; its events will carry the ticket."""
        letter = Letter(
            request=request,
            ask=ask,
            on_delta=lambda delta: self._events.put((ticket, delta)),
        )
        parcel = _Parcel(ticket=ticket, letter=letter)
        self._loop.call_soon_threadsafe(self._accept, parcel)

    def cancel(self, ticket: Ticket) -> None:
        """Gives a request up; the server sees its connection close."""
        self._loop.call_soon_threadsafe(self._drop, ticket)

    def collect(self, *, timeout_s: float) -> list[tuple[Ticket | None, Event]]:
        """What has come; waits so long for a first event. An error without a ticket ends all."""
        events = []
        try:
            events.append(self._events.get(timeout=timeout_s))
            while True:
                events.append(self._events.get_nowait())
        except Empty:
            return events

    def close(self) -> None:
        """Gives everything up and ends the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    # What follows runs in the thread.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._give_up())
            self._loop.close()

    async def _give_up(self) -> None:
        self._waiting.clear()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._exchange.close()
        await self._loop.shutdown_asyncgens()

    def _accept(self, parcel: _Parcel) -> None:
        if not self._parcels:
            self._last_answer = time.monotonic()
        self._parcels[parcel.ticket] = parcel
        self._waiting.append(parcel)
        self._pump()

    def _drop(self, ticket: Ticket) -> None:
        parcel = self._parcels.pop(ticket, None)
        if parcel is not None:
            parcel.is_cancelled = True
            if parcel.task is not None:
                parcel.task.cancel()

    def _pump(self) -> None:
        """Starts what may start; comes back when the server said that it would take more."""
        while self._waiting and self._num_under_way < self._pace.window:
            delay = self._pace.delay_s(time.monotonic())
            if delay > 0:
                if self._wake is not None:
                    self._wake.cancel()
                self._wake = self._loop.call_later(delay, self._pump)
                return
            parcel = self._waiting.popleft()
            if not parcel.is_cancelled:
                self._num_under_way += 1
                parcel.task = self._loop.create_task(self._carry(parcel))

    async def _carry(self, parcel: _Parcel) -> None:
        """One attempt."""
        generation = self._pace.generation
        try:
            output = await self._exchange.attempt(parcel.letter)
        except TransientError as error:
            self._note_fault(error, generation)
            self._try_again(parcel, error)
        except RequestRefusedError as error:
            self._finish(parcel, _failed(parcel.letter.request, str(error)))
        except MartletError as error:
            self._events.put((None, error))
        except Exception as error:  # a bug of ours must not leave a run waiting for ever
            logger.exception("a request to %s failed", self._server.described)
            self._finish(parcel, _failed(parcel.letter.request, f"{type(error).__name__}: {error}"))
        else:
            self._last_answer = time.monotonic()
            self._pace.note_success(self._last_answer, num_under_way=self._num_under_way)
            self._finish(parcel, output)
        finally:
            parcel.task = None
            self._num_under_way -= 1
            self._pump()

    def _note_fault(self, error: TransientError, generation: int) -> None:
        if error.kind == "broken":
            self._pace.note_fault()
            return
        self._pace.note_throttled(
            time.monotonic(), generation=generation, retry_after_s=error.retry_after_s
        )

    def _try_again(self, parcel: _Parcel, error: TransientError) -> None:
        if error.kind == "broken":
            parcel.num_attempts += 1
        else:
            parcel.num_waits += 1
        silence = time.monotonic() - self._last_answer
        if error.kind == "unreachable" and (gone := self._why_gone()) is not None:
            self._events.put((None, gone))
        elif parcel.num_attempts >= MAX_NUM_ATTEMPTS:
            tries = f"{parcel.num_attempts} tries failed, the last one with: {error}"
            self._finish(parcel, _failed(parcel.letter.request, tries))
        elif error.kind != "broken" and silence > PATIENCE_S:
            waited = f"{self._server.described} has answered nothing for {silence:.0f} s: {error}"
            self._events.put((None, UnavailableError(waited)))
        else:
            asked = min(error.retry_after_s or 0.0, LONGEST_WAIT_S)
            delay = backoff_s(parcel.num_attempts + parcel.num_waits, random.random())
            self._tell(error, max(delay, asked))
            self._loop.call_later(max(delay, asked), self._send_again, parcel)

    def _tell(self, error: TransientError, delay: float) -> None:
        """Says now and then why nothing comes."""
        now = time.monotonic()
        if error.kind != "broken" and now - self._last_answer > _QUIET_S < now - self._last_word:
            self._last_word = now
            logger.warning("%s: %s; next try in %.0f s", self._server.described, error, delay)

    def _send_again(self, parcel: _Parcel) -> None:
        # To the front: the rows after it have waited less.
        self._waiting.appendleft(parcel)
        self._pump()

    def _finish(self, parcel: _Parcel, output: SampleOutput) -> None:
        if self._parcels.pop(parcel.ticket, None) is not None:
            self._events.put((parcel.ticket, output))


def _failed(request: SampleRequest, message: str) -> SampleOutput:
    return SampleOutput(
        request_id=request.request_id,
        text="",
        token_ids=(),
        finish_reason="error",
        num_prompt_tokens=len(request.prompt_ids),
        error=message,
    )
