"""A model that was looked at and not loaded: everything that can be refused has been."""

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from martlet.backends.base import DefaultParams, ModelIdentity
from martlet.backends.options import BackendOptions, DType, names_server, refuse_unused
from martlet.backends.rounding import check_rounding
from martlet.engine.config import KVDtype
from martlet.errors import ModelError, ParameterError
from martlet.lora.folder import open_adapter
from martlet.lora.provenance import ServingIdentity, check_provenance
from martlet.models.compiled.threads import keeps_numbers
from martlet.models.context import Config, context_limit, positions_allow
from martlet.models.decoder.config import read_decoder_config
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.linear.packed import can_pack
from martlet.models.memory import GIB, POOL_SHARE, MemoryPlan, kv_bytes_per_token, plan_memory
from martlet.models.rejected import refuse_rejected
from martlet.models.resolve import resolve
from martlet.models.weights import held_bytes
from martlet.text.template import read_template
from martlet.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Parameters that a folder's generation_config.json may recommend."""


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A model that was looked at and not loaded: everything that can be refused has been."""

    name: str
    """As the user named it."""
    folder: ModelFolder
    tokenizer: Tokenizer
    dtype: torch.dtype
    device: torch.device
    memory: MemoryPlan
    options: BackendOptions

    def identity(self, backend: str) -> ModelIdentity:
        """What answers, once this model is loaded on a backend."""
        return ModelIdentity(
            model=self.name,
            model_hash=self.folder.model_hash,
            template_hash=self.tokenizer.template_hash,
            tokenizer_hash=self.tokenizer.tokenizer_hash,
            backend=backend,
            dtype=self.precision,
        )

    @property
    def precision(self) -> str:
        """What it computes in, and how its weights are held where that differs."""
        name = str(self.dtype).removeprefix("torch.")
        weights, kv_dtype = self.options.weights, self.options.kv_dtype
        rounded = [f"{weights} weights"] if weights != "stored" else []
        rounded += [f"{kv_dtype} keys and values"] if kv_dtype != "model" else []
        return ", ".join([name, *rounded])

    @property
    def default_params(self) -> DefaultParams:
        """What the folder recommends for sampling."""
        return recommended_params(self.folder)


def open_model(model: str, options: BackendOptions) -> OpenedModel:
    """Resolves and checks everything about a model that can be checked without loading it.

    Raises:
        The same as `load_backend`.
    """
    if names_server(model, options):
        raise ParameterError(
            f"{options.base_url or model} is a server's URL: name a model's folder, or, to ask the "
            "server, leave --backend out"
        )
    refuse_unused(options, options.backend, unused=("vllm",), advice="give --backend vllm")
    folder = open_folder(resolve(model, with_code=options.trust_remote_code))
    refuse_rejected(folder.path)
    tokenizer = Tokenizer.load(
        folder.path if options.tokenizer is None else resolve(options.tokenizer),
        trust_remote_code=options.trust_remote_code,
        chat_template=None
        if options.chat_template is None
        else read_template(options.chat_template),
    )
    if folder.num_embeddings is not None:
        tokenizer.check_against_embedding(folder.num_embeddings)
    serving = ServingIdentity(
        model=model, model_hash=folder.model_hash, template_hash=tokenizer.template_hash
    )
    for path in options.adapters.values():
        check_provenance(open_adapter(path).path, serving)
    device = _device(options.device)
    dtype = _dtype(options.dtype, folder, device)
    check_rounding(options, folder, dtype, device)
    if device.type == "cpu":
        advice = "the model runs on a CPU here; leave it out, or give --device cuda"
        refuse_unused(options, "native", unused=("gpu_memory_utilization",), advice=advice)
    else:
        advice = "a GPU packs nothing that is worth keeping; leave it out"
        refuse_unused(options, "native", unused=("weights_cache",), advice=advice)
    if options.weights_cache is not None:
        _make_folder(Path(options.weights_cache))
    return OpenedModel(
        name=model,
        folder=folder,
        tokenizer=tokenizer,
        dtype=dtype,
        device=device,
        memory=_memory(folder, dtype, device, options),
        options=options,
    )


def _make_folder(path: Path) -> None:
    """Makes the folder for packed weights before anything is packed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(
            f"--weights-cache {path}: the folder cannot be made ({error.strerror}); name another",
            param="weights_cache",
        ) from error
    if not os.access(path, os.W_OK):
        raise ParameterError(
            f"--weights-cache {path}: nothing may be written there; name another folder",
            param="weights_cache",
        )


