"""Stop strings: where a text ends, found while it comes in pieces."""

from collections.abc import Sequence

from martlet.errors import ParameterError


class StopScanner:
    """Holds back what may begin a stop string, and cuts the text before the first one.

    The text ends with the stop string that is complete first, reading character by character; of
    several that are complete at the same character, with the longest. So the outcome is the same
    however the text was cut into tokens.

    Args:
        stop: The stop strings.

    Raises:
        ParameterError: If one of them is empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if "" in stop:
            raise ParameterError("a stop string must not be empty")
        self.stop_string: str | None = None
        """The stop string that was found."""
        self._stop = stop
        self._prefixes = {text[:length] for text in stop for length in range(1, len(text))}
        self._last_chars = {prefix[-1] for prefix in self._prefixes}
        self._max_prefix_length = max(map(len, self._prefixes), default=0)
        self._held = ""  # the longest end of the text that begins a stop string

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """Take the next piece of text and return what is now certain.

        Args:
            text: What follows all that was pushed before.
            may_stop: Whether a stop string that this piece completes counts.
        """
        num_searched_chars = len(self._held)
        text = self._held + text
        if may_stop:
            end = self._find_stop(text, num_searched_chars)
            if end is not None:
                self._held = ""
                return text[:end]
        end = len(text) - self._num_chars_to_hold(text)
        self._held = text[end:]
        return text[:end]

    def flush(self) -> str:
        """Return what was held back, as no more text comes."""
        rest, self._held = self._held, ""
        return rest

    def _find_stop(self, text: str, num_searched_chars: int) -> int | None:
        first: tuple[int, int, str] | None = None  # end, start, stop string
        for stop in self._stop:
            # Whatever ends within the searched characters was judged when they came.
            start = text.find(stop, max(0, num_searched_chars - len(stop) + 1))
            if start >= 0:
                match = (start + len(stop), start, stop)
                first = match if first is None else min(first, match)
        if first is None:
            return None
        self.stop_string = first[2]
        return first[1]

    def _num_chars_to_hold(self, text: str) -> int:
        if not text or text[-1] not in self._last_chars:
            return 0
        for length in range(min(self._max_prefix_length, len(text)), 0, -1):
            if text[-length:] in self._prefixes:
                return length
        return 0
