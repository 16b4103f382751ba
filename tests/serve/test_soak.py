"""Many clients at once, a third of them leaving mid-stream, round after round.

The long form, some minutes:
`MARTLET_SOAK_CLIENTS=1000 MARTLET_SOAK_SECONDS=180 pytest --timeout=600 tests/serve/test_soak.py`.
"""

import asyncio
import gc
import os
import re
import resource
import time
from pathlib import Path

import httpx
import openai

from martlet import LLM, SamplingParams
from martlet.backends.base import Backend
from martlet.backends.native import NativeBackend
from martlet.serve.settings import ServeSettings
from serve.servers import load_demo, serving, wait_until

NUM_CLIENTS = int(os.environ.get("MARTLET_SOAK_CLIENTS", "60"))
SECONDS = float(os.environ.get("MARTLET_SOAK_SECONDS", "3"))
NUM_TOKENS = 32
PROMPTS = [f"{name} sits left of Bo. Bo has the" for name in ("Anna", "Cleo", "Dan", "Eve", "Finn")]
ALLOWED_GROWTH_MIB = 32


def test_clients_come_and_leave_and_nothing_is_lost() -> None:
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    outputs = LLM("demo", dtype="fp32", kv_memory_gib=0.05).generate(PROMPTS, params)
    expected = [output.outputs[0].text for output in outputs]
    _allow_files(4 * NUM_CLIENTS + 256)
    settings = ServeSettings(max_num_queued=2 * NUM_CLIENTS)
    with serving(load_demo(max_num_requests=32), settings=settings) as running:

        def round_of_clients() -> None:
            texts = asyncio.run(_ask_all(running.url))
            for number, text in enumerate(texts):
                whole = expected[number % len(PROMPTS)]
                assert whole.startswith(text) if _leaves(number) else text == whole, number

        round_of_clients()
        start, before = time.monotonic(), _resident_mib()
        while time.monotonic() - start < SECONDS:
            round_of_clients()
        wait_until(lambda: running.on_loop(lambda: running.service.engine.num_unfinished) == 0)
        running.on_engine(_check_books)
        assert _resident_mib() - before < ALLOWED_GROWTH_MIB


def _check_books(backend: Backend) -> None:
    assert isinstance(backend, NativeBackend)
    backend.engine.check_integrity()
    assert backend.num_unfinished == 0
    assert backend.engine._scheduler.pool.num_free == backend.engine.config.num_blocks


async def _ask_all(url: str) -> list[str]:
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(limits=limits, timeout=120) as http,
        openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0
        ) as client,
    ):
        return await asyncio.gather(*(_ask(client, number) for number in range(NUM_CLIENTS)))


async def _ask(client: openai.AsyncOpenAI, number: int) -> str:
    stream = await client.completions.create(
        model="demo",
        prompt=PROMPTS[number % len(PROMPTS)],
        temperature=0,
        max_tokens=NUM_TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    text, num_chunks = "", 0
    async with stream:
        async for chunk in stream:
            text += chunk.choices[0].text
            num_chunks += 1
            if _leaves(number) and num_chunks > number % 11:
                break
    return text


def _leaves(number: int) -> bool:
    return number % 3 == 0


def _resident_mib() -> float:
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


def _allow_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))
