"""A folder's weights assigned to a decoder; they stay mapped from their files."""

from collections.abc import Iterator

import torch
from safetensors import safe_open
from torch import Tensor

from martlet.models.decoder.config import read_decoder_config
from martlet.models.decoder.decoder import Decoder
from martlet.models.folder import ModelFolder

_DTYPES = frozenset({"BF16", "F16", "F32"})
_HEAD = "lm_head.weight"


def load_decoder(folder: ModelFolder, *, dtype: torch.dtype) -> Decoder | None:
    """Loads a folder on the CPU, for inference.

    Returns:
        None if the folder holds anything else: another architecture, a setting or a tensor more or
        less than usual, or a shape that its config does not give.

    Raises:
        OSError, SafetensorError: If a file was changed since the folder was opened.
    """
    config = read_decoder_config(folder)
    if config is None:
        return None
    decoder = Decoder(config)
    shapes = {name: tuple(each.shape) for name, each in decoder.named_parameters()}
    if config.tie_word_embeddings:
        del shapes[_HEAD]
    stored = {name: tensor.shape for name, tensor in folder.tensors.items()}
    if stored != shapes or not _DTYPES.issuperset(t.dtype for t in folder.tensors.values()):
        return None
    weights = {name: tensor.to(dtype) for name, tensor in _tensors(folder)}
    decoder.load_state_dict(weights, strict=False, assign=True)
    if config.tie_word_embeddings:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    return decoder.requires_grad_(False).eval()


def _tensors(folder: ModelFolder) -> Iterator[tuple[str, Tensor]]:
    for shard in folder.shards:
        with safe_open(shard.path, framework="pt") as file:
            for tensor in shard.tensors:
                yield tensor.name, file.get_tensor(tensor.name)
