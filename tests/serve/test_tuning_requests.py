"""What a request for tuning may say, what it becomes, and what no job can be."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest

from martlet.backends.base import ModelIdentity
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.errors import InputError
from martlet.serve.app import create_app
from martlet.serve.keys import ApiKeys
from martlet.serve.schema.tuning import CreateTuning
from martlet.serve.service import Service
from martlet.serve.settings import ServeSettings
from martlet.serve.tuning.metrics import Metrics
from martlet.serve.tuning.recipe import method_as_json, model_name, recipe_of
from martlet.train.config import TrainConfig
from serve.servers import Running, load_demo, serving
from serve.test_conformance import _properties
from support.shared import needs_shared

USE, ADMINISTER = "key-to-use", "key-to-administer"
JOBS = "/v1/fine_tuning/jobs"
IDENTITY = ModelIdentity(
    model="demo",
    model_hash="abc",
    template_hash="",
    tokenizer_hash="",
    backend="native",
    dtype="bfloat16",
)
Body = dict[str, object]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    keys = ApiKeys(key_to_scope={USE: "use", ADMINISTER: "administer"})
    settings = ServeSettings(tuning_dir=tmp_path_factory.mktemp("tuning") / "jobs")
    with serving(load_demo(), keys=keys, settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Running) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {ADMINISTER}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def name_to_file(server: Running) -> dict[str, str]:
    """Uploaded files: rows, nothing but empty lines, requests of a batch."""
    files = server.client(USE).files

    def upload(content: bytes, purpose: str) -> str:
        return files.create(file=("rows.jsonl", content), purpose=purpose).id

    return {
        "rows": upload(b'{"prompt": "a", "completion": "b"}\n', "fine-tune"),
        "empty": upload(b"\n \n\n", "fine-tune"),
        "batch": upload(b'{"custom_id": "a"}\n', "batch"),
        "none": "file-none",
    }


def supervised(**hyperparameters: object) -> Body:
    return {
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    }


@pytest.mark.parametrize(
    ("given", "status", "param", "sentence"),
    [
        ({"training_file": "none"}, 404, None, "there is no file 'file-none'"),
        ({"validation_file": "none"}, 404, None, "there is no file 'file-none'"),
        ({"training_file": "empty"}, 400, None, "the training file holds no rows"),
        ({"training_file": "batch"}, 400, "training_file", "upload a file with purpose 'fine-tune"),
        ({"validation_file": "batch"}, 400, "validation_file", "has the purpose 'batch'"),
        ({"model": "gpt-4o-mini"}, 404, None, "there is no model 'gpt-4o-mini' here"),
        ({"model": None}, 400, "model", "model is required"),
        ({"suffix": ""}, 400, "suffix", "at least 1 character"),
        ({"suffix": "x" * 65}, 400, "suffix", "at most 64 characters"),
        ({"suffix": "a:b"}, 400, "suffix", "letters, digits and . _ -, not 'a:b'"),
        ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
        ({"colour": "red"}, 400, "colour", "unknown field 'colour'"),
        ({"rank": 8}, 400, "rank", "unknown field 'rank'"),
        ({"martlet": {"rnak": 8}}, 400, "martlet.rnak", "did you mean 'rank'"),
        ({"martlet": {"rank": 0}}, 400, "rank", "rank=0 is out of range: at least 1"),
        ({"hyperparameters": {"n_epochs": 2}}, 400, "hyperparameters", "method.supervised"),
        ({"integrations": []}, 400, "integrations", "events alone"),
        ({"method": {"type": "magic"}}, 400, "method.type", "'supervised' or 'dpo'"),
        ({"method": {"type": "dpo", "supervised": {}}}, 400, "method.supervised", "leave one out"),
        (supervised(n_epochs=0), 400, ".n_epochs", "greater than or equal to 1"),
        (supervised(batch_size=2.5), 400, ".batch_size", "must be an integer"),
        (supervised(learning_rate_multiplier=0), 400, "_multiplier", "greater than 0"),
        (supervised(learning_rate_multiplier="slow"), 400, "_multiplier", "must be a number"),
        (supervised(beta=0.1), 400, ".beta", "unknown field 'beta'"),
    ],
)
def test_what_no_job_can_be(
    http: httpx.Client,
    name_to_file: dict[str, str],
    given: Body,
    status: int,
    param: str | None,
    sentence: str,
) -> None:
    body = {"model": "demo", "training_file": "rows", **given}
    for name in ("training_file", "validation_file"):
        if name in body:
            body[name] = name_to_file[str(body[name])]
    reply = http.post(JOBS, json=body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert sentence in error["message"]
    assert (error["param"] or "").endswith(param or "")
    assert http.get(JOBS).json()["data"] == []


def test_nothing_is_left_of_a_job_that_was_refused(
    server: Running, http: httpx.Client, name_to_file: dict[str, str]
) -> None:
    body = {"model": "demo", "training_file": name_to_file["empty"]}
    assert http.post(JOBS, json=body).status_code == 400
    tuning_dir = server.service.settings.tuning_dir
    assert tuning_dir is not None
    assert list(tuning_dir.glob("*")) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("GET", "/a"), ("POST", "/a/cancel"), ("GET", "/a/events")],
)
def test_only_administrators_tune(server: Running, method: str, path: str) -> None:
    for key, status, sentence in (
        (None, 401, "give an API key"),
        (USE, 403, "scope 'administer'"),
    ):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        reply = httpx.request(method, f"{server.url}{JOBS}{path}", headers=headers)
        assert reply.status_code == status
        assert sentence in reply.json()["error"]["message"]


def test_jobs_that_are_not_there(http: httpx.Client) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events")):
        reply = http.request(method, f"{JOBS}/ftjob-none{path}")
        assert reply.status_code == 404
        assert "there is no job 'ftjob-none'" in reply.json()["error"]["message"]
    assert http.get(JOBS, params={"after": "ftjob-none"}).status_code == 404
    assert http.get(JOBS, params={"limit": 0}).status_code == 400


def test_without_a_folder_nothing_is_tuned(client: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="--tuning-dir DIR"):
        client.fine_tuning.jobs.create(model="demo", training_file="file-none")
    with pytest.raises(openai.PermissionDeniedError, match="--tuning-dir DIR"):
        client.fine_tuning.jobs.list()


def test_only_what_takes_adapters_is_tuned(tmp_path: Path) -> None:
    backend = load_backend("demo", options=BackendOptions(backend="transformers"))
    settings = ServeSettings(tuning_dir=tmp_path)
    with pytest.raises(InputError, match="the transformers backend takes no adapters"):
        create_app(Service.around(backend, base_names=("demo",), settings=settings))


@needs_shared
def test_every_documented_field_is_known(http: httpx.Client) -> None:
    documented = _properties("CreateFineTuningJobRequest")
    assert len(documented) > 8
    for field in documented:
        reply = http.post(JOBS, json={"model": "x", "training_file": "x", field: {"a": 1}})
        assert "unknown field '" + field not in reply.text


def recipe(**given: object) -> TrainConfig:
    body = CreateTuning.model_validate({"model": "demo", "training_file": "file-1", **given})
    return recipe_of(body, IDENTITY, files=["training.jsonl"], has_template=False)


def test_a_request_becomes_a_recipe() -> None:
    plain = recipe()
    assert (plain.steps.precision, plain.steps.epochs, plain.learning_rate) == ("bf16", 3.0, 2e-4)
    faster = recipe(**supervised(n_epochs=2, learning_rate_multiplier=5), seed=7)
    assert (faster.steps.epochs, faster.steps.seed) == (2.0, 7)
    assert faster.learning_rate == pytest.approx(1e-3)
    hyperparameters = {"beta": 0.3, "learning_rate_multiplier": 2, "batch_size": "auto"}
    given = {
        "method": {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}},
        "martlet": {"rank": 4, "targets": ["q_proj"], "too_long": "skip"},
    }
    preferring = recipe(**given)
    assert (preferring.tuner.method, preferring.tuner.beta) == ("dpo", 0.3)
    assert preferring.learning_rate == pytest.approx(4e-5)
    assert (preferring.tuner.rank, preferring.tuner.targets) == (4, ("q_proj",))
    body = CreateTuning.model_validate({"model": "demo", "training_file": "file-1", **given})
    assert method_as_json(body, preferring) == {
        "type": "dpo",
        "dpo": {
            "hyperparameters": {
                "n_epochs": 3,
                "batch_size": 8,
                "learning_rate_multiplier": 2,
                "beta": 0.3,
            }
        },
    }


@pytest.mark.parametrize(
    ("base", "suffix", "name"),
    [
        ("demo", None, "ft:demo:martlet::12345678"),
        ("Qwen/Qwen2 0.5B", "judge", "ft:Qwen2-0.5B:martlet:judge:12345678"),
        ("/models/" + "x" * 90, "y" * 64, f"ft:{'x' * 40}:martlet:{'y' * 64}:12345678"),
    ],
)
def test_names_of_models(base: str, suffix: str | None, name: str) -> None:
    assert model_name(base, suffix, "12345678") == name
    assert len(name) <= 128


def test_metrics_of_a_run_that_went_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert Metrics.read(path).lines == ()
    report = {"num_steps": 10, "seconds": 4.0, "loss": 1.0}
    lines = [
        {**report, "step": 1, "num_tokens": 100, "num_steps_here": 1},
        {**report, "step": 2, "num_tokens": 200, "num_steps_here": 2},
        # Another process took it up.
        {**report, "step": 2, "num_tokens": 90, "num_steps_here": 1},
        {**report, "step": 3, "num_tokens": 180, "num_steps_here": 2, "validation_loss": 0.5},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 4, "num')
    metrics = Metrics.read(path)
    assert len(metrics.lines) == 4
    assert metrics.num_tokens == 200 + 180
    assert metrics.seconds_left == pytest.approx(7 * 2.0)
    assert (metrics.last("validation_loss"), metrics.last("step")) == (0.5, 3)
    assert replace(metrics, lines=lines[:2]).last("validation_loss") is None
