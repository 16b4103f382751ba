"""From pydantic's findings to one sentence and the name of a field."""

from collections.abc import Sequence

from pydantic import ValidationError

from martlet.errors import ParameterError
from martlet.serve.schema.base import REFUSED_FIELD

_WRONG_KIND = {
    "string_type": "a text",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def explain(error: ValidationError) -> ParameterError:
    """What is wrong with a request, in a sentence, with the path to its field.

    Of several findings the first counts that names its field, else the one deepest inside: where a
    field may be a text or a list, the members of a wrong list say more than "must be a text".
    """
    findings = error.errors(include_url=False, include_input=False)
    for finding in findings:
        if finding["type"] == REFUSED_FIELD:
            place = _path(finding["loc"])
            name, reason = finding["ctx"]["name"], finding["ctx"]["reason"]
            if not place:
                return ParameterError(reason, param=name)
            return ParameterError(f"{reason} (in {place})", param=f"{place}.{name}")
    param = max((_path(finding["loc"]) for finding in findings), key=_depth)
    here = [finding for finding in findings if _path(finding["loc"]) == param]
    if here[0]["type"] == "missing":
        return ParameterError(f"{param} is required", param=param)
    for finding in here:
        if finding["type"] not in _WRONG_KIND:
            reason = finding["msg"].removeprefix("Value error, ").removeprefix("Input ")
            return ParameterError(f"{param}: {reason}", param=param)
    kinds = sorted({_WRONG_KIND[finding["type"]] for finding in here})
    return ParameterError(f"{param} must be {' or '.join(kinds)}", param=param)


def _depth(path: str) -> int:
    return path.count(".") + path.count("[")


def _path(location: Sequence[int | str]) -> str:
    """`messages[0].role`; pydantic's own names for the members of a union are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "list", "float", "dict"):
            path += f".{part}" if path else part
    return path
