"""What is wrong with training rows, as HTML: each fault with its rows."""

from collections.abc import Sequence
from html import escape

from martlet.train.doctor import Finding
from martlet.ui.doctor import Checkup
from martlet.ui.site import Words

_NUM_SHOWN = 8
"""Rows that a finding names."""


def findings(words: Words, checkup: Checkup) -> str:
    """Figures and findings as HTML; what stops a training in red."""
    diagnosis = checkup.diagnosis
    told = words["rows_counts"].format(
        rows=diagnosis.num_rows,
        tokens=diagnosis.num_tokens,
        learned=diagnosis.num_targets / max(1, diagnosis.num_tokens),
        longest=diagnosis.length_at(1),
    )
    verdict = words["rows_sound" if diagnosis.is_sound else "rows_unsound"]
    mark = "sound" if diagnosis.is_sound else "stops"
    return (
        f'<div class="findings"><p>{told}</p><p class="{mark}">{verdict}</p>'
        f"{_table(words, checkup) if diagnosis.findings else ''}</div>"
    )


def _table(words: Words, checkup: Checkup) -> str:
    names = ("found", "found_rows", "found_advice")
    head = "".join(f"<th>{words[name]}</th>" for name in names)
    body = "".join(
        f'<tr class="{"stops" if each.stops else ""}"><td>{_kind(words, each)}</td>'
        f"<td>{_places(words, checkup, each)}</td><td>{_advice(words, each)}</td></tr>"
        for each in sorted(checkup.diagnosis.findings, key=lambda each: not each.stops)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _kind(words: Words, finding: Finding) -> str:
    detail = f"<small>{escape(finding.detail)}</small>" if finding.detail else ""
    return f"<strong>{words.get(_word('finding', finding), finding.kind)}</strong>{detail}"


def _advice(words: Words, finding: Finding) -> str:
    return words.get(_word("advice", finding), finding.advice)


def _word(what: str, finding: Finding) -> str:
    return f"{what}_{'too long' if finding.is_length else finding.kind}"


def _places(words: Words, checkup: Checkup, finding: Finding) -> str:
    """Row numbers, those of each file by itself."""
    rows: dict[bool, list[int]] = {}
    for origin in finding.origins:
        is_validation = checkup.validation is not None and origin.path == str(checkup.validation)
        rows.setdefault(is_validation, []).append(origin.row)
    return "<br>".join(
        (f"{words['validation']}: " if is_validation else "") + _numbers(numbers)
        for is_validation, numbers in sorted(rows.items())
    )


def _numbers(rows: Sequence[int]) -> str:
    """The first of them, and how many there are where some are left out."""
    shown = ", ".join(map(str, rows[:_NUM_SHOWN]))
    return shown if len(rows) <= _NUM_SHOWN else f"{shown}, … ({len(rows):,})"
