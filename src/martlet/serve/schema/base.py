"""What all bodies of requests have in common: strict types, and no field is ignored."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

REFUSED_FIELD = "refused_field"
"""Type of the errors that name a field and say in a sentence what is wrong with it."""

_LONGEST_SHOWN = 64
"""Characters of a name that is repeated in an error: a body may be one long name."""


class RequestModel(BaseModel):
    """A JSON object whose every field counts. A null is the same as no field."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    REFUSED: ClassVar[Mapping[str, str]] = {}
    """Documented fields that this server does not have, and why, or what to do instead."""

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        fields = {str(name): value for name, value in given.items() if value is not None}
        for name in fields:
            if name in cls.REFUSED:
                raise refused_field(name, f"{name} is not supported: {cls.REFUSED[name]}")
            if name not in cls.model_fields:
                shown = name[:_LONGEST_SHOWN]
                raise refused_field(shown, _unknown(shown, cls.model_fields))
        return fields


def refused_field(name: str, reason: str) -> PydanticCustomError:
    """The error of a validator that refuses a field by its name."""
    return PydanticCustomError(REFUSED_FIELD, "{reason}", {"name": name, "reason": reason})


def _unknown(name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
    return f"unknown field {name!r}{hint}"
