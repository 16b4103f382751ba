"""The pool of keys and values: its arithmetic, by hand and at random, and its refusals."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from martlet.errors import ModelError, ResourceError
from martlet.models.folder import open_folder
from martlet.models.memory import GIB, MIN_CONTEXT_TOKENS, kv_bytes_per_token, plan_memory
from martlet.models.shape import read_shape
from support.tiny_models import ARCHITECTURES, tiny_model_folder


def test_the_pool_gets_half_of_what_weights_and_reserve_leave() -> None:
    plan = plan_memory(
        weights_bytes=2 * GIB,
        kv_bytes_per_token=1 << 16,
        block_size=16,
        max_context_tokens=4096,
        max_num_requests=1000,
        available_bytes=7 * GIB,
    )
    assert plan.pool_bytes == 2 * GIB
    assert plan.num_blocks == 2 * GIB // (16 << 16)
    assert plan.max_context_tokens == 4096


def test_the_pool_never_exceeds_what_all_requests_can_use() -> None:
    plan = plan_memory(
        weights_bytes=0,
        kv_bytes_per_token=1024,
        block_size=16,
        max_context_tokens=1000,  # 63 blocks
        max_num_requests=3,
        available_bytes=64 * GIB,
    )
    assert plan.num_blocks == 3 * 63


def test_a_context_that_does_not_fit_is_shortened_and_said() -> None:
    plan = plan_memory(
        weights_bytes=GIB,
        kv_bytes_per_token=1 << 17,
        block_size=16,
        max_context_tokens=131_072,
        max_num_requests=64,
        available_bytes=4 * GIB,
    )
    assert plan.max_context_tokens == plan.num_tokens == GIB >> 17
    assert plan.lines[-1] == "context      8,192 tokens fit in the pool, of 131,072"


def test_the_lines_add_up() -> None:
    plan = plan_memory(
        weights_bytes=GIB // 2,
        kv_bytes_per_token=1 << 16,
        block_size=32,
        max_context_tokens=2048,
        max_num_requests=4,
        available_bytes=4 * GIB,
        cap_bytes=GIB // 4,
    )
    assert plan.lines == (
        "available    4.00 GiB (as given)",
        "weights      0.50 GiB",
        "reserve      1.00 GiB (activations, logits, tokenizer)",
        "pool, limit  0.25 GiB",
        "pool, need   0.50 GiB (every request at its longest)",
        "pool         0.25 GiB = 128 blocks x 32 tokens x 65,536 bytes",
    )


@pytest.mark.parametrize(
    ("available_bytes", "cap_bytes", "words"),
    [
        (2 * GIB, None, ("2.00 GiB of memory is available", "4.06 GiB is needed", "smaller")),
        (2 * GIB, GIB, ("2.00 GiB of memory is available", "4.03 GiB is needed")),
        (8 * GIB, 1 << 20, ("the cap", "0.00 GiB", "takes 0.03 GiB", "raise the cap")),
    ],
)
def test_what_cannot_fit_is_refused(
    available_bytes: int, cap_bytes: int | None, words: tuple[str, ...]
) -> None:
    with pytest.raises(ResourceError) as refusal:
        plan_memory(
            weights_bytes=3 * GIB,
            kv_bytes_per_token=1 << 16,
            block_size=16,
            max_context_tokens=4096,
            max_num_requests=8,
            available_bytes=available_bytes,
            cap_bytes=cap_bytes,
        )
    assert refusal.value.exit_code == 6
    for word in words:
        assert word in str(refusal.value)


def test_the_machine_itself_is_asked_when_nothing_is_given() -> None:
    plan = plan_memory(
        weights_bytes=0,
        kv_bytes_per_token=1,
        block_size=1,
        max_context_tokens=1,
        max_num_requests=1,
    )
    assert plan.num_blocks == 1
    assert plan.available_bytes > 0
    assert plan.source != "as given"


@given(
    weights_bytes=st.integers(0, 32 * GIB),
    kv_bytes=st.integers(1, 1 << 20),
    block_size=st.sampled_from([1, 16, 64]),
    max_context_tokens=st.integers(1, 1 << 20),
    max_num_requests=st.integers(1, 512),
    available_bytes=st.integers(0, 64 * GIB),
    cap_bytes=st.none() | st.integers(0, 64 * GIB),
)
def test_a_plan_fits_or_is_refused(
    weights_bytes: int,
    kv_bytes: int,
    block_size: int,
    max_context_tokens: int,
    max_num_requests: int,
    available_bytes: int,
    cap_bytes: int | None,
) -> None:
    try:
        plan = plan_memory(
            weights_bytes=weights_bytes,
            kv_bytes_per_token=kv_bytes,
            block_size=block_size,
            max_context_tokens=max_context_tokens,
            max_num_requests=max_num_requests,
            available_bytes=available_bytes,
            cap_bytes=cap_bytes,
        )
    except ResourceError:
        return
    assert plan.taken_bytes + plan.pool_bytes <= available_bytes
    assert plan.pool_bytes <= plan.pool_need_bytes
    assert cap_bytes is None or plan.pool_bytes <= cap_bytes
    assert min(max_context_tokens, MIN_CONTEXT_TOKENS) <= plan.max_context_tokens
    assert plan.max_context_tokens <= min(max_context_tokens, plan.num_tokens)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bytes_per_token_are_those_that_reach_the_attention_function(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = 0

    def count_bytes(
        _module: torch.nn.Module,
        query: torch.Tensor,  # [1, H, T, D]
        key: torch.Tensor,  # [1, K, T, D]
        value: torch.Tensor,  # [1, K, T, V]
        *_: object,
        **__: object,
    ) -> tuple[torch.Tensor, None]:
        nonlocal num_bytes
        num_bytes += key.nbytes + value.nbytes
        _, num_heads, num_tokens, _ = query.shape
        return query.new_zeros(1, num_tokens, num_heads, value.shape[-1]), None

    folder = tiny_model_folder(architecture, tmp_path)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "count_bytes", count_bytes)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="count_bytes")
    num_tokens = 8
    model(torch.arange(num_tokens)[None], use_cache=False)
    shape = open_folder(folder).shape
    assert kv_bytes_per_token(shape, bytes_per_value=4) * num_tokens == num_bytes


def test_a_config_that_tells_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="how many bytes a token's keys"):
        kv_bytes_per_token(read_shape({"model_type": "unheard_of"}), bytes_per_value=2)
