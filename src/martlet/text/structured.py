"""What a reply must look like, as plain data: `text/grammar` makes it hold.

Imports nothing heavy, since sampling parameters carry it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from martlet.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class StructuredOutput:
    """The form of a reply: exactly one of the fields is given.

    Raises:
        ParameterError: On construction, if none or several are given, or one has the wrong type.
    """

    json_object: bool = False
    """Any JSON object."""
    json_schema: Mapping[str, object] | None = None
    """JSON that satisfies this schema."""
    regex: str | None = None
    """A text that this regular expression (Rust's syntax) matches from its start to its end."""
    choice: tuple[str, ...] = ()
    """One of these texts."""
    grammar: str | None = None
    """A text of this grammar, in the Lark dialect of llguidance."""

    def __post_init__(self) -> None:
        if isinstance(self.choice, list):
            object.__setattr__(self, "choice", tuple(self.choice))
        names = [field.name for field in fields(self)]
        given = [name for name in names if getattr(self, name) not in (None, False, ())]
        if len(given) != 1:
            raise ParameterError(
                f"structured output takes exactly one of {', '.join(names)}, "
                f"not {' and '.join(given) or 'none'}"
            )
        if self.json_object not in (True, False):
            raise ParameterError(f"json_object must be true or false, not {self.json_object!r}")
        if not isinstance(self.json_schema, Mapping | None):
            raise ParameterError(f"json_schema must be a JSON object, not {self.json_schema!r}")
        for name in ("regex", "grammar"):
            if not isinstance(getattr(self, name), str | None):
                raise ParameterError(f"{name} must be a text, not {getattr(self, name)!r}")
        is_list = isinstance(self.choice, tuple)
        if not is_list or not all(isinstance(text, str) and text for text in self.choice):
            raise ParameterError(f"choice must list texts that are not empty, not {self.choice!r}")

    @classmethod
    def from_mapping(cls, given: Mapping[str, object]) -> "StructuredOutput":
        """Builds it from JSON, such as `{"choice": ["A", "B"]}`.

        Raises:
            ParameterError: If a name is unknown or a value bad.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ParameterError(
                    f"unknown kind of structured output {name!r}; known: {', '.join(known)}"
                )
        return cls(**given)  # type: ignore[arg-type]  # every value is checked on construction

    @classmethod
    def from_response_format(cls, given: object) -> "StructuredOutput | None":
        """Reads the `response_format` of OpenAI's chat completions; None asks for plain text.

        A schema is enforced whether it says `strict` or not.

        Raises:
            ParameterError: If it is none of the known types, or lacks its schema.
        """
        match given:
            case {"type": "text"}:
                return None
            case {"type": "json_object"}:
                return cls(json_object=True)
            case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema}}:
                return cls(json_schema=schema)
        raise ParameterError(
            'response_format must be {"type": "text"}, {"type": "json_object"} or '
            f'{{"type": "json_schema", "json_schema": {{"schema": {{…}}}}}}, not {given!r}'
        )
