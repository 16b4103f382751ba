"""`martlet bench` on the embedded model, with transformers as the real peer."""

import json
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
