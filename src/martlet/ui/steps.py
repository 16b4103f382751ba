"""The steps of a reply as HTML: its tokens in a ribbon, and the candidates of one of them."""

from collections.abc import Sequence
from html import escape
from math import exp

from martlet.ui.client import Json
from martlet.ui.reply import Reply
from martlet.ui.site import Words

_COLUMNS = ("token", "logit", "after_penalties", "after_temperature", "probability", "draw")
_LEAST = -9999
"""Stands for minus infinity in the server's replies."""


def ribbon(steps: Sequence[Json], chosen: int | None) -> str:
    """The tokens one behind the other, the fainter the less likely the model found them."""
    spans = "".join(
        f'<span class="token{" chosen" if place == chosen else ""}" '
        f'style="--likely:{exp(step["logprob"]):.3f}" title="{exp(step["logprob"]):.1%}">'
        f"{escape(visible(step['token']))}</span>"
        for place, step in enumerate(steps)
    )
    return f'<div class="ribbon">{spans}</div>'


def candidates(words: Words, step: Json) -> str:
    """What could have been drawn at a step, the likeliest first, and what was.

    A row follows one token: as the model gave it, after penalties, after the temperature, and its
    share of the draw, which is none for what the filters drop.
    """
    head = "".join(f"<th>{words[name]}</th>" for name in _COLUMNS)
    rows = "".join(
        _row(words, each, is_drawn=each["token_id"] == step["token_id"])
        for each in step["candidates"]
    )
    return (
        f'<div class="wide"><table class="candidates"><tr>{head}</tr>{rows}</table></div>'
        f'<p class="hint">{words["candidates_hint"]}</p>'
    )


def _row(words: Words, each: Json, *, is_drawn: bool) -> str:
    share = each["draw_probability"]
    is_barred = each["adjusted"] <= _LEAST
    cells = [
        f"{each['logit']:.2f}",
        "–" if is_barred else f"{each['adjusted']:.2f}",
        "–" if is_barred else f"{each['scaled']:.2f}",
        f"{each['probability']:.1%}",
    ]
    told = f"{share:.1%}" if share > 0 else words["dropped"]
    return (
        f'<tr class="{"drawn" if is_drawn else "" if share > 0 else "dropped"}">'
        f"<td><code>{escape(visible(each['token']))}</code></td>"
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}<td>"
        f'<span class="track"><span style="width:{100 * share:.1f}%"></span></span>{told}</td></tr>'
    )


def visible(token: str) -> str:
    """A token with its blanks and line ends made visible."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅"


def ending(words: Words, reply: Reply) -> str:
    """Why nothing more was drawn."""
    return f"<p>{words['why_stopped_' + str(reply.ending)]}</p>"
