"""The context policy: what happens to a prompt that leaves no room for its reply."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from martlet.errors import PromptTooLongError

TooLongPolicy = Literal["error", "skip", "truncate-left"]
"""What to do with such a prompt: end the run, give up this row, or drop the oldest tokens."""


@dataclass(frozen=True, kw_only=True)
class FittedPrompt:
    """A prompt that fits into the context together with its reply."""

    token_ids: tuple[int, ...]
    num_dropped: int = 0
    """Tokens that were dropped from the prompt; to be reported wherever the reply is."""


def fit_prompt(
    token_ids: Sequence[int],
    *,
    max_context_tokens: int,
    max_tokens: int | None,
    policy: TooLongPolicy,
    bos_id: int | None = None,
) -> FittedPrompt:
    """Check a prompt against the context, and shorten it if the policy says so.

    Args:
        token_ids: The prompt.
        max_context_tokens: What the model holds, prompt and reply together.
        max_tokens: The room kept for the reply; None keeps one token, the least a reply can be.
        policy: "truncate-left" drops tokens from the left; "error" and "skip" both raise, and the
            caller ends the run or only the row.
        bos_id: The token that stays in front when the prompt begins with it.

    Raises:
        PromptTooLongError: If the prompt is too long and the policy keeps it whole, or no token of
            it would be left.
    """
    num_reserved = 1 if max_tokens is None else max_tokens
    room = max_context_tokens - num_reserved
    prompt = tuple(token_ids)
    if len(prompt) <= room:
        return FittedPrompt(token_ids=prompt)
    head = prompt[:1] if bos_id is not None and prompt[:1] == (bos_id,) else ()
    num_kept = room - len(head)
    if num_kept < 1:
        raise PromptTooLongError(
            f"{num_reserved} tokens are kept for the reply, but the model's context holds "
            f"{max_context_tokens}, which leaves no room for a prompt; give a smaller --max-tokens"
        )
    if policy != "truncate-left":
        raise PromptTooLongError(
            f"the prompt has {len(prompt)} tokens and {num_reserved} are kept for the reply, but "
            f"the model's context holds {max_context_tokens}; shorten the prompt by "
            f"{len(prompt) - room} tokens, give a smaller --max-tokens, or choose "
            "--too-long skip or --too-long truncate-left"
        )
    fitted = head + prompt[-num_kept:]
    return FittedPrompt(token_ids=fitted, num_dropped=len(prompt) - len(fitted))
