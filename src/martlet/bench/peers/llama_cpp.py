"""llama.cpp as a contestant: its server's own batching, without HTTP, prompts in token ids."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from martlet.bench.peers.protocol import Ask, Job, Run, Timeline, Work, contest

_TYPES = ("qwen2", "qwen3")
"""Model types whose tensors GGUF stores as they are."""
_BATCH_TOKENS = 2048
_END_OF_WORD = " "
"""Behind the number that each token is called by in the file: prompts are given as ids, and of the
replies only the tokens are counted."""


def make(job: Job) -> Run:
    """Loads the converted model."""
    import xllamacpp

    most = max(work.num_requests for work in job.works)
    params = xllamacpp.CommonParams()
    params.model.path = job.converted
    params.n_parallel = most
    params.n_ctx = most * job.longest
    params.n_batch = params.n_ubatch = _BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job.num_threads
    params.kv_unified = True
    params.warmup = False
    server = xllamacpp.Server(params)

    def run(work: Work, timeline: Timeline) -> None:
        with ThreadPoolExecutor(work.num_requests) as clients:
            replies = [
                clients.submit(_draw, server, work, ask, f"{index}-{sample}", timeline)
                for index, ask in enumerate(work.asks)
                for sample in range(work.num_samples)
            ]
        for reply in replies:
            reply.result()

    return run


def _draw(server: Any, work: Work, ask: Ask, name: str, timeline: Timeline) -> None:
    body = {
        "prompt": ask.prompt_ids,
        "n_predict": ask.num_new_tokens,
        "temperature": work.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "ignore_eos": not work.stop_ids,
        "cache_prompt": True,
        "stream": True,
    }

    def note(piece: dict[str, Any]) -> None:
        if "error" in piece:
            raise RuntimeError(piece["error"])
        if num_tokens := piece["choices"][0]["text"].count(_END_OF_WORD):
            timeline.drawn(name, num_tokens)

    server.handle_completions(body, note)


def convert(job: Job) -> None:
    """Writes a GGUF file as llama.cpp's own script does, for the models that need no reordering."""
    import gguf

    config = json.loads(Path(job.model, "config.json").read_text(encoding="utf-8"))
    kind = config["model_type"]
    if kind not in _TYPES:
        raise SystemExit(f"llama.cpp takes part with {', '.join(_TYPES)} models, not with {kind}")
    writer = gguf.GGUFWriter(job.converted, kind)
    _describe(writer, config)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, values in _tensors(Path(job.model)):
        is_table = name.endswith(("embed_tokens.weight", "lm_head.weight"))
        held = _held(gguf.GGMLQuantizationType, job, values.ndim, is_table=is_table)
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(target, gguf.quants.quantize(values, held), raw_dtype=held)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: dict[str, Any]) -> None:
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    vocab_size = config["vocab_size"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(theta)
    if head_dim := config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"{index}{_END_OF_WORD}" for index in range(vocab_size)])
    writer.add_token_scores([0.0] * vocab_size)
    writer.add_token_types([1] * vocab_size)


def _held(types: Any, job: Job, num_axes: int, *, is_table: bool) -> Any:
    """What a tensor becomes: 4 bits spare the token tables, as llama.cpp's own files do."""
    if num_axes == 1:
        return types.F32
    if job.weights == "int4":
        return types.Q8_0 if is_table else types.Q4_0
    if job.weights == "int8":
        return types.Q8_0
    return {"bfloat16": types.BF16, "float32": types.F32}[job.dtype]


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Each tensor of a folder, in 32 bits."""
    import numpy as np
    from gguf.utility import SafetensorsLocal

    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in SafetensorsLocal(path).tensors.items():
            raw = tensor.mmap_bytes()
            if tensor.dtype == "BF16":
                values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = raw.view({"F16": np.float16, "F32": np.float32}[tensor.dtype])
            yield name, values.reshape(tensor.shape).astype(np.float32)


def version() -> str:
    """As the package calls itself."""
    import xllamacpp

    return str(xllamacpp.__version__)


if __name__ == "__main__":
    contest(make, version, convert)
