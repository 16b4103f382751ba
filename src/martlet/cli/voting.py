"""A vote as a batch sees it: how many samples a question gets, and what their votes come to.

Joins `answers`, which knows no rows, and `batch`, which knows no answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from martlet.answers.ballot import BallotReader, Weighting
from martlet.answers.extractor import EXTRACTOR_FORMS, Extractor, parse_extractor
from martlet.answers.policy import EarlyStop, VotePolicy
from martlet.answers.score import is_same_answer
from martlet.answers.vote import Vote, majority
from martlet.batch.job import Job
from martlet.batch.options import JobOptions
from martlet.batch.plan import PlannedQuestion
from martlet.batch.questions import Question, place_of
from martlet.batch.sample import StoredSample
from martlet.batch.task import Task
from martlet.errors import ParameterError, RowError

DEFAULT_NUM_SAMPLES = 8
DEFAULTS: Mapping[str, object] = {
    "n": DEFAULT_NUM_SAMPLES,
    "temperature": 0.7,
    "max_tokens": 1024,
}
"""The sampling parameters of a vote, unless the model's folder or the user says otherwise; a reply
takes at most half of the model's context."""

DEFAULT_EXTRACTOR = "letter"


@dataclass(frozen=True, kw_only=True)
class VotingRules:
    """How votes are taken and counted."""

    num_samples: int
    early_stop: EarlyStop
    extractor: str | None
    """How answers are read; None reads letters, and needs options in every row."""
    weighting: Weighting
    with_replies: bool
    """Whether the result holds the text of every counted sample."""

    @property
    def extractor_name(self) -> str:
        """The extractor, for people."""
        return self.extractor or DEFAULT_EXTRACTOR


@dataclass(frozen=True, kw_only=True)
class DecidedQuestion:
    """A question whose votes are counted."""

    question: Question
    vote: Vote
    right: str | None
    """The expected answer in the extractor's form."""
    first_answers: tuple[str | None, ...]
    """What the samples say that were drawn whatever came out."""

    @property
    def is_right(self) -> bool | None:
        """Whether the winner is the expected answer; None if none is expected."""
        return None if self.right is None else is_same_answer(self.vote.winner, self.right)


class Voting:
    """Takes the votes of one run and remembers how each question was decided."""

    def __init__(self, rules: VotingRules) -> None:
        """Checks the rules.

        Raises:
            ParameterError: If the extractor is unknown or the rules contradict each other.
        """
        self.rules = rules
        self._make_extractor = parse_extractor(rules.extractor_name)
        self._decided: dict[str, DecidedQuestion] = {}
        reader = BallotReader(self._make_extractor(()), weighting=rules.weighting)
        self._policy(rules.num_samples, reader)

    @property
    def task(self) -> Task:
        """What a batch is given."""
        rules = self.rules
        return Task(
            verb="vote",
            policy_name=(
                f"majority of {rules.num_samples}, early stop {rules.early_stop}, answers read by "
                f"{rules.extractor_name}, weights {rules.weighting}"
            ),
            policy_of=self._policy_of,
            finish_question=self._finish,
            defaults=DEFAULTS,
        )

    def read(self, options: JobOptions) -> Job:
        """Reads the rows that are to be voted on.

        Raises:
            MartletError: As `Job.read` and `check` do.
        """
        job = Job.read(self.task, options)
        self.check(job)
        return job

    def check(self, job: Job) -> None:
        """Checks that every expected answer is one that a reply could give.

        Raises:
            RowError: If one is not.
            ParameterError: If rows have no options and nobody said how to read answers.
        """
        for question in job.items:
            if not isinstance(question, Question):
                continue
            if self.rules.extractor is None and question.options is None:
                raise ParameterError(
                    f"{job.options.data}, {question_place(question)}: the question has no options; "
                    f"say how to read its answer: --extract {EXTRACTOR_FORMS}"
                )
            self._check_expected(question, job.options.data)

    def decided(self, job: Job) -> list[DecidedQuestion]:
        """The questions that were decided, in the order of the file."""
        ids = [item.question_id for item in job.items if isinstance(item, Question)]
        return [self._decided[each] for each in ids if each in self._decided]

    def _check_expected(self, question: Question, path: str) -> None:
        try:
            self._expected(question)
        except ParameterError as error:
            raise RowError(str(error), path=path, line=question.row.number) from None

    def _expected(self, question: Question) -> str | None:
        if question.answer is None:
            return None
        return self._extractor(question).canonical(question.answer)

    def _extractor(self, question: Question) -> Extractor:
        return self._make_extractor(question.options or ())

    def _reader(self, question: Question) -> BallotReader:
        return BallotReader(self._extractor(question), weighting=self.rules.weighting)

    def _policy(self, num_samples: int, reader: BallotReader) -> VotePolicy:
        return VotePolicy(num_samples=num_samples, early_stop=self.rules.early_stop, reader=reader)

    def _num_samples(self, question: Question) -> int:
        """What a full vote on this question counts; a row of an OpenAI batch may say `n`."""
        given = question.overrides.get("n")
        return given if isinstance(given, int) else self.rules.num_samples

    def _policy_of(self, planned: PlannedQuestion) -> VotePolicy:
        return self._policy(planned.params.n, self._reader(planned.question))

    def _finish(
        self, question: Question, samples: tuple[StoredSample, ...]
    ) -> Mapping[str, object]:
        reader = self._reader(question)
        answers = [reader.read(sample) for sample in samples]
        policy = self._policy(self._num_samples(question), reader)
        decided = DecidedQuestion(
            question=question,
            vote=majority(answers),
            right=self._expected(question),
            first_answers=tuple(each.value for each in answers[: policy.num_first_wave]),
        )
        self._decided[question.question_id] = decided
        replies = [sample.text for sample in samples] if self.rules.with_replies else None
        return _columns(decided, replies)


def question_place(question: Question) -> str:
    """Where a question stands, for people: `line 3, question 2`."""
    return place_of(question.row, question.index)


def _columns(decided: DecidedQuestion, replies: list[str] | None) -> dict[str, object]:
    vote = decided.vote
    columns: dict[str, object] = {
        "answer": vote.winner,
        "margin": vote.margin,
        "votes": {value: _whole(count) for value, count in vote.counts.items()},
        "num_samples": vote.num_samples,
        "num_unparsed": vote.num_unparsed,
    }
    if decided.right is not None:
        columns |= {"expected": decided.right, "is_right": decided.is_right}
    if replies is not None:
        columns["replies"] = replies
    return columns


def _whole(count: float) -> float:
    """A count without weights is a whole number, and is written as one."""
    return int(count) if count.is_integer() else count
