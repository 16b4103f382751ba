"""Ctrl-C: what is finished is kept, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from martlet.cli.stop import stop_on_signal
from martlet.models.folder import ModelFolder

NUM_ROWS = 24
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_the_first_signal_asks_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as stop_requested:
        assert not stop_requested()
        signal.raise_signal(signal.SIGINT)
        assert stop_requested()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stopped_run_goes_on_where_it_was(tiny_llama: ModelFolder, tmp_path: Path) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": place, "prompt": f"Number {place}?"} for place in range(NUM_ROWS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "-m", "martlet.cli.main", "generate", str(data)]
    command += ["-m", str(tiny_llama.path), "-o", str(out), "--json", "--max-requests", "2"]
    command += ["--max-tokens", "60", "--ignore-eos", "--kv-memory", "0.05"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    watch = threading.Thread(target=_interrupt_after_first_rows, args=(process, out), daemon=True)
    watch.start()
    _, talk = process.communicate()
    assert process.returncode == 130, talk
    assert "run the same command again to go on" in talk
    assert "Traceback" not in talk
    assert not out.exists()

    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    summary = json.loads(done.stdout)
    assert 0 < summary["samples_reused"] < NUM_ROWS
    assert summary["samples_reused"] + summary["samples_drawn"] == NUM_ROWS
    assert len(out.read_text(encoding="utf-8").splitlines()) == NUM_ROWS


def _interrupt_after_first_rows(process: subprocess.Popen[str], out: Path) -> None:
    partial = Path(f"{out}.partial")
    while process.poll() is None:
        if partial.exists() and partial.stat().st_size > 0:
            process.send_signal(signal.SIGINT)
            return
        time.sleep(0.01)
