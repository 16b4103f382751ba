"""What tokens cost where they are sold."""

from dataclasses import dataclass

from martlet.errors import ParameterError

_MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of a million tokens, in whatever currency it was given."""

    tokens_in: float
    tokens_out: float

    @classmethod
    def parse(cls, given: str) -> "Price":
        """Reads `0.15,0.60`.

        Raises:
            ParameterError: If it is not two numbers, none below zero.
        """
        tokens_in, tokens_out = _numbers(
            given, 2, "the price of a million tokens in and out, such as 0.15,0.60,"
        )
        return cls(tokens_in=tokens_in, tokens_out=tokens_out)

    def of(self, *, tokens_in: float, tokens_out: float) -> float:
        """Of so many tokens."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / _MILLION


@dataclass(frozen=True, kw_only=True)
class TrainingPrice:
    """Of a million tokens trained on, in whatever currency it was given."""

    tokens: float

    @classmethod
    def parse(cls, given: str) -> "TrainingPrice":
        """Reads `3.00`.

        Raises:
            ParameterError: If it is not one number, or below zero.
        """
        (tokens,) = _numbers(
            given,
            1,
            "the price of a million tokens trained on, such as 3.00, since a training draws none,",
        )
        return cls(tokens=tokens)

    def of(self, tokens: float) -> float:
        """Of so many tokens, those of every epoch counted."""
        return tokens * self.tokens / _MILLION


def _numbers(given: str, count: int, what: str) -> list[float]:
    try:
        numbers = [float(each) for each in given.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(0 <= each < float("inf") for each in numbers):
        raise ParameterError(f"--price takes {what} not {given!r}", param="price")
    return numbers
