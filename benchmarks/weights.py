"""Weights as stored, in eight and in four bits: speed on a CPU, and what the rounding costs.

    python benchmarks/weights.py            # about two minutes on two cores
    python benchmarks/weights.py --rounds 3 # more rounds, for the spread

Speed is measured as `martlet bench` does, on its model (Qwen2 0.5B, random weights), in processes
of their own that take turns:

    alone   1 prompt of 128 tokens, 128 new ones, greedy
    batch   16 prompts of 128, 128 new ones each, greedy

Quality is measured on the embedded model, where weights have something to say: on unseen puzzles
with their replies, each position against fp32. The table goes to `benchmarks/results/`.
"""

import argparse
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from common import RESULTS, prompts
from martlet.bench.contestant import find_contestants
from martlet.bench.figure import Figure
from martlet.bench.machine import machine
from martlet.bench.peers.protocol import Ask, Work
from martlet.bench.random_model import make_model
from martlet.bench.run import Bench
from martlet.engine.config import KVDtype
from martlet.models.folder import open_folder
from martlet.models.weights import Weights, held_bytes

WORKS = [
    Work("alone", "", [Ask(ids, 128) for ids in prompts(1, 128, seed=1)]),
    Work("batch", "", [Ask(ids, 128) for ids in prompts(16, 128)]),
]
WAYS: tuple[Weights, ...] = ("stored", "int8", "int4")
"""Those that a CPU computes in; `fp8` is for GPUs."""
NUM_PUZZLES = 40


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How far a model's answers are from those in fp32."""

    num_tokens: int
    mean_kl: float
    """Of the next token's distribution, in nats."""
    top1_agreement: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One way to hold the weights, over all rounds."""

    weights_bytes: int
    works: dict[str, list[Figure]]


def main() -> None:
    arguments = _parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        speeds = measure(Path(scratch), num_rounds=arguments.rounds)
    table = render(speeds, {weights: quality(weights) for weights in WAYS})
    (RESULTS / "weights.md").write_text(table, encoding="utf-8")
    print(table)


def measure(scratch: Path, *, num_rounds: int) -> dict[Weights, Speed]:
    """Each work with the weights held in each way."""
    contestants = find_contestants(WAYS, [], environments=scratch)
    bench = Bench(
        folder=open_folder(make_model(scratch / "model")),
        works=WORKS,
        contestants=contestants,
        num_rounds=num_rounds,
        dtype=torch.bfloat16,
    )
    speeds = {
        contestant.name: Speed(
            weights_bytes=held_bytes(bench.folder, bench.dtype, contestant.weights), works={}
        )
        for contestant in contestants
    }
    for each in bench.measure(scratch, lambda what: print(what, file=sys.stderr)):
        speeds[each.contestant].works.setdefault(each.work.name, []).append(each.figure)
    return dict(zip(WAYS, speeds.values(), strict=True))


def quality(
    weights: Weights,
    kv_dtype: KVDtype = "model",
    *,
    for_crowd: bool = False,
    num_puzzles: int = NUM_PUZZLES,
) -> Quality:
    """Compares the embedded model in bf16, held in a way, with itself in fp32.

    Args:
        for_crowd: Whether as many requests compute it: by compiled functions.
    """
    rows = puzzle_rows(num_puzzles)
    expected = logits_of(rows, torch.float32, "stored")
    return compare(
        expected, logits_of(rows, torch.bfloat16, weights, kv_dtype, for_crowd=for_crowd)
    )


def compare(expected: torch.Tensor, got: torch.Tensor) -> Quality:
    """Of logits `[T, V]` with those that are right."""
    log_p, log_q = (torch.log_softmax(each.double(), dim=-1) for each in (expected, got))
    return Quality(
        num_tokens=len(log_p),
        mean_kl=(log_p.exp() * (log_p - log_q)).sum(dim=-1).mean().item(),
        top1_agreement=(log_p.argmax(-1) == log_q.argmax(-1)).double().mean().item(),
    )


def puzzle_rows(num_puzzles: int = NUM_PUZZLES) -> list[tuple[int, ...]]:
    """Unseen puzzles, one question of each with its reply, as token ids."""
    from transformers import AutoTokenizer

    from martlet.batch.prompts import multiple_choice_prompt
    from martlet.demo import model_path
    from martlet.demo.puzzles import unseen_puzzles

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    rows = []
    for puzzle in unseen_puzzles(count=num_puzzles):
        question = puzzle.questions[0]
        prompt = multiple_choice_prompt(puzzle.problem, question.question, question.options)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        rows.append(tuple(tokenizer.encode(text + question.reply)))
    return rows


def logits_of(
    rows: list[tuple[int, ...]],
    dtype: torch.dtype,
    weights: Weights,
    kv_dtype: KVDtype = "model",
    *,
    for_crowd: bool = False,
) -> torch.Tensor:
    """The logits of every position of all rows, one below the other, by the engine."""
    from martlet.demo import model_path
    from martlet.engine.config import EngineConfig
    from martlet.engine.engine import Engine
    from martlet.models.folder import open_folder
    from martlet.models.load import load_model

    model = load_model(
        open_folder(model_path()), dtype=dtype, device=torch.device("cpu"), weights=weights
    )
    longest = max(map(len, rows)) + 1
    if for_crowd:
        model.compile_for_crowd()
    num_blocks = -(-longest // 16)
    config = EngineConfig(num_blocks=num_blocks, max_context_tokens=longest, kv_dtype=kv_dtype)
    engine = Engine(model, config)
    return torch.cat([engine.logits(row) for row in rows])


def render(speeds: dict[Weights, Speed], by: dict[Weights, Quality]) -> str:
    """The results as a page of Markdown."""
    lines = [
        "# Weights in eight and four bits on a CPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}. Made by `python benchmarks/weights.py`, whose first lines say "
        "what is measured.",
        "",
        "| weights | alone, decoding, tokens/s | batch of 16, tokens/s | weights, GB | peak, GB | "
        "mean KL, nats | same first token |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for weights, cost in by.items():
        alone, batch = (speeds[weights].works[work.name] for work in WORKS)
        cells = (
            f"{statistics.median(1e3 / (f.between_tokens_p50_ms or 0) for f in alone):.1f}",
            f"{statistics.median(f.tokens_per_second for f in batch):.1f}",
            f"{speeds[weights].weights_bytes / 1e9:.2f}",
            f"{max(f.peak_bytes for f in batch) / 1e9:.2f}",
            f"{cost.mean_kl:.5f}",
            f"{cost.top1_agreement:.2%}",
        )
        lines.append(f"| {weights} | {' | '.join(cells)} |")
    num_tokens = next(iter(by.values())).num_tokens
    lines += ["", f"KL and first tokens over {num_tokens:,} positions, against fp32."]
    return "\n".join(lines) + "\n"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
