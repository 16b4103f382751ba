"""What makes a function a verb: its dataclass parameters become options of the command line.

So a group of options is written once, as a dataclass, and shared by the verbs that take it.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import TypeGuard, get_type_hints

from martlet.errors import Interrupted


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a function that Typer can read of one whose keyword parameters may be dataclasses.

    A field's annotation names its option, as `Annotated[type, typer.Option(...)]`; a field without
    a default is a required option. Ctrl-C in the function becomes an `Interrupted`.

    Args:
        function: Its parameters are plain ones, or dataclasses whose fields have no name twice.
    """
    signature = inspect.signature(function, eval_str=True)
    groups = {
        parameter.name: parameter.annotation
        for parameter in signature.parameters.values()
        if _is_group(parameter.annotation)
    }
    flat = list(_flat_parameters(signature))

    @wraps(function)
    def run(**given: object) -> None:
        try:
            function(**_grouped(given, groups))
        except KeyboardInterrupt:
            raise Interrupted("stopped; what was finished is kept") from None

    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]  # how inspect is told
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return run


def _is_group(annotation: object) -> TypeGuard[type]:
    return isinstance(annotation, type) and is_dataclass(annotation)


def _flat_parameters(signature: inspect.Signature) -> Iterator[inspect.Parameter]:
    for parameter in signature.parameters.values():
        if not _is_group(parameter.annotation):
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        annotations = get_type_hints(parameter.annotation, include_extras=True)
        for field in fields(parameter.annotation):
            yield _parameter(field, annotations[field.name])


def _parameter(field: Field[object], annotation: object) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _grouped(
    given: Mapping[str, object], groups: Mapping[str, Callable[..., object]]
) -> dict[str, object]:
    arguments = dict(given)
    for name, group in groups.items():
        names = inspect.signature(group).parameters
        arguments[name] = group(**{each: arguments.pop(each) for each in names})
    return arguments
