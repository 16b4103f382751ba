"""The works that a bench can measure, by name; the ids are the same for every contestant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

from martlet.bench.peers.protocol import Ask, Work
from martlet.errors import ParameterError

STANDARD = ("alone", "batch", "vote")
NUM_SHARED_TOKENS = 256
SCALING_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SCALING_CONTEXTS = (128, 512, 2048, 8192)
_NUM_SCALING_TOKENS = 32
_NUM_CONTEXT_REQUESTS = 4
_QUICK_DIVISOR = 4


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large works are made."""

    vocab_size: int
    max_context_tokens: int
    """What the model allows: works that need more are refused, series end below it."""
    num_requests: int | None = None
    """Prompts of `batch` and `vote`; None takes 64 and 32."""
    is_quick: bool = False
    """A quarter of the prompts and of the new tokens."""

    def scaled(self, count: int) -> int:
        """A number of prompts or tokens, a quarter of it for a quick look."""
        return max(1, count // _QUICK_DIVISOR) if self.is_quick else count


def alone(sizes: Sizes) -> list[Work]:
    """W1: one prompt of 128 tokens."""
    num_new = sizes.scaled(128)
    asks = _asks(1, 128, num_new, seed="alone", sizes=sizes)
    return [Work("alone", f"1 prompt of 128 tokens, {num_new} new", asks)]


def batch(sizes: Sizes) -> list[Work]:
    """W2: many prompts of 256 tokens."""
    count, num_new = sizes.num_requests or sizes.scaled(64), sizes.scaled(128)
    asks = _asks(count, 256, num_new, seed="batch", sizes=sizes)
    return [Work("batch", f"{_prompts(count)} of 256, {num_new} new each", asks)]


def vote(sizes: Sizes) -> list[Work]:
    """W3: problems with a common beginning, three samples of each."""
    count, num_new = sizes.num_requests or sizes.scaled(32), sizes.scaled(128)
    shared = _ids(Random("shared"), NUM_SHARED_TOKENS, sizes)
    asks = [
        replace(ask, prompt_ids=shared + ask.prompt_ids)
        for ask in _asks(count, 128, num_new, seed="vote", sizes=sizes)
    ]
    title = (
        f"{_prompts(count)} that share {NUM_SHARED_TOKENS}, 128 of their own, "
        f"3 samples of {num_new} at temperature 0.7"
    )
    return [Work("vote", title, asks, num_samples=3, temperature=0.7)]


def requests(sizes: Sizes) -> list[Work]:
    """1 to 256 requests at once."""
    num_new = sizes.scaled(_NUM_SCALING_TOKENS)
    return [
        Work(
            f"requests-{count}",
            f"{_prompts(count)} of 128, {num_new} new each",
            _asks(count, 128, num_new, seed=f"requests-{count}", sizes=sizes),
        )
        for count in SCALING_REQUESTS
        if count <= (sizes.num_requests or SCALING_REQUESTS[-1])
    ]


def contexts(sizes: Sizes) -> list[Work]:
    """Prompts from 128 tokens to 8,192, as far as the model allows."""
    num_new = sizes.scaled(_NUM_SCALING_TOKENS)
    count = sizes.num_requests or _NUM_CONTEXT_REQUESTS
    return [
        Work(
            f"contexts-{length}",
            f"{_prompts(count)} of {length:,}, {num_new} new each",
            _asks(count, length, num_new, seed=f"contexts-{length}", sizes=sizes),
        )
        for length in SCALING_CONTEXTS
        if length + num_new <= sizes.max_context_tokens
    ]


MAKERS: Mapping[str, Callable[[Sizes], list[Work]]] = {
    "alone": alone,
    "batch": batch,
    "vote": vote,
    "requests": requests,
    "contexts": contexts,
}


PUZZLES = "puzzles"
"""The embedded model's own work; see `martlet.bench.puzzles`."""


def make_works(name: str, sizes: Sizes) -> list[Work]:
    """The works of a name: one, or a series.

    Raises:
        ParameterError: If a work does not fit in the model's context.
    """
    works = MAKERS[name](sizes)
    check_fit(works, sizes)
    return works


def check_fit(works: list[Work], sizes: Sizes) -> None:
    """Checks that the model's context holds every request.

    Raises:
        ParameterError: If it does not.
    """
    for work in works:
        if work.longest > sizes.max_context_tokens:
            raise ParameterError(
                f"work {work.name} has a request of {work.longest} tokens, and the model allows "
                f"{sizes.max_context_tokens}; choose others with --work"
            )


def mixed_and_equal(lengths: list[tuple[int, int]], sizes: Sizes) -> list[Work]:
    """The requests of a trace, and as many of equal length that have as many tokens together.

    Args:
        lengths: Prompt and reply tokens of each request.
        sizes: For the vocabulary and the context.
    """
    prompts, replies = (sum(each) for each in zip(*lengths, strict=True))
    count = len(lengths)
    equal = [
        (_share(prompts, index, count), _share(replies, index, count)) for index in range(count)
    ]
    works = []
    for name, pairs in (("mixed", lengths), ("equal", equal)):
        random = Random(name)
        asks = [Ask(_ids(random, num_prompt, sizes), num_new) for num_prompt, num_new in pairs]
        title = f"{count} requests, {prompts:,} tokens of prompts, {replies:,} of replies"
        kind = "lengths of the trace" if name == "mixed" else "equal lengths"
        works.append(Work(f"trace-{name}", f"{title}, {kind}", asks))
    check_fit(works, sizes)
    return works


def _prompts(count: int) -> str:
    return f"{count} {'prompt' if count == 1 else 'prompts'}"


def _share(total: int, index: int, count: int) -> int:
    """The whole-numbered share of one among many that differ by one at most."""
    return total * (index + 1) // count - total * index // count


def _asks(count: int, length: int, num_new: int, *, seed: str, sizes: Sizes) -> list[Ask]:
    random = Random(seed)
    return [Ask(_ids(random, length, sizes), num_new) for _ in range(count)]


def _ids(random: Random, count: int, sizes: Sizes) -> list[int]:
    return random.choices(range(sizes.vocab_size), k=count)
