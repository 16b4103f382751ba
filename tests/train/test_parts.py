"""Packed rows, their loss, and the config: the parts of training by themselves."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from martlet.errors import NotFoundError, ParameterError
from martlet.train.batches import Collate, pack, pad
from martlet.train.config import resolve_config, to_fields
from martlet.train.encoding import EncodedExample
from martlet.train.example import Origin
from martlet.train.loss import VALUES_AT_ONCE, token_losses
from martlet.train.segments import attend_in_segments
from martlet.train.sft import mean_loss
from support.tiny_models import VOCAB_SIZE, tiny_model_folder


def sequences() -> list[EncodedExample]:
    generator = torch.Generator().manual_seed(2)
    made = []
    for row, length in enumerate((30, 7, 41)):
        ids = torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist()
        mask = torch.rand(length, generator=generator) < 0.4
        made.append(
            EncodedExample(
                origin=Origin(path="rows.jsonl", row=row + 1),
                token_ids=tuple(ids),
                is_target=tuple(mask.tolist()),
            )
        )
    return made


def loss_and_gradients(
    model: PreTrainedModel, collate: Collate
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    batch = collate(sequences())
    labels = batch.pop("labels")
    loss = mean_loss(model(**batch), labels, None)
    loss.backward()
    return loss.item(), {name: each.grad.clone() for name, each in model.named_parameters()}


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt_neox", "granite"])
def test_packed_rows_learn_as_padded_ones_do(architecture: str, tmp_path: Path) -> None:
    folder = tiny_model_folder(architecture, tmp_path / architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    loss, gradients = loss_and_gradients(model, pad)
    assert attend_in_segments(model)
    packed_loss, packed = loss_and_gradients(model, pack)
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        assert torch.allclose(packed[name], gradient, atol=1e-4), name


@pytest.mark.parametrize("architecture", ["mistral", "gemma2", "gpt_oss", "llama4"])
def test_rows_are_padded_where_segments_would_compute_something_else(
    architecture: str, tmp_path: Path
) -> None:
    folder = tiny_model_folder(architecture, tmp_path / architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = model.config._attn_implementation
    assert not attend_in_segments(model)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_those_of_cross_entropy(
    dtype: torch.dtype,
) -> None:
    num_words = 2**14
    num_rows = 2 * VALUES_AT_ONCE // num_words + 3  # three pieces
    generator = torch.Generator().manual_seed(0)
    values = 5 * torch.randn(num_rows, num_words, generator=generator).to(dtype)
    targets = torch.randint(num_words, (num_rows,), generator=generator)
    weights = torch.rand(num_rows, generator=generator)
    expected, given = (values.clone().requires_grad_() for _ in range(2))
    losses = nn.functional.cross_entropy(expected.float(), targets, reduction="none")
    (losses * weights).sum().backward()
    ours = token_losses(given * 1.0, targets)
    assert torch.allclose(ours, losses, atol=1e-5)
    (ours * weights).sum().backward()
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3
    assert torch.allclose(given.grad.float(), expected.grad.float(), atol=tolerance)


GIVEN = {"data": ["rows.jsonl"], "model": "demo", "out": Path("run")}


def test_a_file_sets_fields_and_the_command_line_goes_before_it(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("rank: 4\nlearning-rate: 3e-4\ndata: [a.jsonl, b.jsonl]\nreport: tensorboard\n")
    given = {name: value for name, value in GIVEN.items() if name != "data"}
    config = resolve_config({**given, "rank": 8}, file=file)
    assert config.tuner.rank == 8
    assert config.learning_rate == 3e-4
    assert config.data == ("a.jsonl", "b.jsonl")
    assert config.keep.report == ("tensorboard",)


def test_what_a_run_writes_down_makes_the_same_run(tmp_path: Path) -> None:
    import yaml

    config = resolve_config({**GIVEN, "dora": True, "targets": ["q_proj"], "epochs": 2})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(to_fields(config)))
    assert resolve_config({}, file=file) == config


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("rnak: 8", "unknown field 'rnak'; did you mean rank?"),
        ("rank: eight", "rank must be a whole number, not 'eight'"),
        ("rank: 0", "rank=0 is out of range: at least 1"),
        ("learning_rate: 0", "learning_rate=0 is out of range: above 0"),
        ("dropout: 1", "dropout=1 is out of range: below 1"),
        ("method: ppo", "method must be one of sft, dpo, not 'ppo'"),
        ("full: true\nqlora: true", "--full trains all weights and --qlora an adapter"),
        ("full: true\ndora: true", "--dora is for an adapter"),
        ("[rank, 8]", "must hold fields and values"),
        ("rank: [", "is not valid YAML"),
    ],
)
def test_a_config_that_cannot_be_is_refused(content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(content)
    with pytest.raises(ParameterError) as refused:
        resolve_config(GIVEN, file=file)
    assert words in str(refused.value)


def test_what_must_be_given_is_asked_for() -> None:
    for name in GIVEN:
        rest = {key: value for key, value in GIVEN.items() if key != name}
        with pytest.raises(ParameterError) as refused:
            resolve_config(rest)
        assert refused.value.param == name
    with pytest.raises(NotFoundError, match="no such config"):
        resolve_config(GIVEN, file=Path("nowhere.yaml"))
