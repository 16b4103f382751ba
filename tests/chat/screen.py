"""What a terminal shows after all that was written to it: enough of one for Rich's output."""

import re

_CONTROL = r"\x1b\[(?P<numbers>[0-9;?]*)(?P<command>[A-Za-z])"
_TOKEN = re.compile(rf"{_CONTROL}|(?P<text>[^\x1b])", re.DOTALL)


class Screen:
    """Lines of text and a cursor; colours are ignored.

    Args:
        height: Lines that the cursor can reach again; what has scrolled away stays as it is.
    """

    def __init__(self, height: int) -> None:
        self._height = height
        self._lines = [""]
        self._row = self._column = 0

    @property
    def text(self) -> str:
        """What can be read, without blanks at the ends of lines and of the whole."""
        return "\n".join(line.rstrip() for line in self._lines).rstrip()

    def write(self, written: str) -> None:
        for token in _TOKEN.finditer(written):
            if text := token["text"]:
                self._put(text)
            elif token["command"] == "A":
                self._row -= int(token["numbers"] or 1)
                top = max(0, len(self._lines) - self._height)
                assert self._row >= top, "the cursor cannot go to a line that has scrolled away"
            elif token["command"] == "K":
                assert token["numbers"] == "2"
                self._lines[self._row] = ""
            else:
                assert token["command"] in "mhl", token[0]

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row, self._column = self._row + 1, 0
            if self._row == len(self._lines):
                self._lines.append("")
        else:
            line = self._lines[self._row].ljust(self._column)
            self._lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1
