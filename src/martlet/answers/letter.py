"""Extractors for multiple-choice questions: one letter, or several."""

from collections.abc import Sequence

from martlet.answers.choices import ChoiceReader
from martlet.errors import ParameterError


class LetterExtractor:
    """Reads the one option that a reply chooses.

    A statement that names several ("A or B") chooses none and is passed over.

    Args:
        options: The texts of the options, A first; if empty, the letters A to J count.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._reader = ChoiceReader.of(options)

    def extract(self, text: str) -> str | None:
        """The letter of the last chosen option; None if none is chosen."""
        return next((found for found in self._reader.statements(text) if len(found) == 1), None)

    def canonical(self, answer: str) -> str:
        """The letter of an answer such as `B`, `(b)`, `Ｂ.` or the text of an option.

        Raises:
            ParameterError: If the answer is not exactly one of the options.
        """
        letters = self._reader.read(answer)
        if letters is None or len(letters) != 1:
            raise ParameterError(
                f"the answer {answer!r} is not one of the options {', '.join(self._reader.letters)}"
            )
        return letters


class LettersExtractor:
    """Reads all options that a reply chooses together, as sorted letters: `AC`.

    Args:
        options: The texts of the options, A first; if empty, the letters A to J count.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._reader = ChoiceReader.of(options)

    def extract(self, text: str) -> str | None:
        """The letters of the last statement, sorted; None if no option is chosen."""
        return next(self._reader.statements(text), None)

    def canonical(self, answer: str) -> str:
        """The sorted letters of an answer such as `CA`, `A、C` or `(a), (c)`.

        Raises:
            ParameterError: If the answer names something else than options, or one twice.
        """
        letters = self._reader.read(answer)
        if letters is None:
            raise ParameterError(
                f"the answer {answer!r} names other options than {', '.join(self._reader.letters)}"
            )
        return letters
