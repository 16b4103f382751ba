"""What a row of a batch costs the process that runs it: memory, and processor time.

    ray start --head
    python benchmarks/rows.py --ray auto    # engines in processes of their own
    ray stop

`martlet generate` runs over two files of short rows, a prompt of a sentence and a reply of one
token, on the embedded model. What the larger file needs more, of memory and of time, is the rows'.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description="What a row of a batch costs.")
    parser.add_argument("--few", type=int, default=10_000, help="rows of the smaller file")
    parser.add_argument("--many", type=int, default=60_000, help="rows of the larger file")
    parser.add_argument("--ray", help="the address of a cluster")
    given = parser.parse_args()
    options = [] if given.ray is None else ["--ray", given.ray]
    few, many = measure(given.few, options), measure(given.many, options)
    num_rows = given.many - given.few
    seconds, busy, mib = (more - less for less, more in zip(few, many, strict=True))
    print(f"{num_rows / seconds:,.0f} rows/s")
    print(f"{num_rows / busy:,.0f} rows for a second of processor time")
    print(f"{mib * 100_000 / num_rows:,.0f} MiB for each 100,000 rows")


def measure(num_rows: int, options: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and peak memory in MiB of a run as a whole."""
    command = [sys.executable, "-m", "martlet.cli.main", "generate", "rows.jsonl", *options]
    command += ["--model", "demo", "--max-tokens", "1", "--out", "replies.jsonl"]
    with tempfile.TemporaryDirectory() as scratch:
        write_rows(Path(scratch) / "rows.jsonl", num_rows)
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=scratch)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds = time.monotonic() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**10


def write_rows(path: Path, num_rows: int) -> None:
    rows = ({"id": i, "prompt": f"Ann sits left of {i}. Who sits right?"} for i in range(num_rows))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


if __name__ == "__main__":
    main()
