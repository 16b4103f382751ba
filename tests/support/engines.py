"""Engines over real tiny models, and transformers' own replies to compare theirs with."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from martlet.engine.config import EngineConfig, KVDtype
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.models.causal_lm import logits_of
from martlet.models.decoder.decoder import Decoder, causal_attention
from martlet.models.folder import ModelFolder
from martlet.models.load import LoadedModel, load_model

CPU = torch.device("cpu")
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Reply:
    """What transformers' `generate` answers greedily, with the log-probability of each token."""

    token_ids: list[int]
    logprobs: list[float]


def load_fp32(folder: ModelFolder) -> LoadedModel:
    """The oracle's precision."""
    return load_model(folder, dtype=torch.float32, device=CPU)


def load_reference(folder: ModelFolder) -> PreTrainedModel:
    """The same weights, with transformers' own attention."""
    model = AutoModelForCausalLM.from_pretrained(
        folder.path, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


@torch.inference_mode()
def plain_logits(model: LoadedModel, token_ids: Sequence[int]) -> Tensor:
    """What a loaded model computes for one sequence alone, without an engine: `[T, V]`."""
    if isinstance(model.module, Decoder):
        model.module.attention = causal_attention
    else:
        model.module.set_attn_implementation("eager")
    places = torch.arange(len(token_ids))
    ids = torch.tensor([token_ids])
    return logits_of(model.module, input_ids=ids, position_ids=places[None], rows=places)


@torch.inference_mode()
def greedy_reply(model: PreTrainedModel, prompt_ids: Sequence[int], num_tokens: int) -> Reply:
    """`num_tokens` of transformers' greedy reply to one prompt alone; end tokens do not end it."""
    generated = model.generate(
        torch.tensor([list(prompt_ids)]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        max_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    token_ids = generated.sequences[0, len(prompt_ids) :].tolist()
    logprobs = [
        torch.log_softmax(logits[0].float(), dim=-1)[token_id].item()
        for logits, token_id in zip(generated.logits, token_ids, strict=True)
    ]
    return Reply(token_ids, logprobs)


def make_engine(
    model: LoadedModel,
    *,
    num_blocks: int = 256,
    max_num_requests: int = 32,
    max_num_batched_tokens: int = 1024,
    max_context_tokens: int | None = None,
    prefix_sharing: bool = True,
    uses_kernels: bool = False,
    kv_dtype: KVDtype = "model",
    graph_sizes: tuple[int, ...] = (),
    speculation: bool = True,
) -> Engine:
    """An engine small enough for tests."""
    limit = min(model.max_context_tokens, num_blocks * BLOCK_SIZE)
    return Engine(
        model,
        EngineConfig(
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            max_num_requests=max_num_requests,
            max_num_batched_tokens=min(
                max_num_batched_tokens, model.max_packed_tokens or max_num_batched_tokens
            ),
            max_context_tokens=min(limit, max_context_tokens or limit),
            # None, so that small pools preempt.
            headroom_blocks=0,
            prefix_sharing=prefix_sharing,
            uses_kernels=uses_kernels,
            kv_dtype=kv_dtype,
            graph_sizes=graph_sizes,
            speculation=speculation,
        ),
    )


def run_to_end(engine: Engine) -> None:
    """Steps until nothing is unfinished, checking the books after each step."""
    while engine.num_unfinished:
        engine.step()
        engine.check_integrity()


def greedy(num_tokens: int, *, logprobs: int | None = 0) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True, logprobs=logprobs)


def assert_same(request: Request, expected: Reply, *, tolerance: float = 1e-4) -> None:
    """The same tokens, and log-probabilities equal to the tolerance."""
    assert request.error is None
    assert request.output_ids == expected.token_ids
    got = [scores.logprob for scores in request.logprobs]
    assert got == pytest.approx(expected.logprobs, abs=tolerance)
