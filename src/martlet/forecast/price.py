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
        try:
            tokens_in, tokens_out = map(float, given.split(","))
        except ValueError:
            tokens_in = tokens_out = -1.0
        if not (0 <= tokens_in < float("inf") and 0 <= tokens_out < float("inf")):
            raise ParameterError(
                "--price takes the price of a million tokens in and out, such as 0.15,0.60, "
                f"not {given!r}",
                param="price",
            )
        return cls(tokens_in=tokens_in, tokens_out=tokens_out)

    def of(self, *, tokens_in: float, tokens_out: float) -> float:
        """Of so many tokens."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / _MILLION
