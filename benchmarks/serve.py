"""Streaming clients over HTTP on loopback, beside the same work offline; or a trace, replayed.

    python benchmarks/serve.py                       # 64 clients, three rounds, some minutes
    python benchmarks/serve.py --tiny                # the embedded model, seconds: a smoke test
    python benchmarks/serve.py --trace FILE --speed 0.1 --requests 200

The model is that of `martlet bench`, the shape of Qwen2 0.5B with random weights in bf16. Server,
its clients and the offline run share the machine's cores, so the clients' own cost counts against
the server. Offline and served take turns, each in a process of its own; the ratio is that of their
medians. 64 prompts of 256 tokens, 128 new ones each, greedy, nothing ends early.

A trace is a CSV file with the columns TIMESTAMP, ContextTokens and GeneratedTokens (arrivals as
recorded, `--speed` times as fast), or num_prefill_tokens and num_decode_tokens (arrivals one second
apart at `--speed 1`). Lengths are cut to the model's context, and the table says how many were.
"""

import argparse
import asyncio
import csv
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import httpx

from martlet.bench.random_model import make_model

RESULTS = Path(__file__).parent / "results"
CONTEXT_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Work:
    """One request: when it comes, how long its prompt and its reply are."""

    at_s: float = 0.0
    num_prompt_tokens: int
    num_new_tokens: int


@dataclass(kw_only=True)
class Served:
    """What the client of one request saw."""

    first_token_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    status: int = 0


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one round measured."""

    tokens_per_second: float
    first_token_s: Sequence[float] = ()
    gaps_s: Sequence[float] = ()
    num_refused: int = 0


def main() -> None:
    arguments = _parse_arguments()
    if arguments.offline:
        print(json.dumps(asdict(run_offline(arguments.model, _crowd(arguments)))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = "demo" if arguments.tiny else str(make_model(Path(scratch) / "qwen2-0.5b-random"))
        table = replay(model, arguments) if arguments.trace else compare(model, arguments)
    print(table)
    if not arguments.tiny:
        RESULTS.mkdir(exist_ok=True)
        name = "serve-trace.md" if arguments.trace else "serve.md"
        (RESULTS / name).write_text(table, encoding="utf-8")


def compare(model: str, arguments: argparse.Namespace) -> str:
    """Rounds of offline and served, taking turns."""
    offline: list[Figure] = []
    served: list[Figure] = []
    for number in range(arguments.rounds):
        offline.append(_offline_process(model, arguments))
        served.append(serve_and_ask(model, _crowd(arguments)))
        print(
            f"round {number + 1}: offline {offline[-1].tokens_per_second:.1f}, "
            f"served {served[-1].tokens_per_second:.1f} tokens/s",
            file=sys.stderr,
        )
    ratio = _median(served) / _median(offline)
    lines = [
        *_head("Streaming clients beside the same work offline"),
        "| | tokens/s, median | least | most |",
        "|---|---:|---:|---:|",
        _row("offline", offline),
        _row("served", served),
        "",
        f"served / offline: {ratio:.3f} (aim 0.92)",
        "",
        *_latencies(served),
    ]
    return "\n".join(lines) + "\n"


def replay(model: str, arguments: argparse.Namespace) -> str:
    """A trace's arrivals and lengths."""
    work, num_cut = read_trace(
        arguments.trace,
        speed=arguments.speed,
        num_requests=arguments.requests,
        context_tokens=480 if arguments.tiny else CONTEXT_TOKENS,
    )
    figure = serve_and_ask(model, work)
    lines = [
        *_head(
            f"{len(work)} requests of {arguments.trace.name}, {arguments.speed:g} times as fast"
        ),
        f"{figure.tokens_per_second:.1f} tokens/s; {num_cut} requests cut to the model's context, "
        f"{figure.num_refused} refused",
        "",
        *_latencies([figure]),
    ]
    return "\n".join(lines) + "\n"


