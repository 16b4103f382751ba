"""A whole batch: read the file, plan, draw, write. What `generate` and `vote` call."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import monotonic

from martlet.backends.base import Backend
from martlet.batch.card import (
    RunCard,
    RunStatus,
    card_path,
    check_same_maker,
    installed_versions,
    utc_now,
)
from martlet.batch.disk import bytes_needed, check_disk_space
from martlet.batch.journal import Journal, journal_path
from martlet.batch.options import JobOptions
from martlet.batch.parameters import ParamSources
from martlet.batch.plan import Plan, Planner
from martlet.batch.prompts import PromptTemplate
from martlet.batch.questions import Question, UnusableQuestion, questions_of
from martlet.batch.refusal import refuse_unusable
from martlet.batch.result import ResultFile, check_result_path
from martlet.batch.rows import RowFile, read_rows
from martlet.batch.run import Run
from martlet.batch.shapes import Wording
from martlet.batch.summary import JobSummary, Progress
from martlet.batch.task import Task
from martlet.errors import Interrupted, MartletError

_DEFAULT_SEED = 0


def _ignore(_progress: Progress) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Job:
    """A data file that was read and checked, with all that is to be done with it.

    `read` needs no model, so that a mistake shows before one is loaded.
    """

    task: Task
    options: JobOptions
    row_file: RowFile
    wording: Wording
    items: tuple[Question | UnusableQuestion, ...]

    @classmethod
    def read(cls, task: Task, options: JobOptions) -> "Job":
        """Reads the data file and the prompt template and checks every row.

        Raises:
            NotFoundError: If a file, or the folder of the result, does not exist.
            RowError: If a line of the file cannot be read.
            InputError: If the file cannot be read, or rows are unusable and `on_bad_row` is
                `error`.
            MissingExtraError: If the file needs a package that is not installed.
        """
        check_result_path(options.out, data=options.data)
        path = options.prompt_template
        wording = Wording(
            template=None if path is None else PromptTemplate.from_file(path),
            system=options.system,
            is_raw=options.is_raw,
            allow_repeated_options=options.allow_repeated_options,
        )
        row_file = read_rows(options.data)
        items = tuple(item for row in row_file.rows for item in questions_of(row, wording))
        if options.on_bad_row == "error":
            unusable = (item for item in items if isinstance(item, UnusableQuestion))
            refuse_unusable(options.data, unusable)
        return cls(task=task, options=options, row_file=row_file, wording=wording, items=items)

    def plan(self, backend: Backend) -> Plan:
        """Renders and measures every prompt; computes and writes nothing.

        Raises:
            ParameterError: If a parameter is unknown or out of its range.
            InputError: If rows are unusable and the options do not allow it.
        """
        sources = ParamSources(
            verb=self.task.verb,
            given=self.options.given_params,
            verb_defaults={"seed": _DEFAULT_SEED, **self.task.defaults},
            verb_fixed=self.task.fixed,
        )
        planner = Planner(backend=backend, sources=sources, too_long=self.options.too_long)
        plan = planner.plan(self.items)
        if self.options.on_bad_row == "error":
            refuse_unusable(self.options.data, plan.unusable)
        return plan

    def run(
        self,
        backend: Backend,
        *,
        on_progress: Callable[[Progress], None] = _ignore,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> JobSummary:
        """Draws what the journal does not have, and writes the result with its card.

        Args:
            backend: Used by nobody else meanwhile.
            on_progress: Called after each step of the backend, and at the end.
            stop_requested: Asked between two steps.

        Raises:
            ParameterError: If a parameter is unknown, out of its range or not to be honoured.
            InputError: If rows are unusable, if the result's name is taken, or if another run is
                writing it.
            ResourceError: If the disk does not suffice.
            Interrupted: If `stop_requested` said so; what is finished is kept.
            EngineError: If the backend failed as a whole; what was finished is kept.
        """
        out = self.options.out
        plan = self.plan(backend)
        self.check(plan)
        card = self._card(plan, backend)
        with (
            Journal.open(journal_path(out)) as journal,
            ResultFile.open(out, plan, self.task.finish_question) as result,
        ):
            card.write(card_path(out))
            run = Run(
                backend=backend,
                journal=journal,
                questions=plan.asked,
                policy_of=self.task.policy_of,
                on_outcome=result.settle,
            )
            started = monotonic()
            try:
                run.finish(
                    on_step=lambda tally: on_progress(Progress.of(plan, result, tally)),
                    stop_requested=stop_requested,
                )
            except MartletError as error:
                card.ended(_status_after(error)).write(card_path(out))
                raise
            on_progress(Progress.of(plan, result, run.tally))
            summary = JobSummary.of(plan, result, run.tally, seconds=monotonic() - started)
            result_hash = result.finish()
            card = card.ended("complete", counts=asdict(summary), result_sha256=result_hash)
            card.write(card_path(out))
        return summary

    def check(self, plan: Plan) -> None:
        """Checks that the result of a plan may be written, and will fit.

        Raises:
            InputError: If the result's name is taken by something else.
            ResourceError: If the disk does not suffice.
        """
        if not self.options.overwrite:
            check_same_maker(self.options.out, plan.key_set_hash(self.task.verb))
        needed = bytes_needed(
            num_samples=plan.num_samples,
            max_tokens=plan.effective.params.max_tokens,
            data_bytes=self.row_file.size_bytes,
        )
        check_disk_space(self.options.out.parent, needed)

    def _card(self, plan: Plan, backend: Backend) -> RunCard:
        template = self.wording.template
        return RunCard(
            verb=self.task.verb,
            status="running",
            started_at=utc_now(),
            ended_at=None,
            versions=installed_versions(),
            model=backend.identity,
            data={
                "path": self.row_file.path,
                "sha256": self.row_file.data_hash,
                "num_rows": len(self.row_file.rows),
            },
            prompt_template=None
            if template is None
            else {"path": template.path, "sha256": template.template_hash},
            options={
                "system": self.options.system,
                "is_raw": self.options.is_raw,
                "allow_repeated_options": self.options.allow_repeated_options,
                "on_bad_row": self.options.on_bad_row,
                "too_long": self.options.too_long,
            },
            parameters=plan.effective.as_card(),
            num_questions_with_own_parameters=sum(
                bool(planned.question.overrides) for planned in plan.asked
            ),
            policy=self.task.policy_name,
            key_set_hash=plan.key_set_hash(self.task.verb),
            counts={},
            result_sha256=None,
        )


def _status_after(error: MartletError) -> RunStatus:
    return "interrupted" if isinstance(error, Interrupted) else "failed"
