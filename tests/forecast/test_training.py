"""The forecast of a training: a trial that leaves nothing behind."""

import json
from itertools import islice
from pathlib import Path

import pytest

from martlet.demo.rows import training_rows
from martlet.errors import InputError, Interrupted
from martlet.forecast.training import forecast_training, trial_of
from martlet.train.config import TrainConfig, resolve_config
from martlet.train.job import open_job, run_job

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    rows = list(islice(training_rows("turning"), 40))
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = {"data": [str(data)], "model": "demo", "out": tmp_path / "run", "epochs": 1}
    return resolve_config({**given, "batch_size": 4, "validation": "0.1", "learning_rate": 1e-2})


def test_a_trial_says_what_the_run_does_and_leaves_nothing(config: TrainConfig) -> None:
    with trial_of(config) as job:
        forecast = forecast_training(job, seconds=0.1)
    assert sorted(each.name for each in config.out.parent.iterdir()) == ["rows.jsonl"]
    seconds = forecast.seconds
    assert forecast.steps_probed < forecast.steps
    assert min(seconds.load, seconds.steps, seconds.validation, seconds.proof) > 0

    result = run_job(open_job(config))
    assert result.proof is not None
    assert result.proof.passed
    assert result.num_steps == forecast.steps
    assert result.num_tokens == forecast.tokens_left
    assert result.num_trained_values == forecast.trained_values

    with pytest.raises(InputError, match="finished run"), trial_of(config):
        pass


def test_what_an_earlier_process_did_is_not_planned_again(config: TrainConfig) -> None:
    steps = iter(range(5))
    with pytest.raises(Interrupted):
        run_job(open_job(config), should_stop=lambda: next(steps) == 3)
    with trial_of(config) as job:
        forecast = forecast_training(job, seconds=0.1)
    assert (forecast.steps, forecast.steps_done) == (9, 4)
    assert forecast.tokens_left == pytest.approx(forecast.tokens_per_epoch * 5 / 9)
