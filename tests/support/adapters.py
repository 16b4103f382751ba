"""LoRA adapters made with PEFT itself, random but as if trained, and PEFT's own replies."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from martlet.models.folder import ModelFolder
from support.engines import Reply, greedy_reply, load_reference

SCALE = 0.3
"""How far trained values are from what they were: enough to change most greedy tokens."""


def make_adapter(
    folder: Path, base: ModelFolder, *, seed: int = 0, scale: float = SCALE, **config: object
) -> Path:
    """Saves an adapter whose every trainable value was moved at random, as training would.

    Args:
        folder: Where it goes.
        base: The model that it is for.
        seed: Two seeds give two adapters.
        scale: How far values are moved; 0 leaves the adapter as it is before training.
        config: Of PEFT's `LoraConfig`.
    """
    model = load_reference(base)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
        # PEFT remarks on embeddings that it saves and on patterns with rsLoRA.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
        for parameter in adapted.parameters():
            if parameter.requires_grad and scale:
                size = parameter.abs().mean().clamp(min=0.2)
                parameter.add_(torch.randn_like(parameter) * size * scale)
        adapted.save_pretrained(folder)
    return folder


def load_with_peft(base: ModelFolder, adapter: Path) -> PreTrainedModel:
    """The base in fp32 with an adapter, as PEFT computes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(load_reference(base), adapter).eval()


def peft_replies(
    base: ModelFolder,
    adapters: Mapping[str, Path],
    prompts: Mapping[str, Sequence[Sequence[int]]],
    num_tokens: int,
) -> dict[str, list[Reply]]:
    """Greedy replies of each adapter to its own prompts, one by one."""
    replies = {}
    for name, path in adapters.items():
        model = load_with_peft(base, path)
        replies[name] = [greedy_reply(model, prompt, num_tokens) for prompt in prompts[name]]
    return replies
