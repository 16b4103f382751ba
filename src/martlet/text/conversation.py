"""A conversation that outgrows the context: what the model still sees of it, and what was dropped.

Counts tokens through the chat template, as the model does, and knows no tokenizer itself.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, get_args

from martlet.errors import ParameterError, PromptTooLongError
from martlet.text.messages import Message
from martlet.text.turns import Turns

ContextPolicy = Literal["drop-old-turns", "keep-system+tail", "error"]
"""What becomes of a conversation that leaves no room for the reply: its oldest turns are dropped;
they are, and of the oldest that is left as much is cut as must be; or it is refused."""
CONTEXT_POLICIES: tuple[ContextPolicy, ...] = get_args(ContextPolicy)

_MOST_RESERVED = 1024
_RESERVED_SHARE = 4


class Rendered(Protocol):
    """A conversation as the model sees it."""

    @property
    def token_ids(self) -> Sequence[int]: ...


_Prompt = TypeVar("_Prompt", bound=Rendered)


@dataclass(frozen=True, kw_only=True)
class ContextUse:
    """What became of a conversation, to be told with its reply."""

    policy: ContextPolicy
    max_context_tokens: int
    """What the model holds, prompt and reply together."""
    num_prompt_tokens: int
    num_dropped_turns: int = 0
    """The oldest turns, which the model does not see at all."""
    num_dropped_messages: int = 0
    """Their messages."""
    num_cut_characters: int = 0
    """Missing at the beginning of the oldest turn that the model sees."""
    num_dropped_tokens: int = 0
    """By how much the prompt is shorter than that of the whole conversation."""

    @property
    def num_room_tokens(self) -> int:
        """What is left of the context behind the prompt: the longest reply."""
        return self.max_context_tokens - self.num_prompt_tokens

    @property
    def is_whole(self) -> bool:
        """Whether the model sees all of the conversation."""
        return self.num_dropped_turns == self.num_cut_characters == 0


@dataclass(frozen=True, kw_only=True)
class FittedConversation(Generic[_Prompt]):
    """A conversation that fits into the context together with its reply."""

    prompt: _Prompt
    messages: Sequence[Message]
    """What the prompt was made of."""
    use: ContextUse


def check_policy(name: str) -> ContextPolicy:
    """The policy of a name.

    Raises:
        ParameterError: If there is none.
    """
    for policy in CONTEXT_POLICIES:
        if name == policy:
            return policy
    raise ParameterError(
        f"context_policy must be one of {', '.join(CONTEXT_POLICIES)}, not {name!r}",
        param="context_policy",
    )


def fit_conversation(
    messages: Sequence[Message],
    render: Callable[[Sequence[Message]], _Prompt],
    *,
    max_context_tokens: int,
    max_tokens: int | None,
    policy: ContextPolicy,
) -> FittedConversation[_Prompt]:
    """Render a conversation so that its reply has room.

    A turn is a user's message with all that answers it; what stands before the first one is a turn
    of its own. System messages belong to no turn and are never dropped, and neither is the last
    turn. `keep-system+tail` cuts characters off the beginning of the oldest turn that it keeps, the
    fewest that suffice; the turn's messages stay in their roles, so that the prompt is one that the
    template could have written. Only this policy cuts a last turn that is too long by itself.

    What to drop is found by bisection: a conversation of n turns is rendered log2(n) + 3 times at
    most, and once where it fits; a cut of n characters takes another log2(n).

    Args:
        messages: The conversation, oldest first.
        render: Applies the chat template and tokenizes.
        max_context_tokens: What the model holds, prompt and reply together.
        max_tokens: The room kept for the reply. With None it is `reply_room`, and less where the
            last turn by itself leaves less; one token if the policy is `error`.
        policy: What to do if there is no such room.

    Raises:
        PromptTooLongError: If the policy refuses the conversation, or what it never drops is too
            long by itself.
        MartletError: As `render` does.
    """
    drafts = _Drafts(messages, render)
    room = _prompt_room(drafts, max_context_tokens, max_tokens, policy)
    num_turns, num_characters = _what_to_drop(drafts, room, policy)
    prompt = drafts.prompt(num_turns, num_characters)
    use = ContextUse(
        policy=policy,
        max_context_tokens=max_context_tokens,
        num_prompt_tokens=len(prompt.token_ids),
        num_dropped_turns=num_turns,
        num_dropped_messages=drafts.turns.num_messages_before(num_turns),
        num_cut_characters=num_characters,
        num_dropped_tokens=drafts.num_tokens() - len(prompt.token_ids),
    )
    if use.num_prompt_tokens > room:
        raise _too_long(use, num_reserved=max_context_tokens - room)
    kept = drafts.turns.without(num_turns, num_characters)
    return FittedConversation(prompt=prompt, messages=kept, use=use)


def reply_room(max_context_tokens: int) -> int:
    """The room that a reply of no stated length is given: a quarter, and at most 1,024 tokens."""
    return max(1, min(_MOST_RESERVED, max_context_tokens // _RESERVED_SHARE))


class _Drafts(Generic[_Prompt]):
    """The prompts that a conversation might become, each rendered once."""

    def __init__(
        self, messages: Sequence[Message], render: Callable[[Sequence[Message]], _Prompt]
    ) -> None:
        self._render = render
        # Rendered first: that is what finds a malformed message.
        self._prompts = {(0, 0): render(messages)}
        self.turns = Turns.of(messages)

    def prompt(self, num_turns: int = 0, num_characters: int = 0) -> _Prompt:
        key = num_turns, num_characters
        if key not in self._prompts:
            self._prompts[key] = self._render(self.turns.without(num_turns, num_characters))
        return self._prompts[key]

    def num_tokens(self, num_turns: int = 0, num_characters: int = 0) -> int:
        return len(self.prompt(num_turns, num_characters).token_ids)


def _prompt_room(
    drafts: _Drafts[_Prompt], max_context_tokens: int, max_tokens: int | None, policy: ContextPolicy
) -> int:
    """The longest prompt, in tokens."""
    if max_tokens is not None or policy == "error":
        return max_context_tokens - (max_tokens or 1)
    room = max_context_tokens - reply_room(max_context_tokens)
    if drafts.num_tokens() <= room:
        return room
    num_least = drafts.num_tokens(drafts.turns.last)
    return max(room, num_least) if num_least < max_context_tokens else room


def _what_to_drop(drafts: _Drafts[_Prompt], room: int, policy: ContextPolicy) -> tuple[int, int]:
    """How many turns, and how many characters of the next one."""
    if policy == "error" or drafts.num_tokens() <= room:
        return 0, 0
    last = drafts.turns.last
    candidates = range(1, last)
    place = bisect_left(candidates, True, key=lambda n: drafts.num_tokens(n) <= room)
    num_turns = candidates[place] if place < len(candidates) else last
    if policy == "drop-old-turns":
        return num_turns, 0
    is_enough = drafts.num_tokens(num_turns) <= room
    cut_turn = num_turns - 1 if is_enough else num_turns
    num_characters = _least_cut(drafts, cut_turn, room)
    return (num_turns, 0) if num_characters is None else (cut_turn, num_characters)


def _least_cut(drafts: _Drafts[_Prompt], turn: int, room: int) -> int | None:
    """Of the turn, which becomes the oldest; None if nothing of it can stay."""
    candidates = range(1, drafts.turns.num_characters(turn))
    place = bisect_left(candidates, True, key=lambda n: drafts.num_tokens(turn, n) <= room)
    return candidates[place] if place < len(candidates) else None


def _too_long(use: ContextUse, *, num_reserved: int) -> PromptTooLongError:
    what, way_out = _POLICY_TO_FAULT[use.policy]
    left = use.num_room_tokens
    shorter = f"ask for at most {left} tokens" if left > 0 else "shorten the messages"
    return PromptTooLongError(
        f"{what} {use.num_prompt_tokens} tokens and {num_reserved} are kept for the reply, but the "
        f"model's context holds {use.max_context_tokens}; {shorter}, or {way_out}"
    )


_POLICY_TO_FAULT: Mapping[ContextPolicy, tuple[str, str]] = {
    "error": ("the conversation has", "take the context policy drop-old-turns"),
    "drop-old-turns": (
        "without its older turns the conversation still has",
        "take the context policy keep-system+tail, which cuts the last turn",
    ),
    "keep-system+tail": (
        "without its older turns the conversation still has",
        "shorten the system message",
    ),
}
