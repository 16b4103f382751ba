"""Asking contestants: the exercises as a batch sees them, and what each contestant said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from martlet.batch.job import Job
from martlet.batch.options import JobOptions
from martlet.batch.questions import Question
from martlet.batch.result import reply_columns
from martlet.batch.rows import RowFile
from martlet.batch.sample import StoredSample
from martlet.batch.shapes import Wording
from martlet.batch.task import GENERATE, Task
from martlet.errors import EngineError
from martlet.score.exercise import Exercise, ExerciseFile

_SEVERAL_TEMPERATURE = 0.7
_MAX_TOKENS = 512


class Transcript:
    """What one contestant says, question by question."""

    def __init__(self, exercises: Sequence[Exercise]) -> None:
        self._id_to_reference = {each.question.question_id: each.reference for each in exercises}
        self._id_to_replies: dict[str, list[str]] = {}

    def task(self, num_samples: int) -> Task:
        """What a batch is given: all samples of all exercises, greedy if there is one of each.

        So that contestants differ in their weights alone, what their folders recommend about
        the temperature does not count.
        """
        return replace(
            GENERATE,
            verb="score",
            finish_question=self._finish,
            defaults={"max_tokens": _MAX_TOKENS},
            fixed={
                "n": num_samples,
                "temperature": _SEVERAL_TEMPERATURE if num_samples > 1 else 0.0,
            },
        )

    def replies(self, exercise: Exercise) -> Sequence[str] | None:
        """The samples of an exercise; None if it could not be asked."""
        return self._id_to_replies.get(exercise.question.question_id)

    def _finish(
        self, question: Question, samples: tuple[StoredSample, ...]
    ) -> Mapping[str, object]:
        question_id = question.question_id
        self._id_to_replies[question_id] = [sample.text for sample in samples]
        return {
            **reply_columns(question, samples),
            "reference": self._id_to_reference[question_id],
        }


def job_of(file: ExerciseFile, options: JobOptions, task: Task) -> Job:
    """The exercises as a batch, to be run with one contestant's backend."""
    rows = {each.question.row.number: each.question.row for each in file.exercises}
    path = Path(options.data)
    return Job(
        task=task,
        options=options,
        row_file=RowFile(
            path=options.data,
            data_hash=file.source.data_hash,
            size_bytes=path.stat().st_size if path.is_file() else 0,
            rows=tuple(rows.values()),
        ),
        wording=Wording(),
        items=tuple(each.question for each in file.exercises),
    )


@dataclass(frozen=True, kw_only=True)
class Field:
    """The exercises that every contestant answered, with their replies."""

    exercises: tuple[Exercise, ...]
    replies: Mapping[str, Sequence[Sequence[str]]]
    num_left_out: int
    """Exercises that some contestant could not be asked, or failed at."""


def field_of(exercises: Sequence[Exercise], transcripts: Mapping[str, Transcript]) -> Field:
    """Puts the transcripts side by side.

    Raises:
        EngineError: If there is no exercise that all answered.
    """
    answered = tuple(
        exercise
        for exercise in exercises
        if all(each.replies(exercise) is not None for each in transcripts.values())
    )
    if not answered:
        raise EngineError("no row was answered by every contestant; their results say why")
    replies = {
        name: [transcript.replies(exercise) or () for exercise in answered]
        for name, transcript in transcripts.items()
    }
    return Field(exercises=answered, replies=replies, num_left_out=len(exercises) - len(answered))
