"""`--plan` on the command line, over the embedded model."""

import json
from pathlib import Path

import pytest

from batch.lines import read_lines, write_lines
from cli.conftest import Call
from martlet.errors import InputError

ROWS = [{"prompt": f"Anna sits left of Bo. Who sits right of {n}?"} for n in range(5)]
LONG = {"prompt": "left of " * 2000}


def test_the_command_line(call: Call, tmp_path: Path) -> None:
    data, out = write_lines(tmp_path / "data.jsonl", ROWS), tmp_path / "out.jsonl"
    go = ("generate", data, "--model", "demo", "--out", out, "--max-tokens", 8)
    text = call(*go, "--plan", "--price", "1000000,0")
    assert text.exit_code == 0, text.stderr
    *table, last = text.stdout.splitlines()
    assert last.split(maxsplit=1) == ["go", "martlet " + " ".join(map(str, go))]
    assert not out.exists()
    facts = json.loads(call(*go, "--plan", "--price=1000000,0", "--json").stdout)
    drawn = facts["drawing"]["drawn"]
    assert (drawn["samples"], facts["drawing"]["left"]["samples"]) == (5, 0)
    assert drawn["price"] == drawn["tokens_in"]
    assert any(f"{drawn['price']:,.4f}" in line for line in table if line.startswith("price"))
    assert call(*go).exit_code == 0
    assert len(read_lines(out)) == 5


def test_a_plan_that_cannot_be_run_ends_with_the_code_of_its_error(
    call: Call, tmp_path: Path
) -> None:
    data = write_lines(tmp_path / "data.jsonl", [*ROWS[:2], LONG])
    go = ("generate", data, "--model", "demo", "--out", tmp_path / "out.jsonl")
    refused = call(*go, "--plan")
    assert refused.exit_code == InputError.exit_code
    assert "1 question over the limit of 512 tokens" in refused.stdout
    assert "line 3" in refused.stderr


def test_a_training_is_priced_by_what_it_learns_from(call: Call, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "response": "Bo."} for row in ROWS]
    go = ("train", write_lines(tmp_path / "rows.jsonl", rows), "--model", "demo")
    go += ("--out", tmp_path / "run", "--epochs", 2, "--plan")
    text = call(*go, "--price", "1000000")
    assert text.exit_code == 0, text.stderr
    line_of = dict(line.split(maxsplit=1) for line in text.stdout.splitlines())
    assert line_of["price"].removesuffix(".0000") in line_of["tokens"].split(" an epoch, ")[1]
    assert line_of["go"] == "martlet " + " ".join(map(str, go[:-1]))
    facts = json.loads(call(*go, "--price=2000000", "--json").stdout)
    assert facts["price"] == 2 * facts["tokens_left"] == 4 * facts["tokens_per_epoch"]
    refused = call(*go, "--price", "0.15,0.60")
    assert refused.exit_code == 2
    assert "a training draws none" in refused.stderr


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(("--price", "1,2"), "belongs to --plan"), (("--plan", "--price", "1"), "0.15,0.60")],
)
def test_a_price_needs_a_plan_and_two_numbers(
    call: Call, tmp_path: Path, wrong: tuple[str, ...], words: str
) -> None:
    data = write_lines(tmp_path / "data.jsonl", ROWS)
    called = call("generate", data, "--model", "demo", "--out", tmp_path / "out.jsonl", *wrong)
    assert called.exit_code == 2
    assert words in called.stderr