def recommended_params(folder: ModelFolder) -> DefaultParams:
    """What a model's folder recommends for sampling."""
    config = folder.generation_config
    if config.get("do_sample") is False:
        return DefaultParams(values={"temperature": 0.0})
    named = {name: config[name] for name in RECOMMENDED if config.get(name) is not None}
    return DefaultParams(values=named)


def _memory(
    folder: ModelFolder, dtype: torch.dtype, device: torch.device, options: BackendOptions
) -> MemoryPlan:
    asked = _context_tokens(folder, options)
    cap = options.kv_memory_gib
    is_cuda = device.type == "cuda"
    return plan_memory(
        weights_bytes=held_bytes(folder, dtype, options.weights),
        kv_bytes_per_token=_cache_bytes_per_token(folder, dtype, device, options.kv_dtype),
        block_size=options.block_size,
        max_context_tokens=asked,
        max_num_requests=options.max_num_requests,
        available_bytes=_gpu_bytes(device, options) if is_cuda else None,
        cap_bytes=None if cap is None else int(cap * GIB),
        # A GPU is there for this alone; on a CPU other programs want memory too.
        pool_share=1 if is_cuda else POOL_SHARE,
    )


def _gpu_bytes(device: torch.device, options: BackendOptions) -> int:
    """What is free on a GPU, less the share that is to stay so."""
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return max(0, free_bytes - int(total_bytes * (1 - options.gpu_memory_utilization)))


def _context_tokens(folder: ModelFolder, options: BackendOptions) -> int:
    config = _config(folder, options)
    longest, allowed = context_limit(config), positions_allow(config)
    asked = options.max_context_tokens
    if asked is not None and asked > longest:
        raise ParameterError(
            f"a context of {asked} tokens was asked for, and {folder.path} allows {longest}"
        )
    if asked is None and longest < allowed:
        logger.warning(
            "the context is held to %d of %d tokens: beyond, a long request would change how its "
            "neighbours are computed",
            longest,
            allowed,
        )
    return asked or longest


def _config(folder: ModelFolder, options: BackendOptions) -> Config:
    config = read_decoder_config(folder)
    if config is not None:
        return config
    from martlet.models.pretrained import load_config

    return load_config(folder, trust_remote_code=options.trust_remote_code)


def _cache_bytes_per_token(
    folder: ModelFolder, dtype: torch.dtype, device: torch.device, kv_dtype: KVDtype
) -> int:
    is_rounded = kv_dtype != "model"
    has_scales = is_rounded or keeps_numbers(dtype, device)
    size = 1 if is_rounded else dtype.itemsize
    try:
        num_bytes = kv_bytes_per_token(folder.shape, bytes_per_value=size, has_scales=has_scales)
        return max(1, num_bytes)
    except ModelError:
        # A model that keeps a state instead of keys: the guard will send it to transformers, which
        # needs no pool.
        return 1


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ParameterError(f"device must be auto, cpu or cuda, not {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ParameterError(
            "device is cuda, and PyTorch sees no CUDA device here; try --device cpu"
        )
    return torch.device(name)


def _dtype(name: DType, folder: ModelFolder, device: torch.device) -> torch.dtype:
    if name == "fp32":
        return torch.float32
    is_fast = device.type == "cuda" or can_pack()
    if name == "bf16":
        return torch.bfloat16
    # Of the weights themselves: a config may name no dtype, or another one.
    sizes = Counter[str]()
    for tensor in folder.tensors.values():
        sizes[tensor.dtype] += tensor.size_bytes
    is_half = sizes["BF16"] + sizes["F16"] > sizes["F32"]
    return torch.bfloat16 if is_fast and is_half else torch.float32
