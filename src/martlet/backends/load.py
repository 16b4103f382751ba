"""From a model's name to a backend that answers."""

import logging
from dataclasses import replace
from pathlib import Path

from martlet.backends.base import Backend, BackendLimits, ModelIdentity
from martlet.backends.native import NativeBackend
from martlet.backends.opened import OpenedModel, open_model
from martlet.backends.options import BackendOptions, names_server, refuse_unused
from martlet.backends.rounding import refuse_rounding
from martlet.engine.config import EngineConfig
from martlet.errors import AdapterError, ParameterError, UnsupportedArchitectureError
from martlet.lora.store import AdapterInfo
from martlet.models.kernels import has_triton
from martlet.models.load import LoadedModel, load_model

logger = logging.getLogger(__name__)


def load_backend(model: str, *, options: BackendOptions | None = None) -> Backend:
    """Loads a model and returns what answers for it.

    Args:
        model: A folder, a Hugging Face id, `ms:` and a ModelScope id, `demo`, or the URL of a
            server with `#` and the name of its model.

    Raises:
        NotFoundError: If there is no such model.
        ModelError: If it cannot be loaded as it is.
        ResourceError: If it does not fit in memory.
        ParameterError: If an option contradicts the model or the machine.
    """
    options = options or BackendOptions()
    if options.ray is not None:
        from martlet.backends.ray.load import load_ray

        return load_ray(model, options.ray, options)
    if options.backend == "openai" or (options.backend == "auto" and names_server(model, options)):
        from martlet.backends.openai.load import load_openai

        return load_openai(model, options)
    if options.backend == "vllm":
        from martlet.backends.vllm.load import load_vllm

        return load_vllm(model, options)
    return load_opened(open_model(model, options))


def load_opened(opened: OpenedModel) -> Backend:
    """Loads a model that was opened, and its adapters.

    Raises:
        ModelError: If transformers cannot load it, or the engine was asked for and refuses it.
        AdapterError: If an adapter does not fit or changes nothing.
        ParameterError: If adapters are asked for on a backend that knows none.
    """
    adapters = opened.options.adapters
    if opened.options.backend == "transformers":
        if adapters:
            raise ParameterError(
                f"adapter {', '.join(adapters)} cannot be used on the transformers backend; give "
                "a merged model, or let the native backend run it"
            )
        return _load_transformers(opened)
    try:
        return _load_native(opened)
    except UnsupportedArchitectureError as error:
        if opened.options.backend == "native":
            raise
        refuse_rounding(opened.options, error)
        if adapters:
            raise AdapterError(
                f"{error}, so it runs on plain transformers, where adapter {', '.join(adapters)} "
                "cannot be used; give a merged model"
            ) from error
        logger.warning("%s; it runs on plain transformers instead, slower", error)
        return _load_transformers(opened)


def _load_native(opened: OpenedModel) -> NativeBackend:
    options = opened.options
    model = load_model(
        opened.folder,
        dtype=opened.dtype,
        device=opened.device,
        weights=options.weights,
        weights_cache=None if options.weights_cache is None else Path(options.weights_cache),
        trust_remote_code=options.trust_remote_code,
    )
    num_batched_tokens = max(options.max_num_batched_tokens, options.max_num_requests)
    config = EngineConfig(
        num_blocks=opened.memory.num_blocks,
        block_size=options.block_size,
        kv_dtype=options.kv_dtype,
        max_num_requests=options.max_num_requests,
        max_num_batched_tokens=min(
            num_batched_tokens, model.max_packed_tokens or num_batched_tokens
        ),
        max_context_tokens=opened.memory.max_context_tokens,
        prefix_sharing=options.prefix_sharing,
        speculation=options.speculation,
        max_loaded_adapters=options.max_loaded_adapters,
    )
    if model.device.type == "cuda":
        config = _for_gpu(model, config, options)
    backend = NativeBackend(
        model,
        opened.tokenizer,
        config,
        identity=opened.identity("native"),
        default_params=opened.default_params,
    )
    for name, path in options.adapters.items():
        backend.adapters.install(backend.adapters.prepare(name, path))
    if options.run_adapter is not None:
        backend.identity = _adapted(backend.identity, backend.adapters.get(options.run_adapter))
    return backend


def _for_gpu(model: LoadedModel, config: EngineConfig, options: BackendOptions) -> EngineConfig:
    """Kernels and graphs where Triton is there, and the pool that fits beside the largest step."""
    from martlet.engine.cuda.graphs import graph_ladder
    from martlet.engine.cuda.warm_up import fit_pool

    if has_triton():
        graph_sizes = graph_ladder(config.max_num_requests)
        config = replace(config, uses_kernels=True, graph_sizes=graph_sizes)
    else:
        logger.warning("Triton is not installed: steps run on plain operations, slower")
    return fit_pool(model, config, utilization=options.gpu_memory_utilization)


def _adapted(identity: ModelIdentity, adapter: AdapterInfo) -> ModelIdentity:
    return replace(
        identity,
        adapter=adapter.name,
        adapter_hash=adapter.revision,
        adapter_proof=adapter.proof,
    )


def _load_transformers(opened: OpenedModel) -> Backend:
    advice = "it packs no weights; leave it out"
    refuse_unused(opened.options, "transformers", unused=("weights_cache",), advice=advice)
    from martlet.backends.transformers import TransformersBackend
    from martlet.models.pretrained import load_module

    module = load_module(
        opened.folder,
        dtype=opened.dtype,
        device=opened.device,
        trust_remote_code=opened.options.trust_remote_code,
    )
    return TransformersBackend(
        module,
        opened.tokenizer,
        identity=opened.identity("transformers"),
        limits=BackendLimits(
            max_context_tokens=opened.memory.max_context_tokens,
            max_num_requests=min(opened.options.max_num_requests, 16),
        ),
        default_params=opened.default_params,
    )
