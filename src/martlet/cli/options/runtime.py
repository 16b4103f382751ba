"""How a model is run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from martlet.backends.options import BackendName, BackendOptions, DType, VllmOptions
from martlet.cli.options.model import named_adapter
from martlet.cli.options.option import option
from martlet.cli.quick import keep_what_there_is, without_collections
from martlet.engine.config import KVDtype
from martlet.models.weights import Weights

if TYPE_CHECKING:
    from martlet.backends.base import Backend

_RUNTIME = "Running the model"
_SERVER = "Another engine"


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How a model is run."""

    backend: Annotated[
        BackendName,
        option(
            _RUNTIME,
            "What computes; auto is native where the model allows it, and openai for a URL.",
            "--backend",
        ),
    ] = "auto"
    base_url: Annotated[
        str | None,
        option(
            _SERVER,
            "A server that speaks OpenAI's API, its key in OPENAI_API_KEY; --model then names "
            "one of its models.",
            "--base-url",
            metavar="URL",
        ),
    ] = None
    vllm_bin: Annotated[
        str,
        option(
            _SERVER,
            "The vllm command of an environment of its own, for --backend vllm; also MARTLET_VLLM.",
            "--vllm-bin",
            metavar="FILE",
            variable="VLLM",
        ),
    ] = VllmOptions.program
    tensor_parallel_size: Annotated[
        int,
        option(_SERVER, "vLLM: GPUs that share each layer.", "--tensor-parallel-size", metavar="N"),
    ] = VllmOptions.tensor_parallel_size
    pipeline_parallel_size: Annotated[
        int,
        option(
            _SERVER,
            "vLLM: groups of GPUs that share the layers.",
            "--pipeline-parallel-size",
            metavar="N",
        ),
    ] = VllmOptions.pipeline_parallel_size
    data_parallel_size: Annotated[
        int,
        option(
            _SERVER,
            "vLLM: copies of the model that share the requests.",
            "--data-parallel-size",
            metavar="N",
        ),
    ] = VllmOptions.data_parallel_size
    quantization: Annotated[
        str | None,
        option(
            _SERVER,
            "vLLM: how it quantises, such as fp8; unless given, as the folder says.",
            "--quantization",
            metavar="METHOD",
        ),
    ] = None
    dtype: Annotated[
        DType,
        option(_RUNTIME, "Precision; auto is bf16 where the machine is fast at it.", "--dtype"),
    ] = "auto"
    weights_as: Annotated[
        Weights,
        option(
            _RUNTIME,
            "Round linear layers while loading: int8 is faster and close to bf16, int4 faster "
            "still for one request at a time, slow for many, and strays further; fp8 is for "
            "NVIDIA GPUs from Ada and Hopper on.",
            "--weights-as",
        ),
    ] = BackendOptions.weights
    weights_cache: Annotated[
        Path | None,
        option(
            _RUNTIME,
            "Keep the weights in this folder as a CPU multiplies them, and read them from there "
            "from the second start on; it takes what they take in memory.",
            "--weights-cache",
            metavar="DIR",
        ),
    ] = None
    kv_dtype: Annotated[
        KVDtype,
        option(
            _RUNTIME,
            "Keys and values: as the model computes them, or rounded, int8 on CPUs and fp8 on "
            "NVIDIA GPUs: room for nearly twice the tokens of bf16.",
            "--kv-dtype",
        ),
    ] = BackendOptions.kv_dtype
    device: Annotated[str, option(_RUNTIME, "auto, cpu, cuda or cuda:N.", "--device")] = "auto"
    max_requests: Annotated[
        int, option(_RUNTIME, "Samples computed at once.", "--max-requests", metavar="N")
    ] = BackendOptions.max_num_requests
    max_batched_tokens: Annotated[
        int,
        option(_RUNTIME, "Tokens that one step may compute.", "--max-batched-tokens", metavar="N"),
    ] = BackendOptions.max_num_batched_tokens
    max_context: Annotated[
        int | None,
        option(
            _RUNTIME,
            "Prompt and reply together, in tokens; unless given, what the model allows.",
            "--max-context",
            metavar="N",
        ),
    ] = None
    kv_memory: Annotated[
        float | None,
        option(
            _RUNTIME,
            "The most that keys and values may take; unless given, half of the free memory.",
            "--kv-memory",
            metavar="GIB",
        ),
    ] = None
    gpu_memory_utilization: Annotated[
        float,
        option(
            _RUNTIME,
            "The part of a GPU's memory that may be in use, by all programs.",
            "--gpu-memory-utilization",
            metavar="SHARE",
        ),
    ] = BackendOptions.gpu_memory_utilization
    no_prefix_sharing: Annotated[
        bool,
        option(
            _RUNTIME, "Compute what prompts have in common for each anew.", "--no-prefix-sharing"
        ),
    ] = False
    no_speculation: Annotated[
        bool,
        option(
            _RUNTIME,
            "Draw one token a step, also where a reply repeats what was said before.",
            "--no-speculation",
        ),
    ] = False
    tokenizer: Annotated[
        str | None,
        option(
            _RUNTIME, "Another folder to take the tokenizer from.", "--tokenizer", metavar="DIR"
        ),
    ] = None
    chat_template: Annotated[
        Path | None,
        option(
            _RUNTIME,
            "A Jinja file in place of the model's chat template.",
            "--chat-template",
            metavar="FILE",
        ),
    ] = None
    max_loaded_adapters: Annotated[
        int,
        option(_RUNTIME, "Adapters kept in memory at once.", "--max-loaded-adapters", metavar="N"),
    ] = BackendOptions.max_loaded_adapters
    trust_remote_code: Annotated[
        bool,
        option(_RUNTIME, "Let Python code in the model's folder run.", "--trust-remote-code"),
    ] = False

    def backend_options(self) -> BackendOptions:
        """What `load_backend` takes.

        Raises:
            ParameterError: If a value is out of its range.
        """
        return BackendOptions(
            backend=self.backend,
            dtype=self.dtype,
            weights=self.weights_as,
            weights_cache=self.weights_cache,
            kv_dtype=self.kv_dtype,
            device=self.device,
            max_num_requests=self.max_requests,
            max_num_batched_tokens=self.max_batched_tokens,
            max_context_tokens=self.max_context,
            kv_memory_gib=self.kv_memory,
            gpu_memory_utilization=self.gpu_memory_utilization,
            prefix_sharing=not self.no_prefix_sharing,
            speculation=not self.no_speculation,
            trust_remote_code=self.trust_remote_code,
            tokenizer=self.tokenizer,
            chat_template=self.chat_template,
            max_loaded_adapters=self.max_loaded_adapters,
            base_url=self.base_url,
            vllm=VllmOptions(
                program=self.vllm_bin,
                tensor_parallel_size=self.tensor_parallel_size,
                pipeline_parallel_size=self.pipeline_parallel_size,
                data_parallel_size=self.data_parallel_size,
                quantization=self.quantization,
            ),
        )

    def adapted_options(
        self, *, adapter: str | None = None, adapters: Mapping[str, str] | None = None
    ) -> BackendOptions:
        """What `load_backend` takes, with adapters.

        Args:
            adapter: What answers the whole run in the model's place, as `NAME=DIR`.
            adapters: What requests may name, folders by name.

        Raises:
            ParameterError: If a value is out of its range, or `adapter` is not written like that.
        """
        options = replace(self.backend_options(), adapters=adapters or {})
        if adapter is None:
            return options
        name, folder = named_adapter(adapter)
        return replace(options, adapters={name: folder}, run_adapter=name)

    def load(
        self,
        model: str,
        *,
        adapter: str | None = None,
        adapters: Mapping[str, str] | None = None,
    ) -> "Backend":
        """Loads a model, which may take minutes.

        Args:
            adapter: See `adapted_options`, as for `adapters`.

        Raises:
            MartletError: As `adapted_options` and `load_backend` do.
        """
        options = self.adapted_options(adapter=adapter, adapters=adapters)
        with without_collections():
            from martlet.backends.load import load_backend

            keep_what_there_is()
            return load_backend(model, options=options)


@dataclass(frozen=True, kw_only=True)
class BatchRuntimeOptions(RuntimeOptions):
    """How a model is run over a file: on this machine, or on many."""

    ray: Annotated[
        str | None,
        option(
            _RUNTIME,
            "Run an engine on every node of a Ray cluster: auto for the one that this machine "
            "belongs to, or its address.",
            "--ray",
            metavar="ADDRESS",
        ),
    ] = None

    def backend_options(self) -> BackendOptions:
        """See `RuntimeOptions.backend_options`."""
        return replace(super().backend_options(), ray=self.ray)
