"""What whoever runs the server decides, resolved once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from martlet.errors import ParameterError
from martlet.text.conversation import ContextPolicy, check_policy

MIB = 2**20


def default_data_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Where files and batches are kept unless told otherwise.

    Source: XDG Base Directory Specification 0.8; a relative path in the variable counts as none.
    """
    base = Path(environment.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "share") / "martlet"


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Limits and permissions of a server.

    Raises:
        ParameterError: On construction, if a limit is out of its range.
    """

    max_body_bytes: int = 8 * MIB
    """A larger body of a request is refused with 413."""
    max_num_queued: int = 1024
    """Samples that may wait besides those that the engine computes; beyond, 429."""
    request_timeout_s: float | None = None
    """The deadline of a request that names none; None for no deadline."""
    drain_s: float = 30.0
    """How long running requests may take to finish once the server was asked to stop."""
    heartbeat_s: float = 5.0
    """Silence in a stream after which a comment says that the server lives."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may use the server; none unless told."""
    adapter_dirs: tuple[Path, ...] = ()
    """Folders from below which adapters may be loaded over HTTP."""
    tuning_dir: Path | None = None
    """Where models are tuned; None for nowhere."""
    data_dir: Path = field(default_factory=default_data_dir)
    """Where files and batches are kept; created with the first of them."""
    max_file_bytes: int = 200 * MIB
    """A larger file is refused with 413."""
    context_policy: ContextPolicy = "error"
    """For chats that name none."""

    def __post_init__(self) -> None:
        check_policy(self.context_policy)
        for name in ("max_body_bytes", "max_num_queued", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.request_timeout_s is not None and not 0 < self.request_timeout_s < float("inf"):
            raise ParameterError(
                f"request_timeout_s must be above 0, not {self.request_timeout_s:g}"
            )
        if not 0 <= self.drain_s < float("inf"):
            raise ParameterError(f"drain_s must be 0 or above, not {self.drain_s:g}")
        if not 0 < self.heartbeat_s < float("inf"):
            raise ParameterError(f"heartbeat_s must be above 0, not {self.heartbeat_s:g}")
