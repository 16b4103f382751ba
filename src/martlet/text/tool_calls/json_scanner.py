"""Where a JSON value ends, found while its text comes in pieces. Does not check the value."""


class JsonScanner:
    """Follows strings and brackets of one value, which begins with the first character."""

    def __init__(self) -> None:
        self.is_done = False
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def push(self, text: str) -> int:
        """Takes the next piece and returns how many of its characters belong to the value."""
        for index, char in enumerate(text):
            if self._is_in_string:
                self._push_in_string(char)
            elif char == '"':
                self._is_in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]" and self._depth:
                self._depth -= 1
                self.is_done = self._depth == 0
            elif self._depth == 0 and (char in ",:}]" or char.isspace()):
                self.is_done = True  # behind a number, a word or nothing
                return index
            if self.is_done:
                return index + 1
        return len(text)

    def _push_in_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_in_string = False
            self.is_done = self._depth == 0
