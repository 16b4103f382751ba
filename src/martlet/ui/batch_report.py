"""What became of a batch: figures while it runs, and a report in Markdown at its end."""

import json
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path

from martlet.ui.client import Json
from martlet.ui.site import Words

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
_NUM_ERRORS = 20


def progress(words: Words, batch: Json) -> str:
    """How far a batch is, as HTML; where lines were wrong, which."""
    counts = batch["request_counts"]
    total = counts["total"]
    done = counts["completed"] + counts["failed"]
    width = 100 * done / total if total else 0
    faults = "".join(
        f"<li>{escape(_fault(words, error))}</li>"
        for error in (batch.get("errors") or {}).get("data", [])[:_NUM_ERRORS]
    )
    told = words["batch_counts"].format(done=done, total=total, failed=counts["failed"])
    return (
        f'<div class="bars"><h3>{escape(batch_name(batch))}: {words["status_" + batch["status"]]}'
        f'</h3><div class="bar"><span class="track"><span style="width:{width:.1f}%"></span></span>'
        f"</div><p>{told}{_spent(words, batch)}</p><ul>{faults}</ul></div>"
    )


def batch_name(batch: Json) -> str:
    """The name of the file that was dropped, or else the batch's own."""
    return str((batch.get("metadata") or {}).get("file_name") or batch["id"])


def report(words: Words, batch: Json, answers: Path | None, errors: Path | None) -> str:
    """A batch that has ended: its figures, how replies ended, and which rows failed.

    Args:
        words: Of the page.
        batch: As the server tells it.
        answers: Its output file.
        errors: Its error file.
    """
    counts = batch["request_counts"]
    rows = [
        (words["report_batch"], batch["id"]),
        (words["report_status"], words["status_" + batch["status"]]),
        (words["model"], batch.get("model") or "–"),
        (words["report_rows"], f"{counts['total']:,}"),
        (words["report_answered"], f"{counts['completed']:,}"),
        (words["report_failed"], f"{counts['failed']:,}"),
        *_token_rows(words, batch),
        *((f"{words['report_ending']} {name}", f"{n:,}") for name, n in _endings(answers).items()),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    failed = "\n".join(f"- {line}" for line in _failures(errors))
    faults = f"\n\n## {words['report_failed']}\n\n{failed}" if failed else ""
    return f"# {batch_name(batch)}\n\n| | |\n|---|---|\n{table}{faults}\n"


def _token_rows(words: Words, batch: Json) -> Iterator[tuple[str, str]]:
    if usage := batch.get("usage"):
        yield words["report_prompt_tokens"], f"{usage['input_tokens']:,}"
        yield words["report_reply_tokens"], f"{usage['output_tokens']:,}"
    if seconds := _seconds(batch):
        yield words["report_seconds"], f"{seconds:,}"


def _seconds(batch: Json) -> int | None:
    begun = batch.get("in_progress_at")
    ended = next(
        (
            batch[f"{end}_at"]
            for end in ("completed", "cancelled", "expired")
            if f"{end}_at" in batch
        ),
        None,
    )
    return None if begun is None or ended is None else int(ended - begun)


def _spent(words: Words, batch: Json) -> str:
    usage = batch.get("usage")
    return f" · {words['n_tokens'].format(usage['output_tokens'])}" if usage else ""


def _fault(words: Words, error: Json) -> str:
    line = error.get("line")
    return str(error["message"]) if line is None else f"{words['line']} {line}: {error['message']}"


def _lines(path: Path | None) -> Iterator[Json]:
    if path is not None:
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file)


def _endings(answers: Path | None) -> Counter[str]:
    return Counter(
        choice["finish_reason"]
        for line in _lines(answers)
        for choice in line["response"]["body"].get("choices", [])
    )


def _failures(errors: Path | None) -> Iterator[str]:
    for number, line in enumerate(_lines(errors)):
        if number == _NUM_ERRORS:
            yield "…"
            return
        error = line.get("error") or line["response"]["body"]["error"]
        yield f"{line['custom_id']}: {error['message']}"
