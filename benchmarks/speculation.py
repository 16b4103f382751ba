"""What speculation gains and costs: the same replies with it and without it, in turns.

    python benchmarks/speculation.py TOKENIZER ROWS --requests 1   # and 4, 16, 64

TOKENIZER is a folder with a tokenizer of about 150,000 tokens, ROWS a file of JSON lines with a
`dialogue` and a `summary` each, as DialogSum has them. The model is the random one of
`benchmarks/offline.py`, the shape of Qwen2 0.5B in bf16, and says what people wrote: a form allows
one token at each place. So guesses are as good as on real text, and every row is computed.

    copy      a dialogue, to be repeated
    edit      a dialogue in which a word of twelve is wrong, to be corrected
    summary   a dialogue, to be summarised
    other     a dialogue, and another one's summary: nothing to be gained
    demo      the embedded model on its own puzzles, at temperature 0.7; it says what it likes

A figure is the best of the rounds, over the steps that hold no part of a prompt (all steps for
`demo`); 64 new tokens at most. Four dialogues at least are asked, `--requests` of them at once.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from martlet.backends.base import Prompt, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.native import NativeBackend
from martlet.backends.options import BackendOptions
from martlet.engine.config import EngineConfig
from martlet.engine.constraint import TokenMask
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.models.folder import open_folder
from martlet.models.load import LoadedModel, load_model
from martlet.text.tokenizer import Tokenizer
from offline import make_model

NUM_NEW_TOKENS = 64
NUM_DISTINCT = 4
"""Dialogues; with more requests, some ask the same."""
WORKS = ("copy", "edit", "summary", "other")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A prompt and the reply that the model is to give."""

    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run."""

    tokens_per_second: float
    num_drafted: int
    num_accepted: int


class Recital:
    """A form that allows one text, token by token."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = token_ids
        self._place = 0

    def fill(self, mask: TokenMask) -> None:
        token_id = self._token_ids[self._place]
        mask[token_id // 32] = np.uint32(1 << token_id % 32)

    def accept(self, token_id: int) -> None:
        assert token_id == self._token_ids[self._place]
        self._place += 1

    @property
    def is_finished(self) -> bool:
        return self._place == len(self._token_ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--works", nargs="*", choices=(*WORKS, "demo"), default=[*WORKS, "demo"])
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("work     requests  without, tokens/s  with   ratio  guessed  right")
    if "demo" in arguments.works:
        compare("demo", arguments, demo_run(arguments.requests))
    works = [name for name in arguments.works if name != "demo"]
    if not works:
        return
    tokenizer = Tokenizer.load(arguments.tokenizer)
    lines = arguments.rows.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: NUM_DISTINCT + 1]]
    with tempfile.TemporaryDirectory() as scratch:
        opened = open_folder(make_model(Path(scratch) / "qwen2-0.5b-random"))
        model = load_model(opened, dtype=torch.bfloat16, device=torch.device("cpu"))
        for name in works:
            made = [work(name, rows, place, tokenizer) for place in range(NUM_DISTINCT)]
            compare(name, arguments, recital_run(model, made, arguments.requests))


def compare(name: str, arguments: argparse.Namespace, run: Callable[[bool], Figures]) -> None:
    """Runs without speculation and with it in turns, and prints the best of both."""
    best: dict[bool, Figures] = {}
    for _ in range(arguments.rounds):
        for speculation in (False, True):
            figures = run(speculation)
            best[speculation] = max(
                figures, best.get(speculation, figures), key=lambda each: each.tokens_per_second
            )
    without, beside = best[False], best[True]
    ratio = beside.tokens_per_second / without.tokens_per_second
    print(
        f"{name:8} {arguments.requests:8}  {without.tokens_per_second:17.1f} "
        f"{beside.tokens_per_second:6.1f} {ratio:6.2f} {beside.num_drafted:8} "
        f"{beside.num_accepted:6}",
        flush=True,
    )


def work(name: str, rows: Sequence[dict[str, str]], place: int, tokenizer: Tokenizer) -> Work:
    row = rows[place]
    dialogue = row["dialogue"]
    shown = spoiled(dialogue, place) if name == "edit" else dialogue
    reply = {"summary": row["summary"], "other": rows[place + 1]["summary"]}.get(name, dialogue)
    prompt = f"{name.capitalize()}:\n{shown}\n\nReply: "
    return Work(
        prompt_ids=tokenizer.encode(prompt, add_special_tokens=False),
        reply_ids=tokenizer.encode(reply, add_special_tokens=False)[:NUM_NEW_TOKENS],
    )


def spoiled(text: str, seed: int) -> str:
    chance = random.Random(seed)
    words = text.split(" ")
    return " ".join(chance.choice(words) if chance.random() < 1 / 12 else word for word in words)


def recital_run(
    model: LoadedModel, works: Sequence[Work], num_requests: int
) -> Callable[[bool], Figures]:
    longest = max(len(each.prompt_ids) + len(each.reply_ids) for each in works)

    def run(speculation: bool) -> Figures:
        engine = Engine(
            model,
            EngineConfig(
                num_blocks=num_requests * -(-longest // 16),
                max_num_requests=num_requests,
                max_context_tokens=longest + 1,
                headroom_blocks=0,
                speculation=speculation,
            ),
        )
        for index in range(max(num_requests, len(works))):
            own = works[index % len(works)]
            engine.add(
                str(index),
                own.prompt_ids,
                SamplingParams(temperature=0, max_tokens=len(own.reply_ids)),
                seed=index,
                constraint=Recital(own.reply_ids),
            )
        return decode(engine)

    return run


def decode(engine: Engine) -> Figures:
    """Runs to the end and counts the steps that hold no part of a prompt."""
    seconds, num_drawn = 0.0, 0
    while engine.num_unfinished:
        engine.step()
        step = engine.last_step
        assert step is not None
        if step.num_tokens - step.num_drafted == step.num_drawn - step.num_accepted:
            seconds += step.seconds
            num_drawn += step.num_drawn
    return Figures(
        tokens_per_second=num_drawn / seconds,
        num_drafted=engine.stats.num_drafted,
        num_accepted=engine.stats.num_accepted,
    )


def demo_run(num_requests: int) -> Callable[[bool], Figures]:
    """The embedded model on the first questions of its puzzles, one sample each; whole time."""
    lines = files("martlet.demo").joinpath("puzzles.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [
        f"{row['problem']}\n{question['question']}\n"
        + "\n".join(map("{}. {}".format, "ABCD", question["options"]))
        for row in map(json.loads, lines)
        for question in row["questions"]
    ][: max(16, num_requests)]

    def run(speculation: bool) -> Figures:
        options = BackendOptions(
            speculation=speculation, max_num_requests=num_requests, kv_memory_gib=0.5
        )
        backend = load_backend("demo", options=options)
        assert isinstance(backend, NativeBackend)
        for index, question in enumerate(questions):
            prompt = Prompt(messages=({"role": "user", "content": question},))
            backend.submit(
                SampleRequest(
                    request_id=str(index),
                    prompt_ids=backend.render(prompt).token_ids,
                    params=SamplingParams(temperature=0.7, max_tokens=256),
                    seed=index,
                )
            )
        while backend.num_unfinished:
            backend.poll()
        stats = backend.stats
        return Figures(
            tokens_per_second=stats.num_drawn / stats.seconds,
            num_drafted=stats.num_drafted,
            num_accepted=stats.num_accepted,
        )

    return run


if __name__ == "__main__":
    main()
