"""Which options of a multiple-choice question a reply states, the last statement first.

A statement names one option or several: after a cue ("the answer is", 故选), before a verdict
("C is the correct answer"), as a last line that is only a letter, or as the text of an option.
A letter that merely occurs states nothing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from martlet.answers.cues import CHOICE_CUE, find_cues
from martlet.answers.plain import fold_width, plain_reply, strip_markup
from martlet.answers.verdicts import find_conclusions, find_verdicts

DEFAULT_LETTERS = "ABCDEFGHIJ"
"""The letters that count where the options are not known."""

_Statement = tuple[int, str]
"""Where options are stated, and their sorted letters."""

_OPENING = r"[\"'(\[{<]*"
_CLOSING = r"[)\]}>\"']*"
_NOUN = r"(?:(?i:(?:the\s+)?(?:options?|choices?|letters?|answers?)\b)|选项|选择|选)"
_LEAD = re.compile(rf"\s*{_OPENING}\s*(?:{_NOUN}\s*:?\s*)?{_OPENING}\s*")

_LISTING = r"(?:,\s*and\b|,\s*or\b|,|、|/|&|\band\b|\bor\b|和|与|或|以?及)"
_UPPER = rf"[A-Z](?:{_CLOSING}(?:\s*{_LISTING}\s*|[ \t]*){_OPENING}[A-Z])*"
_LOWER = rf"[a-z](?:{_CLOSING}\s*{_LISTING}\s*{_OPENING}[a-z])*"
_PAUSE = r"(?:\Z|\n|\.(?![A-Z]\b)|[:;!?。,…—–(<]|-\s)"
_CONJUNCTION = (
    r"(?:(?:because|since|as|and|but|for|which|while|due|given|based|according|with)\b"
    r"|因为|由于|而|作为)"
)
_LETTERS = re.compile(
    rf"{_UPPER}(?:(?={_CLOSING}\s*(?:选项|项)?\s*(?:{_PAUSE}|{_CONJUNCTION}))|(?=[)\]}}]))"
    # An article is lower case too: such a letter must end its line or its brackets.
    rf"|{_LOWER}(?=[)\]}}]|[\"']?\s*[.。]?\s*(?:\n|\Z))"
)
_LETTER_LINE = re.compile(
    rf"[\s#>]*(?:{_NOUN}\s*:?\s*)?{_OPENING}(?P<letters>{_UPPER}|{_LOWER}){_CLOSING}"
    rf"\s*(?:选项|项)?[.。!,:]?{_CLOSING}\s*"
)
_OPTION_LINE = re.compile(
    r"[\s#>*-]*(?:(?i:option|选项)\s*)?\(?(?P<letters>[A-Z])(?:\)|\s*[.:、,])\s*(?P<text>\S.*)"
)
_MARKUP_ROOM = 100
"""Characters that markup and blanks may add to an option's text where a reply repeats it."""

_JUDGEMENT = re.compile(
    r"\W*(?:is|was|isn't|are|not|错|不|对|正确|wrong|in?correct|true|false)", re.IGNORECASE
)
_JOINING_WORD = re.compile(r"\band\b|\bor\b|[\u4e00-\u9fff]")


