"""Runs that were killed, stopped, spread over processes, or are there already."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import yaml

from martlet.errors import InputError, Interrupted
from martlet.train.config import TrainConfig, resolve_config
from martlet.train.job import open_job, run_job
from martlet.train.run_folder import RunFolder, open_run
from train.runs import PEFT_WARNINGS, WEIGHTS, train

pytestmark = PEFT_WARNINGS

LONGER = {
    "precision": "fp32",
    "max_steps": 12,
    "batch_size": 2,
    "save_every": 2,
    "learning_rate": 1e-3,
    "warmup": 0.0,
}


SCRIPT = """\
import sys
from pathlib import Path
from martlet.train.config import resolve_config
from martlet.train.job import open_job, run_job
run_job(open_job(resolve_config({}, file=Path(sys.argv[1]))))
"""


def in_other_processes(rows: Path, out: Path, *launcher: str, **given: object) -> list[str]:
    """The command that trains so in one new process, or in several under a launcher."""
    script, recipe = out.with_suffix(".py"), out.with_suffix(".yaml")
    script.write_text(SCRIPT)
    fields = {"data": [str(rows)], "model": "demo", "out": str(out), **LONGER, **given}
    recipe.write_text(yaml.safe_dump(fields))
    return [sys.executable, *launcher, str(script), str(recipe)]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    rows: Path, tmp_path: Path
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = in_other_processes(rows, killed, dropout=0.1)
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while process.poll() is None and not (killed / "checkpoints" / "checkpoint-4").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert RunFolder(path=killed).last_checkpoint() is not None
    assert not (killed / WEIGHTS).exists()
    for run in (killed, whole):
        train(rows, run, **LONGER, dropout=0.1)
    assert (killed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_two_processes_learn_as_one_does(rows: Path, tmp_path: Path) -> None:
    """Two with a batch of one see in a step what one with a batch of two does."""
    one, two = tmp_path / "one", tmp_path / "two"
    shorter = {"max_steps": 6, "save_every": 6}
    train(rows, one, **{**LONGER, **shorter})
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = in_other_processes(rows, two, *launcher, **shorter, batch_size=1)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert losses_of(two) == pytest.approx(losses_of(one), abs=2e-3)


def test_all_processes_of_a_run_may_claim_its_folder_at_once(rows: Path, tmp_path: Path) -> None:
    claims = 8
    all_there = Barrier(claims)

    def claim(config: TrainConfig) -> Path:
        all_there.wait()
        return open_run(config, inputs={"base": "1"}).path

    with ThreadPoolExecutor(claims) as pool:
        for number in range(20):
            given = {"data": [str(rows)], "model": "demo", "out": tmp_path / str(number)}
            config = resolve_config(given)
            assert set(pool.map(claim, [config] * claims)) == {config.out}
            assert {each.name for each in config.out.iterdir()} == {"identity.json", "recipe.yaml"}


def test_a_claim_that_was_cut_short_is_completed(rows: Path, tmp_path: Path) -> None:
    config = resolve_config({"data": [str(rows)], "model": "demo", "out": tmp_path / "run"})
    config.out.mkdir()
    (config.out / ".draft-0").write_text("{")
    recipe = open_run(config, inputs={}).path / "recipe.yaml"
    written = recipe.read_text()
    recipe.unlink()
    open_run(config, inputs={})
    assert recipe.read_text() == written


def losses_of(run: Path) -> list[float]:
    entries = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in entries]


def test_a_run_that_is_stopped_keeps_a_checkpoint(rows: Path, tmp_path: Path) -> None:
    config = resolve_config(
        {"data": [str(rows)], "model": "demo", "out": tmp_path / "run", "max_steps": 6}
    )
    with pytest.raises(Interrupted, match="stopped at step 1 of 6"):
        run_job(open_job(config), should_stop=lambda: True)
    job = open_job(config)
    assert job.resumes
    assert run_job(job).num_steps == 6


def test_a_folder_is_never_overwritten(rows: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(rows, run, max_steps=1)
    with pytest.raises(InputError, match="holds a finished run"):
        train(rows, run, max_steps=1)
    (run / "martlet.json").unlink()
    with pytest.raises(InputError, match="unfinished run of another recipe: rank changed"):
        train(rows, run, max_steps=1, rank=4)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        train(rows, other)
