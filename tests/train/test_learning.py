"""Whole runs: trained, proven, and served as they were trained."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from martlet import LLM, SamplingParams
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.export.run import merge
from martlet.lora.provenance import read_provenance
from martlet.models.folder import open_folder
from martlet.models.nf4 import load_nf4
from martlet.models.resolve import resolve
from support.engines import load_fp32, make_engine
from support.shared import SHARED, needs_shared
from train.runs import PEFT_WARNINGS, train, write_rows

pytestmark = PEFT_WARNINGS


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


CPU = torch.device("cpu")


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
