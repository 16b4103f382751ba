"""The text of a prompt: the multiple-choice text that Martlet ships, and the user's own Jinja file.

Knows no model: what comes out is the words of a user's message, before any chat template.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from string import ascii_uppercase

from jinja2 import Environment, StrictUndefined, Template, TemplateSyntaxError, UndefinedError
from jinja2 import TemplateError as JinjaError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from martlet.errors import InputError, NotFoundError

MAX_NUM_OPTIONS = len(ascii_uppercase)
"""Options are lettered A to Z."""

_CJK_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_TEMPLATE_FAULTS = (JinjaError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


def multiple_choice_prompt(problem: str, question: str, options: Sequence[str]) -> str:
    """The prompt of a multiple-choice question, in Chinese if it is asked in Chinese.

    Args:
        problem: What the question is about; empty if the question stands alone.
        question: The question itself.
        options: At least one and at most 26 options; the first becomes A.

    Raises:
        InputError: If there is no option, or more than there are letters.
    """
    if not 1 <= len(options) <= MAX_NUM_OPTIONS:
        raise InputError(f"a question takes 1 to {MAX_NUM_OPTIONS} options, not {len(options)}")
    stripped_options = [option.strip() for option in options]
    return _multiple_choice_template().render(
        problem=problem.strip(),
        question=question.strip(),
        lettered_options=list(zip(ascii_uppercase, stripped_options, strict=False)),
        is_chinese=_CJK_IDEOGRAPH.search(problem + question) is not None,
    )


@cache
def _multiple_choice_template() -> Template:
    source = files("martlet.batch").joinpath("templates/multiple_choice.jinja")
    environment = Environment(trim_blocks=True, undefined=StrictUndefined)
    return environment.from_string(source.read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """A Jinja file of the user's that makes a prompt of a row's columns."""

    path: str
    """The file, as the user named it."""
    template_hash: str
    """SHA-256 of the file's bytes."""
    template: Template

    @classmethod
    def from_file(cls, path: Path) -> "PromptTemplate":
        """Reads a template, to be rendered in a sandbox where an unknown variable is an error.

        Raises:
            NotFoundError: If there is no such file.
            InputError: If the file is not UTF-8 or not Jinja; the message names the line.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"no such prompt template: {path}") from None
        except OSError as error:
            raise InputError(
                f"the prompt template {path} cannot be read: {error.strerror}"
            ) from None
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
        try:
            template = environment.from_string(content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise InputError(f"the prompt template {path} is not UTF-8: {error.reason}") from None
        except TemplateSyntaxError as error:
            raise InputError(f"{path}, line {error.lineno}: not Jinja: {error.message}") from None
        return cls(path=str(path), template_hash=sha256(content).hexdigest(), template=template)

    def render(self, columns: Mapping[str, object]) -> str:
        """The prompt of one row, or of one question of a nested row.

        Raises:
            InputError: If the template names a variable that `columns` lacks, fails, or makes an
                empty prompt.
        """
        try:
            text = self.template.render(columns)
        except UndefinedError as error:
            known = ", ".join(columns)
            raise InputError(f"{self.path}: {error.message}; columns here: {known}") from None
        except _TEMPLATE_FAULTS as error:
            raise InputError(f"{self.path}: {type(error).__name__}: {error}") from None
        if not text.strip():
            raise InputError(f"{self.path} makes an empty prompt of this row")
        return text