@dataclass(frozen=True, kw_only=True)
class ChoiceReader:
    """Finds the options that replies to one question state."""

    letters: str
    """The letters of the options, in order."""
    options: tuple[str, ...]
    """Their texts, folded for comparison; empty where they are not known."""

    @classmethod
    def of(cls, options: Sequence[str]) -> "ChoiceReader":
        """Makes a reader of a question's options; without any, the letters A to J count."""
        letters = ascii_uppercase[: len(options)] or DEFAULT_LETTERS
        return cls(letters=letters, options=tuple(map(_folded, options)))

    def statements(self, reply: str) -> Iterator[str]:
        """Yields the sorted letters of each statement, the last first, mere hints at the end."""
        text = plain_reply(reply)
        found = [*self._after_cues(text), *self._verdicts(text), *self._last_line(text)]
        for _, letters in sorted(found, reverse=True):
            yield letters
        yield from self._lone_option(text)
        conclusions = find_conclusions(text)
        if len(conclusions) == 1:
            yield from conclusions.intersection(self.letters)

    def read(self, answer: str) -> str | None:
        """The letters of an answer given as such: `B`, `(b)`, `B. 否`, `A、C`, or a text."""
        text = strip_markup(fold_width(answer)).strip()
        match = _LETTER_LINE.fullmatch(text) or _OPTION_LINE.fullmatch(text)
        letters = self._valid(match["letters"]) if match else None
        return letters or self._option_with_text(_folded(text))

    def _after_cues(self, text: str) -> Iterator[_Statement]:
        for position in find_cues(CHOICE_CUE, text):
            letters = self._letters_at(text, position) or self._option_text_at(text, position)
            if letters is not None:
                yield position, letters

    def _letters_at(self, text: str, position: int) -> str | None:
        lead = _LEAD.match(text, position)
        start = lead.end() if lead else position
        match = _LETTERS.match(text, start)
        if match is None:
            return self._letter_before_its_text(text, start)
        if "\n" in text[position:start] and _is_list_start(text, start):
            return None
        return self._valid(match.group())

    def _letter_before_its_text(self, text: str, start: int) -> str | None:
        """Reads `B le chat`: a letter and its own option, with no mark between."""
        if not self.options or not text[start : start + 1].isupper():
            return None
        letter = self._valid(text[start])
        is_own = letter is not None and self._begins_with(text[start + 1 :], letter)
        return letter if is_own else None

    def _option_text_at(self, text: str, position: int) -> str | None:
        """The letter of the longest option whose text a statement begins with."""
        window = 2 * max(map(len, self.options), default=0) + _MARKUP_ROOM
        line = _first_line(text[position : position + window].lstrip())
        beginning = [letter for letter in self._known if self._begins_with(line, letter)]
        return max(beginning, key=lambda letter: len(self._text_of(letter)), default=None)

    def _verdicts(self, text: str) -> Iterator[_Statement]:
        for position, letter in find_verdicts(text):
            if letter in self.letters:
                yield position, letter

    def _last_line(self, text: str) -> Iterator[_Statement]:
        """A last line that is nothing but letters."""
        start = text.rfind("\n") + 1
        match = _LETTER_LINE.fullmatch(text, start)
        if match is not None and (letters := self._valid(match["letters"])):
            yield start, letters

    def _lone_option(self, text: str) -> Iterator[str]:
        """A first line that is a letter, a first or last that is an option, a whole option text."""
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return
        first = _LETTER_LINE.fullmatch(lines[0])
        if first is not None and (letters := self._valid(first["letters"])):
            yield letters
        can_stand_out = bool(self.options) or sum(map(_is_option_line, lines)) == 1
        for line, neighbour in ((lines[-1], lines[-2:-1]), (lines[0], lines[1:2])):
            letter = self._option_line(line)
            if letter is not None and can_stand_out and not any(map(_is_option_line, neighbour)):
                yield letter
        if len(lines) == 1 and (letter := self._option_with_text(_folded(text))):
            yield letter

    def _option_line(self, line: str) -> str | None:
        """The letter of `B. le chat`; where options are known, the text must be that option's."""
        match = _OPTION_LINE.fullmatch(line)
        if match is None or _JUDGEMENT.match(match["text"]):
            return None
        letter = self._valid(match["letters"])
        is_own = letter and (not self.options or self._begins_with(match["text"], letter))
        return letter if is_own else None

    @property
    def _known(self) -> str:
        return self.letters if self.options else ""

    def _text_of(self, letter: str) -> str:
        return self.options[self.letters.index(letter)]

    def _begins_with(self, text: str, letter: str) -> bool:
        line, option = _folded(_first_line(text)), self._text_of(letter)
        is_whole_word = not re.match(r"\w|\.\d", line[len(option) :])
        return bool(option) and line.startswith(option) and is_whole_word

    def _option_with_text(self, folded: str) -> str | None:
        if not folded or folded not in self.options:
            return None
        return self.letters[self.options.index(folded)]

    def _valid(self, written: str) -> str | None:
        """The letters of a statement, sorted; None unless all are options and none is repeated."""
        words_removed = _JOINING_WORD.sub(" ", written)
        named = [character.upper() for character in words_removed if character.isalpha()]
        is_valid = named and len(set(named)) == len(named) and set(named) <= set(self.letters)
        return "".join(sorted(named)) if is_valid else None


def _folded(text: str) -> str:
    """A text as options are compared: without case, needless blanks and outer punctuation."""
    return " ".join(strip_markup(fold_width(text)).casefold().split()).strip(" .。,:;、\"'()[]{}")


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _is_option_line(line: str) -> bool:
    return _OPTION_LINE.match(line) is not None


def _is_list_start(text: str, start: int) -> bool:
    """Whether the next line with words is an option too: then the first is no answer."""
    following = [line for line in text[start:].split("\n")[1:] if line.strip()]
    return bool(following) and _is_option_line(following[0])
