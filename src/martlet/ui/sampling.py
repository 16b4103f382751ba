"""The controls that say how replies are drawn. What nobody moved is left to the server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from martlet.errors import ParameterError
from martlet.ui.client import Json
from martlet.ui.site import Words


@dataclass(frozen=True, kw_only=True)
class _Range:
    """How far a slider goes; the server allows more of some."""

    low: float
    high: float
    step: float


_NAME_TO_RANGE: Mapping[str, _Range] = {
    "temperature": _Range(low=0, high=2, step=0.05),
    "top_p": _Range(low=0.01, high=1, step=0.01),
    "top_k": _Range(low=0, high=200, step=1),
    "min_p": _Range(low=0, high=1, step=0.01),
    "repetition_penalty": _Range(low=0.5, high=2, step=0.01),
    "frequency_penalty": _Range(low=-2, high=2, step=0.05),
}


_SEVERAL_TEMPERATURE = 0.7
"""Of several replies to a question, where the model's folder recommends greedy ones."""


class SamplingControls:
    """Sliders that begin where the server would be without them, and two numbers.

    Made inside a container of the page.

    Args:
        words: Of the page.
        seed: What the seed begins with; None draws afresh each time.
        max_tokens: What the longest reply begins with; None leaves it to the server.
        several: Whether several replies to one question are drawn, which must not be all the same.
    """

    def __init__(
        self,
        words: Words,
        *,
        seed: int | None = None,
        max_tokens: int | None = None,
        several: bool = False,
    ) -> None:
        self._words = words
        self._several = several
        self._defaults = gr.State({})
        self._sliders = {
            name: gr.Slider(
                minimum=range_.low,
                maximum=range_.high,
                step=range_.step,
                value=range_.low,
                label=words[name],
                buttons=[],
            )
            for name, range_ in _NAME_TO_RANGE.items()
        }
        with gr.Row():
            self._max_tokens = _number(words, "max_tokens", max_tokens)
            self._seed = _number(words, "seed", seed)

    @property
    def components(self) -> list[Any]:
        """What an event takes as inputs, for `given` to read."""
        return [self._defaults, *self._sliders.values(), self._max_tokens, self._seed]

    def loaded(self, card: Json) -> dict[Any, Any]:
        """Puts the sliders where a model's card says that the server stands."""
        known = card["parameters"]
        updates: dict[Any, Any] = {
            self._defaults: {name: known[name]["value"] for name in _NAME_TO_RANGE}
        }
        for name, slider in self._sliders.items():
            value, source = known[name]["value"], known[name]["source"]
            range_ = _NAME_TO_RANGE[name]
            is_same_for_all = self._several and name == "temperature" and value == 0
            updates[slider] = gr.Slider(
                value=_SEVERAL_TEMPERATURE if is_same_for_all else value,
                minimum=min(range_.low, value),
                maximum=max(range_.high, value),
                info=f"{value:g} · {source_of(self._words, source)}",
            )
        return updates

    def given(self, values: Sequence[Any]) -> dict[str, object]:
        """The parameters that the visitor changed.

        Args:
            values: Of `components`.

        Raises:
            ParameterError: If a number is none.
        """
        defaults, *rest = values
        *slid, max_tokens, seed = rest
        moved = {
            name: int(value) if name == "top_k" else value
            for name, value in zip(_NAME_TO_RANGE, slid, strict=True)
            if name in defaults and value != defaults[name]
        }
        numbers = {"max_tokens": max_tokens, "seed": seed}
        return moved | {
            name: self._whole(name, text) for name, text in numbers.items() if text.strip()
        }

    def _whole(self, name: str, text: str) -> int:
        try:
            return int(text)
        except ValueError:
            told = self._words["no_number"].format(name=self._words[name], given=text)
            raise ParameterError(told, param=name) from None


def _number(words: Words, name: str, value: int | None) -> gr.Textbox:
    """A number that may be left out, which Gradio's own number field cannot say."""
    return gr.Textbox(
        "" if value is None else str(value),
        label=words[name],
        placeholder=words[f"{name}_free"],
        max_lines=1,
        min_width=120,
    )


def source_of(words: Words, source: str) -> str:
    """Where a value came from, in the page's language where it is not a file."""
    return words.get(f"source_{source}", source)


def effective_table(words: Words, parameters: Json) -> str:
    """Each effective parameter of a reply with its source, as HTML."""
    head = "".join(f"<th>{words[name]}</th>" for name in ("parameter", "value", "source"))
    rows = "".join(
        f"<tr><td>{name}</td><td>{escape(_shown(entry['value']))}</td>"
        f"<td>{escape(source_of(words, entry['source']))}</td></tr>"
        for name, entry in parameters.items()
        if entry["source"] != "default of martlet" or name in _NAME_TO_RANGE
    )
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _shown(value: object) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
