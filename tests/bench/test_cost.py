"""The least that a work takes, against operations that are counted while the model really runs."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from martlet.bench.cost import Cost, ModelCost
from martlet.bench.limits import Limits, measure_limits
from martlet.bench.peers.protocol import Ask, Work
from martlet.models.folder import open_folder
from support.tiny_models import tiny_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder("qwen2", tmp_path_factory.mktemp("models") / "qwen2")


def model_cost(folder: Path) -> ModelCost:
    cost = ModelCost.of(open_folder(folder), torch.float32, "stored")
    assert cost is not None
    return cost


def work_of(*asks: Ask, num_samples: int = 1) -> Work:
    return Work("work", "", list(asks), num_samples=num_samples)


def test_linear_layers_and_attention_are_counted_as_they_run(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    length = 12
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.randint(0, 50, (1, length)), logits_to_keep=1)
    cost = model_cost(folder)
    ours = Cost.of(work_of(Ask(list(range(length)), 1)), cost)
    assert ours is not None
    # The eager model also multiplies with keys that come later, and masks them.
    masked = cost.attention_operations * length * (length - 1) // 2
    # The angles of the rotary embedding are a product too, a small one.
    rotary = counter.get_total_flops() - (ours.num_operations + masked)
    assert 0 <= rotary <= 0.01 * counter.get_total_flops()


def test_what_is_shared_counts_once(folder: Path) -> None:
    cost = model_cost(folder)
    shared, tail = list(range(20)), [30, 31]
    together = Cost.of(work_of(Ask([*shared, *tail], 1), Ask(shared, 1)), cost)
    longer = Cost.of(work_of(Ask([*shared, *tail], 1)), cost)
    assert together is not None
    assert longer is not None
    # The second one needs no more than its logits.
    assert together.num_operations - longer.num_operations == 2 * cost.head_values


def test_samples_add_their_own_tokens_alone(folder: Path) -> None:
    cost = model_cost(folder)
    one, three = (Cost.of(work_of(Ask([1] * 20, 5), num_samples=n), cost) for n in (1, 3))
    assert one is not None
    assert three is not None
    added = 4 * (2 * cost.layer_values + cost.attention_operations * 20) + 5 * 2 * cost.head_values
    added += cost.attention_operations * (1 + 2 + 3 + 4)
    assert three.num_operations - one.num_operations == 2 * added


def test_no_limit_is_claimed_for_what_ends_when_it_likes(folder: Path) -> None:
    work = Work("work", "", [Ask([1], 5)], stop_ids=[2])
    assert Cost.of(work, model_cost(folder)) is None


def test_the_larger_of_both_limits_counts() -> None:
    cost = Cost(num_operations=4e9, num_bytes=6e9)
    for read_gb_per_s, seconds in ((3, 2.0), (30, 0.5)):
        limits = Limits(
            read_gb_per_s=read_gb_per_s, product_gflop_per_s=8, product_dtype="bfloat16"
        )
        assert cost.least_seconds(limits) == seconds


def test_the_machine_gives_something() -> None:
    limits = measure_limits(torch.float32)
    assert limits.read_gb_per_s > 0.1
    assert limits.product_gflop_per_s > 0.1