def read_trace(
    path: Path, *, speed: float, num_requests: int, context_tokens: int
) -> tuple[list[Work], int]:
    """The first requests of a trace, and how many of them had to be cut."""
    work, num_cut, start = [], 0, None
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in zip(range(num_requests), csv.DictReader(file), strict=False):
            if "TIMESTAMP" in row:
                moment = datetime.fromisoformat(row["TIMESTAMP"][:26])
                start = start or moment
                at_s = (moment - start).total_seconds()
                lengths = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            else:
                at_s = float(number)
                lengths = int(row["num_prefill_tokens"]), int(row["num_decode_tokens"])
            num_new = max(1, min(lengths[1], context_tokens // 2))
            num_prompt = max(1, min(lengths[0], context_tokens - num_new))
            num_cut += (num_prompt, num_new) != lengths
            work.append(
                Work(at_s=at_s / speed, num_prompt_tokens=num_prompt, num_new_tokens=num_new)
            )
    return work, num_cut


def run_offline(model: str, work: Sequence[Work]) -> Figure:
    """The same requests in this process, without HTTP."""
    from martlet import LLM, SamplingParams

    llm = LLM(model, max_num_requests=len(work), kv_memory_gib=2)
    prompts = [prompt_of(number, one) for number, one in enumerate(work)]
    params = [
        SamplingParams(temperature=0, max_tokens=one.num_new_tokens, ignore_eos=True)
        for one in work
    ]
    llm.generate([[1] * 16], SamplingParams(max_tokens=2), use_tqdm=False)
    start = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - start
    num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return Figure(tokens_per_second=num_tokens / seconds)


def serve_and_ask(model: str, work: Sequence[Work]) -> Figure:
    """Starts a server, sends the requests when they are due, and stops it."""
    with serving(model, num_requests=max(64, len(work))) as (url, name):
        return asyncio.run(_ask_all(url, name, work))


@contextmanager
def serving(model: str, *, num_requests: int) -> Iterator[tuple[str, str]]:
    """A server in a process of its own; yields its URL and the model's name."""
    command = [sys.executable, "-m", "martlet.cli.main", "serve", model, "--port", "0"]
    command += ["--max-requests", "64", "--max-queue", str(num_requests), "--kv-memory", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        talk = []
        for line in process.stderr:
            talk.append(line)
            if line.startswith("  curl"):
                break
        found = re.search(r"listening on (\S+)/v1 as (\S+);", "".join(talk))
        if found is None:
            raise SystemExit("the server did not start:\n" + "".join(talk))
        try:
            yield found[1], found[2]
        finally:
            process.terminate()
            process.communicate()


async def _ask_all(url: str, name: str, work: Sequence[Work]) -> Figure:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        await client.post("/v1/completions", json={"model": name, "prompt": [1] * 16})
        start = time.perf_counter()
        tasks = [
            asyncio.create_task(_ask(client, name, number, one)) for number, one in enumerate(work)
        ]
        replies = await asyncio.gather(*tasks)
        seconds = time.perf_counter() - start
    good = [reply for reply in replies if reply.status == 200]
    for reply, one in zip(replies, work, strict=True):
        if reply.status == 200 and reply.num_tokens != one.num_new_tokens:
            raise SystemExit(f"{reply.num_tokens} of {one.num_new_tokens} tokens came")
    return Figure(
        tokens_per_second=sum(reply.num_tokens for reply in good) / seconds,
        first_token_s=[reply.first_token_s for reply in good],
        gaps_s=[gap for reply in good for gap in reply.gaps_s],
        num_refused=len(replies) - len(good),
    )


async def _ask(client: httpx.AsyncClient, name: str, number: int, work: Work) -> Served:
    await asyncio.sleep(work.at_s)
    body = {
        "model": name,
        "prompt": prompt_of(number, work),
        "max_tokens": work.num_new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    reply, last = Served(), time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as response:
        reply.status = response.status_code
        tail = b""
        async for chunk in response.aiter_bytes():
            tail = (tail + chunk)[-1000:]
            # The opening, the ending and the count of tokens carry no text of their own.
            if reply.status != 200 or b'"text":"' not in chunk or b'"text":""' in chunk[:300]:
                continue
            now = time.perf_counter()
            if reply.first_token_s == 0.0:
                reply.first_token_s = now - last
            else:
                reply.gaps_s.append(now - last)
            last = now
        if reply.status == 200:
            reply.num_tokens = int(re.findall(rb'"completion_tokens":(\d+)', tail)[0])
    return reply


def prompt_of(number: int, work: Work) -> list[int]:
    """Token ids that no other request begins with."""
    draw = random.Random(number)
    return [draw.randrange(100, 700) for _ in range(work.num_prompt_tokens)]


def _crowd(arguments: argparse.Namespace) -> list[Work]:
    if arguments.tiny:
        return [Work(num_prompt_tokens=64, num_new_tokens=32) for _ in range(8)]
    return [Work(num_prompt_tokens=256, num_new_tokens=128) for _ in range(64)]


def _offline_process(model: str, arguments: argparse.Namespace) -> Figure:
    command = [sys.executable, __file__, "--offline", "--model", model]
    command += ["--tiny"] if arguments.tiny else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Figure(**json.loads(done.stdout.splitlines()[-1]))


def _head(title: str) -> list[str]:
    from importlib.metadata import version

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "uvicorn", "httpx"))
    return [
        f"# {title}",
        "",
        f"{datetime.now():%Y-%m-%d}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"{packages}. Made by `python benchmarks/serve.py`; its first lines say what is measured.",
        "",
    ]


def _row(name: str, figures: Sequence[Figure]) -> str:
    speeds = [figure.tokens_per_second for figure in figures]
    return f"| {name} | {_median(figures):.1f} | {min(speeds):.1f} | {max(speeds):.1f} |"


def _latencies(figures: Sequence[Figure]) -> list[str]:
    first = [one for figure in figures for one in figure.first_token_s]
    gaps = [one for figure in figures for one in figure.gaps_s]
    return [
        "| milliseconds | p50 | p99 |",
        "|---|---:|---:|",
        f"| time to first token | {_percentile(first, 50)} | {_percentile(first, 99)} |",
        f"| between two pieces | {_percentile(gaps, 50)} | {_percentile(gaps, 99)} |",
    ]


def _median(figures: Sequence[Figure]) -> float:
    return statistics.median(figure.tokens_per_second for figure in figures)


def _percentile(seconds: Sequence[float], percent: int) -> str:
    if len(seconds) < 2:
        return "-"
    return f"{statistics.quantiles(seconds, n=100, method='inclusive')[percent - 1] * 1000:.1f}"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="the embedded model and 8 clients")
    parser.add_argument("--trace", type=Path, help="a CSV file to replay")
    parser.add_argument("--speed", type=float, default=1.0, help="of the trace's arrivals")
    parser.add_argument("--requests", type=int, default=200, help="of the trace")
    parser.add_argument("--offline", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
