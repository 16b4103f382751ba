"""A multiple-choice question as somebody types it."""

from collections.abc import Sequence

from martlet.batch.prompts import multiple_choice_prompt


def question_prompt(text: str, options: Sequence[str]) -> str:
    """The prompt that `martlet vote` would make of it.

    Args:
        text: The last line asks; what stands above it is what must be known.
        options: At least one; the first is A.

    Raises:
        InputError: If there is no option, or more than there are letters.
    """
    problem, _, question = text.strip().rpartition("\n")
    return multiple_choice_prompt(problem.strip(), question, options)
