"""The proof of a run, and every planted fault found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch

import martlet.train.job
from martlet import LLM
from martlet.demo import model_path
from martlet.errors import AdapterError, InputError, ParityError
from martlet.train.encoding import EncodedExample, Encoder
from train.runs import PEFT_WARNINGS, WEIGHTS, train, weights_of

pytestmark = PEFT_WARNINGS


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
    write = martlet.train.job.write_trained

    def faulty(*given: object) -> None:
        write(*given)
        weights = weights_of(tmp_path / "run")
        worse = {name: each * 1.5 for name, each in weights.items()}
        safetensors.torch.save_file(worse, tmp_path / "run" / WEIGHTS)

    monkeypatch.setattr(martlet.train.job, "write_trained", faulty)
    with pytest.raises(ParityError, match=r"the first token that differs is .*rows.jsonl, row "):
        train(rows, tmp_path / "run", max_steps=8)


def test_an_adapter_is_served_with_its_own_template_and_base_alone(
    rows: Path, tmp_path: Path
) -> None:
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
