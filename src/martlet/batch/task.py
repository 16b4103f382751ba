"""What a command wants of its questions: how many samples, and what becomes of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from martlet.batch.plan import PlannedQuestion
from martlet.batch.policy import DrawAll, SamplePolicy
from martlet.batch.result import FinishQuestion, reply_columns


@dataclass(frozen=True, kw_only=True)
class Task:
    """A command as a batch sees it."""

    verb: str
    """Its name: `generate`, `vote`."""
    policy_name: str
    """How many samples a question gets, in words, for the run card."""
    policy_of: Callable[[PlannedQuestion], SamplePolicy]
    """Makes the policy of one question; `params.n` is the most that it may ask for."""
    finish_question: FinishQuestion
    """Makes the columns that the result adds to a question."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """The sampling parameters of the command, unless told otherwise."""
    fixed: Mapping[str, object] = field(default_factory=dict)
    """Those that only the user can change, whatever the model's folder recommends."""


GENERATE = Task(
    verb="generate",
    policy_name="draw all",
    policy_of=lambda planned: DrawAll(planned.params.n),
    finish_question=reply_columns,
)
"""Every sample is drawn, and its text is the answer."""
