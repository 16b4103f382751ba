"""How texts and JSON are written in a grammar of llguidance's Lark dialect."""

import json
from collections.abc import Mapping, Sequence

JSON_WHITESPACE = r"[ \n\r\t]{1,32}"
"""Room for pretty-printed JSON. Without a bound, a model may write spaces until it is cut off."""


def quoted(text: str) -> str:
    """This text."""
    return json.dumps(text, ensure_ascii=False)


def quoted_options(texts: Sequence[str]) -> str:
    """One of several texts."""
    return " | ".join(map(quoted, texts))


def json_rule(schema: Mapping[str, object]) -> str:
    """JSON that satisfies a schema.

    Raises:
        TypeError, ValueError, RecursionError: If the schema cannot be written as JSON.
    """
    return "%json " + json.dumps(with_whitespace(schema))


def with_whitespace(schema: Mapping[str, object]) -> dict[str, object]:
    """A schema that says how much white space its JSON may have."""
    return {**schema, "x-guidance": {"whitespace_pattern": JSON_WHITESPACE}}
