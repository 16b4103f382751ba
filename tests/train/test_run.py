"""Whole runs on the embedded model: trained, proven, resumed, and every planted fault found."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from peft import PeftModel
from transformers import Trainer

from martlet import LLM, SamplingParams
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.demo.rows import training_rows
from martlet.errors import (
    AdapterError,
    InputError,
    Interrupted,
    MissingExtraError,
    ParameterError,
    ParityError,
    ResourceError,
    TemplateError,
)
from martlet.export.run import merge
from martlet.lora.provenance import read_provenance
from martlet.models.folder import open_folder
from martlet.models.nf4 import load_nf4
from martlet.models.resolve import resolve
from martlet.train.config import resolve_config
from martlet.train.encoding import EncodedExample, Encoder
from martlet.train.job import TrainResult, open_job, run_job
from martlet.train.run_folder import RunFolder
from support.engines import load_fp32, make_engine
from support.shared import SHARED, needs_shared

# PEFT and bitsandbytes lag behind what transformers and torch deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:bitsandbytes"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.utils.checkpoint"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]

CPU = torch.device("cpu")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", count=24)


def write_rows(file: Path, *, count: int, seed: int = 3) -> Path:
    rows = islice(training_rows("turning", seed=seed), count)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def train(rows: Path | str, out: Path, **given: object) -> TrainResult:
    fields = {
        "data": [str(rows)],
        "model": "demo",
        "out": out,
        "precision": "fp32",
        "max_steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup": 0,
        **given,
    }
    return run_job(open_job(resolve_config(fields)))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / WEIGHTS)


def test_a_run_learns_is_proven_and_is_served(rows: Path, tmp_path: Path) -> None:
    run = tmp_path / "judge"
    others = write_rows(tmp_path / "others.jsonl", count=24, seed=5)
    result = train(rows, run, max_steps=12, validation=str(others), evaluate_every=6)
    assert result.num_steps == 12
    assert result.proof is not None
    assert result.proof.passed
    assert result.proof.num_rows == 24
    assert result.proof.serving_loss == pytest.approx(result.proof.trainer_loss, abs=1e-4)
    assert result.validation_loss == pytest.approx(result.proof.trainer_loss, abs=1e-4)
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (run / "checkpoints").exists()
    provenance = read_provenance(run)
    assert provenance is not None
    assert provenance.recipe["max_steps"] == 12
    assert len(provenance.generations) == 3
    llm = LLM("demo", dtype="fp32", adapters={"judge": str(run)})
    question = [
        {
            "role": "user",
            "content": json.loads(others.read_text().splitlines()[0])["messages"][0]["content"],
        }
    ]
    params = SamplingParams(temperature=0.0, max_tokens=24)
    base, adapted = (llm.chat([question], params, adapter=name) for name in (None, "judge"))
    assert base[0].outputs[0].text != adapted[0].outputs[0].text
    assert provenance.generations[0].reply.startswith(adapted[0].outputs[0].text[:20])


@pytest.mark.parametrize(
    "given",
    [
        {"qlora": True},
        {"full": True, "learning_rate": 1e-3},
        {"dora": True, "rslora": True, "targets": ["q_proj", "down_proj"]},
        {"pissa": True},
        {"precision": "bf16", "checkpointing": True, "accumulation": 2, "dropout": 0.1},
    ],
    ids=lambda given: "-".join(given),
)
def test_every_way_to_train_is_served_as_it_was_trained(
    given: dict[str, object], rows: Path, tmp_path: Path
) -> None:
    result = train(rows, tmp_path / "run", **given)
    assert result.proof is not None
    assert result.proof.passed
    provenance = read_provenance(tmp_path / "run")
    assert provenance is not None
    assert provenance.base_quantization == ("nf4" if given.get("qlora") else None)


def test_an_adapter_of_qlora_is_merged_as_trained_and_says_how_it_is_served(
    rows: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    result = train(rows, run, qlora=True)
    assert result.proof is not None
    whole, trained = result.proof.whole_base_loss, result.proof.trainer_loss
    assert whole is not None
    assert abs(whole - trained) > 10 * abs(result.proof.serving_loss - trained)
    certificate = merge(str(run), out=tmp_path / "merged", dtype="fp32", report=lambda *_: None)
    # Merged onto the base as it is stored, the difference would be that of the two losses.
    assert certificate.mean_kl < 1e-7
    ids = tuple(range(20, 60))
    module = load_nf4(open_folder(resolve("demo")), dtype=torch.float32, device=CPU)
    with torch.inference_mode():
        peft = PeftModel.from_pretrained(module, run).eval()
        expected = peft(torch.tensor([ids])).logits[0]
    merged = make_engine(load_fp32(open_folder(tmp_path / "merged"))).logits(ids)
    torch.testing.assert_close(merged, expected, atol=2e-3, rtol=2e-3)
    load_backend("demo", options=BackendOptions(adapters={"judge": str(run)})).close()
    assert f"loss {whole:.4f} where training ended with {trained:.4f}" in caplog.text


def test_a_proof_takes_rows_whole_and_enough_of_them(tmp_path: Path) -> None:
    """A row with several questions is several examples, and few validation tokens say little."""
    question = {"question": "Who?", "options": ["Ann", "Bo"], "answer": "A"}
    rows = tmp_path / "rows.jsonl"
    nested = [{"problem": f"{n} men.", "questions": [question] * 3} for n in range(30)]
    rows.write_text("".join(json.dumps(each) + "\n" for each in nested))
    result = train(rows, tmp_path / "run", validation="0.1")
    assert result.proof is not None
    assert result.proof.passed
    assert result.proof.num_rows > 3
    assert result.proof.num_tokens > 256


@pytest.mark.parametrize("policy", ["skip", "truncate-left"])
def test_rows_that_are_too_long_are_kept_out_of_the_proof_too(policy: str, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A"}]
    conversations = [turns * 40, turns, turns * 2, turns * 40]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"messages": each}) + "\n" for each in conversations))
    result = train(rows, tmp_path / "run", too_long=policy, max_length=60)
    assert result.proof is not None
    assert result.proof.passed
    assert result.proof.num_rows == (2 if policy == "skip" else 4)
    with pytest.raises(InputError, match="no row is left: all 4 are longer than 4 tokens"):
        train(rows, tmp_path / "none", too_long="skip", max_length=4)


GOLDEN_STEPS = 12
GOLDEN_LOSSES = {4: 3.156, 8: 2.891, 12: 2.835}
"""Validation loss by step, of the recipe below, on an x86 CPU in fp32."""


@needs_shared
def test_a_real_model_learns_summaries_by_the_known_curve(tmp_path: Path) -> None:
    result = train(
        SHARED / "data/dialogsum/train.jsonl#300",
        tmp_path / "run",
        model=str(SHARED / "models/stories260K"),
        validation="0.1",
        map=["prompt=dialogue", "completion=summary"],
        max_length=512,
        too_long="skip",
        batch_size=8,
        max_steps=GOLDEN_STEPS,
        evaluate_every=4,
        learning_rate=5e-3,
    )
    assert result.proof is not None
    assert result.proof.passed
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    curve = {each["step"]: each["validation_loss"] for each in records if "validation_loss" in each}
    assert curve == pytest.approx(GOLDEN_LOSSES, abs=0.02)


def test_preferences_are_learned(rows: Path, tmp_path: Path) -> None:
    pairs = []
    for line in rows.read_text().splitlines():
        question, reply = json.loads(line)["messages"]
        worse = {"role": "assistant", "content": "The answer is unknown."}
        pairs.append({"messages": [question], "chosen": [reply], "rejected": [worse]})
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, pairs)))
    result = train(file, tmp_path / "dpo", method="dpo", max_steps=8, learning_rate=1e-3)
    assert result.proof is not None
    assert result.proof.passed
    entries = (tmp_path / "dpo" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in entries]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # neither reply is preferred yet
    assert losses[-1] < 0.5


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


def test_two_processes_learn_as_one_does(rows: Path, tmp_path: Path) -> None:
    """Two with a batch of one see in a step what one with a batch of two does."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(rows, one, **LONGER)
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    command = in_other_processes(rows, two, *launcher, batch_size=1)
    subprocess.run(command, check=True, capture_output=True)
    assert losses_of(two) == pytest.approx(losses_of(one), abs=2e-3)


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


