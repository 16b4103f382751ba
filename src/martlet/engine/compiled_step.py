"""A step of few rows as one program: all layers of a decoder, without Python between their calls.

With one request, what Python does between the calls of a step takes a third as long as reading the
weights. So the calls are written down once for each number of rows, and only what the step itself
decides is filled in: angles, slots, and the tiles of attention.

Shapes: M rows of the step, D width of the model.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from martlet.engine.attention import Reach, StepAttention
from martlet.engine.batch import StepBatch
from martlet.engine.compiled_attention import LayerAttention, can_attend
from martlet.engine.kv_cache import KVCache
from martlet.models.compiled.program import Program
from martlet.models.compiled.threads import is_compiled_for
from martlet.models.decoder.decoder import Attention, Decoder, Layer
from martlet.models.decoder.rotation import FusedRotation
from martlet.models.gated_mlp import GatedMLP
from martlet.models.linear.joined import LinearPart
from martlet.models.linear.written import calls_of, scratch_bytes
from martlet.models.norm import FusedRMSNorm
from martlet.models.openmp import Call

MAX_ROWS = 256
"""Beyond, Python takes no time worth counting beside the products."""
_MAX_PROGRAMS = 32


class CompiledStep:
    """The layers of a decoder, for steps of few rows and no adapter.

    Args:
        decoder: One for which `can_write` holds.
        cache: The pool that its layers write and read.
    """

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder = decoder
        self._cache = cache
        self._places = _Places.of(decoder)
        self._attention = [
            LayerAttention(
                cache,
                index,
                decoder.config.num_attention_heads,
                decoder.config.head_dim,
                decoder.config.head_dim**-0.5,
            )
            for index in range(decoder.config.num_hidden_layers)
        ]
        self._programs: OrderedDict[int, _StepProgram | None] = OrderedDict()
