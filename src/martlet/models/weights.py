"""How the weights of linear layers are held while a model runs, and what they take."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from martlet.models.folder import ModelFolder

Weights = Literal["stored", "int8", "int4", "fp8"]
"""`stored` as the folder has them; the others round its linear layers while it is loaded."""
KEPT_FROM_INT8 = "o_proj"
"""The layer behind attention stays in bf16 where a CPU multiplies by compiled functions: it is a
twentieth of the weights, and a quarter of what eight bits cost (docs/weights.md). In four bits the
LM head keeps eight."""
GROUP_SIZE = 32
"""Inputs that share a scale in four bits."""
SCALE_SIZES = (128, 64, 32)
"""Inputs whose scales are whole multiples of one number; the first that divides a layer's."""
STEP_GROUP_SIZE = 16
"""The same where products are compiled: as many share half a byte, and all of an output a scale."""
INT4_BYTES = 0.5 + 0.5 / STEP_GROUP_SIZE
"""Of a weight whose product is compiled."""


def held_bytes(folder: "ModelFolder", dtype: "torch.dtype", weights: Weights) -> int:
    """Bytes that the weights take in memory, as far as the files' headers tell.

    Args:
        folder: A checkpoint that is not quantised, unless `weights` is `stored`.
        dtype: Of what is not rounded.
        weights: How linear layers are held; the LM head takes a byte a value in all.
    """
    from martlet.models.linear.fastest import can_keep_steady
    from martlet.models.machine_code.support import can_compile

    total = stored_bytes(folder, dtype)
    if weights == "stored":
        return total
    # PyTorch's operator has a scale and a shift in bf16 for each group.
    four = INT4_BYTES if can_compile() else 0.5 + 4 / GROUP_SIZE
    bytes_a_value = {"int8": 1.0, "fp8": 1.0, "int4": four}[weights]
    kept = f".{KEPT_FROM_INT8}.weight" if weights == "int8" and can_keep_steady() else None
    matrices = [t for name, t in folder.tensors.items() if name.endswith("weight")]
    matrices = [tensor for tensor in matrices if kept is None or not tensor.name.endswith(kept)]
    matrices = [tensor for tensor in matrices if len(tensor.shape) == 2]
    ends = [tensor for tensor in matrices if tensor.shape[0] == folder.num_embeddings]
    layers = [tensor for tensor in matrices if tensor.shape[0] != folder.num_embeddings]
    # Of two such tensors one is the embedding, which keeps its precision; a single one is read from
    # its file, and held as the head.
    saved = sum(t.num_values * (dtype.itemsize - bytes_a_value) for t in layers)
    saved += sum(t.num_values * (dtype.itemsize - 1) for t in ends[-1:])
    return total - int(saved)


def stored_bytes(folder: "ModelFolder", dtype: "torch.dtype") -> int:
    """Bytes that the weights take when they are run in a dtype; integers stay as they are."""
    return sum(
        tensor.num_values * dtype.itemsize
        if tensor.dtype.startswith(("F", "BF"))
        else tensor.size_bytes
        for tensor in folder.tensors.values()
    )
