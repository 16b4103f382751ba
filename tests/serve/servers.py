"""Real servers on loopback ports, in a thread of the test's process."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import httpx
import openai

from martlet.backends.base import Backend
from martlet.backends.load import load_backend
from martlet.backends.native import NativeBackend
from martlet.backends.options import BackendOptions
from martlet.serve.address import Address, bind
from martlet.serve.app import create_app
from martlet.serve.keys import ApiKeys
from martlet.serve.run import Server
from martlet.serve.service import Service
from martlet.serve.settings import ServeSettings

_Result = TypeVar("_Result")


def load_demo(**options: object) -> NativeBackend:
    """The embedded model, in the precision in which neighbours change nothing."""
    given = {"dtype": "fp32", "kv_memory_gib": 0.05, **options}
    backend = load_backend("demo", options=BackendOptions(**given))
    assert isinstance(backend, NativeBackend)
    return backend


def slow_down(backend: NativeBackend, *, step_s: float) -> None:
    """Makes every step of a backend's engine last at least so long."""
    module = backend.engine._model.module
    module.register_forward_pre_hook(lambda *_: time.sleep(step_s))


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10) -> None:
    """Waits for what another thread does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that answers."""

    url: str
    service: Service
    loop: asyncio.AbstractEventLoop
    server: Server

    def on_loop(self, function: Callable[[], _Result]) -> _Result:
        """Runs a function on the server's event loop."""

        async def run() -> _Result:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(timeout=30)

    def on_engine(self, function: Callable[[Backend], _Result]) -> _Result:
        """Runs a function of the backend in the engine's thread."""
        call = self.service.engine.call(function)
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(timeout=30)

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60
        )

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)


@contextmanager
def serving(
    backend: Backend,
    *,
    names: tuple[str, ...] = ("demo",),
    keys: ApiKeys | None = None,
    settings: ServeSettings | None = None,
    data_dir: Path | None = None,
) -> Iterator[Running]:
    """Serves a backend for as long as the context lasts, with a folder of its own unless given."""
    address = Address(port=0)
    with bind(address) as listener, TemporaryDirectory() as own_dir:
        settings = replace(settings or ServeSettings(), data_dir=data_dir or Path(own_dir, "data"))
        service = Service.around(backend, base_names=names, keys=keys, settings=settings)
        ready = threading.Event()
        server = Server(create_app(service), service, address, on_ready=ready.set)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(
            target=lambda: loop.run_until_complete(server.serve(sockets=[listener]))
        )
        thread.start()
        assert ready.wait(timeout=30)
        port = listener.getsockname()[1]
        try:
            yield Running(url=f"http://127.0.0.1:{port}", service=service, loop=loop, server=server)
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            loop.close()
            assert not thread.is_alive()
