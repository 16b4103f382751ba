"""A step of few rows as one program: the calls of all layers, and what in them changes."""

from collections.abc import Sequence

from martlet.engine.attention import Reach, StepAttention
from martlet.engine.compiled_attention import NUM_STEP_ARGUMENTS, LayerAttention
from martlet.engine.kv_cache import KVCache
from martlet.lora.rows import Part
from martlet.lora.written import WrittenAdapters
from martlet.models.decoder.decoder import Decoder
from martlet.models.decoder.rotation import Angles
from martlet.models.decoder.written_layer import RowPlaces, WrittenLayer
from martlet.models.linear.compiled_low_rank import rows_of
from martlet.models.norm import FusedRMSNorm
from martlet.models.openmp import Call


class WrittenDecoder:
    """The layers of a decoder and the norm behind them, with the pool that they use.

    Args:
        decoder: Whose layers these are.
        layers, norm: As they are before any adapter is put around them.
        cache: Its pool.
        max_rows: Of a step.
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: Sequence[WrittenLayer],
        norm: FusedRMSNorm,
        cache: KVCache,
        *,
        max_rows: int,
    ) -> None:
        config = decoder.config
        shape = {"num_heads": config.num_attention_heads, "dim": config.head_dim}
        self.places = RowPlaces(config, max_rows)
        self.num_groups = config.num_attention_heads // config.num_key_value_heads
        self._layers, self._cache, self._dim = layers, cache, config.head_dim
        self._attention = [
            LayerAttention(cache, index, scaling=config.head_dim**-0.5, **shape)
            for index in range(len(layers))
        ]
        self._next_norms = [*(layer.input_norm for layer in layers[1:]), norm]

    def calls(self, num_rows: int, adapters: WrittenAdapters) -> list[Call] | None:
        """From `places.rows` to `places.results`.

        Returns:
            None if so many rows are not multiplied by compiled functions.
        """
        places = self.places
        calls = [self._layers[0].input_norm.call(places.x, places.normed, num_rows)]
        for index, layer in enumerate(self._layers):

            def adapt(name: str, *how: tuple[int, int], index: int = index) -> list[Call]:
                return adapters.calls(leaf_name(index, name), *how)

            before = layer.before_attention(places, num_rows, self._cache.pools(index), adapt)
            after = layer.after_attention(places, num_rows, adapt)
            if before is None or after is None:
                return None
            norm = self._next_norms[index]
            following = norm.call_after_adding(places.x, places.added, places.normed, num_rows)
            calls += [*before, self._attention_call(index), *after, following]
        return calls

    def _attention_call(self, layer: int) -> Call:
        from martlet.models.compiled.attention import attend

        places = self.places
        own = self._attention[layer].arguments(
            places.projected, places.mixed, places.projected_bytes, 2 * self._dim
        )
        return Call(attend().address, (*(0,) * NUM_STEP_ARGUMENTS, *own))


def leaf_name(layer: int, name: str) -> str:
    """Of a linear layer in the model."""
    return f"model.layers.{layer}.{name}"


class StepProgram:
    """The program of steps of some rows.

    Args:
        decoder: What it computes.
        calls: Of the decoder.
        adapters: Whose calls are among these; kept, because the calls point into them.
    """

    def __init__(
        self, decoder: WrittenDecoder, calls: Sequence[Call], adapters: WrittenAdapters
    ) -> None:
        from martlet.models.compiled.attention import attend
        from martlet.models.compiled.low_rank import add_low_rank
        from martlet.models.compiled.program import Program
        from martlet.models.compiled.rotary import rotate_into_pool

        self._num_groups = decoder.num_groups
        self._adapters = adapters
        self._program = Program(calls)
        self._rotations, self._attentions, self._low_ranks = (
            [index for index, call in enumerate(calls) if call.function == function.address]
            for function in (rotate_into_pool(), attend(), add_low_rank())
        )

    def run(self, step: StepAttention, angles: Angles, adapted: Part | None) -> None:
        """Computes a step.

        Args:
            angles: Of the rows.
            adapted: The rows, by their adapters; None if none has one.
        """
        cosines, sines = (angle.contiguous() for angle in angles)
        places = cosines.data_ptr(), sines.data_ptr(), step.slots.data_ptr()
        self._fill_in(self._rotations, places)
        tiles = step.tiles(self._num_groups)
        first_keys = step.first_keys(Reach(), tiles)
        self._fill_in(self._attentions, tiles.arguments(first_keys))
        if adapted is not None:
            assert adapted.sorted_rows is not None
            assert adapted.ends is not None
            self._fill_in(self._low_ranks, rows_of(adapted.sorted_rows, adapted.ends))
        self._program.run()

    def _fill_in(self, calls: Sequence[int], first_arguments: tuple[int, ...]) -> None:
        self._program.arguments[calls, 1 : 1 + len(first_arguments)] = first_arguments
