"""API keys: who may use the server, and who may change it."""

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from martlet.errors import AuthenticationError, ForbiddenError, InputError, NotFoundError

Scope = Literal["use", "administer"]
"""`use` asks the models; `administer` also loads and drops adapters."""

_VARIABLE_TO_SCOPE: Mapping[str, Scope] = {
    "MARTLET_API_KEYS": "use",
    "MARTLET_ADMIN_KEYS": "administer",
}


@dataclass(frozen=True, kw_only=True)
class ApiKeys:
    """The keys of a server. Without any, everybody who reaches it may do everything."""

    key_to_scope: Mapping[str, Scope] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.key_to_scope)

    @classmethod
    def read(cls, path: Path | None, environment: Mapping[str, str] = os.environ) -> "ApiKeys":
        """Collects the keys of a file and of the environment.

        Args:
            path: A file with `KEY SCOPE` a line; empty lines and lines that begin with # are
                comments.
            environment: `MARTLET_API_KEYS` and `MARTLET_ADMIN_KEYS` hold keys of either scope,
                with commas between.

        Raises:
            NotFoundError: If the file cannot be read.
            InputError: If a line is not a key and a scope; the key itself is never shown.
        """
        keys: dict[str, Scope] = {} if path is None else _read_file(path)
        for variable, scope in _VARIABLE_TO_SCOPE.items():
            for key in environment.get(variable, "").split(","):
                if key.strip():
                    keys[key.strip()] = scope
        return cls(key_to_scope=keys)

    def check(self, authorization: str | None, scope: Scope) -> None:
        """Lets a request through if its key has the scope.

        Args:
            authorization: The header of that name, `Bearer KEY`.
            scope: What the request needs.

        Raises:
            AuthenticationError: If there is no key, or it is not known.
            ForbiddenError: If the key's scope does not suffice.
        """
        if not self:
            return
        kind, _, key = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not key:
            raise AuthenticationError("give an API key in the header 'Authorization: Bearer KEY'")
        found = self._find(key.strip())
        if found is None:
            raise AuthenticationError("the API key is not known to this server")
        if scope == "administer" and found != "administer":
            raise ForbiddenError("this needs an API key with the scope 'administer'")

    def _find(self, given: str) -> Scope | None:
        # All keys are compared, each in constant time: how long it takes tells nothing.
        found: Scope | None = None
        for key, scope in self.key_to_scope.items():
            if hmac.compare_digest(given.encode(), key.encode()):
                found = scope
        return found


def _read_file(path: Path) -> dict[str, Scope]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"the API keys in {path} cannot be read: {error}") from error
    keys: dict[str, Scope] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match line.split():
            case [key, "use" | "administer" as scope]:
                keys[key] = scope
            case _:
                raise InputError(
                    f"{path}, line {number}: a line is a key and a scope, one of "
                    f"{', '.join(get_args(Scope))}"
                )
    if not keys:
        raise InputError(f"{path} holds no API key; a line is a key and a scope")
    return keys
