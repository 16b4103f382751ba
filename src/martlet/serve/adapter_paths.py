"""Which folders adapters may be loaded from over HTTP."""

import re
from collections.abc import Sequence
from pathlib import Path

from martlet.errors import ForbiddenError, NotFoundError, ParameterError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def allowed_folder(path: str, allowed: Sequence[Path]) -> Path:
    """The folder that a request names, its links followed.

    Args:
        path: Absolute, or relative to one of the allowed folders.
        allowed: Folders that the operator opened.

    Raises:
        ForbiddenError: If it does not lie below an allowed folder. Whether it exists is not told.
        NotFoundError: If it lies there, and is no folder.
    """
    if not allowed:
        raise ForbiddenError(
            "adapters are not loaded over HTTP here; start the server with --adapter-dir DIR"
        )
    if "\0" in path:
        raise ParameterError("path must not hold a null character", param="path")
    roots = [root.resolve() for root in allowed]
    candidates = [(root / path).resolve() for root in roots]
    below = [folder for folder in candidates if any(folder.is_relative_to(root) for root in roots)]
    if not below:
        raise ForbiddenError(f"{path} does not lie in a folder that --adapter-dir allows")
    for folder in below:
        if folder.is_dir():
            return folder
    raise NotFoundError(f"there is no folder {path} in those that --adapter-dir allows")


def check_name(name: str, *, base_names: Sequence[str]) -> None:
    """Raises ParameterError if an adapter may not have a name."""
    if name in base_names:
        raise ParameterError(
            f"{name!r} is the name of the base model; choose another", param="name"
        )
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"an adapter's name is made of letters, digits and . _ : -, not {name!r}", param="name"
        )
