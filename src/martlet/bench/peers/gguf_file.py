"""A folder's model as llama.cpp reads it; without its words, for prompts are given in ids."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from martlet.bench.peers.protocol import Job

_TYPES = ("qwen2", "qwen3")
"""Model types whose tensors GGUF stores as they are."""


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
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])


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
