"""The least that a work takes, against operations that are counted while the model really runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from martlet.bench.cost import Cost, Load, ModelCost
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
    # And it computes the last layer of all tokens.
    last = 2 * cost.last_layer_values * (length - 1)
    last += cost.last_attention_operations * length * (length - 1) // 2
    # The angles of the rotary embedding are a product too, a small one.
    rotary = counter.get_total_flops() - (ours.whole.num_operations + masked + last)
    assert 0 <= rotary <= 0.01 * counter.get_total_flops()


def test_weights_take_the_bytes_in_which_an_engine_holds_them(folder: Path) -> None:
    opened = open_folder(folder)
    whole = ModelCost.of(opened, torch.bfloat16, "stored")
    compact = ModelCost.of(opened, torch.bfloat16, "stored", stored_size=1.5)
    rounded = ModelCost.of(opened, torch.bfloat16, "int8", stored_size=1.5)
    assert whole is not None
    assert compact is not None
    assert rounded is not None
    num_values = whole.layer_values + whole.head_values
    assert whole.weights_bytes == 2 * num_values
    assert compact.weights_bytes == 1.5 * num_values
    assert rounded.weights_bytes == num_values


def test_what_is_shared_counts_once(folder: Path) -> None:
    cost = model_cost(folder)
    shared, tail = list(range(20)), [30, 31]
    together = Cost.of(work_of(Ask([*shared, *tail], 1), Ask(shared, 1)), cost)
    longer = Cost.of(work_of(Ask([*shared, *tail], 1)), cost)
    assert together is not None
    assert longer is not None
    # The second one needs no more than its logits, and for them the last layer.
    added = 2 * (cost.head_values + cost.last_layer_values) + 20 * cost.last_attention_operations
    assert together.whole.num_operations - longer.whole.num_operations == added


def test_samples_add_their_own_tokens_alone(folder: Path) -> None:
    cost = model_cost(folder)
    one, three = (Cost.of(work_of(Ask([1] * 20, 5), num_samples=n), cost) for n in (1, 3))
    assert one is not None
    assert three is not None
    # The first token of each is drawn from the same logits.
    added = 4 * (2 * (cost.layer_values + cost.head_values) + cost.attention_operations * 20)
    added += cost.attention_operations * (1 + 2 + 3 + 4)
    assert three.whole.num_operations - one.whole.num_operations == 2 * added


def test_no_limit_is_claimed_for_what_ends_when_it_likes(folder: Path) -> None:
    work = Work("work", "", [Ask([1], 5)], stop_ids=[2])
    assert Cost.of(work, model_cost(folder)) is None


def limits(read_gb_per_s: float) -> Limits:
    return Limits(read_gb_per_s=read_gb_per_s, product_gflop_per_s=8, product_dtype="bfloat16")


def test_the_larger_of_both_limits_counts() -> None:
    load = Load(num_operations=4e9, num_bytes=6e9)
    assert load.least_seconds(limits(3)) == 2.0
    assert load.least_seconds(limits(30)) == 0.5


def test_a_request_does_one_after_the_other_and_a_crowd_both_at_once() -> None:
    products = Load(num_operations=4e9, num_bytes=1e9)
    reads = Load(num_operations=1e9, num_bytes=6e9)
    alone = Load(num_operations=5e9, num_bytes=7e9)
    crowd = Load(num_operations=40e9, num_bytes=7e9)
    for whole, seconds in ((alone, 0.5 + 2.0), (crowd, 5.0)):
        cost = Cost(whole=whole, longest_prompt=products, longest_reply=reads)
        assert cost.least_seconds(limits(3)) == seconds


def test_a_work_of_one_request_is_its_prompt_and_its_reply(folder: Path) -> None:
    model = replace(model_cost(folder), weights_bytes=1e9)
    cost = Cost.of(work_of(Ask([1] * 20, 5)), model)
    assert cost is not None
    parts = (cost.longest_prompt, cost.longest_reply)
    assert sum(part.num_operations for part in parts) == cost.whole.num_operations
    assert sum(part.num_bytes for part in parts) == cost.whole.num_bytes
    assert cost.longest_prompt.num_bytes == 1e9
    assert cost.longest_reply.num_bytes == 4e9 + model.kv_bytes * (4 * 20 + 1 + 2 + 3 + 4)


def test_what_counts_is_between_before_and_after() -> None:
    assert limits(30).between(limits(50)) == limits(40)


def test_the_machine_gives_something() -> None:
    limits = measure_limits(torch.float32)
    assert limits.read_gb_per_s > 0.1
    assert limits.product_gflop_per_s > 0.1
