"""The faster leaves compute what the slow ones did, and loading keeps no weight twice."""

import re
import weakref
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from martlet.models.embedding import read_from_file
from martlet.models.folder import open_folder
from martlet.models.linear.packed import PackedLinear, can_pack
from martlet.models.load import load_model
from martlet.models.mapped_pages import MappedPages
from martlet.models.norm import FusedRMSNorm, fuse
from martlet.models.swap import swap_leaves
from support.engines import plain_logits
from support.tiny_models import tiny_model_folder

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(not can_pack(), reason="this CPU packs no bf16 weights")


def random_bf16(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).bfloat16()


@needs_packing
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("num_rows", [0, 1, 3, 16, 100])
def test_a_packed_linear_equals_the_plain_one(num_rows: int, has_bias: bool) -> None:
    linear = nn.Linear(96, 40, bias=has_bias, dtype=torch.bfloat16)
    x = random_bf16(1, num_rows, 96)
    torch.testing.assert_close(PackedLinear(linear)(x), linear(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm])
def test_norms_are_fused_whether_or_not_the_weight_is_stored_less_one(kind) -> None:
    norm = kind(64, eps=1e-5).to(torch.bfloat16)
    norm.weight.data.add_(random_bf16(64) * 0.1)
    fused = fuse(norm)
    assert isinstance(fused, FusedRMSNorm)
    x = random_bf16(3, 5, 64)
    torch.testing.assert_close(fused(x), norm(x), rtol=2e-2, atol=2e-2)


def test_a_norm_that_computes_something_else_is_left_alone() -> None:
    class CenteredRMSNorm(LlamaRMSNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x - x.mean(dim=-1, keepdim=True))

    assert fuse(CenteredRMSNorm(64).to(torch.bfloat16)) is None


def test_nothing_is_replaced_in_fp32(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder("llama", tmp_path))
    assert swap_leaves(model) == 0


@needs_packing
def test_each_old_weight_is_let_go_before_the_next_is_packed(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder("llama", tmp_path)).bfloat16()
    model.requires_grad_(False)
    linears = [weakref.ref(m) for m in model.modules() if type(m) is nn.Linear]
    num_alive: list[int] = []
    original = PackedLinear.__init__

    def counting(packed: PackedLinear, linear: nn.Linear) -> None:
        original(packed, linear)
        num_alive.append(sum(reference() is not None for reference in linears))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedLinear, "__init__", counting)
        swap_leaves(model)
    # Query, key and value go together: when they are packed they are alive, and then all three go.
    drops = [before - after for before, after in pairwise(num_alive)]
    assert num_alive[0] == len(linears)
    assert set(drops) == {1, 3}
    assert num_alive[-1] == 1


@needs_packing
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "gpt2", "qwen3_moe"])
def test_a_swapped_model_answers_like_the_plain_one(architecture: str, tmp_path: Path) -> None:
    path = tiny_model_folder(architecture, tmp_path / architecture)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    swapped = load_model(open_folder(path), dtype=torch.bfloat16, device=CPU)
    ids = list(range(20, 60))
    with torch.inference_mode():
        expected = plain(torch.tensor([ids])).logits[0].float()
    got = plain_logits(swapped, ids).float()
    assert (got - expected).norm() / expected.norm() < 0.05


def resident_kib(path: Path) -> int:
    """Of a mapped file's pages, those that are in memory; those of libraries come and go."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("the operating system does not tell")
    mappings = re.split(r"^(?=\w+-\w+ )", smaps.read_text(), flags=re.MULTILINE)
    own = [each for each in mappings if each.partition("\n")[0].endswith(f" {path}")]
    return sum(int(re.findall(r"^Rss:\s+(\d+)", each, re.MULTILINE)[0]) for each in own)


def test_pages_of_a_weight_file_are_given_back_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.arange(2**23, dtype=torch.float32)}, path)
    weight = load_file(path)["weight"]
    total = weight.double().sum()
    before = resident_kib(path)
    MappedPages().give_back(weight)
    assert before - resident_kib(path) > 30_000, "32 MiB were mapped and touched"
    assert weight.double().sum() == total


def test_memory_that_is_no_file_is_left_alone() -> None:
    weight = torch.ones(2**22)
    MappedPages().give_back(weight)
    assert weight.sum() == 2**22


@pytest.fixture
def embedding_file(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """32 MiB, and what is in it: row i has i in each column."""
    path = tmp_path / "weights.safetensors"
    whole = torch.arange(2**15)[:, None].expand(-1, 2**9).bfloat16().contiguous()
    save_file({"other": torch.ones(3), "weight": whole}, path)
    return path, whole


def test_an_embedding_in_a_file_holds_no_pages(embedding_file: tuple[Path, torch.Tensor]) -> None:
    path, whole = embedding_file
    model = nn.Sequential(nn.Embedding.from_pretrained(load_file(path)["weight"]))
    swap_leaves(model)
    before = resident_kib(path)
    ids = torch.arange(0, 2**15, 8)
    rows = model(ids[None])
    assert resident_kib(path) - before < 1_000, "mapped, each row has 1 KiB and all around it"
    assert torch.equal(rows, whole[ids][None])
    with pytest.raises(IndexError, match="from 0 to 32767"):
        model(torch.tensor([2**15]))


def test_an_embedding_whose_file_was_replaced_stays_mapped(
    embedding_file: tuple[Path, torch.Tensor],
) -> None:
    path, whole = embedding_file
    embedding = nn.Embedding.from_pretrained(load_file(path)["weight"])
    pages = MappedPages()
    path.unlink()
    save_file({"other": torch.ones(3), "weight": whole + 1}, path)
    assert read_from_file(embedding, pages) is None
    path.unlink()
    assert read_from_file(embedding, pages) is None
