"""A server over the embedded model, and clients that speak to it."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from serve.servers import Running, load_demo, serving


@pytest.fixture(scope="session")
def demo() -> Iterator[Running]:
    """One server for all tests that do not need one of their own."""
    with serving(load_demo()) as running:
        yield running


@pytest.fixture(scope="session")
def client(demo: Running) -> openai.OpenAI:
    return demo.client()


@pytest.fixture(scope="session")
def http(demo: Running) -> Iterator[httpx.Client]:
    with demo.http() as http:
        yield http
