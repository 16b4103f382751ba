"""The options that verbs share, each with its environment variable.

The variable of an option is `MARTLET_` and the option's name: `MARTLET_MODEL`, `MARTLET_TOP_P`.
Nothing heavy is imported before a group of options becomes what the layers below take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from martlet.backends.options import BackendName, BackendOptions, DType, VllmOptions
from martlet.cli.quick import without_collections
from martlet.errors import ParameterError
from martlet.models.weights import Weights

if TYPE_CHECKING:
    from martlet.backends.base import Backend
    from martlet.batch.options import JobOptions

_MODEL = "Model"
_RUNTIME = "Running the model"
_SERVER = "Another engine"
_SAMPLING = "Sampling"
_ROWS = "Rows and prompts"
_RESULT = "Result"


def option(
    panel: str,
    explanation: str,
    *names: str,
    metavar: str | None = None,
    variable: str | None = None,
) -> object:
    """An option with its environment variable.

    Args:
        panel: The heading under which the help page shows it.
        explanation: One sentence.
        names: The flags, the long one first.
        metavar: What the help page shows in place of the type.
        variable: The environment variable without its `MARTLET_`, where it is not the flag's name.
    """
    variable = variable or names[0].removeprefix("--").replace("-", "_").upper()
    return typer.Option(
        *names,
        help=explanation,
        metavar=metavar,
        envvar=f"MARTLET_{variable}",
        show_envvar=False,
        rich_help_panel=panel,
    )


DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="The rows: .jsonl, .json, .csv, .parquet or .txt; - reads JSON lines from stdin.",
    ),
]
ModelOption = Annotated[
    str,
    option(
        _MODEL,
        "A folder, a Hugging Face id, ms: and a ModelScope id, demo, or a server: URL#NAME.",
        "--model",
        "-m",
        metavar="MODEL",
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A folder, a Hugging Face id, ms: and a ModelScope id, demo, or a server: "
        "URL#NAME, with --tokenizer.",
        envvar="MARTLET_MODEL",
        show_envvar=False,
    ),
]
AdapterOption = Annotated[
    str | None,
    option(
        _MODEL,
        "A LoRA adapter as PEFT saves it, un-merged: a name and its folder.",
        "--adapter",
        metavar="NAME=DIR",
    ),
]
JsonOption = Annotated[
    bool, option(_RESULT, "Print the summary as one JSON object on stdout.", "--json")
]
OverwriteOption = Annotated[
    bool, option(_RESULT, "Replace a result that was made from something else.", "--overwrite")
]


def named_adapter(given: str) -> tuple[str, str]:
    """Splits `NAME=DIR`.

    Raises:
        ParameterError: If it is not written like that.
    """
    name, _, folder = given.partition("=")
    if not name or not folder:
        raise ParameterError(f"--adapter takes NAME=DIR, such as judge=./judge, not {given!r}")
    return name, folder


def named_adapters(given: Sequence[str]) -> dict[str, str]:
    """Splits several `NAME=DIR`: folders by name.

    Raises:
        ParameterError: If one is not written like that, or a name comes twice.
    """
    name_to_folder: dict[str, str] = {}
    for name, folder in map(named_adapter, given):
        if name in name_to_folder:
            raise ParameterError(f"--adapter names {name!r} twice; give each a name of its own")
        name_to_folder[name] = folder
    return name_to_folder


def named_model(model: str | None, demo: bool, *, purpose: str) -> str:
    """The model of a verb that takes `--demo` in place of one.

    Args:
        purpose: What it is for, such as `to serve`.

    Raises:
        ParameterError: If none or both are given.
    """
    if demo == (model is not None):
        raise ParameterError(f"name a model {purpose}, or give --demo, and not both")
    return model or "demo"


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


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a reply is drawn; what is not given comes from the model's folder or the verb."""

    n: Annotated[
        int | None,
        option(
            _SAMPLING,
            "Samples of each question; unless given, 8 for vote and 1 for generate.",
            "--samples",
            "-n",
            metavar="N",
        ),
    ] = None
    temperature: Annotated[
        float | None,
        option(_SAMPLING, "Divides the logits; 0 takes the most likely token.", "--temperature"),
    ] = None
    top_p: Annotated[
        float | None,
        option(_SAMPLING, "Keep the most likely tokens that add up to this.", "--top-p"),
    ] = None
    top_k: Annotated[
        int | None,
        option(_SAMPLING, "Keep this many most likely tokens; 0 keeps all.", "--top-k"),
    ] = None
    min_p: Annotated[
        float | None,
        option(_SAMPLING, "Drop tokens less likely than this part of the most likely.", "--min-p"),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        option(
            _SAMPLING,
            "Above 1, makes tokens of prompt and reply less likely.",
            "--repetition-penalty",
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        option(_SAMPLING, "Subtracted once for a token in the reply.", "--presence-penalty"),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        option(
            _SAMPLING, "Subtracted each time that a token is in the reply.", "--frequency-penalty"
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        option(
            _SAMPLING,
            "The longest reply, in tokens; unless given, 1024 for vote and what fits for others.",
            "--max-tokens",
        ),
    ] = None
    min_tokens: Annotated[
        int | None, option(_SAMPLING, "Nothing ends a shorter reply.", "--min-tokens")
    ] = None
    stop: Annotated[
        list[str] | None,
        option(_SAMPLING, "A text that ends the reply; may be repeated.", "--stop", metavar="TEXT"),
    ] = None
    stop_token_ids: Annotated[
        list[int] | None,
        option(
            _SAMPLING,
            "A token that ends the reply, besides the model's own; may be repeated.",
            "--stop-token-id",
            metavar="ID",
        ),
    ] = None
    ignore_eos: Annotated[
        bool | None,
        option(_SAMPLING, "Go on after the model's own end tokens.", "--ignore-eos"),
    ] = None
    seed: Annotated[
        int | None,
        option(_SAMPLING, "Fixes every draw; unless given, 0, and a chat draws afresh.", "--seed"),
    ] = None

    def given_params(self) -> dict[str, object]:
        """The parameters that the user gave, by their names in `SamplingParams`.

        Raises:
            ParameterError: If a value is out of its range.
        """
        from martlet.engine.params import SamplingParams

        given = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None and value != []
        }
        SamplingParams.from_mapping(given)
        return given


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """What becomes of a file's rows, and where the result goes."""

    out: Annotated[
        Path,
        option(
            _RESULT,
            "The result, JSON lines in the order of the data; journal, card and report lie beside.",
            "--out",
            "-o",
            metavar="FILE",
        ),
    ]
    overwrite: OverwriteOption = False
    system: Annotated[
        str | None,
        option(_ROWS, "The system message of rows that have none.", "--system", metavar="TEXT"),
    ] = None
    prompt_template: Annotated[
        Path | None,
        option(
            _ROWS,
            "A Jinja file that words each row as a user's message.",
            "--prompt-template",
            metavar="FILE",
        ),
    ] = None
    raw: Annotated[
        bool, option(_ROWS, "Give the model the text as it is, without chat template.", "--raw")
    ] = False
    too_long: Annotated[
        Literal["error", "skip", "truncate-left"],
        option(_ROWS, "What to do with a prompt that leaves no room to reply.", "--too-long"),
    ] = "error"
    skip_bad_rows: Annotated[
        bool,
        option(_ROWS, "Give a bad row an error of its own and go on.", "--skip-bad-rows"),
    ] = False
    allow_repeated_options: Annotated[
        bool,
        option(
            _ROWS,
            "Keep options that say the same, each under its letter.",
            "--allow-repeated-options",
        ),
    ] = False

    def job_options(self, data: str, given_params: dict[str, object]) -> "JobOptions":
        """What a batch takes.

        Args:
            data: The file of rows.
            given_params: The sampling parameters of the command line.
        """
        from martlet.batch.options import JobOptions

        return JobOptions(
            data=data,
            out=self.out,
            given_params=given_params,
            prompt_template=self.prompt_template,
            system=self.system,
            is_raw=self.raw,
            allow_repeated_options=self.allow_repeated_options,
            on_bad_row="skip" if self.skip_bad_rows else "error",
            too_long=self.too_long,
            overwrite=self.overwrite,
        )
