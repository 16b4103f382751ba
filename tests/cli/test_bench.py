"""`martlet bench` on the embedded model, with transformers as the real peer."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.conftest import Call

NUM_REQUESTS = 2


@pytest.mark.slow
def test_martlet_and_transformers(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["bench", "demo", "--work", "batch,puzzles", "--requests", NUM_REQUESTS, "--quick"]
    command += ["--against", "transformers", "--rounds", 1, "--dtype", "fp32"]
    called = call(*command)
    assert called.exit_code == 0, called.stderr
    report = json.loads((tmp_path / "demo.bench/bench.json").read_text())
    measured = report["measurements"]
    assert [(each["contestant"], each["work"]) for each in measured] == [
        (contestant, work)
        for contestant in ("martlet", "transformers")
        for work in ("batch", "puzzles")
    ]
    for each in measured:
        if each["work"] == "batch":
            assert each["num_tokens"] == NUM_REQUESTS * 32
            assert 0 < each["share_of_limit"] < 1
        else:
            assert each["num_replies"] == NUM_REQUESTS * 8
            # The model ends its replies itself.
            assert 2 < each["num_tokens"] / each["num_replies"] < 96
        assert each["tokens_per_second"] == pytest.approx(each["num_tokens"] / each["seconds"])
        assert each["first_token_p50_ms"] <= each["first_token_p99_ms"] <= 1e3 * each["seconds"]
        assert each["peak_bytes"] > 2**27
    assert called.stdout == (tmp_path / "demo.bench/bench.md").read_text()
    assert "| transformers |" in called.stdout
    page = (tmp_path / "demo.bench/bench.html").read_text()
    assert page.count("<svg") == 2
    again = call(*command)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_who_is_told_to_end_ends_its_contestants(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "martlet.cli.main", "bench", "demo", "--work", "alone"]
    command += ["--rounds", "999", "--out", str(tmp_path / "report")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (started := contestants_of(process.pid)):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130
    assert talk.decode().splitlines()[-1].startswith("error: stopped")
    assert not any(is_there(contestant) for contestant in started)


def contestants_of(parent: int) -> list[int]:
    """Ids of processes that run a contestant for another."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_own = (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(parent)
            if is_own and b"martlet.bench.peers" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def is_there(process_id: int) -> bool:
    return Path("/proc", str(process_id)).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--work", "batch,contest"], "--work takes alone, batch"),
        (["--weights-as", "int3"], "--weights-as takes stored, int8, int4"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--trace", "absent.csv"], "there is no such file"),
        (["--against", "openvino", "--environments", "here"], "make openvino an environment"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_runs(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    called = call("bench", "demo", *arguments)
    assert called.exit_code in (2, 3)
    assert words in called.stderr
    assert not list(tmp_path.iterdir())
