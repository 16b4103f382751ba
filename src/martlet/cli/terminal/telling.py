"""What is told of a reply and of the context, in a line on stderr."""

from rich.text import Text

from martlet.cli.terminal.speaker import Reply
from martlet.text.conversation import ContextUse

MAX_BAR_WIDTH = 40
_DIM, _WARNING = "dim", "red"


def line_of_reply(reply: Reply) -> Text:
    """How long, how fast, and what is left of the context behind the reply."""
    parts = [counted(reply.num_tokens, "token")]
    if reply.tokens_per_second is not None:
        parts.append(f"{reply.tokens_per_second:,.0f} tokens/s")
    if reply.seconds_to_first is not None:
        parts.append(f"first after {reply.seconds_to_first:.2f} s")
    use = reply.use
    num_used = use.num_prompt_tokens + reply.num_tokens
    left = max(0, use.max_context_tokens - num_used)
    parts.append(f"context {num_used:,} of {use.max_context_tokens:,}, room {left:,}")
    line = Text(" · ".join(parts), style=_DIM)
    if not use.is_whole:
        line.append(f" · {dropped(use)}", style=_WARNING)
    if reply.ending == "length":
        line.append(" · cut off: no more tokens were allowed", style=_WARNING)
    elif reply.ending == "stopped":
        line.append(" · stopped", style=_WARNING)
    return line


def dropped(use: ContextUse) -> str:
    """What the model does not see of a conversation, in words."""
    parts = []
    if use.num_dropped_turns:
        parts.append(f"{counted(use.num_dropped_turns, 'old turn')} dropped")
    if use.num_cut_characters:
        parts.append(f"{counted(use.num_cut_characters, 'character')} of the next one cut")
    return ", ".join(parts) or "nothing dropped"


def bar_of_context(
    use: ContextUse, *, num_system_tokens: int, num_turns: int, width: int = MAX_BAR_WIDTH
) -> Text:
    """The context as a bar, and what fills it.

    Args:
        use: Of the conversation as it stands.
        num_system_tokens: How many of the prompt's tokens are the system message's.
        num_turns: Of the whole conversation.
        width: Of the bar, in characters.
    """
    num_turn_tokens = max(0, use.num_prompt_tokens - num_system_tokens)
    num_seen = num_turns - use.num_dropped_turns
    bar = Text()
    for num_tokens, cell, style in (
        (num_system_tokens, "█", "cyan"),
        (num_turn_tokens, "▓", "green"),
        (use.num_room_tokens, "░", _DIM),
    ):
        bar.append(cell * round(width * num_tokens / use.max_context_tokens), style=style)
    bar.append(f" {use.num_prompt_tokens:,} of {use.max_context_tokens:,} tokens\n")
    bar.append(f"█ system {num_system_tokens:,}", style="cyan")
    turns = f"{num_seen:,} of {counted(num_turns, 'turn')}"
    bar.append(f"  ▓ {turns} {num_turn_tokens:,}", style="green")
    bar.append(f"  ░ room {use.num_room_tokens:,}", style=_DIM)
    bar.append(f"\n{use.policy}: {dropped(use)}", style="" if use.is_whole else _WARNING)
    return bar


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
