"""The steps of a reply as HTML: its tokens in a ribbon, and the candidates of one of them."""

from collections.abc import Sequence
from html import escape
from math import exp

from martlet.ui.client import Json
from martlet.ui.reply import Reply
from martlet.ui.site import Words


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
    """What could have been drawn at a step, the likeliest first, and what was."""
    listed = list(step["top_logprobs"])
    if step["bytes"] not in [entry["bytes"] for entry in listed]:
        listed.append(step)
    head = "".join(
        f"<th>{words[name]}</th>" for name in ("token", "log_probability", "probability")
    )
    rows = "".join(_row(entry, is_drawn=entry["bytes"] == step["bytes"]) for entry in listed)
    return f'<table class="candidates"><tr>{head}</tr>{rows}</table>'


def _row(entry: Json, *, is_drawn: bool) -> str:
    probability = exp(entry["logprob"])
    return (
        f"<tr{' class=drawn' if is_drawn else ''}>"
        f"<td><code>{escape(visible(entry['token']))}</code></td><td>{entry['logprob']:.3f}</td><td>"
        f'<span class="track"><span style="width:{100 * probability:.1f}%"></span></span>'
        f"{probability:.1%}</td></tr>"
    )


def visible(token: str) -> str:
    """A token with its blanks and line ends made visible."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "∅"


def ending(words: Words, reply: Reply) -> str:
    """Why nothing more was drawn."""
    return f"<p>{words['why_stopped_' + str(reply.ending)]}</p>"
