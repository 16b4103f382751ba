"""A vote as HTML: a bar for each answer, and every sample to unfold."""

from collections.abc import Sequence
from html import escape
from string import ascii_uppercase

from martlet.ui.poll import Poll
from martlet.ui.site import Words


def bars(words: Words, poll: Poll, options: Sequence[str], *, is_over: bool = False) -> str:
    """The standing of a vote: how many samples say what, and whether it is decided.

    Args:
        words: Of the page.
        poll: What is known.
        options: Of the question; the first is A. Empty where answers are no letters.
        is_over: Whether nothing more will be drawn.
    """
    vote = poll.standing()
    letters = ascii_uppercase[: len(options)]
    known = [*letters, *(value for value in vote.counts if value not in letters)]
    rows = [
        _bar(
            _label(value, options),
            int(vote.counts.get(value, 0)),
            poll.num_samples,
            is_winner=is_over and value == vote.winner,
        )
        for value in known
    ]
    if vote.num_unparsed:
        rows.append(_bar(words["no_answer"], vote.num_unparsed, poll.num_samples, is_winner=False))
    return f'<div class="bars">{_headline(words, poll, is_over=is_over)}{"".join(rows)}</div>'


def _headline(words: Words, poll: Poll, *, is_over: bool) -> str:
    vote, num_drawn = poll.standing(), len(poll.finished)
    if not is_over:
        return f"<h3>{words['vote_running'].format(num_drawn, poll.num_samples)}</h3>"
    if vote.winner is None:
        return f"<h3>{words['vote_none']}</h3>"
    told = words["vote_won"].format(answer=escape(vote.winner), margin=vote.margin)
    if not poll.is_decided:
        why = words["vote_stopped"].format(num_drawn, poll.num_samples)
    elif vote.num_samples < poll.num_samples:
        why = words["vote_early"].format(counted=vote.num_samples, whole=poll.num_samples)
    else:
        why = words["vote_full"].format(vote.num_samples)
    return f"<h3>{told}</h3><p>{why}</p>"


def _bar(label: str, count: int, whole: int, *, is_winner: bool) -> str:
    winner = " winner" if is_winner else ""
    return (
        f'<div class="bar{winner}"><span class="label">{escape(label)}</span>'
        f'<span class="track"><span style="width:{100 * count / whole:.1f}%"></span></span>'
        f'<span class="count">{count}</span></div>'
    )


def _label(value: str, options: Sequence[str]) -> str:
    place = ascii_uppercase.find(value) if len(value) == 1 else -1
    return f"{value}. {options[place]}" if 0 <= place < len(options) else value


def samples(words: Words, poll: Poll) -> str:
    """Each finished sample with its answer, folded, by number."""
    num_counted = poll.standing().num_samples if poll.is_decided else len(poll.finished)
    rows = []
    for index in sorted(poll.finished):
        sample, answer = poll.finished[index], poll.answer(index)
        parts = [
            f"<b>{escape(answer or words['no_answer'])}</b>",
            words["n_tokens"].format(sample.num_tokens),
        ]
        if poll.is_decided and index >= num_counted:
            parts.append(words["not_counted"])
        if sample.finish_reason == "length":
            parts.append(words["ending_length"])
        rows.append(
            f"<details><summary>#{index + 1} · {' · '.join(parts)}</summary>"
            f'<div class="text">{escape(sample.text)}</div></details>'
        )
    return f'<div class="samples">{"".join(rows)}</div>'
