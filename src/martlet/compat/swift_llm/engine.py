"""The engine object of ms-swift 2's functions: a backend, a tokenizer, mutable settings."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.backends.base import Backend
from martlet.backends.load import load_backend
from martlet.backends.native import NativeBackend
from martlet.backends.options import BackendOptions, VllmOptions
from martlet.compat.model_types import published
from martlet.compat.telling import tell_same
from martlet.engine.params import SamplingParams
from martlet.errors import ParameterError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_DTYPES = {
    "torch.bfloat16": "bf16",
    "torch.float32": "fp32",
    # fp16 weights are computed in bf16 where the machine is fast at it, and in fp32 elsewhere.
    "torch.float16": "auto",
    "None": "auto",
}


@dataclass(kw_only=True)
class GenerationConfig:
    """How replies are drawn; may be changed between two calls."""

    max_new_tokens: int | None = None
    """None: the room that is left in the context."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: list[str] = field(default_factory=list)
    seed: int | None = None

    def params(self) -> SamplingParams:
        """As the engine takes them.

        Raises:
            ParameterError: If a value is out of its range.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return SamplingParams(max_tokens=values.pop("max_new_tokens"), **values)


@dataclass(frozen=True)
class LoRARequest:
    """An adapter to answer with."""

    lora_name: str
    lora_int_id: int
    """Unused: adapters are told apart by their names."""
    lora_local_path: str
    """A folder in PEFT's format."""


class VllmEngine:
    """A model that answers; the name is ms-swift's, the engine Martlet's.

    Args:
        backend: What computes.
        takes_adapters: Whether requests may name adapters.
        trust_remote_code: Whether Python code in the tokenizer's folder may run.
    """

    def __init__(
        self, backend: Backend, *, takes_adapters: bool, trust_remote_code: bool = False
    ) -> None:
        self.backend = backend
        recommended: dict[str, Any] = dict(backend.default_params.values)
        self.generation_config = GenerationConfig(**recommended)
        self.num_requests = 0
        """That were drawn so far; each has draws of its own."""
        self._takes_adapters = takes_adapters
        self._trust_remote_code = trust_remote_code
        self._adapter_folders: dict[str, Path] = {}

    @cached_property
    def hf_tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of transformers."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            self.backend.tokenizer.folder, trust_remote_code=self._trust_remote_code
        )

    def use(self, adapter: LoRARequest | None) -> str | None:
        """Loads the adapter of a request, unless it is there, and gives its name.

        Raises:
            ParameterError: If the engine takes none, or the name is that of another folder.
            AdapterError: If it does not fit.
        """
        if adapter is None:
            return None
        if not self._takes_adapters:
            raise ParameterError("make the engine with enable_lora=True to answer with an adapter")
        if not isinstance(self.backend, NativeBackend):
            raise ParameterError(
                f"the {self.backend.identity.backend} backend takes no adapters by their names; "
                "merge the adapter first"
            )
        name, folder = adapter.lora_name, Path(adapter.lora_local_path).resolve()
        known = self._adapter_folders.get(name)
        if known == folder:
            return name
        if known is not None:
            raise ParameterError(f"adapter {name!r} is {known}; call the one in {folder} otherwise")
        prepared = self.backend.adapters.prepare(name, str(folder))
        self.backend.adapters.install(prepared)
        self._adapter_folders[name] = folder
        return name


def get_vllm_engine(
    model_type: str,
    torch_dtype: "torch.dtype | None" = None,
    *,
    model_id_or_path: str | None = None,
    enable_lora: bool = False,
    max_loras: int = 1,
    max_lora_rank: int = 16,
    tensor_parallel_size: int = 1,
    **options: Any,
) -> VllmEngine:
    """Loads a model.

    Args:
        model_type: A published model's name, a folder or an id of a hub.
        torch_dtype: bfloat16, float32, or float16, which lets the engine choose.
        model_id_or_path: In place of the id that `model_type` stands for.
        enable_lora: Whether requests may name adapters.
        max_loras: Adapters kept in memory at once.
        max_lora_rank: Not needed here: every rank is served.
        tensor_parallel_size: GPUs that share each layer, for vLLM, which then computes.
        options: Fields of `BackendOptions`, such as `max_context_tokens`; with `backend="vllm"`,
            vLLM computes.

    Raises:
        ParameterError: If the model type, the dtype or an option is unknown.
        MartletError: As `load_backend` does.
    """
    del max_lora_rank
    known = published(model_type)
    if tensor_parallel_size > 1:
        options |= {
            "backend": "vllm",
            "vllm": VllmOptions(tensor_parallel_size=tensor_parallel_size),
        }
    built = BackendOptions(
        **{
            "dtype": _dtype(torch_dtype),
            "chat_template": None if known is None else known.rule,
            "trust_remote_code": known is not None and known.has_code,
            "max_loaded_adapters": max(1, max_loras),
            **_checked(options),
        }
    )
    model = model_id_or_path or (model_type if known is None else known.hub_id)
    tell_same(f"llm = martlet.LLM({model!r}); llm.chat(messages, martlet.SamplingParams(…))")
    return VllmEngine(
        load_backend(model, options=built),
        takes_adapters=enable_lora,
        trust_remote_code=built.trust_remote_code,
    )


def _dtype(torch_dtype: object) -> str:
    try:
        return _DTYPES[str(torch_dtype)]
    except KeyError:
        known = ", ".join(list(_DTYPES)[:-1])
        raise ParameterError(f"torch_dtype must be one of {known}, not {torch_dtype}") from None


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    known = [each.name for each in fields(BackendOptions)]
    for name in options:
        if name not in known:
            raise ParameterError(f"unknown option {name!r}; known: {', '.join(known)}")
    return options
