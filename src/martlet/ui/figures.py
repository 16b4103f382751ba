"""The lines below a reply: how long, how fast, and what is left of the context. As HTML."""

from collections.abc import Mapping
from html import escape
from typing import Any

from martlet.ui.site import Words


def figures(words: Words, facts: Mapping[str, Any]) -> str:
    """The facts of a reply and the bar of its context; nothing for no facts."""
    if not facts:
        return ""
    bar = context_bar(words, facts["context"], facts["num_tokens"]) if facts["context"] else ""
    return f'<div class="figures">{bar}{line_of(words, facts)}</div>'


def line_of(words: Words, facts: Mapping[str, Any]) -> str:
    """Who replied, with how many tokens, how fast, and how it ended."""
    parts = [escape(facts["model"])] if facts.get("model") else []
    parts.append(words["n_tokens"].format(facts["num_tokens"]))
    if facts["tokens_per_second"] is not None:
        parts.append(words["tokens_per_second"].format(facts["tokens_per_second"]))
    if facts["seconds_to_first"] is not None:
        parts.append(words["first_after"].format(facts["seconds_to_first"]))
    if facts["ending"] in ("length", "stopped", "error"):
        parts.append(f"<strong>{words['ending_' + facts['ending']]}</strong>")
    return f"<p>{' · '.join(parts)}</p>"


def context_bar(words: Words, context: Mapping[str, Any], num_tokens: int) -> str:
    """What the prompt and the reply take of the context, and what was dropped to make room.

    Args:
        words: Of the page.
        context: As the server's field `martlet.context` has it.
        num_tokens: Of the reply so far.
    """
    num_prompt, whole = context["num_prompt_tokens"], context["max_context_tokens"]
    room = max(0, whole - num_prompt - num_tokens)
    told = words["context_use"].format(used=num_prompt + num_tokens, whole=whole, room=room)
    parts = "".join(
        f'<span class="{name}" style="width:{100 * count / whole:.2f}%"></span>'
        for name, count in (("prompt", num_prompt), ("reply", num_tokens))
    )
    return (
        f'<div class="context" role="img" aria-label="{escape(told)}">{parts}</div>'
        f"<p>{told}{_dropped(words, context)}</p>"
    )


def _dropped(words: Words, context: Mapping[str, Any]) -> str:
    parts = []
    if context["num_dropped_turns"]:
        parts.append(words["dropped_turns"].format(context["num_dropped_turns"]))
    if context["num_cut_characters"]:
        parts.append(words["cut_characters"].format(context["num_cut_characters"]))
    return f" · <strong>{', '.join(parts)}</strong>" if parts else ""


def said(heading: str, text: str) -> str:
    """A text as the model wrote it, under a heading."""
    return (
        f'<div class="said"><h3>{escape(heading)}</h3>'
        f'<div class="text">{escape(text) or "…"}</div></div>'
    )
