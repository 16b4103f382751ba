"""Examples to token ids and the mask of what is learned, by the very code that serves.

An assistant's turn is learned behind the prompt that the server would build for it: the turns
before, rendered with the opening of the reply and encoded as a request is. What is learned is what
the full conversation's rendering adds behind that, up to and including the token that ends a turn.
What the template writes after that token (ChatML's newline) is context for later turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from martlet.text.messages import Message
from martlet.text.tokenizer import Tokenizer
from martlet.text.tool_calls.functions import Tool
from martlet.train.example import Completion, Conversation, Origin, Preference


@dataclass(frozen=True, kw_only=True)
class EncodedExample:
    """One sequence to learn."""

    origin: Origin
    token_ids: tuple[int, ...]
    is_target: tuple[bool, ...]
    """For each token whether predicting it, from all before it, counts for the loss."""
    ends: bool = True
    """Whether every reply in it ends with a token at which serving stops."""

    @property
    def num_targets(self) -> int:
        return sum(self.is_target)


@dataclass(frozen=True, kw_only=True)
class EncodedPreference:
    """A prompt and two replies to it."""

    origin: Origin
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    ends: bool = True


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """A prompt as it is served, and the reply that is learned behind it."""

    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]
    ends: bool


class Encoder:
    """Encodes examples for one model.

    Args:
        tokenizer: The one that serves, with the chat template that serves.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(tokenizer.stop_ids)

    def encode(self, example: Conversation | Completion) -> tuple[EncodedExample, ...]:
        """Encodes a row to learn replies from.

        Returns:
            Mostly one sequence. Several where the prompt of a later turn does not begin with the
            turn before it as it was learned, as with templates that leave out earlier thinking:
            then each is learned behind the prompt that is served.

        Raises:
            TemplateError: If there is no chat template, or it refuses the messages.
        """
        if isinstance(example, Completion):
            turns = [self._complete(example)]
        else:
            turns = [
                self._turn(example.messages[:place], example.messages[place], example.tools)
                for place, message in enumerate(example.messages)
                if message.get("role") == "assistant" and place not in example.untrained
            ]
        return tuple(_chained(example.origin, turns))

    def encode_preference(self, example: Preference) -> EncodedPreference:
        """Encodes a row to learn a preference from.

        Raises:
            TemplateError: If there is no chat template, or it refuses the messages.
        """
        chosen, rejected = (
            self._turn((*example.messages, *turns[:-1]), turns[-1], example.tools)
            for turns in (example.chosen, example.rejected)
        )
        shared = _num_shared(chosen.prompt_ids, rejected.prompt_ids)
        return EncodedPreference(
            origin=example.origin,
            prompt_ids=chosen.prompt_ids[:shared],
            chosen_ids=(*chosen.prompt_ids[shared:], *chosen.reply_ids),
            rejected_ids=(*rejected.prompt_ids[shared:], *rejected.reply_ids),
            ends=chosen.ends and rejected.ends,
        )

    def _turn(self, before: Sequence[Message], reply: Message, tools: Sequence[Tool]) -> _Turn:
        prompt, prompt_ids = self._tokenizer.render(before, tools=tools)
        whole, ids = self._tokenizer.render(
            (*before, reply), add_generation_prompt=False, tools=tools
        )
        if whole.startswith(prompt):
            if ids[: len(prompt_ids)] == prompt_ids:
                return self._ended(prompt_ids, ids[len(prompt_ids) :])
            added = whole.removeprefix(prompt)
        else:
            # The opening of a reply holds more than the template later shows of it, such as a
            # <think> that is left out of finished turns.
            added = f"{reply.get('content') or ''}{self._tokenizer.end_of_turn or ''}"
        return self._ended(prompt_ids, self._tokenizer.encode(added, add_special_tokens=False))

    def _complete(self, example: Completion) -> _Turn:
        prompt_ids = self._tokenizer.encode(example.prompt, add_special_tokens=True)
        ids = self._tokenizer.encode(example.prompt + example.completion, add_special_tokens=True)
        if ids[: len(prompt_ids)] == prompt_ids:
            reply_ids = ids[len(prompt_ids) :]
        else:
            reply_ids = self._tokenizer.encode(example.completion, add_special_tokens=False)
        eos_id = self._tokenizer.eos_id
        if eos_id in self._stop_ids and self._stop_ids.isdisjoint(reply_ids):
            reply_ids = (*reply_ids, eos_id)
        return self._ended(prompt_ids, reply_ids)

    def _ended(self, prompt_ids: tuple[int, ...], reply_ids: tuple[int, ...]) -> _Turn:
        for place, token_id in enumerate(reply_ids):
            if token_id in self._stop_ids:
                return _Turn(prompt_ids=prompt_ids, reply_ids=reply_ids[: place + 1], ends=True)
        return _Turn(prompt_ids=prompt_ids, reply_ids=reply_ids, ends=False)


def _chained(origin: Origin, turns: Sequence[_Turn]) -> list[EncodedExample]:
    """One sequence of turns as long as each prompt goes on where the sequence ended."""
    examples: list[EncodedExample] = []
    for turn in turns:
        last = examples.pop() if examples else None
        if last is None or turn.prompt_ids[: len(last.token_ids)] != last.token_ids:
            examples += [] if last is None else [last]
            last = EncodedExample(origin=origin, token_ids=(), is_target=())
        context = turn.prompt_ids[len(last.token_ids) :]
        examples.append(
            EncodedExample(
                origin=origin,
                token_ids=(*last.token_ids, *context, *turn.reply_ids),
                is_target=(
                    *last.is_target,
                    *(False for _ in context),
                    *(True for _ in turn.reply_ids),
                ),
                ends=last.ends and turn.ends,
            )
        )
    return examples


def _num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences have in common from the start."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