def shifted(example: EncodedExample) -> EncodedExample:
    return replace(example, is_target=(False, *example.is_target[:-1]))


def with_second_first_token(example: EncodedExample) -> EncodedExample:
    return replace(
        example,
        token_ids=(example.token_ids[0], *example.token_ids),
        is_target=(False, *example.is_target),
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (shifted, "the loss mask is off"),
        (with_second_first_token, "row 1, token 1: training saw '<|im_start|>'"),
    ],
)
def test_the_proof_finds_what_training_saw_and_serving_does_not(
    fault: object, words: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Encoder.encode
    calls = []

    def faulty(self: Encoder, row: object) -> tuple[EncodedExample, ...]:
        calls.append(row)
        right = encode(self, row)
        return tuple(map(fault, right)) if len(calls) <= 24 else right

    monkeypatch.setattr(Encoder, "encode", faulty)
    with pytest.raises(ParityError, match=words):
        train(rows, tmp_path / "run", max_steps=1)
    with pytest.raises(AdapterError, match="failed the proof of its training"):
        LLM("demo", adapters={"a": str(tmp_path / "run")})


def test_the_proof_finds_an_adapter_that_is_not_the_one_in_memory(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import martlet.train.job as module

    write = module._write

    def faulty(*given: object) -> None:
        write(*given)
        weights = weights_of(tmp_path / "run")
        worse = {name: each * 1.5 for name, each in weights.items()}
        safetensors.torch.save_file(worse, tmp_path / "run" / WEIGHTS)

    monkeypatch.setattr(module, "_write", faulty)
    with pytest.raises(ParityError, match=r"the first token that differs is .*rows.jsonl, row "):
        train(rows, tmp_path / "run", max_steps=8)


def test_an_adapter_is_served_with_its_own_template_and_base_alone(
    rows: Path, tmp_path: Path
) -> None:
    from martlet.demo import model_path

    run = tmp_path / "run"
    train(rows, run, max_steps=1)
    template = (model_path() / "chat_template.jinja").read_text()
    edited = tmp_path / "edited.jinja"
    edited.write_text(template.replace("assistant", "helper"))
    with pytest.raises(
        AdapterError, match=r"trained with the chat template .* add --chat-template"
    ):
        LLM("demo", adapters={"a": str(run)}, chat_template=edited)
    weights = weights_of(run)
    renamed = {name.replace("q_proj", "query"): each for name, each in weights.items()}
    safetensors.torch.save_file(renamed, run / WEIGHTS)
    with pytest.raises(AdapterError, match="query"):
        LLM("demo", adapters={"a": str(run)})


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


def test_a_run_stops_early_with_its_best_weights(rows: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = {"evaluate_every": 2, "patience": 1, "learning_rate": 0.05, "max_steps": 40}
    validation = write_rows(tmp_path / "validation.jsonl", count=24, seed=5)
    result = train(rows, run, validation=str(validation), report=["tensorboard"], **given)
    assert result.num_steps < 40
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [each["validation_loss"] for each in records if "validation_loss" in each]
    assert result.proof is not None
    assert min(losses) < losses[-1]
    assert result.proof.trainer_loss == pytest.approx(min(losses), abs=1e-4)
    assert list((run / "tensorboard").glob("events.*"))


def test_what_is_missing_is_one_clear_line(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "training_step", exhaust)
        with pytest.raises(ResourceError, match="--batch-size") as refusal:
            train(rows, tmp_path / "small")
    for setting in ("--checkpointing", "--max-length"):
        assert setting in str(refusal.value)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ParameterError, match="pip install wandb"):
        train(rows, tmp_path / "told", report=["wandb"])
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"martlet\[train\]"):
        train(rows, tmp_path / "four", qlora=True)
    assert not (tmp_path / "four").exists()


def test_a_base_without_a_template_is_refused(rows: Path, tmp_path: Path) -> None:
    import shutil

    from martlet.demo import model_path

    bare = tmp_path / "bare"
    shutil.copytree(model_path(), bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(TemplateError, match="no chat template"):
        train(rows, tmp_path / "run", model=str(bare))
