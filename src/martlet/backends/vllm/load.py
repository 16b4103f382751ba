"""From a model's folder to a `vllm serve` process that answers for it."""

from dataclasses import replace
from pathlib import Path

import httpx

from martlet.backends.base import ModelIdentity
from martlet.backends.openai.address import ServerAddress
from martlet.backends.openai.backend import OpenAIBackend
from martlet.backends.openai.courier import Courier
from martlet.backends.openai.load import choose_rendering
from martlet.backends.openai.pace import Pace
from martlet.backends.openai.rendering import Renders
from martlet.backends.openai.server import Server, look_at
from martlet.backends.opened import recommended_params
from martlet.backends.options import BackendOptions, is_url, refuse_unused
from martlet.backends.vllm.command import SERVED_NAME, find_program, serve_command
from martlet.backends.vllm.process import VllmProcess, free_port, new_log_path, started_shown
from martlet.backends.vllm.proof import prove_adapter
from martlet.errors import ParameterError
from martlet.lora.folder import open_adapter
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.resolve import resolve
from martlet.text.template import read_template
from martlet.text.tokenizer import Tokenizer

_UNUSED = (
    "base_url",
    "device",
    "weights",
    "weights_cache",
    "max_num_batched_tokens",
    "kv_memory_gib",
    "kv_dtype",
    "gpu_memory_utilization",
    "block_size",
    "speculation",
)
_PROBE_TIMEOUT_S = 300.0
_ADVICE = "vLLM decides it by itself, or by its own environment variables"


def load_vllm(model: str, options: BackendOptions) -> OpenAIBackend:
    """Starts `vllm serve` and returns what answers through it.

    Args:
        model: A folder, a Hugging Face id, `ms:` and a ModelScope id, or `demo`.

    Raises:
        NotFoundError: If there is no such model, or no vLLM.
        ModelError: If the folder is broken.
        AdapterError: If an adapter cannot be read, or does not change anything.
        ParameterError: If an option has no effect here.
        EngineError: If vLLM does not start; the message ends with what its log says last.
        TemplateError: If it reads words differently from the tokenizer here.
    """
    if is_url(model):
        raise ParameterError(f"{model} runs already; leave --backend vllm out, which starts one")
    refuse_unused(options, "vllm", unused=_UNUSED, advice=_ADVICE)
    program = find_program(options.vllm.program)
    folder = open_folder(resolve(model, with_code=options.trust_remote_code))
    options = _resolved(options)
    tokenizer = _tokenizer(folder, options)
    dtype = _dtype(folder, options)
    port = free_port()
    command = serve_command(program, folder.path, port=port, dtype=dtype, options=options)
    process = VllmProcess(command, port=port, log=new_log_path())
    try:
        started_shown(process)
        identity = _identity(model, folder, tokenizer, dtype)
        server, renders, identity = _connect(process, tokenizer, options, identity)
    except BaseException:
        process.close()
        raise
    return OpenAIBackend(
        server,
        Courier(
            server,
            headers={},
            pace=Pace(most=options.max_num_requests, is_fixed=True),
            why_gone=process.why_gone,
            trust_env=False,
        ),
        renders,
        identity=identity,
        default_params=recommended_params(folder),
        adapters=tuple(options.adapters),
        on_close=process.close,
    )


def _connect(
    process: VllmProcess, tokenizer: Tokenizer, options: BackendOptions, identity: ModelIdentity
) -> tuple[Server, Renders, ModelIdentity]:
    address = ServerAddress(base_url=f"{process.url}/v1", model=SERVED_NAME)
    client = httpx.Client(trust_env=False, timeout=_PROBE_TIMEOUT_S)
    try:
        server = look_at(address, client)
        proofs = {name: prove_adapter(name, server, client) for name in options.adapters}
        if (name := options.run_adapter) is not None:
            identity = _adapted(identity, name, options, proof=proofs[name])
        renders = choose_rendering(server, tokenizer, client, has_own_template=False)
    except BaseException:
        client.close()
        raise
    return server, renders, identity


def _resolved(options: BackendOptions) -> BackendOptions:
    """The folders that were named, as folders."""
    if options.tokenizer is None:
        return options
    return replace(options, tokenizer=str(resolve(options.tokenizer)))


def _tokenizer(folder: ModelFolder, options: BackendOptions) -> Tokenizer:
    template = options.chat_template
    tokenizer = Tokenizer.load(
        folder.path if options.tokenizer is None else Path(options.tokenizer),
        trust_remote_code=options.trust_remote_code,
        chat_template=None if template is None else read_template(template),
    )
    if folder.num_embeddings is not None:
        tokenizer.check_against_embedding(folder.num_embeddings)
    return tokenizer


def _dtype(folder: ModelFolder, options: BackendOptions) -> str:
    if options.dtype != "auto":
        return {"fp32": "float32", "bf16": "bfloat16"}[options.dtype]
    named = str(folder.config.get("dtype") or folder.config.get("torch_dtype"))
    return named if named in ("float16", "float32") else "bfloat16"


def _identity(model: str, folder: ModelFolder, tokenizer: Tokenizer, dtype: str) -> ModelIdentity:
    return ModelIdentity(
        model=model,
        model_hash=folder.model_hash,
        template_hash=tokenizer.template_hash,
        tokenizer_hash=tokenizer.tokenizer_hash,
        backend="vllm",
        dtype=dtype,
    )


def _adapted(
    identity: ModelIdentity, name: str, options: BackendOptions, *, proof: str
) -> ModelIdentity:
    revision = open_adapter(options.adapters[name]).load().revision
    return replace(identity, adapter=name, adapter_hash=revision, adapter_proof=proof)
