"""A model tuned over HTTP while it is asked: how long it takes, and what others notice.

    python benchmarks/tuning.py               # the recipe of docs/train.md, some ten minutes
    python benchmarks/tuning.py --count 400   # small, to see that it works

`martlet serve --demo` runs in a process of its own. One client asks it for 32 tokens again and
again, first alone, then while a job learns the family of puzzles that the embedded model does not
know. At the end both models answer questions that neither saw.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from martlet.batch.prompts import multiple_choice_prompt
from martlet.demo.puzzles import unseen_puzzles
from martlet.demo.rows import training_rows

Row = dict[str, object]

HYPERPARAMETERS = {"n_epochs": 2, "batch_size": 16, "learning_rate_multiplier": 30}
NUM_ALONE = 60
"""Requests before the job."""
PAUSE_S = 0.2
NUM_UNSEEN = 400
NUM_AT_ONCE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description="Tune over HTTP, and ask meanwhile.")
    parser.add_argument("--count", type=int, default=8000, help="rows of the unknown family")
    count = parser.parse_args().count
    # Some of the first family too, so that it is not forgotten.
    rows = [*islice(training_rows("turning"), count)]
    rows += islice(training_rows("deduction"), count * 3 // 16)
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch)) as client:
        tell("alone", [ask(client) for _ in range(NUM_ALONE)])
        start = time.monotonic()
        job = create(client, rows)
        seconds: list[float] = []
        while (job := client.fine_tuning.jobs.retrieve(job.id)).finished_at is None:
            seconds.append(ask(client))
        print(f"{len(rows):,} rows: {job.status} in {time.monotonic() - start:.0f} s")
        tell("while tuned", seconds)
        for model in filter(None, ("demo", job.fine_tuned_model)):
            print(f"{model}: {share_right(client, model):.1%} of {NUM_UNSEEN} unseen questions")


@contextmanager
def server(folder: Path) -> Iterator[OpenAI]:
    """A server's client."""
    options = ["--demo", "--port", "0", "--data-dir", folder / "data"]
    command = [sys.executable, "-m", "martlet.cli.main", "serve", *options]
    command += ["--tuning-dir", folder / "jobs"]
    with (
        (folder / "log").open("w+") as log,
        subprocess.Popen(command, stderr=log) as process,
    ):
        try:
            while not (found := re.search(r"on (\S+) as", (folder / "log").read_text())):
                if process.poll() is not None:
                    raise SystemExit((folder / "log").read_text())
                time.sleep(0.1)
            yield OpenAI(base_url=found[1], api_key="none", max_retries=0)
        finally:
            process.terminate()


def create(client: OpenAI, rows: list[Row]) -> FineTuningJob:
    """A job that learns rows."""
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    file = client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model="demo",
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}},
        extra_body={"martlet": {"rank": 32}},
    )


def ask(client: OpenAI) -> float:
    """The seconds that 32 tokens take, after a pause."""
    time.sleep(PAUSE_S)
    start = time.perf_counter()
    client.completions.create(
        model="demo", prompt="Anna", max_tokens=32, extra_body={"ignore_eos": True}
    )
    return time.perf_counter() - start


def tell(what: str, seconds: list[float]) -> None:
    """Prints how long requests took."""
    milliseconds = sorted(1e3 * each for each in seconds)
    print(
        f"{what}: {len(seconds):,} requests, median {statistics.median(milliseconds):.0f} ms, "
        f"p95 {milliseconds[int(0.95 * len(milliseconds))]:.0f}, longest {milliseconds[-1]:.0f}"
    )


def share_right(client: OpenAI, model: str) -> float:
    """Of questions that no training of ours meets."""
    questions = [
        (
            multiple_choice_prompt(puzzle.problem, each.question, each.options),
            each.reply.split()[-1],
        )
        for puzzle in unseen_puzzles("turning")
        for each in puzzle.questions
    ][:NUM_UNSEEN]
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        return statistics.mean(pool.map(partial(is_right, client, model), questions))


def is_right(client: OpenAI, model: str, question: tuple[str, str]) -> bool:
    """Whether the likeliest reply ends with the right letter."""
    prompt, letter = question
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=200
    )
    return (reply.choices[0].message.content or "").split()[-1:] == [letter]


if __name__ == "__main__":
    main()
