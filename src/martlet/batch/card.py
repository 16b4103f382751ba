"""The run card: what made a result, beside it as JSON. Enough to make the result again."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from martlet import __version__
from martlet.backends.base import ModelIdentity
from martlet.batch.disk import disk_errors_named
from martlet.errors import InputError

RunStatus = Literal["running", "interrupted", "failed", "complete"]

_PACKAGES = ("torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class RunCard:
    """What made a result."""

    verb: str
    status: RunStatus
    started_at: str
    """UTC, ISO 8601."""
    ended_at: str | None
    versions: Mapping[str, str]
    model: ModelIdentity
    data: Mapping[str, object]
    """Path, SHA-256 and number of rows of the data file."""
    prompt_template: Mapping[str, object] | None
    """Path and SHA-256 of the user's Jinja file, if there is one."""
    options: Mapping[str, object]
    """What the user chose about wording and bad rows."""
    parameters: Mapping[str, Mapping[str, object]]
    """Value and source of each sampling parameter of the run."""
    num_questions_with_own_parameters: int
    policy: str
    """How many samples a question gets, in words."""
    key_set_hash: str
    """Names the questions, prompts, parameters and model that the result is made from."""
    counts: Mapping[str, object]
    """What was done; empty until the run ends."""
    result_sha256: str | None
    """Hash of the result's bytes, once it is complete."""

    def ended(
        self,
        status: RunStatus,
        *,
        counts: Mapping[str, object] | None = None,
        result_sha256: str | None = None,
    ) -> "RunCard":
        """The card at the end of its run."""
        return replace(
            self,
            status=status,
            ended_at=utc_now(),
            counts=counts or {},
            result_sha256=result_sha256,
        )

    def write(self, path: Path) -> None:
        """Writes the card, whole or not at all.

        Raises:
            InputError: If it may not be written.
            ResourceError: If the disk is full or fails.
        """
        temporary = Path(f"{path}.new")
        content = json.dumps(asdict(self), ensure_ascii=False, indent=2)
        with disk_errors_named(path):
            temporary.write_text(content + "\n", encoding="utf-8")
            temporary.replace(path)


def card_path(out: Path) -> Path:
    """Where the card of a result lies."""
    return Path(f"{out}.card.json")


def check_same_maker(out: Path, key_set_hash: str) -> None:
    """Checks that a result that is there already was made from the same questions and model.

    Raises:
        InputError: If it was not, or nobody knows.
    """
    if not out.exists():
        return
    try:
        card = json.loads(card_path(out).read_text(encoding="utf-8"))
        is_same = card["key_set_hash"] == key_set_hash
        maker = f"{card['verb']} with {card['model']['model']} over {card['data']['path']}"
    except (OSError, ValueError, KeyError, TypeError):
        is_same, maker = False, "something that left no run card"
    if not is_same:
        raise InputError(
            f"{out} exists and was made by {maker}, not from these questions, prompts, parameters "
            "and model; --overwrite replaces it (samples that still hold are not drawn again)"
        )


def installed_versions() -> dict[str, str]:
    """Versions of Martlet, Python and the packages that decide a sample; torch is not imported."""
    versions = {"martlet": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def utc_now() -> str:
    """The time of day in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
