"""The result file: one JSON line a row, in the order of the input, whole or not there.

While a run lasts, `answers.jsonl.partial` holds the rows that are done, readable at any time; at
the end it takes the result's name in one move. Its bytes are a function of rows and samples.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Self

from martlet.batch.disk import disk_errors_named
from martlet.batch.draw import Outcome
from martlet.batch.plan import Plan, PlannedQuestion
from martlet.batch.questions import Question, UnusableQuestion
from martlet.batch.sample import StoredSample
from martlet.errors import InputError, NotFoundError

FinishQuestion = Callable[[Question, tuple[StoredSample, ...]], Mapping[str, object]]
"""Makes the columns that a result adds to a question, of its samples 0 to m - 1."""

_SUFFIXES = (".jsonl", ".ndjson")
_ERROR_COLUMN = "error"
_NUM_FIRST_ERRORS = 5
_Item = PlannedQuestion | UnusableQuestion


def partial_path(out: Path) -> Path:
    """Where the finished rows of a result lie while its run lasts."""
    return Path(f"{out}.partial")


def check_result_path(out: Path, *, data: str) -> None:
    """Checks that a result can be written there.

    Raises:
        InputError: If the name is not that of a JSON lines file, or is the data file's own.
        NotFoundError: If its folder does not exist.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"--out {out}: a result is JSON lines, one a row; name it {out.stem}.jsonl"
        )
    if not out.parent.is_dir():
        raise NotFoundError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder")
    if out.exists() and Path(data).exists() and out.samefile(data):
        raise InputError(f"--out {out} is the data file itself; choose another name")


def reply_columns(_question: Question, samples: tuple[StoredSample, ...]) -> Mapping[str, object]:
    """The columns of plain generation: the reply, or the replies if there are several."""
    if len(samples) == 1:
        sample = samples[0]
        return {
            "reply": sample.text,
            "finish_reason": sample.finish_reason,
            "num_tokens": sample.num_tokens,
        }
    return {
        "replies": [sample.text for sample in samples],
        "finish_reasons": [sample.finish_reason for sample in samples],
        "num_tokens": [sample.num_tokens for sample in samples],
    }


class ResultFile:
    """Writes the rows of a result in their order, each once all its questions are settled."""

    def __init__(
        self, out: Path, file: BinaryIO, plan: Plan, finish_question: FinishQuestion
    ) -> None:
        self.num_rows_written = 0
        self.num_rows_failed = 0
        self.first_errors: list[str] = []
        """A few, for people."""
        self._out = out
        self._file = file
        self._hash = sha256()
        self._finish_question = finish_question
        self._position_to_columns: dict[int, Mapping[str, object]] = {
            position: _error_columns(item, item.reason)
            for position, item in enumerate(plan.items)
            if isinstance(item, UnusableQuestion)
        }
        self._unwritten = deque(_items_by_row(plan))
        self.num_rows = len(self._unwritten)

    @classmethod
    @contextmanager
    def open(cls, out: Path, plan: Plan, finish_question: FinishQuestion) -> Iterator[Self]:
        """Opens the partial file; what an earlier run left in it, the journal has.

        Args:
            out: The result's name.
            plan: Its rows and questions; those that cannot be asked are settled already.
            finish_question: Makes the columns of each question.

        Raises:
            InputError: If it may not be written.
            ResourceError: If the disk is full or fails.
        """
        partial = partial_path(out)
        with disk_errors_named(partial):
            file = partial.open("wb")
        try:
            result = cls(out, file, plan, finish_question)
            result._write_complete_rows()
            yield result
        finally:
            with disk_errors_named(partial):
                file.close()

    def settle(self, outcome: Outcome) -> None:
        """Takes what came of a question; writes the rows that are now complete, in order.

        Raises:
            ResourceError: If the disk is full or fails.
        """
        planned = outcome.planned
        self._position_to_columns[planned.position] = self._columns_of(outcome)
        self._write_complete_rows()

    def finish(self) -> str:
        """Gives the whole file its name.

        Returns:
            SHA-256 of its bytes.

        Raises:
            RuntimeError: If a question was not settled.
            ResourceError: If the disk is full or fails.
        """
        if self._unwritten:
            raise RuntimeError(f"{len(self._unwritten)} rows of {self._out} are not settled")
        partial = partial_path(self._out)
        with disk_errors_named(partial):
            self._file.flush()
            os.fsync(self._file.fileno())
            partial.replace(self._out)
        return self._hash.hexdigest()

    def _columns_of(self, outcome: Outcome) -> Mapping[str, object]:
        num_dropped = outcome.planned.num_dropped_tokens
        dropped = {"num_dropped_tokens": num_dropped} if num_dropped else {}
        if outcome.error is not None:
            return {**dropped, **_error_columns(outcome.planned, outcome.error)}
        return {**self._finish_question(outcome.planned.question, outcome.samples), **dropped}

    def _write_complete_rows(self) -> None:
        while self._unwritten:
            first, items = self._unwritten[0]
            positions = range(first, first + len(items))
            if not all(position in self._position_to_columns for position in positions):
                break
            self._unwritten.popleft()
            self._write(items, [self._position_to_columns.pop(place) for place in positions])
        with disk_errors_named(partial_path(self._out)):
            self._file.flush()

    def _write(self, items: list[_Item], columns: list[Mapping[str, object]]) -> None:
        row = _row_object(items, columns)
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self._hash.update(line)
        with disk_errors_named(partial_path(self._out)):
            self._file.write(line)
        self.num_rows_written += 1
        errors = [str(added[_ERROR_COLUMN]) for added in columns if _ERROR_COLUMN in added]
        self.num_rows_failed += bool(errors)
        self.first_errors.extend(errors[: _NUM_FIRST_ERRORS - len(self.first_errors)])


def _error_columns(item: _Item, reason: str) -> Mapping[str, object]:
    return {_ERROR_COLUMN: f"{item.place}: {reason}"}


def _items_by_row(plan: Plan) -> Iterator[tuple[int, list[_Item]]]:
    """The items of each row, with the position of the first."""
    first = 0
    for _, group in groupby(plan.items, key=lambda item: item.row.number):
        items = list(group)
        yield first, items
        first += len(items)


def _row_object(items: list[_Item], columns: list[Mapping[str, object]]) -> dict[str, object]:
    data = items[0].row.data
    nested = data.get("questions")
    if items[0].index is None or not isinstance(nested, list):
        return _with_columns(data, columns[0])
    questions = [
        _with_columns(own if isinstance(own, dict) else {"question": own}, added)
        for own, added in zip(nested, columns, strict=True)
    ]
    return {**_with_columns(data, {}), "questions": questions}


def _with_columns(data: Mapping[str, object], added: Mapping[str, object]) -> dict[str, object]:
    # A column that the result adds wins over one of the data, which the data file still has. The
    # column `error` is the result's even where it adds none: the data's would pass for a failure.
    kept = {name: value for name, value in data.items() if name != _ERROR_COLUMN}
    return {**kept, **added}
