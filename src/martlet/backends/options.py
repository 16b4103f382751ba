"""How a model is to be run, as a user says it: `auto` is still possible here.

`backends/load` resolves it. Importing this loads nothing heavy: `--help` shows the defaults.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from martlet.engine.config import KVDtype
from martlet.errors import ParameterError
from martlet.models.weights import Weights

DType = Literal["auto", "fp32", "bf16"]
BackendName = Literal["auto", "native", "transformers", "openai", "vllm"]


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """How `vllm serve` is started."""

    program: str = field(default="vllm", compare=False)
    """The command of vLLM's own environment: a path, or a name that is looked for on PATH. Not
    compared: MARTLET_VLLM says it once and for all, also to runs that do without."""
    tensor_parallel_size: int = 1
    """GPUs that share each layer."""
    pipeline_parallel_size: int = 1
    """Groups of GPUs that share the layers."""
    data_parallel_size: int = 1
    """Copies of the model that share the requests."""
    quantization: str | None = None
    """How vLLM is to quantise; None takes what the model's folder says."""

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """How to run a model. Every default is right for a beginner."""

    backend: BackendName = "auto"
    """What computes. `auto` asks the server that a URL names, and else takes native, or, where the
    model's architecture forbids it, transformers."""
    base_url: str | None = None
    """Of a server that speaks OpenAI's API, with its `/v1`; the model may then be any of its
    names. A model may also be written as such a URL, `#` and its name."""
    dtype: DType = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 unless the checkpoint is fp32 or the machine slow at it."""
    weights: Weights = "stored"
    """`stored` as the folder has them; `int8`, `int4` and `fp8` round the linear layers of a model
    that is not quantised while it is loaded; `fp8` on a CUDA device alone."""
    weights_cache: Path | None = None
    """A folder where weights are kept as they are multiplied, so that the next start reads them
    instead of packing anew; on a CPU alone."""
    kv_dtype: KVDtype = "model"
    """`model` keeps keys and values as it computes them; rounded, in half the memory of bf16, keeps
    them `int8` on a CPU and `fp8` on a CUDA device."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`."""
    max_num_requests: int = 128
    """Requests computed at once."""
    max_num_batched_tokens: int = 1024
    """Tokens that one step of the engine may compute."""
    max_context_tokens: int | None = None
    """Prompt and reply together; None means what the model allows."""
    kv_memory_gib: float | None = None
    """The most that keys and values may take; None means half of the memory that is free, and on a
    GPU all that `gpu_memory_utilization` leaves."""
    gpu_memory_utilization: float = 0.9
    """The part of a GPU's memory that may be in use, by this program and by others."""
    prefix_sharing: bool = True
    """Whether requests share what their prompts have in common."""
    speculation: bool = True
    """Whether a reply that repeats its prompt or itself may take several tokens in a step."""
    block_size: int = 16
    """Tokens in a block of the key-value pool."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Folders of LoRA adapters as PEFT saves them, by the names that requests call them."""
    run_adapter: str | None = None
    """The one of `adapters` that answers a whole batch; the identity of the model names it."""
    max_loaded_adapters: int = 16
    """Adapters kept in memory; the least recently used goes, and is read again when used."""
    trust_remote_code: bool = False
    """Whether Python code in the model's folder may run."""
    tokenizer: str | None = None
    """Another folder to take the tokenizer from."""
    chat_template: Path | None = None
    """A Jinja file that takes the place of the model's chat template."""
    ray: str | None = None
    """Of a Ray cluster: its address, or `auto` for the one that this machine belongs to; every node
    then runs the backend."""
    vllm: VllmOptions = field(default_factory=VllmOptions)
    """For the `vllm` backend alone."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("backend", BackendName),
            ("dtype", DType),
            ("weights", Weights),
            ("kv_dtype", KVDtype),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise ParameterError(
                    f"{name} must be one of {', '.join(get_args(allowed))}, "
                    f"not {getattr(self, name)!r}"
                )
        if self.run_adapter is not None and self.run_adapter not in self.adapters:
            raise ParameterError(
                f"run_adapter is {self.run_adapter!r}, and adapters names: "
                f"{', '.join(self.adapters) or 'none'}"
            )
        if len(self.adapters) > self.max_loaded_adapters:
            raise ParameterError(
                f"{len(self.adapters)} adapters are to be loaded, and max_loaded_adapters is "
                f"{self.max_loaded_adapters}; raise it"
            )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ParameterError(
                "gpu_memory_utilization must be above 0 and at most 1, "
                f"not {self.gpu_memory_utilization:g}"
            )
        if self.kv_memory_gib is not None and self.kv_memory_gib <= 0:
            raise ParameterError(f"kv_memory_gib must be above 0, not {self.kv_memory_gib:g}")


def names_server(model: str, options: BackendOptions) -> bool:
    """Whether a server answers for a model: its name is a URL, or one is given beside it."""
    return options.base_url is not None or is_url(model)


def is_url(model: str) -> bool:
    """Whether a model is named by a server's URL."""
    return model.startswith(("http://", "https://"))


def refuse_unused(
    options: BackendOptions, backend: BackendName, *, unused: Collection[str], advice: str
) -> None:
    """Refuses what was set and would have no effect.

    Args:
        backend: Who would not look at it.
        unused: The fields that it does not look at.
        advice: What else to do.

    Raises:
        ParameterError: For the first such field.
    """
    neutral = BackendOptions()
    for name in unused:
        value = getattr(options, name)
        if value != getattr(neutral, name):
            raise ParameterError(
                f"{name}={value!r} has no effect on the {backend} backend; {advice}", param=name
            )
