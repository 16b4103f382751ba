"""The backend over tiny models, and what tests ask of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from martlet.backends.base import Backend, SampleOutput, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.backends.transformers import TransformersBackend
from martlet.engine.params import SamplingParams
from support.tiny_models import VOCAB_SIZE, tiny_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=12)
SHORT_CONTEXT_TOKENS = 40


def save_model(architecture: str, sizes: Mapping[str, object], folder: Path) -> Path:
    """A tiny random model of an architecture that `tiny_model_folder` does not make."""
    special_ids = {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    config = AutoConfig.for_model(architecture, vocab_size=VOCAB_SIZE, **special_ids, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def load_plain(
    folder: Path, *, max_num_requests: int = 8, max_context_tokens: int | None = None
) -> TransformersBackend:
    options = BackendOptions(
        backend="transformers",
        dtype="fp32",
        device="cpu",
        max_num_requests=max_num_requests,
        max_context_tokens=max_context_tokens,
    )
    backend = load_backend(str(folder), options=options)
    assert isinstance(backend, TransformersBackend)
    return backend


def make_prompts(num_prompts: int) -> list[tuple[int, ...]]:
    random = Random(7)
    lengths = [3 + 17 * number % 40 for number in range(num_prompts)]
    return [tuple(random.choices(range(10, VOCAB_SIZE), k=length)) for length in lengths]


def make_requests(
    prompts: Sequence[tuple[int, ...]], params: SamplingParams
) -> list[SampleRequest]:
    return [
        SampleRequest(request_id=f"row-{row}", prompt_ids=prompt, params=params, seed=100 + row)
        for row, prompt in enumerate(prompts)
    ]


def run_all(backend: Backend, requests: Sequence[SampleRequest]) -> dict[str, SampleOutput]:
    for request in requests:
        backend.submit(request)
    outputs: dict[str, SampleOutput] = {}
    while backend.num_unfinished:
        outputs |= {output.request_id: output for output in backend.poll()}
    assert backend.poll() == []
    return outputs


def run_one(backend: Backend, prompt: tuple[int, ...], params: SamplingParams) -> SampleOutput:
    return run_all(backend, make_requests([prompt], params))["row-0"]
