"""Layers that share their work compute what each of them did alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2Config, Qwen2MLP

from martlet.models.folder import open_folder
from martlet.models.gated_mlp import ROWS_AT_ONCE, GatedMLP, fuse_mlp
from martlet.models.heap import huge_pages, keep_freed_memory
from martlet.models.linear.joined import join
from martlet.models.linear.packed import PackedLinear, can_pack
from martlet.models.load import LoadedModel, load_model
from martlet.models.swap import swap_leaves
from support.engines import make_engine
from support.tiny_models import tiny_model_folder

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(not can_pack(), reason="this CPU packs no bf16 weights")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def packed_mlp(num_layers: int = 1) -> nn.Sequential:
    config = Qwen2Config(hidden_size=64, intermediate_size=160)
    model = nn.Sequential(*(Qwen2MLP(config).bfloat16() for _ in range(num_layers)))
    return model.requires_grad_(False)


@pytest.mark.parametrize("has_bias", [True, False])
def test_joined_layers_give_what_each_gave_in_any_order(has_bias: bool) -> None:
    linears = [nn.Linear(32, width, bias=has_bias) for width in (48, 16, 8)]
    parts = join(linears, lambda linear: linear())
    x, other = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    for index, seen in ((0, x), (2, x), (1, other), (1, x), (0, other), (0, other), (2, other)):
        torch.testing.assert_close(parts[index](seen), linears[index](seen))


def test_joined_layers_compute_once_and_keep_nothing_behind() -> None:
    calls = []
    product = nn.Module()
    product.forward = lambda x: calls.append(x) or torch.cat((x, 2 * x), dim=-1)  # type: ignore
    parts = join([nn.Linear(4, 4), nn.Linear(4, 4)], lambda _: product)
    x = torch.ones(1, 3, 4)
    assert torch.equal(parts[0](x), x)
    assert torch.equal(parts[1](x), 2 * x)
    assert len(calls) == 1
    assert parts[0].joined._computed is None


def test_layers_of_different_kinds_are_not_joined() -> None:
    assert join([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)], lambda linear: linear) == ()
    assert join([nn.Linear(4, 4), nn.Linear(8, 4)], lambda linear: linear) == ()
    assert join([nn.Linear(4, 4), nn.Identity()], lambda linear: linear) == ()


@needs_packing
def test_a_fused_mlp_computes_the_same_in_parts() -> None:
    model = packed_mlp()
    x = torch.randn(1, 2 * ROWS_AT_ONCE + 50, 64).bfloat16()
    expected = model(x).float()
    swap_leaves(model)
    assert isinstance(model[0], GatedMLP)
    got = model(x).float()
    assert (got - expected).norm() < 0.02 * expected.norm()


@needs_packing
def test_an_mlp_that_computes_something_else_is_left_alone() -> None:
    class ScaledMLP(Qwen2MLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 0.5

    mlp = ScaledMLP(Qwen2Config(hidden_size=64, intermediate_size=160)).bfloat16()
    mlp.requires_grad_(False)
    for name in ("gate_proj", "up_proj", "down_proj"):
        setattr(mlp, name, PackedLinear(mlp.get_submodule(name)))
    assert fuse_mlp(mlp, torch.bfloat16) is None


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    folder = open_folder(tiny_model_folder("qwen2", tmp_path / "model"))
    return load_model(folder, dtype=torch.bfloat16, device=CPU)


@needs_packing
@pytest.mark.parametrize("rows", [[3], [8, 2, 2], list(range(9)), []])
def test_the_last_mlp_computes_the_rows_that_the_head_sees(
    rows: list[int], model: LoadedModel
) -> None:
    assert model.last_mlp is not None
    wanted, seen = torch.tensor(rows, dtype=torch.long), []
    model.last_mlp.gate_proj.register_forward_hook(lambda _, x, __: seen.append(x[0].shape[1]))
    prompt = tuple(range(20, 29))
    expected = make_engine(model).logits(prompt)
    forward = LoadedModel.forward

    def only(self: LoadedModel, **keywords: object) -> torch.Tensor:
        own = {"logit_rows": wanted, "wants_all_rows": rows == list(range(9))}
        return forward(self, **{**keywords, **own})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadedModel, "forward", only)
        got = make_engine(model).logits(prompt)
    assert seen == [9, len(rows)]
    torch.testing.assert_close(got, expected[wanted], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("has_hole", [False, True])
def test_what_is_allocated_meanwhile_asks_for_huge_pages(has_hole: bool) -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        pytest.skip("this system has no huge pages")
    # In a process of its own, of whose heap everything is known.
    code = f"from models.test_fused_layers import print_flags; print_flags(has_hole={has_hole})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hg" in done.stdout.split()


def print_flags(*, has_hole: bool) -> None:
    """What Linux was told of a tensor that is made meanwhile.

    Args:
        has_hole: Whether it fits in where an earlier model was.
    """
    keep_freed_memory()
    before = [torch.ones(2**21) for _ in range(8 * has_hole)]  # 8 MiB each
    above = torch.ones(2**20)
    del before
    with huge_pages(2**27):  # More than the hole has room for.
        values = torch.ones(2**23)  # 32 MiB
    assert values.sum() == 2**23
    assert (values.data_ptr() < above.data_ptr()) == has_hole
    print(*flags_of(values.data_ptr() + values.nbytes // 2))


def flags_of(address: int) -> list[str]:
    """What Linux was told of the mapping that an address lies in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head, *rest = line.split()
        if "-" in head and ":" not in head:
            low, high = (int(part, 16) for part in head.split("-"))
            inside = low <= address < high
        elif inside and head == "VmFlags:":
            return rest
    raise LookupError(address)
